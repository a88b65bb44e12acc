"""EfficientNetV2: full convolutions where maps are large, for training that is faster.

Source: Tan and Le, "EfficientNetV2: Smaller Models and Faster Training", ICML 2021,
arXiv:2104.00298, section 3, table 4.
Legend: N images, C channels of the input, H x W pixels, K classes,
T = t * C channels inside a block (t its expansion), D channels of its output, s stride.
"""

# --8<-- [start:imports]
from torch import Tensor, nn

# --8<-- [end:imports]
from cnn_techniques.modern.efficientnet import (
    EfficientNet,
    EfficientNetDropPath,
    MBConv,
    MBStage,
    efficientnet_conv,
)


# --8<-- [start:module]
class FusedMBConv(nn.Module):
    """MBConv with its first two convolutions fused into a full one, without a gate.

    Args:
        in_channels: C, channels of the input.
        out_channels: D, channels of the output.
        kernel: size of the first convolution.
        stride: s of the first convolution.
        expansion: t; with 1 there is only one convolution.
        drop_path: rate at which an image skips the block in training.

    Shape: (N, C, H, W) -> (N, D, H / s, W / s), rounded up.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        expansion: int = 4,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        width = expansion * in_channels if expansion > 1 else out_channels
        layers = [efficientnet_conv(in_channels, width, kernel, stride)]
        if expansion > 1:  # (N, T, H/s, W/s) -> (N, D, H/s, W/s)
            layers.append(efficientnet_conv(width, out_channels, activation=None))
        self.block = nn.Sequential(*layers)
        self.shortcut = stride == 1 and in_channels == out_channels
        self.drop_path = EfficientNetDropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        if self.shortcut:
            y = self.drop_path(y)
            y += x
        return y


_EFFICIENTNET_V2_S = (  # expansion, stride, channels, layers; kernels are all 3x3
    (1, 1, 24, 2),
    (4, 2, 48, 4),
    (4, 2, 64, 4),
    (4, 2, 128, 6),
    (6, 1, 160, 9),
    (6, 2, 256, 15),
)
_EFFICIENTNET_V2_M = (
    (1, 1, 24, 3),
    (4, 2, 48, 5),
    (4, 2, 80, 5),
    (4, 2, 160, 7),
    (6, 1, 176, 14),
    (6, 2, 304, 18),
    (6, 1, 512, 5),
)
_EFFICIENTNET_V2_L = (
    (1, 1, 32, 4),
    (4, 2, 64, 7),
    (4, 2, 96, 7),
    (4, 2, 192, 10),
    (6, 1, 224, 19),
    (6, 2, 384, 25),
    (6, 1, 640, 7),
)


def _efficientnet_v2(
    rows: tuple[tuple[int, int, int, int], ...], dropout: float, num_classes: int
) -> EfficientNet:
    stages = [
        MBStage(t, 3, s, channels, layers, FusedMBConv if number < 3 else MBConv)
        for number, (t, s, channels, layers) in enumerate(rows)
    ]
    stem = rows[0][2]
    return EfficientNet(stages, num_classes, stem, 1280, dropout, norm_eps=1e-3)


def efficientnet_v2_s(num_classes: int = 1000) -> EfficientNet:
    return _efficientnet_v2(_EFFICIENTNET_V2_S, 0.2, num_classes)


def efficientnet_v2_m(num_classes: int = 1000) -> EfficientNet:
    return _efficientnet_v2(_EFFICIENTNET_V2_M, 0.3, num_classes)


def efficientnet_v2_l(num_classes: int = 1000) -> EfficientNet:
    return _efficientnet_v2(_EFFICIENTNET_V2_L, 0.4, num_classes)


# --8<-- [end:module]
