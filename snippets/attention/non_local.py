import torch
from torch import nn

from cnn_techniques.attention import NonLocal

# --8<-- [start:usage]
torch.manual_seed(0)
block = NonLocal(64, 32).eval()
images = torch.randn(2, 64, 14, 14)
print(f"a new block adds {(block(images) - images).abs().max():.1f}")
nn.init.ones_(block.bn.weight)  # as if it had been trained
added = block(images) - images
print(f"then what it adds has a mean size of {added.abs().mean():.3f}")
changed = images.clone()
changed[:, :, 0, 0] += 5.0  # one corner
moved = (block(changed) - block(images)).abs().amax(dim=1) > 1e-6
print(f"one corner changed: {moved.float().mean():.0%} of the places notice")
# --8<-- [end:usage]
