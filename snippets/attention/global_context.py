import torch
from torch import nn

from cnn_techniques.attention import GlobalContext

# --8<-- [start:usage]
torch.manual_seed(0)
block = GlobalContext(64, 4)
images = torch.randn(2, 64, 14, 14)
print(f"a new block adds {(block(images) - images).abs().max():.1f}")
nn.init.normal_(block.w_v2.weight)  # as if it had been trained
added = block(images) - images  # one vector per image, the same at every place
print(f"then it adds vectors of length {added[:, :, 0, 0].norm(dim=1).mean():.2f}")
spread = added.amax(dim=(2, 3)) - added.amin(dim=(2, 3))  # over the places
print(f"largest difference between two places {spread.max():.3f}")
print(sum(p.numel() for p in block.parameters()), "parameters")
# --8<-- [end:usage]
