import torch
from torch import nn

from cnn_techniques.modern import PreActivationBasicBlock, resnetv2_18

# --8<-- [start:usage]
torch.manual_seed(0)
model = resnetv2_18(num_classes=10)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
scores = model(images)
print(f"scores: {tuple(scores.shape)}, standard deviation {scores.std():.3f}")
loss = nn.functional.cross_entropy(scores, labels)
print(f"loss of the untrained network: {loss:.3f}")

blocks = nn.Sequential(*(PreActivationBasicBlock(16, 16) for _ in range(10)))
x, now, total = torch.randn(2, 16, 9, 7), 0.0, 0.0
x.requires_grad_()
now = x
for block in blocks:
    now, total = block(now), total + (block(now) - now)
print(f"input plus ten branches: {(now - x - total).abs().max() < 1e-4}")
(slope,) = torch.autograd.grad(now.sum(), x)
print(f"mean derivative of the output's sum by an input: {slope.mean():.3f}")
# --8<-- [end:usage]
