"""MobileNet v3: v2's block with a gate and hard swish, its widths found by a search.

Source: Howard et al., "Searching for MobileNetV3", ICCV 2019, arXiv:1905.02244,
section 5, tables 1 and 2.
Legend: N images, C channels, H x W pixels, K classes,
E expanded channels inside a block, D channels of its output, s stride.
"""

# --8<-- [start:imports]
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from cnn_techniques.attention import SqueezeExcitation


# --8<-- [start:module]
def _mobilenet_v3_round(channels: float) -> int:
    """The nearest multiple of 8 that is at least 8 and 90 % of the number."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _mobilenet_v3_conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[..., nn.Module] | None = None,
) -> nn.Sequential:
    padding = kernel // 2
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, 1, groups, bias=False
        ),
        nn.BatchNorm2d(out_channels, eps=0.001, momentum=0.01),
    ]
    if activation is not None:
        layers.append(activation(inplace=True))
    return nn.Sequential(*layers)


class InvertedResidualV3(nn.Module):
    """Widen, filter each channel, weigh the channels, narrow, add the input.

    Args:
        in_channels: C, channels of the input.
        expanded: E, channels inside; where E = C the first convolution is left out.
        out_channels: D, channels of the output.
        kernel: height and width of the depthwise filters, 3 or 5.
        stride: s of the depthwise convolution.
        gate: squeeze-and-excitation of E channels, with E / 4 inside.
        activation: `nn.ReLU` or `nn.Hardswish`, behind the first two convolutions.

    Shape: (N, C, H, W) -> (N, D, H / s, W / s), rounded up.
    The input is added where the shape stays: s = 1 and C = D.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        gate: bool = False,
        activation: Callable[..., nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != in_channels:
            widen = _mobilenet_v3_conv(in_channels, expanded, 1, activation=activation)
            layers.append(widen)
        layers.append(
            _mobilenet_v3_conv(expanded, expanded, kernel, stride, expanded, activation)
        )
        if gate:
            squeeze = _mobilenet_v3_round(expanded // 4)
            layers.append(SqueezeExcitation(expanded, squeeze, gate=nn.Hardsigmoid))
        layers.append(_mobilenet_v3_conv(expanded, out_channels, 1))
        self.block = nn.Sequential(*layers)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)  # (N, E, ...) inside, then (N, D, H/s, W/s)
        if self.shortcut:
            y += x
        return y


MobileNetV3Row = tuple[int, int, int, bool, Callable[..., nn.Module], int]
RE, HS = nn.ReLU, nn.Hardswish

MOBILENET_V3_LARGE: tuple[MobileNetV3Row, ...] = (
    # kernel, expanded, channels, gate, activation, stride
    (3, 16, 16, False, RE, 1),
    (3, 64, 24, False, RE, 2),
    (3, 72, 24, False, RE, 1),
    (5, 72, 40, True, RE, 2),
    (5, 120, 40, True, RE, 1),
    (5, 120, 40, True, RE, 1),
    (3, 240, 80, False, HS, 2),
    (3, 200, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 480, 112, True, HS, 1),
    (3, 672, 112, True, HS, 1),
    (5, 672, 160, True, HS, 2),
    (5, 960, 160, True, HS, 1),
    (5, 960, 160, True, HS, 1),
)

MOBILENET_V3_SMALL: tuple[MobileNetV3Row, ...] = (
    (3, 16, 16, True, RE, 2),
    (3, 72, 24, False, RE, 2),
    (3, 88, 24, False, RE, 1),
    (5, 96, 40, True, HS, 2),
    (5, 240, 40, True, HS, 1),
    (5, 240, 40, True, HS, 1),
    (5, 120, 48, True, HS, 1),
    (5, 144, 48, True, HS, 1),
    (5, 288, 96, True, HS, 2),
    (5, 576, 96, True, HS, 1),
    (5, 576, 96, True, HS, 1),
)


class MobileNetV3(nn.Module):
    """A 3x3 convolution, the blocks of a table, and two linear layers behind the mean.

    Args:
        rows: the table of blocks, as `MOBILENET_V3_LARGE`.
        last: channels between the two linear layers.
        num_classes: K, width of the output.
        width: by which every number of channels is multiplied, rounded to multiples
            of 8.
        dropout: rate before the last layer.
        in_channels: C, channels of the images.

    Shape: (N, C, H, W) -> (N, K), for any H and W.
    Raises: ValueError for a size below 1, no blocks, an impossible width or dropout,
        or an input of another shape.
    """

    def __init__(
        self,
        rows: Sequence[MobileNetV3Row],
        last: int,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.2,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not rows or last < 1 or num_classes < 1 or in_channels < 1:
            sizes = f"{len(rows)=}, {last=}, {num_classes=}, {in_channels=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        if width <= 0 or not 0 <= dropout < 1:
            expected = "expected width > 0 and dropout in [0, 1)"
            raise ValueError(f"{expected}, got {width=}, {dropout=}")
        self.in_channels = in_channels
        channels = _mobilenet_v3_round(width * 16)
        layers: list[nn.Module] = [
            _mobilenet_v3_conv(in_channels, channels, 3, 2, activation=HS)
        ]
        for kernel, expanded, out, gate, activation, stride in rows:
            inner, outer = (_mobilenet_v3_round(width * c) for c in (expanded, out))
            layers.append(
                InvertedResidualV3(
                    channels, inner, outer, kernel, stride, gate, activation
                )
            )
            channels = outer
        layers.append(_mobilenet_v3_conv(channels, 6 * channels, 1, activation=HS))
        self.features = nn.Sequential(*layers)
        last = _mobilenet_v3_round(width * last)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, last),  # v2 has this layer before the mean
            nn.Hardswish(inplace=True),
            nn.Dropout(dropout, inplace=True),
            nn.Linear(last, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            expected = f"(N, {self.in_channels}, H, W)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        x = self.features(x)  # (N, 6*D, H/32, W/32)
        scores: Tensor = self.classifier(torch.mean(x, dim=(2, 3)))  # (N, K)
        return scores


def mobilenet_v3_large(num_classes: int = 1000, width: float = 1.0) -> MobileNetV3:
    return MobileNetV3(MOBILENET_V3_LARGE, 1280, num_classes, width)


def mobilenet_v3_small(num_classes: int = 1000, width: float = 1.0) -> MobileNetV3:
    return MobileNetV3(MOBILENET_V3_SMALL, 1024, num_classes, width)


# --8<-- [end:module]
