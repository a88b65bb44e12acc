"""EfficientNet: one small network, found by search, and a rule that scales all of it.

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks", ICML 2019, arXiv:1905.11946, section 3.3, table 1.
Legend: N images, C channels of the input, H x W pixels, K classes,
T = t * C channels inside a block (t its expansion), D channels of its output, s stride.
"""

# --8<-- [start:imports]
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from cnn_techniques.attention import SqueezeExcitation


# --8<-- [start:module]
class EfficientNetDropPath(nn.Module):
    """In training, leave out an image's whole branch with probability p."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"expected 0 <= drop_path < 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = 1 - self.p
        kept = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep)  # (N, 1, 1, 1)
        return x * (kept / keep)  # so that the mean stays


def efficientnet_conv(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[..., nn.Module] | None = nn.SiLU,
) -> nn.Sequential:
    """A convolution, a batch norm, and, unless it is None, an activation."""
    padding = kernel // 2
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False
    )
    last = [activation(inplace=True)] if activation else []
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), *last)


class MBConv(nn.Module):
    """Widen with a 1x1, filter each channel by itself, gate them, narrow with a 1x1.

    Args:
        in_channels: C, channels of the input.
        out_channels: D, channels of the output.
        kernel: size of the depthwise convolution.
        stride: s of the depthwise convolution.
        expansion: t, how many times wider than the input the block is inside.
        drop_path: rate at which an image skips the block in training.
        activation: makes the activation.
        squeeze: with a squeeze-and-excitation gate of C // 4 channels.

    Shape: (N, C, H, W) -> (N, D, H / s, W / s), rounded up.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        expansion: int = 6,
        drop_path: float = 0.0,
        activation: Callable[..., nn.Module] = nn.SiLU,
        squeeze: bool = True,
    ) -> None:
        super().__init__()
        conv = partial(efficientnet_conv, activation=activation)
        width = expansion * in_channels
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(conv(in_channels, width))  # (N, T, H, W)
        layers.append(conv(width, width, kernel, stride, groups=width))
        if squeeze:
            gate_width = max(1, in_channels // 4)
            inside = partial(activation, inplace=True)
            layers.append(SqueezeExcitation(width, gate_width, activation=inside))
        layers.append(conv(width, out_channels, activation=None))  # (N, D, H/s, W/s)
        self.block = nn.Sequential(*layers)
        self.shortcut = stride == 1 and in_channels == out_channels
        self.drop_path = EfficientNetDropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        if self.shortcut:
            y = self.drop_path(y)
            y += x
        return y


class MBStage(NamedTuple):
    """A row of the paper's table 1: blocks of one width, the first with the stride."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    layers: int
    block: Callable[..., nn.Module] = MBConv


def efficientnet_channels(channels: float) -> int:
    """The nearest multiple of 8, or the next if that takes away more than 10 %."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def efficientnet_stages(width: float = 1.0, depth: float = 1.0) -> list[MBStage]:
    """B0's stages with their channels times `width` and their layers times `depth`."""
    if min(width, depth) <= 0:
        raise ValueError(f"expected positive factors, got {width=}, {depth=}")
    rows = [  # expansion, kernel, stride, channels, layers
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    ]
    return [
        MBStage(t, k, s, efficientnet_channels(width * c), math.ceil(depth * n))
        for t, k, s, c, n in rows
    ]


class EfficientNet(nn.Module):
    """A stem, stages of blocks, a 1x1 convolution, the mean, and a linear classifier.

    Args:
        stages: rows such as those of `efficientnet_stages`.
        num_classes: K, width of the output.
        stem: channels of the first convolution.
        head: channels of the last convolution.
        dropout: rate before the classifier.
        norm_eps: of every batch norm.
        norm_momentum: of every batch norm.
        drop_path: rate towards which the blocks' rates grow, from 0 in the first.
        activation: makes the activation.
        in_channels: C, channels of the images.

    Shape: (N, C, H, W) -> (N, K), for any H and W.
    Raises: ValueError for a size below 1, no stages, or an input of another shape.
    """

    def __init__(
        self,
        stages: Sequence[MBStage],
        num_classes: int = 1000,
        stem: int = 32,
        head: int = 1280,
        dropout: float = 0.2,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        drop_path: float = 0.2,
        activation: Callable[..., nn.Module] = nn.SiLU,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not stages or min(min(stage[:5]) for stage in stages) < 1:
            raise ValueError(f"expected stages of sizes from 1 on, got {stages}")
        if min(num_classes, stem, head, in_channels) < 1:
            sizes = f"{num_classes=}, {stem=}, {head=}, {in_channels=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        self.in_channels = in_channels
        conv = partial(efficientnet_conv, activation=activation)
        features = [conv(in_channels, stem, 3, stride=2)]
        total = sum(stage.layers for stage in stages)
        rates = iter(drop_path * block / total for block in range(total))
        channels = stem
        for stage in stages:
            blocks = []
            for index in range(stage.layers):
                stride = stage.stride if index == 0 else 1
                shape = (channels, stage.channels, stage.kernel, stride)
                blocks.append(stage.block(*shape, stage.expansion, next(rates)))
                channels = stage.channels
            features.append(nn.Sequential(*blocks))
        features.append(conv(channels, head))
        self.features = nn.Sequential(*features)
        fc = nn.Linear(head, num_classes)
        self.classifier = nn.Sequential(nn.Dropout(dropout, inplace=True), fc)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.weight[0, 0].numel() * module.out_channels
                fan_out = fan_out // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = norm_eps, norm_momentum
        nn.init.uniform_(fc.weight, -(num_classes**-0.5), num_classes**-0.5)
        nn.init.zeros_(fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels or x.shape[2] * x.shape[3] < 1:
            expected = f"(N, {self.in_channels}, H, W)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        y = self.features(x)  # (N, head, H/32, W/32), rounded up
        scores: Tensor = self.classifier(torch.mean(y, dim=(2, 3)))  # (N, K)
        return scores


def _efficientnet(
    num_classes: int,
    width: float,
    depth: float,
    dropout: float,
    norm: tuple[float, float] = (1e-5, 0.1),
) -> EfficientNet:
    stages = efficientnet_stages(width, depth)
    stem, head = efficientnet_channels(32 * width), 4 * stages[-1].channels
    return EfficientNet(stages, num_classes, stem, head, dropout, *norm)


def efficientnet_b0(num_classes: int = 1000) -> EfficientNet:
    return _efficientnet(num_classes, 1.0, 1.0, 0.2)


def efficientnet_b1(num_classes: int = 1000) -> EfficientNet:
    return _efficientnet(num_classes, 1.0, 1.1, 0.2)


def efficientnet_b2(num_classes: int = 1000) -> EfficientNet:
    return _efficientnet(num_classes, 1.1, 1.2, 0.3)


def efficientnet_b3(num_classes: int = 1000) -> EfficientNet:
    return _efficientnet(num_classes, 1.2, 1.4, 0.3)


def efficientnet_b4(num_classes: int = 1000) -> EfficientNet:
    return _efficientnet(num_classes, 1.4, 1.8, 0.4)


def efficientnet_b5(num_classes: int = 1000) -> EfficientNet:
    return _efficientnet(num_classes, 1.6, 2.2, 0.4, (1e-3, 0.01))


def efficientnet_b6(num_classes: int = 1000) -> EfficientNet:
    return _efficientnet(num_classes, 1.8, 2.6, 0.5, (1e-3, 0.01))


def efficientnet_b7(num_classes: int = 1000) -> EfficientNet:
    return _efficientnet(num_classes, 2.0, 3.1, 0.5, (1e-3, 0.01))


def efficientnet_lite0(num_classes: int = 1000) -> EfficientNet:
    """B0 for processors that do without gates and SiLU: ReLU6 and no gate."""
    block = partial(MBConv, activation=nn.ReLU6, squeeze=False)
    stages = [stage._replace(block=block) for stage in efficientnet_stages()]
    return EfficientNet(stages, num_classes, drop_path=0.0, activation=nn.ReLU6)


# --8<-- [end:module]
