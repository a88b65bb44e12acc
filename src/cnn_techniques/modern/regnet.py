"""RegNet: the widths of all blocks follow one straight line, quantised into stages.

Source: Radosavovic et al., "Designing Network Design Spaces", CVPR 2020,
arXiv:2003.13678, section 3.3, equations 2-4, and section 4 (RegNetX, RegNetY).
Legend: N images, C channels, H x W pixels, K classes,
w width, g group width, s stride of a block, d number of blocks.
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence

from torch import Tensor, nn

# --8<-- [end:imports]
from cnn_techniques.attention import SqueezeExcitation


# --8<-- [start:module]
def regnet_stages(
    depth: int,
    w_0: int,
    w_a: float,
    w_m: float,
    group_width: int,
    papers_rounding: bool = False,
) -> list[tuple[int, int, int]]:
    """Blocks, width and group width of every stage, from the paper's parameters.

    Args:
        depth: d, blocks of the network.
        w_0: width on the line at the first block, a multiple of 8.
        w_a: slope of the line, channels a block.
        w_m: factor between the widths of neighbouring stages.
        group_width: g, channels of a group in the 3x3 convolutions.
        papers_rounding: fit widths to whole groups as the paper's models do, halves to
            the even number; torchvision rounds halves up, and no width below 90 %.

    Raises: ValueError for parameters that give no widths.
    """
    if depth < 1 or w_0 < 8 or w_0 % 8 or w_a < 0 or w_m <= 1 or group_width < 1:
        given = f"{depth=}, {w_0=}, {w_a=}, {w_m=}, {group_width=}"
        raise ValueError(f"expected w_0 = 8, 16, ..., w_a >= 0, w_m > 1, got {given}")
    blocks: dict[int, int] = {}
    for j in range(depth):
        u = w_0 + w_a * j  # equation 2: the line
        s = math.log(u / w_0, w_m)  # equation 3: as a power of w_m
        w = w_0 * w_m ** round(s)  # equation 4: the nearest whole power
        width = 8 * round(w / 8)
        blocks[width] = blocks.get(width, 0) + 1
    stages = []
    for width, count in blocks.items():
        group = min(group_width, width)
        fitted = group * round(width / group)
        if not papers_rounding:
            fitted = group * int(width / group + 0.5)
            fitted += group if fitted < 0.9 * width else 0
        stages.append((count, fitted, group))
    return stages


def _regnet_conv(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
) -> list[nn.Module]:
    shape = in_channels, out_channels, kernel, stride, kernel // 2
    conv = nn.Conv2d(*shape, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class RegNetBlock(nn.Module):
    """ResNeXt's bottleneck without a bottleneck: three convolutions of one width.

    Args:
        in_channels: C, channels of the input.
        width: w, channels inside the block and of the output.
        stride: s of the 3x3 convolution (2 in the first block of a stage).
        group_width: g, channels of a group; a divisor of w.
        se_ratio: squeeze width of squeeze-and-excitation as a share of C (RegNetY:
            0.25); 0 leaves it out (RegNetX).

    Shape: (N, C, H, W) -> (N, w, H / s, W / s), rounded up.
    Raises: ValueError for a width that is no multiple of g.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        group_width: int = 1,
        se_ratio: float = 0.0,
    ) -> None:
        super().__init__()
        if group_width < 1 or width < 1 or width % group_width:
            raise ValueError(f"expected whole groups, got {width=}, {group_width=}")
        groups = width // group_width
        # The names are torchvision's: proj is the shortcut's projection, f the branch,
        # a, b, c its convolutions in order.
        self.proj: nn.Module = nn.Identity()
        if in_channels != width or stride != 1:
            self.proj = nn.Sequential(*_regnet_conv(in_channels, width, 1, stride))
        a = [*_regnet_conv(in_channels, width), nn.ReLU(inplace=True)]
        b = [*_regnet_conv(width, width, 3, stride, groups), nn.ReLU(inplace=True)]
        self.f = nn.Sequential()
        self.f.add_module("a", nn.Sequential(*a))
        self.f.add_module("b", nn.Sequential(*b))
        if se_ratio:
            squeeze = round(se_ratio * in_channels)
            self.f.add_module("se", SqueezeExcitation(width, squeeze))
        self.f.add_module("c", nn.Sequential(*_regnet_conv(width, width)))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.proj(x) + self.f(x))  # (N, w, H/s, W/s)
        return y


class RegNet(nn.Module):
    """A stem of 32 channels, stages of blocks, and a linear classifier.

    Args:
        stages: blocks, width and group width of each, as `regnet_stages` gives them.
        se_ratio: as in `RegNetBlock`.
        num_classes: K, width of the output.
        in_channels: C, channels of the images.

    Shape: (N, C, H, W) -> (N, K), for any H and W.
    Raises: ValueError for a size below 1, no stages, or an input of another shape.
    """

    def __init__(
        self,
        stages: Sequence[tuple[int, int, int]],
        se_ratio: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not stages or min(count for count, _, _ in stages) < 1:
            raise ValueError(f"expected stages of one block or more, got {stages=}")
        if min(num_classes, in_channels) < 1 or se_ratio < 0:
            sizes = f"{num_classes=}, {in_channels=}, {se_ratio=}"
            raise ValueError(f"expected sizes from 1, se_ratio from 0, got {sizes}")
        self.stem = nn.Sequential(*_regnet_conv(in_channels, 32, 3, 2))
        self.stem.append(nn.ReLU(inplace=True))
        self.trunk_output = nn.Sequential()
        channels = 32
        for number, (count, width, group) in enumerate(stages, start=1):
            stage = nn.Sequential()
            for index in range(count):
                stride = 2 if index == 0 else 1
                block = RegNetBlock(channels, width, stride, group, se_ratio)
                stage.add_module(f"block{number}-{index}", block)
                channels = width
            self.trunk_output.add_module(f"block{number}", stage)
        self.fc = nn.Linear(channels, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(
                    conv.weight, mode="fan_out", nonlinearity="relu"
                )

    def features(self, x: Tensor) -> list[Tensor]:
        """The output of each stage, at strides 4, 8, 16, 32."""
        channels = self.stem[0].in_channels
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(f"expected (N, {channels}, H, W), got {tuple(x.shape)}")
        maps = [self.stem(x)]  # (N, 32, H/2, W/2)
        for stage in self.trunk_output:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)[-1]  # (N, w, H/32, W/32)
        scores: Tensor = self.fc(y.mean(dim=(2, 3)))  # (N, K)
        return scores


# d, w_0, w_a, w_m, g
REGNET_X = {
    "400mf": (22, 24, 24.48, 2.54, 16),
    "800mf": (16, 56, 35.73, 2.28, 16),
    "1_6gf": (18, 80, 34.01, 2.25, 24),
    "3_2gf": (25, 88, 26.31, 2.25, 48),
    "8gf": (23, 80, 49.56, 2.88, 120),
    "16gf": (22, 216, 55.59, 2.1, 128),
    "32gf": (23, 320, 69.86, 2.0, 168),
}
REGNET_Y = {
    "400mf": (16, 48, 27.89, 2.09, 8),
    "800mf": (14, 56, 38.84, 2.4, 16),
    "1_6gf": (27, 48, 20.71, 2.65, 24),
    "3_2gf": (21, 80, 42.63, 2.66, 24),
    "8gf": (17, 192, 76.82, 2.19, 56),
    "16gf": (18, 200, 106.23, 2.48, 112),
    "32gf": (20, 232, 115.89, 2.53, 232),
    "128gf": (27, 456, 160.83, 2.52, 264),
}


def regnet_x_400mf(num_classes: int = 1000) -> RegNet:
    """RegNetX-400MF."""
    return RegNet(regnet_stages(*REGNET_X["400mf"]), 0.0, num_classes)


def regnet_x_800mf(num_classes: int = 1000) -> RegNet:
    """RegNetX-800MF."""
    return RegNet(regnet_stages(*REGNET_X["800mf"]), 0.0, num_classes)


def regnet_x_1_6gf(num_classes: int = 1000) -> RegNet:
    """RegNetX-1.6GF."""
    return RegNet(regnet_stages(*REGNET_X["1_6gf"]), 0.0, num_classes)


def regnet_x_3_2gf(num_classes: int = 1000) -> RegNet:
    """RegNetX-3.2GF."""
    return RegNet(regnet_stages(*REGNET_X["3_2gf"]), 0.0, num_classes)


def regnet_x_8gf(num_classes: int = 1000) -> RegNet:
    """RegNetX-8GF."""
    return RegNet(regnet_stages(*REGNET_X["8gf"]), 0.0, num_classes)


def regnet_x_16gf(num_classes: int = 1000) -> RegNet:
    """RegNetX-16GF."""
    return RegNet(regnet_stages(*REGNET_X["16gf"]), 0.0, num_classes)


def regnet_x_32gf(num_classes: int = 1000) -> RegNet:
    """RegNetX-32GF."""
    return RegNet(regnet_stages(*REGNET_X["32gf"]), 0.0, num_classes)


def regnet_y_400mf(num_classes: int = 1000) -> RegNet:
    """RegNetY-400MF."""
    return RegNet(regnet_stages(*REGNET_Y["400mf"]), 0.25, num_classes)


def regnet_y_800mf(num_classes: int = 1000) -> RegNet:
    """RegNetY-800MF."""
    return RegNet(regnet_stages(*REGNET_Y["800mf"]), 0.25, num_classes)


def regnet_y_1_6gf(num_classes: int = 1000) -> RegNet:
    """RegNetY-1.6GF."""
    return RegNet(regnet_stages(*REGNET_Y["1_6gf"]), 0.25, num_classes)


def regnet_y_3_2gf(num_classes: int = 1000) -> RegNet:
    """RegNetY-3.2GF."""
    return RegNet(regnet_stages(*REGNET_Y["3_2gf"]), 0.25, num_classes)


def regnet_y_8gf(num_classes: int = 1000) -> RegNet:
    """RegNetY-8GF."""
    return RegNet(regnet_stages(*REGNET_Y["8gf"]), 0.25, num_classes)


def regnet_y_16gf(num_classes: int = 1000) -> RegNet:
    """RegNetY-16GF."""
    return RegNet(regnet_stages(*REGNET_Y["16gf"]), 0.25, num_classes)


def regnet_y_32gf(num_classes: int = 1000) -> RegNet:
    """RegNetY-32GF."""
    return RegNet(regnet_stages(*REGNET_Y["32gf"]), 0.25, num_classes)


def regnet_y_128gf(num_classes: int = 1000) -> RegNet:
    """RegNetY-128GF."""
    return RegNet(regnet_stages(*REGNET_Y["128gf"]), 0.25, num_classes)


# --8<-- [end:module]
