import torch
from torch import Tensor, nn

from cnn_techniques.training import StochasticDepth, linear_drop_rates


# --8<-- [start:usage]
class Residual(nn.Module):
    """A block whose branch f is dropped with probability p: ReLU(f(x) + x)."""

    def __init__(self, width: int, p: float) -> None:
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            StochasticDepth(p),  # last in the branch, never on the shortcut
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.f(x) + x)


torch.manual_seed(0)
rates = linear_drop_rates(3, last=0.5)
net = nn.Sequential(*[Residual(4, p) for p in rates])
images = torch.rand(10_000, 4, 4, 4)

for training in (True, False):
    x = images
    for block, p in zip(net.train(training), rates, strict=True):
        y = block(x)
        same = (y == x).flatten(1).all(dim=1).float().mean()
        print(f"{training=}, p = {p:.2f}: passed through as it came {same:.1f}")
        x = y
# --8<-- [end:usage]
