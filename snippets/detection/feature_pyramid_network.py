import torch
from torch import nn

from cnn_techniques.detection import FeaturePyramidNetwork, FeaturePyramidP6P7

# --8<-- [start:usage]
torch.manual_seed(0)
c3 = nn.Conv2d(3, 64, 3, stride=8, padding=1)(torch.randn(2, 3, 160, 224))
c4 = nn.Conv2d(64, 128, 3, stride=2, padding=1)(c3)
c5 = nn.Conv2d(128, 256, 3, stride=2, padding=1)(c4)
pyramid = FeaturePyramidNetwork([64, 128, 256], 32, FeaturePyramidP6P7(32, 32))
levels = pyramid([c3, c4, c5])
for name, level in zip(["P3", "P4", "P5", "P6", "P7"], levels, strict=True):
    print(name, tuple(level.shape))
changed = pyramid([c3, c4, torch.zeros_like(c5)])[0] - levels[0]
print(
    f"without C5, P3 changes by {changed.norm() / levels[0].norm():.3f} of its length"
)
# --8<-- [end:usage]
