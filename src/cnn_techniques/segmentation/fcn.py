"""FCN: a classifier whose linear layers are convolutions labels every pixel.

Source: Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
Segmentation", CVPR 2015, arXiv:1411.4038v2, sections 3 and 4; the network on a dilated
ResNet is torchvision's, dilation by Yu and Koltun, ICLR 2016, arXiv:1511.07122.
Legend: N images, H x W pixels, K classes with the background.
"""

# --8<-- [start:imports]
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.foundations.vgg import VGG, vgg16
from cnn_techniques.modern.resnet import ResNet, resnet50, resnet101


# --8<-- [start:module]
def as_convolution(linear: nn.Linear, channels: int) -> nn.Conv2d:
    """The convolution that computes at every place what a linear layer does at one.

    Args:
        linear: of a flattened (channels, k, k) map.
        channels: of that map.

    Raises: ValueError for a layer that reads no square map of these channels.
    """
    k = round((linear.in_features / channels) ** 0.5)
    if channels * k * k != linear.in_features:
        told = f"{channels} channels of a square map"
        raise ValueError(f"expected {told}, got a layer of {linear.in_features} inputs")
    conv = nn.Conv2d(channels, linear.out_features, k)
    # --8<-- [start:convolution]
    conv.weight.data = linear.weight.data.view(-1, channels, k, k)
    conv.bias.data = linear.bias.data  # type: ignore[union-attr]
    # --8<-- [end:convolution]
    return conv


def keep_resolution(resnet: ResNet, stages: int = 2) -> ResNet:
    """Replace the strides of the last stages by dilation, in place: 1/8, not 1/32.

    No weight changes, and none is read at other places of the object: what a stride
    would have left out lies between the taps of the later convolutions.
    """
    dilation = 1
    for name in resnet.stages[len(resnet.stages) - stages :]:
        for index, block in enumerate(resnet.get_submodule(name).children()):
            for conv in block.modules():
                if isinstance(conv, nn.Conv2d):
                    conv.stride = (1, 1)
                    if conv.kernel_size == (3, 3):
                        conv.dilation = conv.padding = (dilation, dilation)
            dilation *= (
                2 if index == 0 else 1
            )  # the first block still reads the old grid
    return resnet


class FCNHead(nn.Sequential):
    """A score for each class at each place: (N, C, h, w) -> (N, K, h, w)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels // 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels // 4),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(channels // 4, num_classes, 1),
        )


class FCNOutput(NamedTuple):
    """Scores of every pixel, (N, K, H, W)."""

    out: Tensor
    aux: Tensor  # from the stage before the last; its loss counts half, in training


class FCN(nn.Module):
    """Heads on the last two stages of a dilated ResNet, enlarged to the image.

    Args:
        resnet: is taken over without its classifier; its last two strides go.
        num_classes: K, with the background as class 0.

    Shape: (N, C, H, W) -> FCNOutput.
    Raises: ValueError for fewer than two stages, and for no class.
    """

    def __init__(self, resnet: ResNet, num_classes: int = 21) -> None:
        super().__init__()
        if len(resnet.stages) < 2 or num_classes < 1:
            given = f"{len(resnet.stages)} stages and {num_classes=}"
            raise ValueError(f"expected two stages and a class or more, got {given}")
        channels = resnet.fc.in_features
        self.backbone = keep_resolution(resnet)
        self.backbone.fc = nn.Identity()  # type: ignore[assignment]
        self.classifier = FCNHead(channels, num_classes)
        self.aux_classifier = FCNHead(channels // 2, num_classes)

    def forward(self, x: Tensor) -> FCNOutput:
        # --8<-- [start:forward]
        *_, before, last = self.backbone.features(x)  # (N, C/2 and C, H/8, W/8)
        scores = self.classifier(last), self.aux_classifier(before)
        large = (F.interpolate(s, x.shape[-2:], mode="bilinear") for s in scores)
        return FCNOutput(*large)
        # --8<-- [end:forward]


class FCN8s(nn.Module):
    """The paper's: VGG as convolutions, scores at 1/32, 1/16 and 1/8 added up.

    Args:
        vgg: is taken over with its weights, but for the last layer.
        num_classes: K, with the background as class 0.

    Shape: (N, C, H, W) -> (N, K, H, W).
    """

    def __init__(self, vgg: VGG, num_classes: int = 21) -> None:
        super().__init__()
        self.features = vgg.features
        # The 7x7 below then fits any image.
        self.features[0].padding = (100, 100)  # type: ignore[assignment]
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True  # as Caffe's
        first, relu, drop, second, *_ = vgg.classifier
        fc6 = as_convolution(first, 512)  # type: ignore[arg-type]
        fc7 = as_convolution(second, fc6.out_channels)  # type: ignore[arg-type]
        self.head = nn.Sequential(fc6, relu, drop, fc7, relu, drop)
        widths = (256, 512, fc7.out_channels)  # of pool3, pool4 and fc7
        self.scores = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in widths)
        for score in self.scores:
            nn.init.zeros_(score.weight)  # type: ignore[arg-type]
            nn.init.zeros_(score.bias)  # type: ignore[arg-type]
        self.twice = nn.ModuleList(_bilinear(num_classes, 2) for _ in range(2))
        self.eightfold = _bilinear(num_classes, 8)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.features[0].in_channels:
            expected = f"(N, {self.features[0].in_channels}, H, W)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        size, pools = x.shape[-2:], []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pools.append(x)
        # --8<-- [start:skips]
        y = self.twice[0](self.scores[2](self.head(x)))  # (N, K, about H/16, W/16)
        y = y + _cropped(self.scores[1](pools[3]), 5, y.shape[-2:])
        y = self.twice[1](y)  # (N, K, about H/8, W/8)
        y = y + _cropped(self.scores[0](pools[2]), 9, y.shape[-2:])
        return _cropped(self.eightfold(y), 31, size)
        # --8<-- [end:skips]


def _bilinear(channels: int, factor: int) -> nn.ConvTranspose2d:
    """An up-convolution that begins as bilinear interpolation, each channel alone."""
    k = 2 * factor
    up = nn.ConvTranspose2d(channels, channels, k, factor, bias=False)
    line = 1 - ((torch.arange(k) + 0.5) / factor - 1).abs()  # a triangle of 2 factors
    up.weight.data.zero_()
    up.weight.data[range(channels), range(channels)] = line[:, None] * line
    return up


def _cropped(x: Tensor, offset: int, size: tuple[int, ...]) -> Tensor:
    return x[..., offset : offset + size[0], offset : offset + size[1]]


def fcn_resnet50(num_classes: int = 21) -> FCN:
    return FCN(resnet50(), num_classes)


def fcn_resnet101(num_classes: int = 21) -> FCN:
    return FCN(resnet101(), num_classes)


def fcn8s(num_classes: int = 21) -> FCN8s:
    return FCN8s(vgg16(), num_classes)


# --8<-- [end:module]
