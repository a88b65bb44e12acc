import io

import torch
from torch import nn

# --8<-- [start:usage]
from torchvision.models import resnet18

from cnn_techniques.compression import quantize_int4

torch.manual_seed(0)
network = resnet18().eval()
images = torch.randn(4, 3, 64, 64)

quantized = quantize_int4(network, group=32)


def megabytes(model: nn.Module) -> float:
    return sum(t.numel() * t.element_size() for t in model.state_dict().values()) / 1e6


def noise(given: torch.Tensor, exact: torch.Tensor) -> float:
    return ((given - exact).norm() / exact.norm()).item()


print(f"{megabytes(network):.1f} MB before, {megabytes(quantized):.1f} MB after")
layer, weight = quantized.layer1[0].conv1, network.layer1[0].conv1.weight
print(f"{weight.numel()} weights in {layer.codes.numel()} bytes")
print(f"and {layer.scale.numel()} scales: off by {noise(layer.weight, weight):.2f}")
with torch.no_grad():
    print(
        f"the scores off by {noise(quantized(images), network(images)):.1f} of their size"
    )
# --8<-- [end:usage]
