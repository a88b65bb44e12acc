import torch
from torch import nn

from cnn_techniques.modern import convnextv2_atto

# --8<-- [start:usage]
model = convnextv2_atto(num_classes=10).eval()
torch.manual_seed(0)
for layer in model.modules():  # torch's versions cut normal draws off differently
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.normal_(layer.weight, std=0.02)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
with torch.no_grad():
    scores = model(images)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            parameter.fill_(1.0)  # as training would move them from 0
    louder = model(images)
print(f"scores: {tuple(scores.shape)}, standard deviation {scores.std():.3f}")
print(f"with gamma 1 instead of 0: {louder.std():.3f}")
loss = nn.functional.cross_entropy(scores, labels)
print(f"loss of the untrained network: {loss:.3f}")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
# --8<-- [end:usage]
