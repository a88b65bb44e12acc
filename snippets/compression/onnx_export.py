from pathlib import Path

import torch
from torch import nn

from cnn_techniques.compression import export_onnx, onnx_difference

# --8<-- [start:usage]
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    nn.Linear(32, 10),
).eval()  # fmt: skip
file = Path("network.onnx")
export_onnx(network, torch.randn(2, 3, 32, 32), file, metadata={"mean": 0.5})

batches = [torch.randn(n, 3, 32, 32) for n in (1, 2, 7)]
with torch.no_grad():
    scores = network(batches[2])
print(f"{scores.shape[0]} images, scores up to {scores.abs().max():.2f}")
gap = onnx_difference(file, network, batches)
print(f"the file differs by less than 1e-5 of the largest score: {gap < 1e-5}")
with torch.no_grad():
    network[8].bias += scores.abs().max()
gap = onnx_difference(file, network, batches)
print(f"from a network that was changed since, by up to {gap:.1f} of it")
# --8<-- [end:usage]
