import torch
from torch import nn

from cnn_techniques.optimization import AdaBelief

# --8<-- [start:usage]
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1, bias=False),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(16, 10),
).double()
optimizer = AdaBelief(net.parameters(), lr=0.02, weight_decay=0.01)
images = torch.rand(64, 1, 8, 8).double()  # these two stand for a data loader
labels = torch.randint(10, (64,))

for step in range(31):
    loss = nn.functional.cross_entropy(net(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step:2d}: loss {loss:.3f}")
# --8<-- [end:usage]
