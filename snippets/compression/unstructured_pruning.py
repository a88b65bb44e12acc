import torch
from torch import nn

from cnn_techniques.compression import (
    apply_masks,
    magnitude_masks,
    prunable,
    sparsity_of,
)

# --8<-- [start:usage]
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
)  # fmt: skip
images = torch.randn(8, 3, 16, 16)
before = network(images)

masks = magnitude_masks(network, sparsity=0.5)
apply_masks(network, masks)
print(f"{sparsity_of(masks):.0%} of the weights are zero, by layer:")
for name, weight in prunable(network).items():
    print(f"  {name}: {(weight == 0).float().mean():.0%} of {weight.numel():,}")
change = (network(images) - before).norm() / before.norm()
print(f"the scores move by {change:.2f} of their size")
# --8<-- [end:usage]
