"""Wide ResNet: fewer blocks, each with more channels.

Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016,
arXiv:1605.07146, sections 2 and 3.
Legend: N images, C channels, H x W pixels, D width of a stage, k widening factor,
s stride, K classes.
"""

# --8<-- [start:imports]
from collections.abc import Callable

import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from cnn_techniques.modern.resnet import Bottleneck, ResNet


# --8<-- [start:module]
class WideBottleneck(Bottleneck):
    """A bottleneck whose inner 3x3 convolution is k = 2 times as wide.

    Arguments as for `Bottleneck`; the output has the same 4 * D channels.

    Shape: (N, C, H, W) -> (N, 4 * D, H / s, W / s), rounded up.
    """

    widening = 2  # k

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        attention: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__(in_channels, width, stride, attention)
        inner = self.widening * width
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, self.expansion * width, 1, bias=False)


def wide_resnet50_2(num_classes: int = 1000) -> ResNet:
    return ResNet(WideBottleneck, (3, 4, 6, 3), num_classes)


def wide_resnet101_2(num_classes: int = 1000) -> ResNet:
    return ResNet(WideBottleneck, (3, 4, 23, 3), num_classes)


class WideBlock(nn.Module):
    """Norm, ReLU and convolution, twice, with dropout between the convolutions.

    Args:
        in_channels: C, channels of the input.
        width: D, channels of the output.
        stride: s of the first convolution.
        dropout: probability that a value between the convolutions becomes zero.

    Shape: (N, C, H, W) -> (N, D, H / s, W / s), rounded up.
    """

    def __init__(
        self, in_channels: int, width: int, stride: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.project = stride != 1 or in_channels != width
        self.shortcut = (
            nn.Conv2d(in_channels, width, 1, stride, bias=False)
            if self.project
            else nn.Identity()
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(x))  # (N, C, H, W)
        x = self.shortcut(y if self.project else x)
        y = torch.relu(self.bn2(self.conv1(y)))  # (N, D, H/s, W/s)
        return x + self.conv2(self.dropout(y))


class WideResNet(nn.Module):
    """The network for small images: three stages of wide blocks, 16k to 64k channels.

    Args:
        depth: number of layers, 6 n + 4 with n blocks a stage (WRN-28-10: 28).
        widening: k, how many times as wide as 16, 32 and 64 channels (WRN-28-10: 10).
        num_classes: K, width of the output.
        dropout: in every block (the paper: 0.3, or none).

    Shape: (N, 3, H, W) -> (N, K), for any H and W.
    Raises: ValueError for a depth that is not 6 n + 4, a size below 1, a dropout that
    is no probability, or an input of another shape.
    """

    def __init__(
        self, depth: int, widening: int, num_classes: int = 10, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"expected a depth of 10, 16, 22, 28, ..., got {depth=}")
        if min(widening, num_classes) < 1:
            raise ValueError(
                f"sizes must be at least 1, got {widening=}, {num_classes=}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"expected a probability below 1, got {dropout=}")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        channels, stages = 16, []
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            blocks = []
            for index in range((depth - 4) // 6):
                step = stride if index == 0 else 1
                blocks.append(WideBlock(channels, widening * width, step, dropout))
                channels = widening * width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"expected (N, 3, H, W), got {tuple(x.shape)}")
        x = self.stages(self.conv1(x))  # (N, 64k, H/4, W/4)
        y = torch.relu(self.bn(x)).mean(dim=(2, 3))  # (N, 64k)
        scores: Tensor = self.fc(y)  # (N, K)
        return scores


def wide_resnet28_10(num_classes: int = 10, dropout: float = 0.0) -> WideResNet:
    return WideResNet(28, 10, num_classes, dropout)


# --8<-- [end:module]
