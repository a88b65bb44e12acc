"""FCN: a classifier whose linear layers are convolutions labels every pixel.

Source: Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
Segmentation", CVPR 2015, arXiv:1411.4038v2, sections 3 and 4; the network on a dilated
ResNet is torchvision's, dilation by Yu and Koltun, ICLR 2016, arXiv:1511.07122.
Legend: N images, C channels, H x W pixels, K classes with the background.
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
@torch.no_grad()
def as_convolution(linear: nn.Linear, channels: int) -> nn.Conv2d:
    """The convolution that computes at every place what a linear layer does at one.

    Args:
        linear: of a flattened (channels, k, k) map; its weights are copied.
        channels: of that map.

    Shape: (N, channels, h, w) -> (N, out_features, h - k + 1, w - k + 1).
    Raises: ValueError for a layer that reads no square map of these channels.
    """
    k = round((linear.in_features / max(channels, 1)) ** 0.5)
    if channels * k * k != linear.in_features:
        told = f"a square map of {channels} channels"
        raise ValueError(f"expected {told}, got a layer of {linear.in_features} inputs")
    bias = linear.bias is not None
    conv = nn.Conv2d(channels, linear.out_features, k, bias=bias).to(linear.weight)
    # --8<-- [start:convolution]
    conv.weight.copy_(linear.weight.view(-1, channels, k, k))
    # --8<-- [end:convolution]
    if conv.bias is not None:
        conv.bias.copy_(linear.bias)
    return conv


def keep_resolution(resnet: ResNet, stages: int = 2) -> ResNet:
    """Replace the strides of the last stages by dilation, in place.

    With 2 stages, the last feature map has 1/8 of the image's height and width instead
    of 1/32, with 1 stage 1/16. No weight changes: at every fourth (second) row and
    column, the features are those of the network before.

    Args:
        resnet: is changed and returned; one that was dilated before stays right.
        stages: how many of the last stages lose their stride.

    Raises: ValueError for more stages than the network has, or fewer than 0.
    """
    if not 0 <= stages <= len(resnet.stages):
        expected = f"stages from 0 to {len(resnet.stages)}"
        raise ValueError(f"expected {expected}, got {stages=}")
    # --8<-- [start:dilation]
    dilation = 1
    for name in resnet.stages[len(resnet.stages) - stages :]:
        for conv in resnet.get_submodule(name).modules():
            if isinstance(conv, nn.Conv2d):
                if conv.kernel_size == (3, 3):
                    d = dilation * conv.dilation[0]
                    conv.dilation = conv.padding = (d, d)
                    dilation *= conv.stride[0]  # later ones read a finer grid
                conv.stride = (1, 1)
    # --8<-- [end:dilation]
    return resnet


class FCNHead(nn.Sequential):
    """A score for each class at each place.

    Args:
        channels: C, of the feature map.
        num_classes: K, with the background.

    Shape: (N, C, h, w) -> (N, K, h, w).
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels // 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels // 4),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(channels // 4, num_classes, 1),
        )


class FCNOutput(NamedTuple):
    """Scores of every pixel before the softmax, each (N, K, H, W)."""

    out: Tensor
    aux: Tensor  # from the stage before the last; only the training uses them


class FCN(nn.Module):
    """Heads on the last two stages of a dilated ResNet, enlarged to the image.

    Args:
        resnet: is taken over and changed: no classifier, last two strides dilated.
        num_classes: K, with the background as class 0.

    Shape: (N, C, H, W) -> FCNOutput of (N, K, H, W), for any H and W.
    Raises: ValueError for fewer than two stages, no class, or another input.
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
        return FCNOutput(*large)  # 2 x (N, K, H, W)
        # --8<-- [end:forward]


def fcn_loss(
    output: FCNOutput, labels: Tensor, auxiliary: float = 0.5, ignored: int = 255
) -> Tensor:
    """Cross-entropy, the mean over the labelled pixels; 0 if there are none.

    Args:
        output: of `FCN`.
        labels: (N, H, W), the class of each pixel from 0 to K - 1, or `ignored`.
        auxiliary: weight of the loss of the auxiliary scores.
        ignored: label of pixels that do not count.
    """
    # --8<-- [start:loss]
    labelled = (labels != ignored).sum().clamp(min=1)
    out, aux = (
        F.cross_entropy(scores, labels, ignore_index=ignored, reduction="sum")
        for scores in output
    )
    return (out + auxiliary * aux) / labelled
    # --8<-- [end:loss]


class FCN8s(nn.Module):
    """The paper's: VGG as convolutions, scores at 1/32, 1/16 and 1/8 added up.

    Args:
        vgg: is taken over and changed; its weights stay, but for the last layer's.
        num_classes: K, with the background as class 0.

    Shape: (N, C, H, W) -> (N, K, H, W), for any H and W.
    Parameters: 134,489,759 for VGG-16 and 21 classes.
    Raises: ValueError for an input of another shape.
    """

    def __init__(self, vgg: VGG, num_classes: int = 21) -> None:
        super().__init__()
        self.in_channels, widths = vgg.in_channels, []
        self.features = vgg.features
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                channels = layer.out_channels
            elif isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True  # as Caffe's
                widths.append(channels)
        # Then the 7x7 below fits any image.
        self.features[0].padding = (100, 100)  # type: ignore[assignment]
        first, relu, drop, second, *_ = vgg.classifier
        fc6 = as_convolution(first, channels)  # type: ignore[arg-type]
        fc7 = as_convolution(second, fc6.out_channels)  # type: ignore[arg-type]
        self.head = nn.Sequential(fc6, relu, drop, fc7, relu, drop)
        widths = [*widths[2:4], fc7.out_channels]  # of pool3, pool4 and fc7
        self.scores = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in widths)
        for score in self.scores:
            nn.init.zeros_(score.weight)  # type: ignore[arg-type]
            nn.init.zeros_(score.bias)  # type: ignore[arg-type]
        self.twice = nn.ModuleList(_fcn_bilinear(num_classes, 2) for _ in range(2))
        self.eightfold = _fcn_bilinear(num_classes, 8)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            expected = f"(N, {self.in_channels}, H, W)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        size, pools = x.shape[-2:], []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pools.append(x)
        # --8<-- [start:skips]
        y = self.twice[0](self.scores[2](self.head(x)))  # (N, K, about H/16, W/16)
        y = y + _fcn_crop(self.scores[1](pools[3]), 5, y.shape[-2:])
        y = self.twice[1](y)  # (N, K, about H/8, W/8)
        y = y + _fcn_crop(self.scores[0](pools[2]), 9, y.shape[-2:])
        return _fcn_crop(self.eightfold(y), 31, size)  # (N, K, H, W)
        # --8<-- [end:skips]


@torch.no_grad()
def _fcn_bilinear(channels: int, factor: int) -> nn.ConvTranspose2d:
    """An up-convolution that begins as bilinear interpolation, each channel alone."""
    k = 2 * factor
    up = nn.ConvTranspose2d(channels, channels, k, factor, bias=False)
    # --8<-- [start:bilinear]
    line = 1 - ((torch.arange(k) + 0.5) / factor - 1).abs()  # a triangle
    up.weight.zero_()  # (K, K, k, k)
    up.weight[range(channels), range(channels)] = line[:, None] * line
    # --8<-- [end:bilinear]
    return up


def _fcn_crop(x: Tensor, offset: int, size: tuple[int, ...]) -> Tensor:
    return x[..., offset : offset + size[0], offset : offset + size[1]]


def fcn_resnet50(num_classes: int = 21) -> FCN:
    return FCN(resnet50(), num_classes)


def fcn_resnet101(num_classes: int = 21) -> FCN:
    return FCN(resnet101(), num_classes)


def fcn8s(num_classes: int = 21) -> FCN8s:
    return FCN8s(vgg16(), num_classes)


# --8<-- [end:module]
