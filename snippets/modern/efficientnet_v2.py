import torch
from torch import nn

from cnn_techniques.modern import (
    EfficientNet,
    FusedMBConv,
    MBConv,
    MBStage,
    efficientnet_v2_s,
)

# --8<-- [start:usage]
torch.manual_seed(0)
model = efficientnet_v2_s(num_classes=10)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
maps = images
for number, stage in enumerate(model.features):
    maps = stage(maps)
    print(f"stage {number}: {tuple(maps.shape)}")
loss = nn.functional.cross_entropy(model(images), labels)
print(f"loss of the untrained network: {loss:.3f}")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
# --8<-- [end:usage]
