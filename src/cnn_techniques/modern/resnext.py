"""ResNeXt: a residual block whose middle is many narrow paths, added up.

Source: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks",
CVPR 2017, arXiv:1611.05431, section 3, table 1.
Legend: N images, G paths of d channels each (in the first stage), H x W pixels,
D width of a stage (64 in the first), s stride, E = 4 expansion of a block.
"""

# --8<-- [start:imports]
from collections.abc import Callable

import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from cnn_techniques.modern.resnet import Bottleneck, ResNet


# --8<-- [start:module]
class ResNeXtBlock(Bottleneck):
    """A bottleneck whose 3x3 convolution works in G groups, which never mix.

    Arguments as for `Bottleneck`. A subclass says G and d; d grows with the stage.

    Shape: (N, C, H, W) -> (N, E * D, H / s, W / s), rounded up.
    Raises: ValueError for a width that leaves no channel to a path.
    """

    groups = 32  # G, the paper's cardinality
    width_per_group = 4  # d, channels of a path where D is 64

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        attention: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__(in_channels, width, stride, attention)
        paths, each = self.groups, self.width_per_group * width // 64
        if each < 1:
            told = f"{width=} with width_per_group={self.width_per_group}"
            raise ValueError(f"expected a channel or more for each path, got {told}")
        inner = paths * each
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(
            inner, inner, 3, stride, padding=1, groups=paths, bias=False
        )
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, self.expansion * width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # Bottleneck's, with other shapes
        y = torch.relu(self.bn1(self.conv1(x)))  # (N, G*d, H, W)
        y = torch.relu(self.bn2(self.conv2(y)))  # (N, G*d, H/s, W/s)
        y = self.attention(self.bn3(self.conv3(y)))  # (N, E*D, H/s, W/s)
        return torch.relu(y + self.downsample(x))


class ResNeXtBlock32x8d(ResNeXtBlock):
    """32 paths of 8 channels."""

    width_per_group = 8


class ResNeXtBlock64x4d(ResNeXtBlock):
    """64 paths of 4 channels."""

    groups = 64


def resnext50_32x4d(num_classes: int = 1000) -> ResNet:
    return ResNet(ResNeXtBlock, (3, 4, 6, 3), num_classes)


def resnext101_32x8d(num_classes: int = 1000) -> ResNet:
    return ResNet(ResNeXtBlock32x8d, (3, 4, 23, 3), num_classes)


def resnext101_64x4d(num_classes: int = 1000) -> ResNet:
    return ResNet(ResNeXtBlock64x4d, (3, 4, 23, 3), num_classes)


# --8<-- [end:module]
