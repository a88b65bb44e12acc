import torch
from torch import nn

from cnn_techniques.modern import shufflenet_v2_x1_0

# --8<-- [start:usage]
torch.manual_seed(0)
model = shufflenet_v2_x1_0(num_classes=10)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
for stage, maps in enumerate(model.features(images), start=2):
    print(f"stage {stage}: {tuple(maps.shape)}")
scores = model(images)
print(f"scores: {tuple(scores.shape)}, standard deviation {scores.std():.2f}")
loss = nn.functional.cross_entropy(scores, labels)
print(f"loss of the untrained network: {loss:.3f}")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
# --8<-- [end:usage]
