"""SqueezeNet: narrow before every 3x3 convolution, and make half the kernels 1x1.

Source: Iandola et al., "SqueezeNet: AlexNet-Level Accuracy with 50x Fewer Parameters
and <0.5MB Model Size", arXiv:1602.07360, section 3, table 1.
Legend: N images, C channels, H x W pixels, K classes,
S squeeze channels, E expand channels of either kernel size.
"""

# --8<-- [start:imports]
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
class Fire(nn.Module):
    """Squeeze with 1x1 kernels, then expand with 1x1 and 3x3 kernels side by side.

    Args:
        in_channels: C, channels of the input.
        squeeze_channels: S, all that the expanding convolutions see.
        expand_channels: E, of the 1x1 and again of the 3x3 kernels.

    Shape: (N, C, H, W) -> (N, 2 * E, H, W).
    Raises: ValueError for a width below 1.
    """

    def __init__(
        self, in_channels: int, squeeze_channels: int, expand_channels: int
    ) -> None:
        super().__init__()
        if min(in_channels, squeeze_channels, expand_channels) < 1:
            widths = f"{in_channels=}, {squeeze_channels=}, {expand_channels=}"
            raise ValueError(f"widths must be at least 1, got {widths}")
        self.squeeze = nn.Conv2d(in_channels, squeeze_channels, 1)
        self.expand1x1 = nn.Conv2d(squeeze_channels, expand_channels, 1)
        self.expand3x3 = nn.Conv2d(squeeze_channels, expand_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x), inplace=True)  # (N, S, H, W)
        y = torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1)
        return F.relu(y, inplace=True)  # (N, 2*E, H, W)


_SQUEEZENET_FIRES = (  # squeeze and expand channels of fire2 to fire9
    (16, 64),
    (16, 64),
    (32, 128),
    (32, 128),
    (48, 192),
    (48, 192),
    (64, 256),
    (64, 256),
)


class SqueezeNet(nn.Module):
    """A convolution, eight Fire modules between poolings, and a 1x1 convolution.

    Args:
        width: channels of the first convolution.
        kernel: size of the first convolution, whose stride is 2.
        pools: the Fire modules, counted from 0, that a max pooling stands before.
        num_classes: K, width of the output.
        dropout: rate before the last convolution.
        in_channels: C, channels of the images.

    Shape: (N, C, H, W) -> (N, K), H and W from `smallest` on.
    Raises: ValueError for a size below 1, or an input of another shape.
    """

    def __init__(
        self,
        width: int,
        kernel: int,
        pools: Collection[int],
        num_classes: int = 1000,
        dropout: float = 0.5,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if min(width, kernel, num_classes, in_channels) < 1:
            sizes = f"{width=}, {kernel=}, {num_classes=}, {in_channels=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        self.in_channels = in_channels
        self.smallest = kernel + 2 ** (len(pools) + 1) - 2
        first = nn.Conv2d(in_channels, width, kernel, stride=2)
        layers: list[nn.Module] = [first, nn.ReLU(inplace=True)]
        for number, (squeeze, expand) in enumerate(_SQUEEZENET_FIRES):
            if number in pools:
                layers.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
            layers.append(Fire(width, squeeze, expand))
            width = 2 * expand
        self.features = nn.Sequential(*layers)
        last = nn.Conv2d(width, num_classes, 1)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            last,
            nn.ReLU(inplace=True),  # scores are not negative: the paper's choice
            nn.AdaptiveAvgPool2d(1),
        )
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_uniform_(conv.weight)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.normal_(last.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        least = self.smallest
        if (
            x.ndim != 4
            or x.shape[1] != self.in_channels
            or x.shape[2] < least
            or x.shape[3] < least
        ):
            expected = f"(N, {self.in_channels}, H, W), H and W from {least} on"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        scores: Tensor = self.classifier(self.features(x))  # (N, K, 1, 1)
        return scores.flatten(1)  # (N, K)


def squeezenet1_0(num_classes: int = 1000) -> SqueezeNet:
    return SqueezeNet(96, 7, (0, 3, 7), num_classes)


def squeezenet1_1(num_classes: int = 1000) -> SqueezeNet:
    return SqueezeNet(64, 3, (0, 2, 4), num_classes)


# --8<-- [end:module]
