import torch
from torch import Tensor, nn

from cnn_techniques.compression import prune_filters, tied_filters


# --8<-- [start:usage]
class Block(nn.Module):
    """Two convolutions, to which their input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(y)))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 64, 7, 2), nn.ReLU(), Block(64), nn.MaxPool2d(2), Block(64),
    nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Linear(4 * 64, 10),
)  # fmt: skip
image = torch.randn(1, 3, 64, 64)

for group in tied_filters(network, image):
    print("one choice for", ", ".join(group))
smaller = prune_filters(network, 0.5, image)
print(f"{parameters(network)} parameters before, {parameters(smaller)} after")
print(smaller[2].conv1, smaller[7], sep="\n")
# --8<-- [end:usage]
