import torch
from torch import nn

from cnn_techniques.modern import squeezenet1_1

# --8<-- [start:usage]
torch.manual_seed(0)
model = squeezenet1_1(num_classes=10)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
print(f"features: {tuple(model.features(images).shape)}")
scores = model(images)
print(f"scores: {tuple(scores.shape)}, smallest {scores.min():.3f}")
loss = nn.functional.cross_entropy(scores, labels)
print(f"loss of the untrained network: {loss:.3f}")
count = sum(p.numel() for p in model.parameters())
print(f"{count:,} parameters, {4 * count / 1e6:.1f} MB in float32")
# --8<-- [end:usage]
