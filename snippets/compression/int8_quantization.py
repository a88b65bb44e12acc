import torch
from torch import nn

from cnn_techniques.compression import QuantizedLayer, quantize_int8

# --8<-- [start:usage]
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
).eval()  # fmt: skip
images = torch.randn(64, 3, 24, 24)


def weights_bytes(model: nn.Module) -> int:
    tensors = [(n, t) for n, t in model.state_dict().items() if n.endswith("weight")]
    return sum(t.numel() * t.element_size() for _, t in tensors)


with torch.no_grad():
    scores = network(images)
    print(f"float32: {weights_bytes(network):,} bytes of weights")
    for bits in (8, 4):
        small = quantize_int8(network, images, bits=bits)
        noise = ((small(images) - scores).norm() / scores.norm()).item()
        print(f"{bits} bits: {weights_bytes(small):,} bytes, noise {noise:.3f}")
# --8<-- [end:usage]
