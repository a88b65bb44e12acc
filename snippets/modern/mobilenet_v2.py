import torch
from torch import nn

from cnn_techniques.modern import InvertedResidual, mobilenet_v2

# --8<-- [start:usage]
torch.manual_seed(0)
model = mobilenet_v2(num_classes=10)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
scores = model(images)
print(f"scores: {tuple(scores.shape)}, standard deviation {scores.std():.4f}")
loss = nn.functional.cross_entropy(scores, labels)
print(f"loss of the untrained network: {loss:.3f}")
blocks = [m for m in model.features if isinstance(m, InvertedResidual)]
print(f"{len(blocks)} blocks, {sum(b.shortcut for b in blocks)} with a shortcut")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
# --8<-- [end:usage]
