import torch
from torch import nn

from cnn_techniques.modern import ResNeXtBlock, resnext50_32x4d

# --8<-- [start:usage]
torch.manual_seed(0)
model = resnext50_32x4d(num_classes=10)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
for name in model.stages:
    middle = model.get_submodule(name)[0].conv2
    paths = f"{middle.groups} paths of {middle.out_channels // middle.groups}"
    print(f"{name}: {paths} channels, {middle.weight.numel():,} weights")
scores = model(images)
print(f"scores: {tuple(scores.shape)}, standard deviation {scores.std():.3f}")
loss = nn.functional.cross_entropy(scores, labels)
print(f"loss of the untrained network: {loss:.3f}")

block = ResNeXtBlock(256, 64).eval()
x = torch.randn(2, 256, 7, 9)
inner = torch.relu(block.bn1(block.conv1(x)))
total = torch.zeros(2, 128, 7, 9)
for path in range(32):  # the same, one path at a time
    own = slice(4 * path, 4 * path + 4)
    total[:, own] = nn.functional.conv2d(
        inner[:, own], block.conv2.weight[own], padding=1
    )
apart = (total - block.conv2(inner)).abs().max() < 1e-5
print(f"32 convolutions of 4 channels equal the grouped one: {bool(apart)}")
# --8<-- [end:usage]
