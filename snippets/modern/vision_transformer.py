# What the two modules of the page's block import, once.
# --8<-- [start:imports]
from collections import OrderedDict
from collections.abc import Callable
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.modern import VisionTransformer

# --8<-- [start:usage]
torch.manual_seed(0)
model = VisionTransformer(
    patch_size=8,
    layers=4,
    heads=4,
    width=64,
    mlp_width=256,
    num_classes=10,
    image_size=64,
)
torch.manual_seed(0)  # torch's versions cut the draw of this weight off differently
nn.init.normal_(model.conv_proj.weight, std=0.07)
images, labels = torch.randn(4, 3, 64, 64), torch.tensor([3, 1, 4, 1])
tokens = model.tokens(images)
print(f"tokens: {tuple(tokens.shape)}, one for the class and 8 x 8 patches")
scores = model(images)
print(f"scores: {tuple(scores.shape)}, standard deviation {scores.std():.3f}")
loss = nn.functional.cross_entropy(scores, labels)
print(f"loss of the untrained network: {loss:.3f}")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
# --8<-- [end:usage]
