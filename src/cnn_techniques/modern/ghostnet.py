"""GhostNet: half of the maps come from the other half by a cheap depthwise convolution.

Source: Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020,
arXiv:1911.11907, section 3, table 1.
Legend: N images, C channels in, D channels out, H x W pixels, s stride, K classes.
"""

# --8<-- [start:imports]
import math

import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from cnn_techniques.attention import SqueezeExcitation


# --8<-- [start:module]
class GhostModule(nn.Module):
    """A 1x1 convolution makes D / ratio maps, depthwise 3x3 ones make the others.

    Args:
        in_channels: C, channels of the input.
        out_channels: D, channels of the output.
        relu: whether both halves end in a ReLU.
        ratio: the paper's s, D over the number of intrinsic maps.
        cheap_size: the paper's d, kernel size of the depthwise convolution.

    Shape: (N, C, H, W) -> (N, D, H, W).
    Raises: ValueError for a size below 1, or an even kernel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        relu: bool = True,
        ratio: int = 2,
        cheap_size: int = 3,
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels, ratio) < 1 or cheap_size % 2 == 0:
            sizes = f"{in_channels=}, {out_channels=}, {ratio=}, {cheap_size=}"
            raise ValueError(
                f"expected sizes of at least 1, an odd kernel, got {sizes}"
            )
        self.out_channels = out_channels
        intrinsic = math.ceil(out_channels / ratio)
        ghosts = intrinsic * (ratio - 1)
        self.primary = nn.Sequential(
            nn.Conv2d(in_channels, intrinsic, 1, bias=False),
            nn.BatchNorm2d(intrinsic),
            nn.ReLU(inplace=True) if relu else nn.Identity(),
        )
        padding = cheap_size // 2
        self.cheap = nn.Sequential(
            nn.Conv2d(
                intrinsic,
                ghosts,
                cheap_size,
                padding=padding,
                groups=intrinsic,
                bias=False,
            ),
            nn.BatchNorm2d(ghosts),
            nn.ReLU(inplace=True) if relu else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        intrinsic = self.primary(x)  # (N, D/2, H, W)
        ghosts = self.cheap(intrinsic)  # (N, D/2, H, W)
        y = torch.cat((intrinsic, ghosts), dim=1)
        return y[:, : self.out_channels]  # (N, D, H, W)


class GhostBottleneck(nn.Module):
    """A ghost module widens, another narrows; between them a stride and a gate.

    Args:
        in_channels: C, channels of the input.
        width: channels between the two ghost modules.
        out_channels: D, channels of the output.
        kernel_size: of the depthwise convolutions that stride.
        stride: s; at 1, no convolution stands between the ghost modules.
        gated: whether a squeeze-and-excitation gate does.

    Shape: (N, C, H, W) -> (N, D, H / s, W / s), rounded up.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        gated: bool = False,
    ) -> None:
        super().__init__()

        def depthwise(channels: int) -> list[nn.Module]:
            conv = nn.Conv2d(
                channels,
                channels,
                kernel_size,
                stride,
                padding=kernel_size // 2,
                groups=channels,
                bias=False,
            )
            return [conv, nn.BatchNorm2d(channels)]

        branch: list[nn.Module] = [GhostModule(in_channels, width)]
        if stride > 1:
            branch += depthwise(width)
        if gated:
            squeezed = _ghostnet_width(width / 4)
            branch += [SqueezeExcitation(width, squeezed, gate=nn.Hardsigmoid)]
        branch += [GhostModule(width, out_channels, relu=False)]
        self.branch = nn.Sequential(*branch)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                *depthwise(in_channels),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)  # (N, D, H/s, W/s)
        y += self.shortcut(x)
        return y


def _ghostnet_width(channels: float) -> int:
    """The nearest multiple of 4 that takes away less than a tenth."""
    width = max(4, int(channels + 2) // 4 * 4)
    return width + 4 if width < 0.9 * channels else width


GHOSTNET_BLOCKS = [  # kernel, width, channels out, gated, stride: the paper's table 1
    (3, 16, 16, False, 1),
    (3, 48, 24, False, 2),
    (3, 72, 24, False, 1),
    (5, 72, 40, True, 2),
    (5, 120, 40, True, 1),
    (3, 240, 80, False, 2),
    (3, 200, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 480, 112, True, 1),
    (3, 672, 112, True, 1),
    (5, 672, 160, True, 2),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
]


class GhostNet(nn.Module):
    """A stem, sixteen ghost bottlenecks, a 1x1 convolution, a classifier of two layers.

    Args:
        num_classes: K, width of the output.
        width: multiplies the channels of all layers but the last two.
        in_channels: channels of the images.
        dropout: rate before the last layer.

    Shape: (N, C, H, W) -> (N, K), for any H and W.
    Raises: ValueError for a size that is not positive, or an input of another shape.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        in_channels: int = 3,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1 or width <= 0:
            sizes = f"{num_classes=}, {in_channels=}, {width=}"
            raise ValueError(f"sizes must be positive, got {sizes}")
        channels = _ghostnet_width(16 * width)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        blocks: list[nn.Module] = []
        for kernel_size, expanded, out, gated, stride in GHOSTNET_BLOCKS:
            expanded, out = (
                _ghostnet_width(expanded * width),
                _ghostnet_width(out * width),
            )
            blocks.append(
                GhostBottleneck(channels, expanded, out, kernel_size, stride, gated)
            )
            channels = out
        self.blocks = nn.Sequential(*blocks)
        last = _ghostnet_width(960 * width)
        self.last = nn.Sequential(
            nn.Conv2d(channels, last, 1, bias=False),
            nn.BatchNorm2d(last),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Sequential(  # on a 1x1 map, a 1x1 convolution is a linear layer
            nn.Conv2d(last, 1280, 1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(1280, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        channels = self.stem[0].in_channels
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(f"expected (N, {channels}, H, W), got {tuple(x.shape)}")
        x = self.last(self.blocks(self.stem(x)))  # (N, 960, H/32, W/32)
        scores: Tensor = self.head(x.mean(dim=(2, 3), keepdim=True))  # (N, K)
        return scores


def ghostnet_050(num_classes: int = 1000) -> GhostNet:
    return GhostNet(num_classes, width=0.5)


def ghostnet_100(num_classes: int = 1000) -> GhostNet:
    return GhostNet(num_classes)


def ghostnet_130(num_classes: int = 1000) -> GhostNet:
    return GhostNet(num_classes, width=1.3)


# --8<-- [end:module]
