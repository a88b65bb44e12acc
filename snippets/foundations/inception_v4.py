import torch
from torch import nn

from cnn_techniques.foundations import (
    INCEPTION_RESNET_A,
    INCEPTION_V4_A,
    InceptionFork,
    InceptionNet,
    InceptionResidual,
    InceptionStage,
)

# --8<-- [start:usage]
torch.manual_seed(0)
small = {  # the modules of 35 x 35, twice plain and twice residual
    "stem": InceptionStage([(32, 3, 2), (64, 3, 2)]),
    "plain": InceptionStage([INCEPTION_V4_A], 2),
    "residual": InceptionStage(INCEPTION_RESNET_A, 2, scale=0.17),
}
model = InceptionNet(small, num_classes=10)
images, labels = torch.randn(4, 3, 96, 128), torch.tensor([3, 1, 4, 1])
loss = nn.functional.cross_entropy(model(images), labels)
print(f"loss of the untrained network: {loss:.3f}")

x = torch.randn(1, 384, 12, 16)
plain = InceptionFork(384, INCEPTION_V4_A)
residual = InceptionResidual(384, INCEPTION_RESNET_A, 0.17)
for name, module in (("Inception-v4", plain), ("Inception-ResNet", residual)):
    weights = sum(p.numel() for p in module.parameters())
    print(f"{name}: 384 to {module(x).shape[1]} channels, {weights:,} parameters")
# --8<-- [end:usage]
