import torch

from cnn_techniques.attention import SelectiveKernel

# --8<-- [start:usage]
torch.manual_seed(0)
unit = SelectiveKernel(64).eval()
images = torch.randn(2, 64, 32, 32)
selected = unit(images)
print(tuple(selected.shape))
print(f"{sum(p.numel() for p in unit.parameters()):,} parameters")
near, far = (path(images) for path in unit.paths)
gap = near - far
a = ((selected - far) * gap).sum(dim=(2, 3)) / gap.square().sum(dim=(2, 3))  # (N, C)
print(f"weight of the first path, first image: {a[0].min():.3f} to {a[0].max():.3f}")
# --8<-- [end:usage]
