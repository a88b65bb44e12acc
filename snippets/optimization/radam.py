import torch
from torch import nn

from cnn_techniques.optimization import RAdam, rectification

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
optimizer = RAdam(net.parameters(), lr=0.05)
images = torch.rand(64, 1, 8, 8).double()  # these two stand for a data loader
labels = torch.randint(10, (64,))

for t in range(1, 42):
    loss = nn.functional.cross_entropy(net(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if t % 10 == 1:
        r = rectification(t, beta2=0.999)
        factor = "momentum" if r is None else f"r = {r:.3f}"
        print(f"step {t:2d}: loss {loss:.3f}, {factor}")
# --8<-- [end:usage]
