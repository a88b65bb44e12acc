import torch

from cnn_techniques.attention import CBAM

# --8<-- [start:usage]
torch.manual_seed(0)
block = CBAM(64)
features = torch.randn(2, 64, 28, 28) + 2 * torch.randn(2, 64, 1, 1)
gated = block(features)
print(tuple(gated.shape))
sizes = {name: p.numel() for name, p in block.named_parameters()}
print(sizes["fc1.weight"] + sizes["fc2.weight"], "parameters in the gate per channel")
print(sizes["conv.weight"] + 2, "in the gate per place")
factors = (gated / features)[0]  # of the first image, (C, H, W)
print(f"first channel: factors {factors[0].min():.3f} to {factors[0].max():.3f}")
print(f"first place: factors {factors[:, 0, 0].min():.3f} to", end=" ")
print(f"{factors[:, 0, 0].max():.3f}")
# --8<-- [end:usage]
