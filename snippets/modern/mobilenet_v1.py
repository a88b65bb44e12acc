import torch
from torch import nn

from cnn_techniques.modern import mobilenetv1_100

# --8<-- [start:usage]
torch.manual_seed(0)
model = mobilenetv1_100(num_classes=10)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
scores = model(images)
print(f"scores: {tuple(scores.shape)}, standard deviation {scores.std():.3f}")
loss = nn.functional.cross_entropy(scores, labels)
print(f"loss of the untrained network: {loss:.3f}")
block = model.blocks[3][1]
for name in ("conv_dw", "conv_pw"):
    weight = getattr(block, name).weight
    print(f"{name}: {tuple(weight.shape)}, {weight.numel():,} weights")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
# --8<-- [end:usage]
