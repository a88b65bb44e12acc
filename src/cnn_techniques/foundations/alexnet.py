"""AlexNet: five convolutions and three linear layers with ReLUs, trained on ImageNet.

Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep
Convolutional Neural Networks", NeurIPS 2012, sections 3 to 5; and torchvision's
network, which follows Krizhevsky, "One weird trick for parallelizing convolutional
neural networks", arXiv:1404.5997.
Legend: N images, C channels, H x W pixels, K classes.
"""

# --8<-- [start:imports]
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
# One row a convolution: filters, kernel, stride, padding, groups, and whether response
# normalisation and max pooling follow its ReLU. With 2 groups, each half of the filters
# sees one half of the channels: in 2012, those on the same one of two GPUs.
ALEXNET = [
    (64, 11, 4, 2, 1, False, True),
    (192, 5, 1, 2, 1, False, True),
    (384, 3, 1, 1, 1, False, False),
    (256, 3, 1, 1, 1, False, False),
    (256, 3, 1, 1, 1, False, True),
]
ALEXNET_PAPER = [
    (96, 11, 4, 2, 1, True, True),
    (256, 5, 1, 2, 2, True, True),
    (384, 3, 1, 1, 1, False, False),
    (384, 3, 1, 1, 2, False, False),
    (256, 3, 1, 1, 2, False, True),
]


class ResponseNorm(nn.Module):
    """Divide each value by a power of what n neighbouring channels have there.

    Args:
        size: n, neighbours, the channel itself among them; odd.
        k: constant that keeps the divisor away from zero.
        alpha: factor of the sum of squares; `nn.LocalResponseNorm` divides it by n.
        beta: power of the divisor.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Raises: ValueError for a size that is not odd, or a k not above 0.
    """

    def __init__(
        self, size: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75
    ) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise ValueError(f"expected an odd number of neighbours, got {size=}")
        if not k > 0:  # with k = 0 neighbours of 0 divide by 0
            raise ValueError(f"expected a k above 0, got {k=}")
        self.size, self.k, self.alpha, self.beta = size, k, alpha, beta

    def forward(self, a: Tensor) -> Tensor:
        channels, half = a.shape[1], self.size // 2
        squares = F.pad(a.square(), (0, 0, 0, 0, half, half))  # (N, C + n - 1, H, W)
        total = squares[:, :channels]
        for j in range(1, self.size):
            total = total + squares[:, j : j + channels]
        return a / (self.k + self.alpha * total) ** self.beta


class AlexNet(nn.Module):
    """Five convolutions, three of them with pooling after, and three linear layers.

    Args:
        num_classes: K, width of the output.
        layers: the rows of the convolutions, `ALEXNET` or `ALEXNET_PAPER`.
        hidden: units of the first two linear layers.
        dropout: share of the inputs of these two that is dropped.
        in_channels: C, channels of the images.

    Shape: (N, C, H, W) -> (N, K), for H and W of 63 or more.
    Raises: ValueError for a size below 1, or an input of another shape.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        layers: Sequence[tuple[int, int, int, int, int, bool, bool]] = ALEXNET,
        hidden: int = 4096,
        dropout: float = 0.5,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if min(num_classes, hidden, in_channels, len(layers)) < 1:
            told = f"{num_classes=}, {hidden=}, {in_channels=}, {len(layers)} layers"
            raise ValueError(f"sizes must be at least 1, got {told}")
        self.in_channels = channels = in_channels
        modules: list[nn.Module] = []
        for filters, kernel, stride, padding, groups, norm, pool in layers:
            modules += [
                nn.Conv2d(channels, filters, kernel, stride, padding, groups=groups),
                nn.ReLU(inplace=True),
            ]
            if norm:
                modules.append(ResponseNorm())
            if pool:
                modules.append(nn.MaxPool2d(3, stride=2))  # windows overlap by a pixel
            channels = filters
        self.features = nn.Sequential(*modules)  # (N, 256, 6, 6) for 224 x 224 pixels
        self.avgpool = nn.AdaptiveAvgPool2d(6)  # the same for other sizes
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(6 * 6 * channels, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        c = self.in_channels
        if x.ndim != 4 or x.shape[1] != c or x.shape[2] < 63 or x.shape[3] < 63:
            told = f"expected (N, {c}, H, W) with H and W of 63 or more"
            raise ValueError(f"{told}, got {tuple(x.shape)}")
        x = self.avgpool(self.features(x))
        scores: Tensor = self.classifier(torch.flatten(x, 1))  # (N, K)
        return scores


def alexnet(num_classes: int = 1000) -> AlexNet:
    """torchvision's network: one group, no response normalisation."""
    return AlexNet(num_classes)


def alexnet_paper(num_classes: int = 1000) -> AlexNet:
    """The network of 2012, with the first weights of the paper's section 5."""
    model = AlexNet(num_classes, ALEXNET_PAPER)
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for number, layer in enumerate(weighted, start=1):
        nn.init.normal_(layer.weight, std=0.01)
        # Ones give these ReLUs something positive to start from.
        value = 1.0 if number in (2, 4, 5, 6, 7) else 0.0
        nn.init.constant_(layer.bias, value)  # type: ignore[arg-type]
    return model


# --8<-- [end:module]
