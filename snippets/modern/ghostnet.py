# What the two modules of the page's block import, once.
# --8<-- [start:imports]
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from cnn_techniques.modern import GhostModule, ghostnet_100

# --8<-- [start:usage]
torch.manual_seed(0)
model = ghostnet_100(num_classes=10)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
scores = model(images)
print(f"scores: {tuple(scores.shape)}")
loss = nn.functional.cross_entropy(scores, labels)
print(f"loss of the untrained network: {loss:.3f}")

full, ghost = nn.Conv2d(40, 120, 1, bias=False), GhostModule(40, 120)
convs = [m for m in ghost.modules() if isinstance(m, nn.Conv2d)]
print(f"1x1 convolution, 40 to 120 channels: {full.weight.numel():,} weights")
print(f"ghost module: {sum(m.weight.numel() for m in convs):,} weights")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
# --8<-- [end:usage]
