"""RepVGG: train with three branches, then fold them into one 3x3 convolution.

Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021,
arXiv:2101.03697, section 3.
Legend: N images, C channels, H x W pixels, D width of a stage, G groups, s stride,
K classes.
"""

# --8<-- [start:imports]
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
class RepVGGBlock(nn.Module):
    """A 3x3 and a 1x1 convolution and the input, each through its norm, added up.

    Args:
        in_channels: C, channels of the input.
        width: D, channels of the output.
        stride: s of both convolutions; the input is a branch only where s = 1, C = D.
        groups: G of both convolutions.

    Shape: (N, C, H, W) -> (N, D, H / s, W / s), rounded up.
    """

    def __init__(
        self, in_channels: int, width: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        keeps_shape = stride == 1 and in_channels == width
        self.identity = nn.BatchNorm2d(width) if keeps_shape else None
        self.conv3 = nn.Conv2d(
            in_channels, width, 3, stride, padding=1, groups=groups, bias=False
        )
        self.bn3 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)) + self.bn3(self.conv3(x))  # (N, D, H/s, W/s)
        if self.identity is not None:
            y = y + self.identity(x)
        return F.relu(y, inplace=True)

    def fold(self) -> nn.Conv2d:
        """One convolution that computes what this block does before its ReLU.

        Exact in evaluation mode: it holds the norms' running statistics.
        """
        conv = self.conv3
        branches = [
            (conv.weight, self.bn3),
            (F.pad(self.conv1.weight, (1, 1, 1, 1)), self.bn1),  # its centre
        ]
        if self.identity is not None:
            identity = nn.init.dirac_(torch.empty_like(conv.weight), conv.groups)
            branches.append((identity, self.identity))  # 1 from each channel to itself
        kernel, bias = torch.zeros_like(conv.weight), torch.zeros_like(self.bn3.bias)
        for weight, norm in branches:
            mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            scale = norm.weight / (var + norm.eps).sqrt()  # (D,)
            kernel = kernel + scale[:, None, None, None] * weight  # (D, C/G, 3, 3)
            bias = bias + norm.bias - mean * scale
        folded = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            3,
            conv.stride[0],
            padding=1,
            groups=conv.groups,
        )
        folded.weight = nn.Parameter(kernel.detach())
        folded.bias = nn.Parameter(bias.detach())
        return folded


class RepVGG(nn.Module):
    """Five stages of blocks, each of which halves height and width, and a classifier.

    Args:
        layers: blocks of the second to the fifth stage; the first has one.
        a: times 64, 128 and 256 gives the widths of the second to the fourth stage;
            the first is as wide as the second, but at most 64.
        b: times 512 gives the width of the fifth stage.
        num_classes: K, width of the output.
        groups: G of every second block from the second stage on.

    Shape: (N, 3, H, W) -> (N, K), for any H and W.
    Raises: ValueError for a stage without blocks, a width that G does not divide, a
    size below 1, or an input of another shape.
    """

    def __init__(
        self,
        layers: Sequence[int],
        a: float,
        b: float,
        num_classes: int = 1000,
        groups: int = 1,
    ) -> None:
        super().__init__()
        widths = [int(64 * a), int(128 * a), int(256 * a), int(512 * b)]
        if len(layers) != 4 or min(layers) < 1:
            raise ValueError(f"expected four stages of a block or more, got {layers=}")
        if min(num_classes, groups, *widths) < 1 or any(w % groups for w in widths):
            told = f"{num_classes=}, {widths=}, {groups=}"
            raise ValueError(f"expected sizes from 1 and widths in groups, got {told}")
        channels = min(64, widths[0])
        blocks = [RepVGGBlock(3, channels, stride=2)]
        for width, depth in zip(widths, layers, strict=True):
            for index in range(depth):
                stride, own = 2 if index == 0 else 1, groups if index % 2 else 1
                blocks.append(RepVGGBlock(channels, width, stride, own))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"expected (N, 3, H, W), got {tuple(x.shape)}")
        y = self.blocks(x)  # (N, 512b, H/32, W/32)
        scores: Tensor = self.fc(y.mean(dim=(2, 3)))  # (N, K)
        return scores

    def plain(self) -> nn.Sequential:
        """The network for use: nothing but 3x3 convolutions, ReLUs and the classifier.

        It computes what this one computes in evaluation mode, and shares `fc` with it.
        """
        parts: list[nn.Module] = []
        for block in self.blocks.children():
            assert isinstance(block, RepVGGBlock)
            parts += [block.fold(), nn.ReLU(inplace=True)]
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.fc)


def repvgg_a0(num_classes: int = 1000) -> RepVGG:
    return RepVGG((2, 4, 14, 1), 0.75, 2.5, num_classes)


def repvgg_a1(num_classes: int = 1000) -> RepVGG:
    return RepVGG((2, 4, 14, 1), 1.0, 2.5, num_classes)


def repvgg_a2(num_classes: int = 1000) -> RepVGG:
    return RepVGG((2, 4, 14, 1), 1.5, 2.75, num_classes)


def repvgg_b0(num_classes: int = 1000) -> RepVGG:
    return RepVGG((4, 6, 16, 1), 1.0, 2.5, num_classes)


def repvgg_b1(num_classes: int = 1000) -> RepVGG:
    return RepVGG((4, 6, 16, 1), 2.0, 4.0, num_classes)


def repvgg_b1g4(num_classes: int = 1000) -> RepVGG:
    return RepVGG((4, 6, 16, 1), 2.0, 4.0, num_classes, groups=4)


def repvgg_b2(num_classes: int = 1000) -> RepVGG:
    return RepVGG((4, 6, 16, 1), 2.5, 5.0, num_classes)


def repvgg_b3(num_classes: int = 1000) -> RepVGG:
    return RepVGG((4, 6, 16, 1), 3.0, 5.0, num_classes)


# --8<-- [end:module]
