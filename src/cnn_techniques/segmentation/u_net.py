"""U-Net: a path down learns what is in the image, a path up learns where; each level hands its map across.

Source: Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
    arXiv:1505.04597, section 2 and figure 1; initialisation from section 3.
Legend: N images, C channels, H x W pixels, K classes, F = width.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
def _unet_block(in_channels: int, out_channels: int, padding: int) -> nn.Sequential:
    """Two 3x3 convolutions, each followed by ReLU; without padding, height and width shrink by 4."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=padding),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=padding),
        nn.ReLU(),
    )


def _unet_crop(x: Tensor, like: Tensor) -> Tensor:
    """The middle of `x`, as high and as wide as `like`."""
    height, width = like.shape[2], like.shape[3]
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]


def _unet_init(module: nn.Module) -> None:
    """Weights from N(0, 2 / n), where n inputs are summed into one output (section 3); biases zero."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        # The 2x2 patches of the up-convolution do not overlap: one pixel, n = in_channels, reaches an output.
        n = module.in_channels * (9 if module.kernel_size == (3, 3) else 1)
        nn.init.normal_(module.weight, std=(2 / n) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class UNet(nn.Module):
    """Score every pixel for every class.

    Args:
        in_channels: C, channels of the image (paper: 1).
        classes: K, number of classes, background included (paper: 2).
        width: F, channels of the first level; they double at each of the four levels below (paper: 64).
        padding: 0 for the paper's unpadded convolutions, 1 to keep the size of the image.

    Shape: (N, C, H, W) -> (N, K, H', W'), scores before the softmax.
        padding 0: H' = H - 184 for an H of 188, 204, 220, ...; padding 1: H' = H for an H of 16, 32, 48, ...
        The same for W.
    Parameters: 31,030,658 with the paper's numbers.
    Raises: ValueError for a number below 1, another padding, or an input of another shape.
    """

    def __init__(self, in_channels: int = 1, classes: int = 2, width: int = 64, padding: int = 0) -> None:
        super().__init__()
        if in_channels < 1 or classes < 1 or width < 1:
            raise ValueError(f"expected at least 1, got {in_channels=}, {classes=}, {width=}")
        if padding not in (0, 1):
            raise ValueError(f"expected padding 0 (unpadded) or 1 (keeps the size), got {padding=}")
        self.in_channels = in_channels
        self.smallest = 16 if padding else 188  # then in steps of 16, one for each of four halvings
        f, f2, f4, f8, f16 = (width * 2**level for level in range(5))  # paper: 64, 128, 256, 512, 1024
        down, up = [(in_channels, f), (f, f2), (f2, f4), (f4, f8)], [(f16, f8), (f8, f4), (f4, f2), (f2, f)]
        self.contracting = nn.ModuleList(_unet_block(a, b, padding) for a, b in down)
        self.bottom = _unet_block(f8, f16, padding)
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in up)
        self.expanding = nn.ModuleList(_unet_block(a, b, padding) for a, b in up)  # a = 2 * b: copy and up
        self.classify = nn.Conv2d(f, classes, 1)
        self.apply(_unet_init)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"expected (N, {self.in_channels}, H, W), got {tuple(x.shape)}")
        for side in (x.shape[2], x.shape[3]):
            if side < self.smallest or (side - self.smallest) % 16:
                below = self.smallest + max(0, side - self.smallest) // 16 * 16
                raise ValueError(
                    f"expected a height and width of {self.smallest} plus a multiple of 16, so that every "
                    f"pooled map is even, got {tuple(x.shape)}; for {side} take {below} or {below + 16}"
                )
        # --8<-- [start:paths]
        copies = []
        for block in self.contracting:
            x = block(x)  # (N, F, 568, 568), then (N, 2F, 280, 280), (N, 4F, 136, 136), (N, 8F, 64, 64)
            copies.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)  # (N, 16F, 28, 28) for an image of 572 x 572
        for up, block in zip(self.up, self.expanding, strict=True):
            x = up(x)  # (N, 8F, 56, 56), then (N, 4F, 104, 104), (N, 2F, 200, 200), (N, F, 392, 392)
            x = torch.cat([_unet_crop(copies.pop(), like=x), x], dim=1)
            x = block(x)  # (N, 8F, 52, 52), then (N, 4F, 100, 100), (N, 2F, 196, 196), (N, F, 388, 388)
        # --8<-- [end:paths]
        scores: Tensor = self.classify(x)  # (N, K, 388, 388)
        return scores


# --8<-- [end:module]
