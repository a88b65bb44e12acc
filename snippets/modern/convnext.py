import torch
from torch import nn

from cnn_techniques.modern import ConvNeXt

# --8<-- [start:usage]
model = ConvNeXt(layers=(1, 1, 3, 1), widths=(32, 64, 128, 256), num_classes=10)
torch.manual_seed(0)
for layer in model.modules():  # torch's versions cut normal draws off differently
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.normal_(layer.weight, std=0.02)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
maps = images
for name, part in model.features.named_children():
    maps = part(maps)
    print(f"features.{name}: {tuple(maps.shape)}")
scores = model(images)
print(f"scores: {tuple(scores.shape)}, standard deviation {scores.std():.3f}")
loss = nn.functional.cross_entropy(scores, labels)
print(f"loss of the untrained network: {loss:.3f}")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
# --8<-- [end:usage]
