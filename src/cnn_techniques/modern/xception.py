"""Xception: every convolution split into one over space and one over channels.

Source: Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions",
CVPR 2017, arXiv:1610.02357, section 3, figure 5.
Legend: N images, C channels in, D channels out, H x W pixels, s stride, K classes.
"""

# --8<-- [start:imports]
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
class XceptionSeparable(nn.Module):
    """A 3x3 filter for each channel, then a 1x1 convolution that mixes the channels.

    Nothing stands between the two: with a ReLU there, training got worse (section 4.7).

    Shape: (N, C, H, W) -> (N, D, H, W).
    Parameters: 9 * C + C * D.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x))  # (N, C, H, W) -> (N, D, H, W)
        return y


class XceptionBlock(nn.Module):
    """ReLU, separable convolution and norm, two or three times, beside a shortcut.

    The sum is not followed by a ReLU: the next block begins with one.

    Args:
        widths: channels of the input and after each separable convolution.
        stride: s of the max pooling at the end of the branch, and of the shortcut.
        relu_first: whether the branch begins with a ReLU (not in the first block,
            whose input comes out of one).

    Shape: (N, C, H, W) -> (N, D, H / s, W / s), rounded up.
    """

    def __init__(
        self, widths: Sequence[int], stride: int = 1, relu_first: bool = True
    ) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or widths[0] != widths[-1]:
            self.shortcut = nn.Sequential(
                nn.Conv2d(widths[0], widths[-1], 1, stride, bias=False),
                nn.BatchNorm2d(widths[-1]),
            )
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.ReLU(inplace=True), XceptionSeparable(before, after)]
            layers += [nn.BatchNorm2d(after)]
        # The shortcut reads x as well, so the first ReLU may not overwrite it.
        layers[:1] = [nn.ReLU()] if relu_first else []
        if stride > 1:
            layers.append(nn.MaxPool2d(3, stride, padding=1))
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)  # (N, D, H/s, W/s)
        y += self.shortcut(x)
        return y


# Widths, stride and repetitions of the blocks, as in the paper's figure 5.
XCEPTION_FLOWS: dict[str, list[tuple[tuple[int, ...], int, int]]] = {
    "entry": [((64, 128, 128), 2, 1), ((128, 256, 256), 2, 1), ((256, 728, 728), 2, 1)],
    "middle": [((728, 728, 728, 728), 1, 8)],
    "exit": [((728, 728, 1024), 2, 1)],
}


class Xception(nn.Module):
    """A stem, twelve residual blocks, two more separable convolutions, a classifier.

    Args:
        num_classes: K, width of the output.
        in_channels: channels of the images.
        dropout: rate before the classifier (paper, on ImageNet: 0.5).

    Shape: (N, C, H, W) -> (N, K), for H and W of 7 or more.
    Raises: ValueError for a size below 1, or an input of another shape.
    """

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            sizes = f"{num_classes=}, {in_channels=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        self.conv1 = nn.Conv2d(in_channels, 32, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        for flow, rows in XCEPTION_FLOWS.items():
            blocks = [  # the stem ends in a ReLU, so the first block needs none
                XceptionBlock(widths, stride, relu_first=widths[0] != 64)
                for widths, stride, repetitions in rows
                for _ in range(repetitions)
            ]
            self.add_module(flow, nn.Sequential(*blocks))
        self.conv3 = XceptionSeparable(1024, 1536)
        self.bn3 = nn.BatchNorm2d(1536)
        self.conv4 = XceptionSeparable(1536, 2048)
        self.bn4 = nn.BatchNorm2d(2048)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """The last maps, (N, 2048, H / 32, W / 32)."""
        channels = self.conv1.in_channels
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] < 7 or x.shape[3] < 7:
            expected = f"(N, {channels}, H, W) with H and W of 7 or more"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        x = torch.relu_(self.bn1(self.conv1(x)))  # (N, 32, H/2, W/2)
        x = torch.relu_(self.bn2(self.conv2(x)))  # (N, 64, H/2, W/2)
        for flow in XCEPTION_FLOWS:
            x = self.get_submodule(flow)(x)  # H/16, in the end (N, 1024, H/32, W/32)
        x = torch.relu_(self.bn3(self.conv3(x)))
        return torch.relu_(self.bn4(self.conv4(x)))  # (N, 2048, H/32, W/32)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x).mean(dim=(2, 3))  # (N, 2048)
        scores: Tensor = self.fc(self.dropout(y))  # (N, K)
        return scores


def xception(num_classes: int = 1000) -> Xception:
    """The network of the paper's figure 5."""
    return Xception(num_classes)


# --8<-- [end:module]
