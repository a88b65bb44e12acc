import torch
from torch import nn

from cnn_techniques.compression import distillation_loss

# --8<-- [start:usage]
torch.manual_seed(0)
teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
student = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
teacher.eval().requires_grad_(False)  # a trained network; here its weights are random
optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
images = torch.randn(128, 1, 8, 8)  # these two stand for a data loader
labels = torch.randint(10, (128,))

for step in range(61):
    v, z = teacher(images), student(images)  # the same images for both
    loss = distillation_loss(z, v, labels, temperature=4.0, alpha=0.9)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        same = (z.argmax(dim=1) == v.argmax(dim=1)).float().mean()
        print(f"step {step:2d}: loss {loss:.3f}, agrees on {same:.2f} of the images")
# --8<-- [end:usage]
