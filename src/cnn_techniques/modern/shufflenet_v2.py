"""ShuffleNet v2: half of the channels pass a unit untouched, then all are shuffled.

Source: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
Design", ECCV 2018, arXiv:1807.11164, section 3, figure 3 (c) and (d), table 5.
Legend: N images, C channels, H x W pixels, K classes,
s stride, D output channels of a unit, G groups.
"""

# --8<-- [start:imports]
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
def channel_shuffle(*groups: Tensor) -> Tensor:
    """Concatenate G groups of channels so that their channels take turns.

    The paper's "Concat" and "Channel Shuffle" with one copy instead of two: channel i
    of group j becomes channel i * G + j.

    Shape: G times (N, C, H, W) -> (N, G * C, H, W).
    """
    return torch.stack(groups, dim=2).flatten(1, 2)


def _shufflenet_v2_pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def _shufflenet_v2_depthwise(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]  # no ReLU: guideline G4


class ShuffleUnit(nn.Module):
    """Convolutions on one half of the channels; with stride 2, on all of them twice.

    Args:
        in_channels: C, channels of the input.
        out_channels: D, channels of the output; as many as C where the stride is 1.
        stride: s, 1 (channel split) or 2 (two branches that each see every channel).

    Shape: (N, C, H, W) -> (N, D, H / s, W / s), rounded up.
    Raises: ValueError for other strides, odd D, or a stride of 1 that changes C.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        half = out_channels // 2
        if half < 1 or out_channels != 2 * half:
            raise ValueError(f"expected two equal halves, got {out_channels=}")
        if stride not in (1, 2) or (stride == 1 and in_channels != out_channels):
            sizes = f"{in_channels=}, {out_channels=}, {stride=}"
            raise ValueError(f"expected stride 2, or 1 and equal widths, got {sizes}")
        self.split = stride == 1
        self.branch1 = nn.Sequential()  # stays empty where channels are split
        if not self.split:
            self.branch1.extend(_shufflenet_v2_depthwise(in_channels, stride))
            self.branch1.extend(_shufflenet_v2_pointwise(in_channels, half))
        self.branch2 = nn.Sequential(
            *_shufflenet_v2_pointwise(half if self.split else in_channels, half),
            *_shufflenet_v2_depthwise(half, stride),
            *_shufflenet_v2_pointwise(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.split:
            kept, x = x.chunk(2, dim=1)  # (N, C/2, H, W) each
        else:
            kept = self.branch1(x)  # (N, D/2, H/2, W/2)
        return channel_shuffle(kept, self.branch2(x))  # (N, D, H/s, W/s)


class ShuffleNetV2(nn.Module):
    """A stem, three stages of units, a 1x1 convolution, and a linear classifier.

    Args:
        widths: D of each stage (1x: 116, 232, 464).
        last: output channels of the 1x1 convolution.
        num_classes: K, width of the output.
        in_channels: C, channels of the images.
        units: of each stage; the first halves height and width.

    Shape: (N, C, H, W) -> (N, K), for any H and W.
    Raises: ValueError for a size below 1, other than three stages, odd widths, or an
        input of another shape.
    """

    def __init__(
        self,
        widths: Sequence[int],
        last: int = 1024,
        num_classes: int = 1000,
        in_channels: int = 3,
        units: Sequence[int] = (4, 8, 4),
    ) -> None:
        super().__init__()
        if len(widths) != 3 or len(units) != 3 or min(units) < 1:
            raise ValueError(f"expected three stages, got {widths=}, {units=}")
        if min(last, num_classes, in_channels) < 1:
            sizes = f"{last=}, {num_classes=}, {in_channels=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        # The numbers in these names are the paper's: conv1, stages 2 to 4, conv5.
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, 24, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(inplace=True),
        )
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 24
        for number, (width, count) in enumerate(zip(widths, units, strict=True), 2):
            rest = [ShuffleUnit(width, width) for _ in range(count - 1)]
            first = ShuffleUnit(channels, width, stride=2)
            self.add_module(f"stage{number}", nn.Sequential(first, *rest))
            channels = width
        self.conv5 = nn.Sequential(*_shufflenet_v2_pointwise(channels, last))
        self.fc = nn.Linear(last, num_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """The output of each stage, at strides 8, 16 and 32."""
        channels = self.conv1[0].in_channels
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(f"expected (N, {channels}, H, W), got {tuple(x.shape)}")
        maps = [self.maxpool(self.conv1(x))]  # (N, 24, H/4, W/4)
        for number in (2, 3, 4):
            maps.append(self.get_submodule(f"stage{number}")(maps[-1]))
        return maps[1:]

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv5(self.features(x)[-1])  # (N, last, H/32, W/32)
        scores: Tensor = self.fc(y.mean(dim=(2, 3)))  # (N, K)
        return scores


def shufflenet_v2_x0_5(num_classes: int = 1000) -> ShuffleNetV2:
    return ShuffleNetV2((48, 96, 192), 1024, num_classes)


def shufflenet_v2_x1_0(num_classes: int = 1000) -> ShuffleNetV2:
    return ShuffleNetV2((116, 232, 464), 1024, num_classes)


def shufflenet_v2_x1_5(num_classes: int = 1000) -> ShuffleNetV2:
    return ShuffleNetV2((176, 352, 704), 1024, num_classes)


def shufflenet_v2_x2_0(num_classes: int = 1000) -> ShuffleNetV2:
    return ShuffleNetV2((244, 488, 976), 2048, num_classes)


# --8<-- [end:module]
