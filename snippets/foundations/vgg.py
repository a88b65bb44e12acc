import torch

from cnn_techniques.foundations import VGGNet

# --8<-- [start:usage]
torch.manual_seed(0)
layer = VGGNet(64)
images = torch.randn(2, 64, 32, 32)
print(f"{layer(images).mean():.3f}")
# --8<-- [end:usage]
