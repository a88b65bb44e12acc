"""GoogLeNet: several kernel sizes side by side, made affordable by 1x1 convolutions.

Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015,
arXiv:1409.4842, sections 4 and 5, table 1.
Legend: N images, C channels, H x W pixels, K classes.
"""

# --8<-- [start:imports]
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
def _googlenet_conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1
) -> nn.Sequential:
    """A convolution that keeps H x W, divided by its stride; batch norm; ReLU."""
    padding = kernel // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
    norm = nn.BatchNorm2d(out_channels, eps=0.001)
    return nn.Sequential(OrderedDict(conv=conv, bn=norm, relu=nn.ReLU(inplace=True)))


class Inception(nn.Module):
    """Four branches over the same input, their maps concatenated.

    Args:
        in_channels: C, channels of the input.
        widths: a row of the paper's table 1: channels of the 1x1, the 3x3's reduction,
            the 3x3, the 5x5's reduction, the 5x5, the projection after pooling.
        kernel: of the branch of large windows; the paper has 5, torchvision 3.

    Shape: (N, C, H, W) -> (N, 1x1 + 3x3 + 5x5 + projection, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, int, int, int, int, int],
        kernel: int = 3,
    ) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, project = widths
        self.branch1 = _googlenet_conv(in_channels, one, 1)
        self.branch2 = nn.Sequential(
            _googlenet_conv(in_channels, reduce3, 1),
            _googlenet_conv(reduce3, three, 3),
        )
        self.branch3 = nn.Sequential(
            _googlenet_conv(in_channels, reduce5, 1),
            _googlenet_conv(reduce5, five, kernel),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            _googlenet_conv(in_channels, project, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        views = [self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)]
        return torch.cat(views, dim=1)


class GoogLeNetAuxiliary(nn.Module):
    """A classifier on a map in the middle, for training only.

    Shape: (N, C, H, W) -> (N, K), for any H and W.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = _googlenet_conv(in_channels, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.adaptive_avg_pool2d(x, 4))  # (N, 128, 4, 4)
        y = F.relu(self.fc1(y.flatten(1)), inplace=True)  # (N, 1024)
        scores: Tensor = self.fc2(self.dropout(y))  # (N, K)
        return scores


class GoogLeNetOutputs(NamedTuple):
    """What training returns, in torchvision's order: the later head comes first."""

    logits: Tensor
    aux_logits2: Tensor
    aux_logits1: Tensor


class GoogLeNet(nn.Module):
    """A stem, nine Inception modules, the mean over the map and one linear layer.

    Args:
        num_classes: K, width of the output.
        aux_logits: have the two auxiliary classifiers (the published weights do).
        kernel: of the modules' branch of large windows; the paper has 5.
        dropout: rate before the last layer; the paper has 0.4, torchvision 0.2.

    Shape: (N, 3, H, W) -> (N, K), H and W at least 15. In training, with auxiliary
    classifiers, `GoogLeNetOutputs` of three such scores.
    Raises: ValueError for a size below 1, an even kernel or an input of another shape.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        aux_logits: bool = True,
        kernel: int = 3,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if num_classes < 1 or kernel < 1 or kernel % 2 == 0:
            expected = "expected one class or more and an odd kernel"
            raise ValueError(f"{expected}, got {num_classes=}, {kernel=}")
        self.conv1 = _googlenet_conv(3, 64, 7, stride=2)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = _googlenet_conv(64, 64, 1)
        self.conv3 = _googlenet_conv(64, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        #                                 1x1, to 3x3, to 5x5, projection
        self.inception3a = Inception(192, (64, 96, 128, 16, 32, 32), kernel)
        self.inception3b = Inception(256, (128, 128, 192, 32, 96, 64), kernel)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, (192, 96, 208, 16, 48, 64), kernel)
        self.inception4b = Inception(512, (160, 112, 224, 24, 64, 64), kernel)
        self.inception4c = Inception(512, (128, 128, 256, 24, 64, 64), kernel)
        self.inception4d = Inception(512, (112, 144, 288, 32, 64, 64), kernel)
        self.inception4e = Inception(528, (256, 160, 320, 32, 128, 128), kernel)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, (256, 160, 320, 32, 128, 128), kernel)
        self.inception5b = Inception(832, (384, 192, 384, 48, 128, 128), kernel)
        self.aux1 = GoogLeNetAuxiliary(512, num_classes) if aux_logits else None
        self.aux2 = GoogLeNetAuxiliary(528, num_classes) if aux_logits else None
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutputs:
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] < 15 or x.shape[3] < 15:
            expected = "(N, 3, H, W) with H and W of 15 or more"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        x = self.maxpool1(self.conv1(x))  # (N, 64, H/4, W/4)
        x = self.maxpool2(self.conv3(self.conv2(x)))  # (N, 192, H/8, W/8)
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        middle = self.inception4a(x)  # (N, 512, H/16, W/16)
        x = self.inception4c(self.inception4b(middle))
        late = self.inception4d(x)  # (N, 528, H/16, W/16)
        x = self.maxpool4(self.inception4e(late))  # (N, 832, H/32, W/32)
        x = self.inception5b(self.inception5a(x))  # (N, 1024, H/32, W/32)
        scores: Tensor = self.fc(self.dropout(x.mean(dim=(2, 3))))  # (N, K)
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return GoogLeNetOutputs(scores, self.aux2(late), self.aux1(middle))
        return scores


def googlenet(num_classes: int = 1000) -> GoogLeNet:
    """torchvision's, with auxiliary heads and windows of 3x3 in place of 5x5."""
    return GoogLeNet(num_classes)


# --8<-- [end:module]
