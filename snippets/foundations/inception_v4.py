import torch

from cnn_techniques.foundations import InceptionV4AndInceptionResNet

# --8<-- [start:usage]
torch.manual_seed(0)
layer = InceptionV4AndInceptionResNet(64)
images = torch.randn(2, 64, 32, 32)
print(f"{layer(images).mean():.3f}")
# --8<-- [end:usage]
