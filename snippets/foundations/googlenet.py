import torch
from torch import nn

from cnn_techniques.foundations import googlenet

# --8<-- [start:usage]
torch.manual_seed(0)
model = googlenet(num_classes=10)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
scores, late, middle = model(images)  # in training: three classifiers
main, aux2, aux1 = (
    nn.functional.cross_entropy(s, labels) for s in (scores, late, middle)
)
loss = main + 0.3 * (aux1 + aux2)
loss.backward()
print(f"losses: {main:.3f}, after 4d {aux2:.3f}, after 4a {aux1:.3f}")
print(f"their sum, auxiliary ones times 0.3: {loss:.3f}")
model.eval()
print(f"in evaluation: {tuple(model(images).shape)}")
heads = sum(p.numel() for head in (model.aux1, model.aux2) for p in head.parameters())
print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {heads:,} in heads")
# --8<-- [end:usage]
