import torch
from torch import nn

from cnn_techniques.foundations import network_in_network

# --8<-- [start:usage]
torch.manual_seed(0)
model = network_in_network(num_classes=10).eval()
images, labels = torch.randn(4, 3, 32, 48), torch.tensor([3, 1, 4, 1])
maps, scores = model.maps(images), model(images)
print(f"maps: {tuple(maps.shape)}, from {maps.min():.2f} to {maps.max():.2f}")
print(f"scores: {tuple(scores.shape)}, from {scores.min():.2f} to {scores.max():.2f}")
loss = nn.functional.cross_entropy(scores, labels)
print(f"loss of the untrained network: {loss:.3f}")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
# --8<-- [end:usage]
