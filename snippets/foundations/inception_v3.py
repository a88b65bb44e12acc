import torch

from cnn_techniques.foundations import InceptionV2AndV3

# --8<-- [start:usage]
torch.manual_seed(0)
layer = InceptionV2AndV3(64)
images = torch.randn(2, 64, 32, 32)
print(f"{layer(images).mean():.3f}")
# --8<-- [end:usage]
