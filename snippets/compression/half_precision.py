import torch
from torch import Tensor, nn

from cnn_techniques.compression import HalfPrecision

# --8<-- [start:usage]
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
    nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    nn.Linear(32, 10),
).eval()  # fmt: skip
images = torch.randn(64, 3, 24, 24)
scores = network(images)


def weights_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


print(f"float32: {weights_bytes(network):,} bytes of weights")
for dtype in (torch.float16, torch.bfloat16):
    half = HalfPrecision(network, dtype)
    noise = (half(images) - scores).norm() / scores.norm()
    name = str(dtype).removeprefix("torch.")
    parts = round(-noise.log2().item())
    print(
        f"{name}: {weights_bytes(half):,} bytes, noise about 2^-{parts} of the scores"
    )
# --8<-- [end:usage]
