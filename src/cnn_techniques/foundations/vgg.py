"""VGG: every convolution is 3 x 3; stacks of them do what larger kernels did.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, arXiv:1409.1556, section 2, table 1.
Legend: N images, C channels, H x W pixels, D channels of a stage, K classes.
"""

# --8<-- [start:imports]
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
# Table 1: D, the channels of the five stages, and how many convolutions each has in the
# paper's networks A, B, D and E.
VGG_CHANNELS = (64, 128, 256, 512, 512)
VGG_CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each with pooling, and three linear layers.

    Args:
        convolutions: of each stage, as in `VGG_CONVOLUTIONS`.
        num_classes: K, width of the output.
        batch_norm: normalise between each convolution and its ReLU.
        hidden: units of the first two linear layers.
        dropout: share of these units' outputs that is dropped.
        in_channels: C, channels of the images.

    Shape: (N, C, H, W) -> (N, K), for H and W of 32 or more.
    Raises: ValueError for a size below 1, or an input of another shape.
    """

    def __init__(
        self,
        convolutions: Sequence[int],
        num_classes: int = 1000,
        batch_norm: bool = False,
        hidden: int = 4096,
        dropout: float = 0.5,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(convolutions) != 5 or min(convolutions) < 1:
            told = "expected five stages of one convolution or more"
            raise ValueError(f"{told}, got {convolutions=}")
        if min(num_classes, hidden, in_channels) < 1:
            told = f"{num_classes=}, {hidden=}, {in_channels=}"
            raise ValueError(f"sizes must be at least 1, got {told}")
        self.in_channels = channels = in_channels
        layers: list[nn.Module] = []
        for count, width in zip(convolutions, VGG_CHANNELS, strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU(inplace=True))
                channels = width
            layers.append(nn.MaxPool2d(2))  # half the height and width
        self.features = nn.Sequential(*layers)  # (N, 512, 7, 7) for 224 x 224 pixels
        self.avgpool = nn.AdaptiveAvgPool2d(7)  # the same for other sizes
        self.classifier = nn.Sequential(
            nn.Linear(7 * 7 * channels, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        c = self.in_channels
        if x.ndim != 4 or x.shape[1] != c or x.shape[2] < 32 or x.shape[3] < 32:
            told = f"expected (N, {c}, H, W) with H and W of 32 or more"
            raise ValueError(f"{told}, got {tuple(x.shape)}")
        x = self.avgpool(self.features(x))
        scores: Tensor = self.classifier(torch.flatten(x, 1))  # (N, K)
        return scores


def vgg11(num_classes: int = 1000) -> VGG:
    return VGG(VGG_CONVOLUTIONS[11], num_classes)


def vgg11_bn(num_classes: int = 1000) -> VGG:
    return VGG(VGG_CONVOLUTIONS[11], num_classes, batch_norm=True)


def vgg13(num_classes: int = 1000) -> VGG:
    return VGG(VGG_CONVOLUTIONS[13], num_classes)


def vgg13_bn(num_classes: int = 1000) -> VGG:
    return VGG(VGG_CONVOLUTIONS[13], num_classes, batch_norm=True)


def vgg16(num_classes: int = 1000) -> VGG:
    return VGG(VGG_CONVOLUTIONS[16], num_classes)


def vgg16_bn(num_classes: int = 1000) -> VGG:
    return VGG(VGG_CONVOLUTIONS[16], num_classes, batch_norm=True)


def vgg19(num_classes: int = 1000) -> VGG:
    return VGG(VGG_CONVOLUTIONS[19], num_classes)


def vgg19_bn(num_classes: int = 1000) -> VGG:
    return VGG(VGG_CONVOLUTIONS[19], num_classes, batch_norm=True)


# --8<-- [end:module]
