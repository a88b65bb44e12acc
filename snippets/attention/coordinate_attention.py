import torch

from cnn_techniques.attention import CoordinateAttention

# --8<-- [start:usage]
torch.manual_seed(0)
block = CoordinateAttention(64).eval()
maps = torch.rand(2, 64, 6, 8)
maps[0, :, 2] += 4  # a bright row
scaled = block(maps)
print(tuple(scaled.shape))
print(f"{sum(p.numel() for p in block.parameters()):,} parameters")
gates = (scaled / maps)[0].mean(dim=0)  # (H, W), mean over the channels
print("rows:   ", *[f"{gate:.3f}" for gate in gates.mean(dim=1)])
print("columns:", *[f"{gate:.3f}" for gate in gates.mean(dim=0)])
# --8<-- [end:usage]
