"""DenseNet: every layer reads the outputs of all layers before it in its block.

Source: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017,
arXiv:1608.06993, section 3, table 1 (the variant DenseNet-BC).
Legend: N images, C channels, H x W pixels, K classes,
k growth rate, l number of a layer in its block, k0 channels that enter the block.
"""

# --8<-- [start:imports]
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# --8<-- [end:imports]


# --8<-- [start:module]
class DenseLayer(nn.Module):
    """A 1x1 convolution to 4 k channels, then a 3x3 convolution to k: the paper's H_l.

    Args:
        channels: C, channels of all inputs together.
        growth_rate: k, channels of the output.
        drop_rate: dropout of the output (paper: 0.2 where images are not augmented).
        checkpointing: compute concatenation, norm and 1x1 convolution again in the
            backward pass instead of keeping them.

    Shape: list of (N, ..., H, W), C channels in all -> (N, k, H, W).
    """

    def __init__(
        self,
        channels: int,
        growth_rate: int,
        drop_rate: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        # A checkpoint runs norm1 twice a step; both updates together move its
        # statistics by the usual tenth.
        momentum = 1 - 0.9**0.5 if checkpointing else 0.1
        self.norm1 = nn.BatchNorm2d(channels, momentum=momentum)
        self.conv1 = nn.Conv2d(channels, 4 * growth_rate, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth_rate)
        self.conv2 = nn.Conv2d(4 * growth_rate, growth_rate, 3, padding=1, bias=False)
        self.drop = nn.Dropout(drop_rate)

    def bottleneck(self, *features: Tensor) -> Tensor:
        x = torch.cat(features, dim=1) if len(features) > 1 else features[0]
        y: Tensor = self.conv1(F.relu(self.norm1(x), inplace=True))  # (N, 4k, H, W)
        return y

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            y = checkpoint(self.bottleneck, *features, use_reentrant=False)
        else:
            y = self.bottleneck(*features)
        y = self.conv2(F.relu(self.norm2(y), inplace=True))  # (N, k, H, W)
        new: Tensor = self.drop(y)
        return new


class DenseBlock(nn.ModuleDict):
    """Layers that each see the block's input and what every earlier layer made.

    Args:
        layers: how many.
        channels: k0, channels of the input.
        growth_rate: k, channels that each layer adds.
        drop_rate: as in `DenseLayer`.
        checkpointing: as in `DenseLayer`.

    Shape: (N, k0, H, W) -> (N, k0 + layers * k, H, W), for any H and W.
    """

    def __init__(
        self,
        layers: int,
        channels: int,
        growth_rate: int,
        drop_rate: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        for index in range(layers):
            self[f"denselayer{index + 1}"] = DenseLayer(
                channels + index * growth_rate, growth_rate, drop_rate, checkpointing
            )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]  # x_0, x_1, ... of the paper
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, dim=1)


class Transition(nn.Sequential):
    """Between two blocks: a 1x1 convolution, then the mean of every 2 x 2 pixels.

    Shape: (N, C, H, W) -> (N, out_channels, H / 2, W / 2), rounded down.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)


class DenseNet(nn.Module):
    """A stem of 2 k channels, dense blocks with transitions between, and a classifier.

    Args:
        layers: of each block (DenseNet-121: 6, 12, 24, 16).
        growth_rate: k.
        num_classes: K, width of the output.
        in_channels: C, channels of the images.
        drop_rate: dropout after each layer.
        checkpointing: compute again in the backward pass what would fill memory.
        small_images: a stem of one 3x3 convolution, for images of about 32 pixels
            (section 3 of the paper, "Implementation Details").

    Shape: (N, C, H, W) -> (N, K), for H and W from 29 pixels on with four blocks.
    Raises: ValueError for a size below 1, no blocks, or an input of another shape.
    """

    def __init__(
        self,
        layers: Sequence[int],
        growth_rate: int = 32,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        checkpointing: bool = False,
        small_images: bool = False,
    ) -> None:
        super().__init__()
        if not layers or min(layers) < 1:
            raise ValueError(f"expected blocks of one layer or more, got {layers=}")
        if min(growth_rate, num_classes, in_channels) < 1:
            sizes = f"{growth_rate=}, {num_classes=}, {in_channels=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        last = 2 ** (len(layers) - 1)  # every transition halves, rounding down
        self.smallest = last if small_images else 4 * last - 3
        channels = 2 * growth_rate
        kernel, stride = (3, 1) if small_images else (7, 2)
        stem = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
        # The numbers in these names are torchvision's: 0 for the stem, 5 for the end.
        self.features = nn.Sequential()
        self.features.add_module("conv0", stem)
        if not small_images:
            self.features.add_module("norm0", nn.BatchNorm2d(channels))
            self.features.add_module("relu0", nn.ReLU(inplace=True))
            self.features.add_module("pool0", nn.MaxPool2d(3, stride=2, padding=1))
        for number, count in enumerate(layers, start=1):
            if number > 1:
                transition = Transition(channels, channels // 2)
                self.features.add_module(f"transition{number - 1}", transition)
                channels = channels // 2
            block = DenseBlock(count, channels, growth_rate, drop_rate, checkpointing)
            self.features.add_module(f"denseblock{number}", block)
            channels = channels + count * growth_rate
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, num_classes)
        nn.init.zeros_(self.classifier.bias)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight)
        self.in_channels = in_channels

    def forward(self, x: Tensor) -> Tensor:
        c, least = self.in_channels, self.smallest
        if x.ndim != 4 or x.shape[1] != c or x.shape[2] < least or x.shape[3] < least:
            expected = f"(N, {c}, H, W), H and W at least {least}"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        y = F.relu(self.features(x), inplace=True)  # (N, C', H/32, W/32)
        scores: Tensor = self.classifier(y.mean(dim=(2, 3)))  # (N, K)
        return scores


def densenet121(num_classes: int = 1000) -> DenseNet:
    return DenseNet((6, 12, 24, 16), 32, num_classes)


def densenet161(num_classes: int = 1000) -> DenseNet:
    return DenseNet((6, 12, 36, 24), 48, num_classes)


def densenet169(num_classes: int = 1000) -> DenseNet:
    return DenseNet((6, 12, 32, 32), 32, num_classes)


def densenet201(num_classes: int = 1000) -> DenseNet:
    return DenseNet((6, 12, 48, 32), 32, num_classes)


def densenet264(num_classes: int = 1000) -> DenseNet:
    return DenseNet((6, 12, 64, 48), 32, num_classes)


# --8<-- [end:module]
