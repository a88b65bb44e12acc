import torch

from cnn_techniques.training import Cutout, RandomErasing

# --8<-- [start:usage]
torch.manual_seed(0)
images = torch.randn(64, 3, 32, 32)  # normalised images of a loader
for augment in (Cutout(16), RandomErasing(p=0.5), RandomErasing(p=0.5, noise=True)):
    changed = (augment(images) != images).any(dim=1)  # (64, 32, 32)
    share = changed.float().mean(dim=(1, 2))  # (64,): how much of it is hidden
    share = share[share > 0]
    print(
        f"{type(augment).__name__}: {len(share)} of 64 images,",
        f"{share.min():.2f} to {share.max():.2f} of them hidden",
    )
# --8<-- [end:usage]
