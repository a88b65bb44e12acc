import torch
from torch import nn

from cnn_techniques.compression import quantize_int4

# --8<-- [start:usage]
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), nn.Conv2d(64, 128, 3, stride=2),
    nn.ReLU(), nn.Conv2d(128, 256, 3, stride=2), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10),
)  # fmt: skip
images = torch.randn(4, 3, 64, 64)

quantized = quantize_int4(network, group=32)


def kilobytes(model: nn.Module) -> float:
    return sum(t.numel() * t.element_size() for t in model.state_dict().values()) / 1e3


def noise(given: torch.Tensor, exact: torch.Tensor) -> float:
    return ((given - exact).norm() / exact.norm()).item()


print(f"{kilobytes(network):.1f} kB before, {kilobytes(quantized):.1f} kB after")
layer, weight = quantized[4], network[4].weight
print(f"{weight.numel()} weights in {layer.codes.numel()} bytes", end=" ")
print(f"and {layer.scale.numel()} scales: off by {noise(layer.weight, weight):.2f}")
with torch.no_grad():
    print(
        f"scores off by {noise(quantized(images), network(images)):.2f} of their size"
    )
# --8<-- [end:usage]
