import torch
from torch import nn

from cnn_techniques.foundations import VGG, VGG_CONVOLUTIONS

# --8<-- [start:usage]
torch.manual_seed(0)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
# vgg11(num_classes=10) with linear layers of 128 instead of 4,096 units.
model = VGG(VGG_CONVOLUTIONS[11], num_classes=10, hidden=128).eval()
x = images
for layer in model.features:
    x = layer(x)
    if isinstance(layer, nn.MaxPool2d):
        print(f"stage: {tuple(x.shape)}")
scores = model(images)
loss = nn.functional.cross_entropy(scores, labels)
print(f"scores: {tuple(scores.shape)}, loss of the untrained network {loss:.4f}")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
# --8<-- [end:usage]
