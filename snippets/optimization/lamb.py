import torch
from torch import nn

from cnn_techniques.optimization import LAMB

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
matrices = [p for p in net.parameters() if p.ndim > 1]  # weights of layers
vectors = [p for p in net.parameters() if p.ndim <= 1]  # biases, norms: Adam's step
optimizer = LAMB(
    [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
    lr=0.05,
    weight_decay=0.01,
    always_adapt=False,
)
images = torch.rand(64, 1, 8, 8).double()  # these two stand for a data loader
labels = torch.randint(10, (64,))

for step in range(31):
    loss = nn.functional.cross_entropy(net(images), labels)
    optimizer.zero_grad()
    loss.backward()
    before = [p.detach().clone() for p in matrices]
    optimizer.step()
    if step % 10 == 0:
        pairs = zip(matrices, before, strict=True)
        moved = [f"{(p - b).norm() / b.norm():.3f}" for p, b in pairs]
        print(f"step {step:2d}: loss {loss:.3f}, moved", *moved)
# --8<-- [end:usage]
