import torch
from torch.nn import functional as F

from cnn_techniques.segmentation import UNet

# --8<-- [start:usage]
torch.manual_seed(0)
image = torch.rand(1, 1, 132, 132)
mask = (image > 0.5).long()[:, 0]  # the class of every pixel

unpadded = UNet(
    in_channels=1, classes=2, width=8
)  # the paper's convolutions, an eighth of its channels
surround = F.pad(
    image, (92, 92, 92, 92), mode="reflect"
)  # mirrored, as the paper does at the border
scores = unpadded(surround)
print(tuple(surround.shape), "->", tuple(scores.shape))
print(f"cross-entropy before training {F.cross_entropy(scores, mask):.4f}")

padded = UNet(in_channels=1, classes=2, width=8, padding=1)
scores = padded(image[:, :, :128, :128])
print((128, 128), "->", tuple(scores.shape[2:]), "with padding")
share = scores.argmax(dim=1).double().mean()
print(f"pixels given to class 1 before training {share:.4f}")
# --8<-- [end:usage]
