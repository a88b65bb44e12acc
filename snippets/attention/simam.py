import torch

from cnn_techniques.attention import SimAM

# --8<-- [start:usage]
torch.manual_seed(0)
block = SimAM()
images = torch.randn(2, 64, 32, 32)
out = block(images)
print(tuple(out.shape))
gates = out / images
print(f"gates between {gates.min():.3f} and {gates.max():.3f}")
print(f"{sum(p.numel() for p in block.parameters())} parameters")
# --8<-- [end:usage]
