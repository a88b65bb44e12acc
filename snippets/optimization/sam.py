import torch
from torch import nn

from cnn_techniques.optimization import SAM

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
base = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
optimizer = SAM(net, base, rho=0.05)
images = torch.rand(64, 1, 8, 8).double()  # these two stand for a data loader
labels = torch.randint(10, (64,))


def closure() -> torch.Tensor:  # called twice per step: at w and at w + epsilon
    loss = nn.functional.cross_entropy(net(images), labels)
    loss.backward()
    losses.append(loss.item())
    return loss


for step in range(31):
    losses: list[float] = []
    optimizer.step(closure)
    if step % 10 == 0:
        print(f"step {step:2d}: loss {losses[0]:.3f} at w,", end=" ")
        print(f"{losses[-1]:.3f} at w + epsilon")
# --8<-- [end:usage]
