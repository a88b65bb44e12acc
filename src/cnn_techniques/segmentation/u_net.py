"""U-Net: a path down learns what is in the image, one up where; levels are joined.

Source: Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image
Segmentation", MICCAI 2015, arXiv:1505.04597, section 2 and figure 1;
initialisation from section 3.
Legend: N images, C channels, H x W pixels, K classes, F = width.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
def _unet_block(in_channels: int, out_channels: int, padding: int) -> nn.Sequential:
    """Two 3x3 convolutions with ReLU; unpadded, they take 4 off height and width."""
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
    """Weights from N(0, 2 / n), n inputs summed into one output; biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        # Patches of the up-convolution do not overlap: an output sums over one pixel.
        pixels = 9 if module.kernel_size == (3, 3) else 1
        std = (2 / (pixels * module.in_channels)) ** 0.5
        nn.init.normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class UNet(nn.Module):
    """Score every pixel for every class.

    Args:
        in_channels: C, channels of the image (paper: 1).
        classes: K, number of classes, background included (paper: 2).
        width: F, channels of the first level, doubled at each of the four below it
            (paper: 64).
        padding: 0 for the paper's unpadded convolutions, 1 to keep the image's size.

    Shape: (N, C, H, W) -> (N, K, H', W'), scores before the softmax. With padding 0,
    H' = H - 184 for an H of 188, 204, 220, ...; with padding 1, H' = H for an H of
    16, 32, 48, ...; the same for W.
    Parameters: 31,030,658 with the paper's numbers.
    Raises: ValueError for a number below 1, another padding, an input of another shape.
    """

    def __init__(
        self, in_channels: int = 1, classes: int = 2, width: int = 64, padding: int = 0
    ) -> None:
        super().__init__()
        if in_channels < 1 or classes < 1 or width < 1:
            raise ValueError(
                f"expected at least 1, got {in_channels=}, {classes=}, {width=}"
            )
        if padding not in (0, 1):
            raise ValueError(f"expected padding 0 or 1, got {padding=}")
        self.in_channels = in_channels
        self.smallest = 16 if padding else 188  # then in steps of 16: four halvings
        f = [width * 2**level for level in range(5)]  # paper: 64, 128, 256, 512, 1024
        down = [(in_channels, f[0]), (f[0], f[1]), (f[1], f[2]), (f[2], f[3])]
        up = [(f[4], f[3]), (f[3], f[2]), (f[2], f[1]), (f[1], f[0])]
        self.contracting = nn.ModuleList(_unet_block(a, b, padding) for a, b in down)
        self.bottom = _unet_block(f[3], f[4], padding)
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in up)
        # Half of a block's input is the copy, the other half comes from below: a = 2 b.
        self.expanding = nn.ModuleList(_unet_block(a, b, padding) for a, b in up)
        self.classify = nn.Conv2d(f[0], classes, 1)
        self.apply(_unet_init)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            expected = f"(N, {self.in_channels}, H, W)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        for side in (x.shape[2], x.shape[3]):
            if side < self.smallest or (side - self.smallest) % 16:
                below = self.smallest + max(0, side - self.smallest) // 16 * 16
                raise ValueError(
                    f"expected height and width of {self.smallest} plus a multiple of "
                    f"16, so that each pooled map is even, got {tuple(x.shape)}; "
                    f"nearest to {side}: {below} or {below + 16}"
                )
        # --8<-- [start:paths]
        copies = []  # beside each line: its maps for an image of 572 x 572
        for block in self.contracting:
            x = block(x)  # (N, F, 568, 568), then 280, 136, 64
            copies.append(x)
            x = F.max_pool2d(x, 2)  # 284, then 140, 68, 32
        x = self.bottom(x)  # (N, 16 F, 28, 28)
        for up, block in zip(self.up, self.expanding, strict=True):
            x = up(x)  # (N, 8 F, 56, 56), then 104, 200, 392
            x = torch.cat([_unet_crop(copies.pop(), like=x), x], dim=1)
            x = block(x)  # (N, 8 F, 52, 52), then 100, 196, 388
        scores: Tensor = self.classify(x)  # (N, K, 388, 388)
        # --8<-- [end:paths]
        return scores


# --8<-- [end:module]
