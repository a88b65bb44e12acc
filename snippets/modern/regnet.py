# What the two modules of the page's block import, once.
# --8<-- [start:imports]
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from cnn_techniques.modern import REGNET_Y, regnet_stages, regnet_y_400mf

# --8<-- [start:usage]
torch.manual_seed(0)
model = regnet_y_400mf(num_classes=10)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
stages = regnet_stages(*REGNET_Y["400mf"])
for (blocks, width, group), maps in zip(stages, model.features(images), strict=True):
    print(f"{blocks} blocks, width {width}, groups of {group}: {tuple(maps.shape)}")
scores = model(images)
print(f"scores: {tuple(scores.shape)}, standard deviation {scores.std():.4f}")
loss = nn.functional.cross_entropy(scores, labels)
print(f"loss of the untrained network: {loss:.3f}")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
# --8<-- [end:usage]
