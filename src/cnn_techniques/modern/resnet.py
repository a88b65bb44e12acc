"""ResNet: layers learn what to add to their input, so that deeper networks still train.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
arXiv:1512.03385, section 3, table 1.
Legend: N images, C channels, H x W pixels, K classes,
D width of a stage, s stride, E expansion of a block.
"""

# --8<-- [start:imports]
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
def _resnet_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity, or a projection where the shape changes (the paper's option B)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, to whose result the input is added.

    Args:
        in_channels: C, channels of the input.
        width: D, channels inside the block and of the output.
        stride: s of the first convolution (2 in the first block of a stage).
        attention: makes a module for D channels, put at the end of the branch.

    Shape: (N, C, H, W) -> (N, D, H / s, W / s), rounded up.
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        attention: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.attention = attention(width) if attention else nn.Identity()
        self.downsample = _resnet_shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))  # (N, D, H/s, W/s)
        y = self.attention(self.bn2(self.conv2(y)))
        return torch.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between 1x1 convolutions that narrow and widen, E = 4 to 1.

    Arguments as for `BasicBlock`, but the output has E * D channels.

    Shape: (N, C, H, W) -> (N, E * D, H / s, W / s), rounded up.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int = 1,
        attention: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        # The paper strides in conv1, which then reads only a quarter of its input.
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.attention = attention(out_channels) if attention else nn.Identity()
        self.downsample = _resnet_shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))  # (N, D, H, W)
        y = torch.relu(self.bn2(self.conv2(y)))  # (N, D, H/s, W/s)
        y = self.attention(self.bn3(self.conv3(y)))  # (N, E*D, H/s, W/s)
        return torch.relu(y + self.downsample(x))


class ResNet(nn.Module):
    """A stem, stages of residual blocks, and a linear classifier.

    From the second stage on, each halves height and width and doubles D.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        layers: blocks of each stage (ResNet-50: 3, 4, 6, 3).
        num_classes: K, width of the output.
        width: D of the first stage.
        in_channels: C, channels of the images.
        small_images: a stem of one 3x3 convolution, for images of about 32 pixels
            (section 4.2 of the paper).
        attention: makes a module for a number of channels, the end of every branch.

    Shape: (N, C, H, W) -> (N, K), for any H and W.
    Raises: ValueError for a size below 1, no stages, or an input of another shape.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        width: int = 64,
        in_channels: int = 3,
        small_images: bool = False,
        attention: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not layers or min(layers) < 1:
            raise ValueError(f"expected stages of one block or more, got {layers=}")
        if min(num_classes, width, in_channels) < 1:
            sizes = f"{num_classes=}, {width=}, {in_channels=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        kernel, stride = (3, 1) if small_images else (7, 2)
        padding = kernel // 2
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.maxpool = nn.Identity() if small_images else pool
        self.stages = [f"layer{number + 1}" for number in range(len(layers))]
        channels = width
        for name, blocks in zip(self.stages, layers, strict=True):
            modules = []
            for index in range(blocks):
                stride = 2 if name != "layer1" and index == 0 else 1
                modules.append(block(channels, width, stride, attention))
                channels = block.expansion * width
            self.add_module(name, nn.Sequential(*modules))
            width = 2 * width
        self.fc = nn.Linear(channels, num_classes)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(
                    conv.weight, mode="fan_out", nonlinearity="relu"
                )

    def features(self, x: Tensor) -> list[Tensor]:
        """The output of each stage, at strides 4, 8, 16, 32; detectors use them."""
        if x.ndim != 4 or x.shape[1] != self.conv1.in_channels:
            expected = f"(N, {self.conv1.in_channels}, H, W)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        x = torch.relu(self.bn1(self.conv1(x)))  # (N, D, H/2, W/2)
        maps = [self.maxpool(x)]  # (N, D, H/4, W/4)
        for name in self.stages:
            maps.append(self.get_submodule(name)(maps[-1]))
        return maps[1:]

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)[-1]  # (N, E*8*D, H/32, W/32)
        scores: Tensor = self.fc(y.mean(dim=(2, 3)))  # (N, K)
        return scores


def resnet18(num_classes: int = 1000) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes)


def resnet34(num_classes: int = 1000) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes)


def resnet50(num_classes: int = 1000) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes)


def resnet101(num_classes: int = 1000) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes)


def resnet152(num_classes: int = 1000) -> ResNet:
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes)


# --8<-- [end:module]
