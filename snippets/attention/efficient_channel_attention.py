import torch
from torch import nn

from cnn_techniques.attention import EfficientChannelAttention

# --8<-- [start:usage]
torch.manual_seed(0)
block = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), EfficientChannelAttention(64))
images = torch.randn(2, 3, 32, 32)
maps, scaled = block[0](images), block(images)
print(tuple(scaled.shape))
print(sum(p.numel() for p in block[1].parameters()), "parameters in the gate")
gates = (scaled / maps).mean(dim=(2, 3))  # the factor each channel was multiplied by
print(f"gates of the first image between {gates[0].min():.3f} and {gates[0].max():.3f}")
# --8<-- [end:usage]
