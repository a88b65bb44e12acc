import torch

from cnn_techniques.attention import BAM

# --8<-- [start:usage]
torch.manual_seed(0)
block = BAM(64)
features = torch.randn(4, 64, 28, 28)
refined = block(features)
print(tuple(refined.shape))
for name in ("channel", "spatial"):
    branch = block.get_submodule(name)
    print(
        sum(p.numel() for p in branch.parameters()), "parameters in the", name, "branch"
    )
gates = (refined / features - 1)[0]  # of the first image, (C, H, W)
print(f"first channel: gates {gates[0].min():.3f} to {gates[0].max():.3f}")
print(f"first place: gates {gates[:, 0, 0].min():.3f} to {gates[:, 0, 0].max():.3f}")
# --8<-- [end:usage]
