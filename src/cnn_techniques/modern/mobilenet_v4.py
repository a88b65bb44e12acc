"""MobileNet v4: one block with two optional depthwise convolutions, placed by a search.

Source: Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", ECCV 2024,
arXiv:2404.10518, section 4, appendix D, tables 11, 12 and 14.
Legend: N images, C channels, H x W pixels, K classes,
E expanded channels inside a block, D channels of its output, s stride.
"""

# --8<-- [start:imports]
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
def _mobilenet_v4_conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    padding = kernel // 2
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, 1, groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
    ]
    if activation:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _mobilenet_v4_drop(y: Tensor, rate: float) -> Tensor:
    """Set the branch of an image to zero with this probability, keeping the mean."""
    kept = y.new_empty(y.shape[0], 1, 1, 1).bernoulli_(1 - rate)
    return y * kept / (1 - rate)


class UniversalInvertedBottleneck(nn.Module):
    """v2's block with a depthwise convolution before widening, within, both or neither.

    Args:
        in_channels: C, channels of the input.
        expanded: E, channels inside.
        out_channels: D, channels of the output.
        start: kernel of the depthwise convolution on C channels, 0 for none.
        middle: kernel of the depthwise convolution on E channels, 0 for none.
        stride: s of the middle convolution, of the start one where that is missing.
        drop_path: probability that an image skips the branch in training.

    Shape: (N, C, H, W) -> (N, D, H / s, W / s), rounded up.
    The input is added where the shape stays: s = 1 and C = D.
    Raises: ValueError for a stride without a depthwise convolution, or a rate outside
        [0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        start: int = 0,
        middle: int = 3,
        stride: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if stride > 1 and not start and not middle:
            raise ValueError(f"{stride=} needs a depthwise convolution, got none")
        if not 0 <= drop_path < 1:
            raise ValueError(f"expected 0 <= drop_path < 1, got {drop_path=}")
        layers: list[nn.Module] = []
        if start:
            first = 1 if middle else stride
            layers.append(
                _mobilenet_v4_conv(
                    in_channels, in_channels, start, first, in_channels, False
                )
            )
        layers.append(_mobilenet_v4_conv(in_channels, expanded, 1))
        if middle:
            layers.append(
                _mobilenet_v4_conv(expanded, expanded, middle, stride, expanded)
            )
        layers.append(_mobilenet_v4_conv(expanded, out_channels, 1, activation=False))
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and in_channels == out_channels
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)  # (N, C, H, W) -> (N, E, ...) -> (N, D, H/s, W/s)
        if not self.shortcut:
            return y
        if self.training and self.drop_path > 0:
            y = _mobilenet_v4_drop(y, self.drop_path)
        return x + y


MobileNetV4Row = tuple[int, int, int, int, int]

MOBILENET_V4_CONV_SMALL: tuple[MobileNetV4Row, ...] = (
    # kernels of the start and middle convolution, expanded, channels, stride
    (5, 5, 192, 96, 2),  # ExtraDW
    (0, 3, 192, 96, 1),  # inverted bottleneck
    (0, 3, 192, 96, 1),
    (0, 3, 192, 96, 1),
    (0, 3, 192, 96, 1),
    (3, 0, 384, 96, 1),  # as in ConvNeXt
    (3, 3, 576, 128, 2),
    (5, 5, 512, 128, 1),
    (0, 5, 512, 128, 1),
    (0, 5, 384, 128, 1),
    (0, 3, 512, 128, 1),
    (0, 3, 512, 128, 1),
)

MOBILENET_V4_CONV_MEDIUM: tuple[MobileNetV4Row, ...] = (
    (3, 5, 192, 80, 2),
    (3, 3, 160, 80, 1),
    (3, 5, 480, 160, 2),
    (3, 3, 640, 160, 1),
    (3, 3, 640, 160, 1),
    (3, 5, 640, 160, 1),
    (3, 3, 640, 160, 1),
    (3, 0, 640, 160, 1),
    (0, 0, 320, 160, 1),  # feed-forward: no depthwise convolution
    (3, 0, 640, 160, 1),
    (5, 5, 960, 256, 2),
    (5, 5, 1024, 256, 1),
    (3, 5, 1024, 256, 1),
    (3, 5, 1024, 256, 1),
    (0, 0, 1024, 256, 1),
    (3, 0, 1024, 256, 1),
    (3, 5, 512, 256, 1),
    (5, 5, 1024, 256, 1),
    (0, 0, 1024, 256, 1),
    (0, 0, 1024, 256, 1),
    (5, 0, 512, 256, 1),
)

MOBILENET_V4_CONV_LARGE: tuple[MobileNetV4Row, ...] = (
    (3, 5, 192, 96, 2),
    (3, 3, 384, 96, 1),
    (3, 5, 384, 192, 2),
    (3, 3, 768, 192, 1),
    (3, 3, 768, 192, 1),
    (3, 3, 768, 192, 1),
    (3, 5, 768, 192, 1),
    (5, 3, 768, 192, 1),
    (5, 3, 768, 192, 1),
    (5, 3, 768, 192, 1),
    (5, 3, 768, 192, 1),
    (5, 3, 768, 192, 1),
    (3, 0, 768, 192, 1),
    (5, 5, 768, 512, 2),
    (5, 5, 2048, 512, 1),
    (5, 5, 2048, 512, 1),
    (5, 5, 2048, 512, 1),
    (5, 0, 2048, 512, 1),
    (5, 3, 2048, 512, 1),
    (5, 0, 2048, 512, 1),
    (5, 0, 2048, 512, 1),
    (5, 3, 2048, 512, 1),
    (5, 5, 2048, 512, 1),
    (5, 0, 2048, 512, 1),
    (5, 0, 2048, 512, 1),
    (5, 0, 2048, 512, 1),
)


class MobileNetV4(nn.Module):
    """Full convolutions at the start, the blocks of a table, and v3's end.

    Args:
        rows: the table of blocks, as `MOBILENET_V4_CONV_SMALL`.
        stem: channels of the first convolution.
        fused: channels inside and after each pair of a full 3x3 convolution with
            stride 2 and a 1x1 convolution, between the stem and the blocks.
        fused_relu: a ReLU behind the 1x1 convolutions of `fused` (Conv-Small alone).
        num_classes: K, width of the output.
        dropout: rate before the last layer.
        drop_path: that of the last block; grows linearly from 0.
        in_channels: C, channels of the images.

    Shape: (N, C, H, W) -> (N, K), for any H and W; N > 1 in training.
    Raises: ValueError for a size below 1, no blocks, an impossible rate, or an input
        of another shape.
    """

    def __init__(
        self,
        rows: Sequence[MobileNetV4Row],
        stem: int,
        fused: Sequence[tuple[int, int]],
        fused_relu: bool = False,
        num_classes: int = 1000,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not rows or stem < 1 or num_classes < 1 or in_channels < 1:
            sizes = f"{len(rows)=}, {stem=}, {num_classes=}, {in_channels=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        if not 0 <= dropout < 1 or not 0 <= drop_path < 1:
            raise ValueError(f"expected rates in [0, 1), got {dropout=}, {drop_path=}")
        self.in_channels = in_channels
        layers: list[nn.Module] = [_mobilenet_v4_conv(in_channels, stem, 3, 2)]
        channels = stem
        for inner, outer in fused:
            layers.append(_mobilenet_v4_conv(channels, inner, 3, 2))
            layers.append(_mobilenet_v4_conv(inner, outer, 1, activation=fused_relu))
            channels = outer
        for index, (start, middle, expanded, outer, stride) in enumerate(rows):
            rate = drop_path * index / max(1, len(rows) - 1)
            layers.append(
                UniversalInvertedBottleneck(
                    channels, expanded, outer, start, middle, stride, rate
                )
            )
            channels = outer
        layers.append(_mobilenet_v4_conv(channels, 960, 1))
        self.features = nn.Sequential(*layers)
        self.head = _mobilenet_v4_conv(960, 1280, 1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            expected = f"(N, {self.in_channels}, H, W)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        x = self.features(x)  # (N, 960, H/32, W/32)
        x = self.head(torch.mean(x, dim=(2, 3), keepdim=True))  # (N, 1280, 1, 1)
        scores: Tensor = self.classifier(self.dropout(x.flatten(1)))  # (N, K)
        return scores


def mobilenetv4_conv_small(num_classes: int = 1000) -> MobileNetV4:
    pairs = ((32, 32), (96, 64))
    return MobileNetV4(MOBILENET_V4_CONV_SMALL, 32, pairs, True, num_classes)


def mobilenetv4_conv_medium(num_classes: int = 1000) -> MobileNetV4:
    rows = MOBILENET_V4_CONV_MEDIUM
    return MobileNetV4(rows, 32, [(128, 48)], num_classes=num_classes)


def mobilenetv4_conv_large(num_classes: int = 1000) -> MobileNetV4:
    return MobileNetV4(MOBILENET_V4_CONV_LARGE, 24, [(96, 48)], num_classes=num_classes)


# --8<-- [end:module]
