"""MobileNet v2: shortcuts between narrow maps, and a wide map inside each block.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018, arXiv:1801.04381, sections 3 and 4, tables 1 and 2.
Legend: N images, C channels, H x W pixels, K classes,
D channels of a block's output, s stride, t expansion.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
def _mobilenet_v2_round(channels: float) -> int:
    """The nearest multiple of 8 that is at least 8 and 90 % of the number."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _mobilenet_v2_conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, 1, groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow without a non-linearity, add the input.

    Args:
        in_channels: C, channels of the input.
        out_channels: D, channels of the output.
        stride: s of the depthwise convolution.
        expansion: t, by which the first convolution widens; at 1 it is left out.

    Shape: (N, C, H, W) -> (N, D, H / s, W / s), rounded up.
    The input is added where the shape stays: s = 1 and C = D.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, expansion: int = 6
    ) -> None:
        super().__init__()
        width = expansion * in_channels
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(_mobilenet_v2_conv(in_channels, width, 1))
        layers += [
            _mobilenet_v2_conv(width, width, 3, stride, groups=width),
            nn.Conv2d(width, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),  # and no ReLU6: the linear bottleneck
        ]
        self.conv = nn.Sequential(*layers)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)  # (N, tC, ...) inside, then (N, D, H/s, W/s)
        return x + y if self.shortcut else y


MOBILENET_V2_STAGES = (  # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """A 3x3 convolution, seventeen blocks, a 1x1 convolution, and a linear classifier.

    Args:
        num_classes: K, width of the output.
        width: by which every number of channels is multiplied, rounded to multiples
            of 8; the last convolution is never narrower than 1280.
        dropout: rate before the classifier.
        in_channels: C, channels of the images.

    Shape: (N, C, H, W) -> (N, K), for any H and W.
    Raises: ValueError for a size below 1, an impossible width or dropout, or an input
        of another shape.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.2,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            sizes = f"{num_classes=}, {in_channels=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        if width <= 0 or not 0 <= dropout < 1:
            expected = "expected width > 0 and dropout in [0, 1)"
            raise ValueError(f"{expected}, got {width=}, {dropout=}")
        self.in_channels = in_channels
        channels = _mobilenet_v2_round(width * 32)
        layers: list[nn.Module] = [_mobilenet_v2_conv(in_channels, channels, 3, 2)]
        for expansion, full_width, blocks, stride in MOBILENET_V2_STAGES:
            for index in range(blocks):
                out_channels = _mobilenet_v2_round(width * full_width)
                first = stride if index == 0 else 1
                block = InvertedResidual(channels, out_channels, first, expansion)
                layers.append(block)
                channels = out_channels
        last = _mobilenet_v2_round(max(1.0, width) * 1280)
        layers.append(_mobilenet_v2_conv(channels, last, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(last, num_classes)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            expected = f"(N, {self.in_channels}, H, W)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        x = self.features(x)  # (N, 1280, H/32, W/32)
        scores: Tensor = self.classifier(torch.mean(x, dim=(2, 3)))  # (N, K)
        return scores


def mobilenet_v2(num_classes: int = 1000, width: float = 1.0) -> MobileNetV2:
    return MobileNetV2(num_classes, width)


# --8<-- [end:module]
