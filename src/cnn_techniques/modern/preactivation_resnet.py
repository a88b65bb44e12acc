"""Pre-activation ResNet: norm and ReLU come first, and nothing touches the shortcut.

Source: He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016,
arXiv:1603.05027, sections 2 and 4.
Legend: N images, C channels, H x W pixels, K classes, D width inside a block,
s stride, E expansion of a block.
"""

# --8<-- [start:imports]
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
class PreActivationBasicBlock(nn.Module):
    """Norm, ReLU and a 3x3 convolution, twice; then the input is added.

    Args:
        in_channels: C, channels of the input.
        width: D, channels of both convolutions and of the output.
        stride: s of the first convolution.
        project: a 1x1 convolution takes the place of the bare shortcut.

    Shape: (N, C, H, W) -> (N, D, H / s, W / s), rounded up.
    Raises: ValueError where the shape changes and nothing projects.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int = 1, project: bool = False
    ) -> None:
        super().__init__()
        if not project and (stride > 1 or in_channels != width):
            told = f"{in_channels=}, {width=}, {stride=}"
            raise ValueError(f"a shape that changes needs project=True, got {told}")
        self.shortcut = (
            nn.Conv2d(in_channels, width, 1, stride, bias=False) if project else None
        )
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x), inplace=True)  # (N, C, H, W)
        if self.shortcut is not None:
            x = self.shortcut(y)
        y = self.conv1(y)  # (N, D, H/s, W/s)
        y = self.conv2(F.relu(self.norm2(y), inplace=True))
        return y + x


class PreActivationBottleneck(nn.Module):
    """Norm, ReLU and convolution three times: 1x1, 3x3, and 1x1 to E = 4 times D.

    Arguments as for `PreActivationBasicBlock`, but the output has E * D channels.

    Shape: (N, C, H, W) -> (N, E * D, H / s, W / s), rounded up.
    Raises: ValueError where the shape changes and nothing projects.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int = 1, project: bool = False
    ) -> None:
        super().__init__()
        out_channels = self.expansion * width
        if not project and (stride > 1 or in_channels != out_channels):
            told = f"{in_channels=}, {width=}, {stride=}"
            raise ValueError(f"a shape that changes needs project=True, got {told}")
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            if project
            else None
        )
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x), inplace=True)  # (N, C, H, W)
        if self.shortcut is not None:
            x = self.shortcut(y)
        y = self.conv1(y)  # (N, D, H, W)
        y = self.conv2(F.relu(self.norm2(y), inplace=True))  # (N, D, H/s, W/s)
        y = self.conv3(F.relu(self.norm3(y), inplace=True))  # (N, E*D, H/s, W/s)
        return y + x


class PreActivationResNet(nn.Module):
    """A stem without norm, stages of blocks, then the norm and ReLU left out so far.

    From the second stage on, each halves height and width and doubles D.

    Args:
        block: `PreActivationBasicBlock` or `PreActivationBottleneck`.
        layers: blocks of each stage (ResNet-50: 3, 4, 6, 3).
        num_classes: K, width of the output.
        width: D of the first stage.
        in_channels: C, channels of the images.
        small_images: a stem of one 3x3 convolution, for images of about 32 pixels.

    Shape: (N, C, H, W) -> (N, K), for any H and W.
    Raises: ValueError for a size below 1, no stages, or an input of another shape.
    """

    def __init__(
        self,
        block: type[PreActivationBasicBlock] | type[PreActivationBottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        width: int = 64,
        in_channels: int = 3,
        small_images: bool = False,
    ) -> None:
        super().__init__()
        if not layers or min(layers) < 1:
            raise ValueError(f"expected stages of one block or more, got {layers=}")
        if min(num_classes, width, in_channels) < 1:
            sizes = f"{num_classes=}, {width=}, {in_channels=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        kernel, stride = (3, 1) if small_images else (7, 2)
        self.stem = nn.Conv2d(
            in_channels, width, kernel, stride, padding=kernel // 2, bias=False
        )
        pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.pool = nn.Identity() if small_images else pool
        channels, stages = width, []
        for stage, depth in enumerate(layers):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                changed = stride > 1 or channels != block.expansion * width
                blocks.append(block(channels, width, stride, project=changed))
                channels = block.expansion * width
            stages.append(nn.Sequential(*blocks))
            width = 2 * width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Conv2d(channels, num_classes, 1)  # linear, as timm stores it
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d) and conv is not self.head:
                nn.init.kaiming_normal_(conv.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.stem.in_channels:
            expected = f"(N, {self.stem.in_channels}, H, W)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        x = self.pool(self.stem(x))  # (N, D, H/4, W/4)
        x = F.relu(self.norm(self.stages(x)), inplace=True)  # (N, E*8*D, H/32, W/32)
        scores = self.head(x.mean(dim=(2, 3), keepdim=True))  # (N, K, 1, 1)
        return torch.flatten(scores, 1)


def resnetv2_18(num_classes: int = 1000) -> PreActivationResNet:
    return PreActivationResNet(PreActivationBasicBlock, (2, 2, 2, 2), num_classes)


def resnetv2_34(num_classes: int = 1000) -> PreActivationResNet:
    return PreActivationResNet(PreActivationBasicBlock, (3, 4, 6, 3), num_classes)


def resnetv2_50(num_classes: int = 1000) -> PreActivationResNet:
    return PreActivationResNet(PreActivationBottleneck, (3, 4, 6, 3), num_classes)


def resnetv2_101(num_classes: int = 1000) -> PreActivationResNet:
    return PreActivationResNet(PreActivationBottleneck, (3, 4, 23, 3), num_classes)


def resnetv2_152(num_classes: int = 1000) -> PreActivationResNet:
    return PreActivationResNet(PreActivationBottleneck, (3, 8, 36, 3), num_classes)


# --8<-- [end:module]
