import torch

from cnn_techniques.optimization import GroupNorm, LayerNorm, LayerNorm2d

# --8<-- [start:usage]
torch.manual_seed(0)
maps = 5 * torch.randn(4, 6, 8, 10) + 2  # 4 images, 6 channels
maps[:, 0] += 20  # a channel that is louder than the others
for name, norm in {
    "6 groups": GroupNorm(6, 6),
    "2 groups": GroupNorm(2, 6),
    "1 group": GroupNorm(1, 6),
    "whole image": LayerNorm([6, 8, 10]),
    "each place": LayerNorm2d(6),
}.items():
    out = norm(maps)
    means = " ".join(f"{mean:z4.1f}" for mean in out.mean(dim=(0, 2, 3)))
    alone = (norm(maps[:1])[0] - out[0]).abs().max()
    print(f"{name:11} means of the channels {means}, without company {alone:.3f}")
# --8<-- [end:usage]
