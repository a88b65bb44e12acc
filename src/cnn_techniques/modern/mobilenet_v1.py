"""MobileNet v1: every 3x3 convolution split into one per channel and one per pixel.

Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile
Vision Applications", arXiv:1704.04861, section 3, table 1.
Legend: N images, C channels, H x W pixels, K classes,
D channels of a block's output, s stride.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
class SeparableBlock(nn.Module):
    """A 3x3 convolution within each channel, then a 1x1 convolution across them.

    Args:
        in_channels: C, channels of the input.
        out_channels: D, channels of the output.
        stride: s of the depthwise convolution.

    Shape: (N, C, H, W) -> (N, D, H / s, W / s), rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(
            in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn1(self.conv_dw(x)), inplace=True)  # (N, C, H/s, W/s)
        return F.relu6(self.bn2(self.conv_pw(x)), inplace=True)  # (N, D, H/s, W/s)


MOBILENET_V1_STAGES = (  # blocks, channels, stride of the first block
    (1, 64, 1),
    (2, 128, 2),
    (2, 256, 2),
    (6, 512, 2),
    (2, 1024, 2),
)


class MobileNetV1(nn.Module):
    """A 3x3 convolution, thirteen separable blocks, and a linear classifier.

    Args:
        num_classes: K, width of the output.
        width: the paper's alpha, by which every number of channels is multiplied.
        dropout: rate before the classifier.
        in_channels: C, channels of the images.

    Shape: (N, C, H, W) -> (N, K), for any H and W.
    Raises: ValueError for a size below 1, an impossible width or dropout, or an input
        of another shape.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            sizes = f"{num_classes=}, {in_channels=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        if width <= 0 or not 0 <= dropout < 1:
            expected = "expected width > 0 and dropout in [0, 1)"
            raise ValueError(f"{expected}, got {width=}, {dropout=}")
        channels = max(8, int(width * 32))
        self.conv_stem = nn.Conv2d(in_channels, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages = []
        for blocks, full_width, stride in MOBILENET_V1_STAGES:
            modules = []
            for index in range(blocks):
                out_channels = max(8, int(width * full_width))
                first_stride = stride if index == 0 else 1
                modules.append(SeparableBlock(channels, out_channels, first_stride))
                channels = out_channels
            stages.append(nn.Sequential(*modules))
        self.blocks = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.conv_stem.in_channels:
            expected = f"(N, {self.conv_stem.in_channels}, H, W)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        x = F.relu6(self.bn1(self.conv_stem(x)), inplace=True)  # (N, 32, H/2, W/2)
        x = self.blocks(x)  # (N, 1024, H/32, W/32)
        pooled = torch.mean(x, dim=(2, 3))  # (N, 1024)
        scores: Tensor = self.classifier(self.dropout(pooled))  # (N, K)
        return scores


def mobilenetv1_100(num_classes: int = 1000) -> MobileNetV1:
    return MobileNetV1(num_classes)


def mobilenetv1_125(num_classes: int = 1000) -> MobileNetV1:
    return MobileNetV1(num_classes, width=1.25)


def mobilenetv1_075(num_classes: int = 1000) -> MobileNetV1:
    return MobileNetV1(num_classes, width=0.75)


def mobilenetv1_050(num_classes: int = 1000) -> MobileNetV1:
    return MobileNetV1(num_classes, width=0.5)


def mobilenetv1_025(num_classes: int = 1000) -> MobileNetV1:
    return MobileNetV1(num_classes, width=0.25)


# --8<-- [end:module]
