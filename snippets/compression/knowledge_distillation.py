import torch
from torch import nn

from cnn_techniques.compression import distillation_loss

# --8<-- [start:usage]
torch.manual_seed(0)
images = torch.randn(128, 1, 8, 8)  # these two stand for a data loader
labels = torch.randint(10, (128,))
teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
student = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

sgd = torch.optim.SGD(teacher.parameters(), lr=0.1, momentum=0.9)
for _ in range(30):
    loss = nn.functional.cross_entropy(teacher(images), labels)
    sgd.zero_grad()
    loss.backward()
    sgd.step()

teacher.eval().requires_grad_(False)  # from here on it only answers
sgd = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
for step in range(91):
    v, z = teacher(images), student(images)  # the same images for both
    loss = distillation_loss(z, v, labels, temperature=4.0, alpha=0.9)
    sgd.zero_grad()
    loss.backward()
    sgd.step()
    if step % 30 == 0:
        same = (z.argmax(dim=1) == v.argmax(dim=1)).float().mean()
        print(f"step {step:2}: loss {loss:.3f}, agrees on {same:.2f} of the images")
# --8<-- [end:usage]
