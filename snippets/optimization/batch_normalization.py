import torch

from cnn_techniques.optimization import BatchNormalisation

# --8<-- [start:usage]
torch.manual_seed(0)
block = BatchNormalisation(64)
images = torch.randn(2, 64, 32, 32)
out = block(images)
print(tuple(out.shape))
# TODO a value that a reader can check, the same on every processor
print(f"largest value {out.abs().max():.2f}")
# --8<-- [end:usage]
