"""Network in Network: a small network slides over the image, and means are scores.

Source: Lin, Chen and Yan, "Network In Network", ICLR 2014, arXiv:1312.4400, section 3;
the widths are those of the authors' network for CIFAR-10.
Legend: N images, C channels, H x W pixels, D width of a layer, K classes.
"""

# --8<-- [start:imports]
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
# Kernel and widths of the perceptron of each mlpconv layer; one more 1x1 convolution
# makes the last a map for each class.
NIN_LAYERS = [(5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192))]


class MlpConv(nn.Module):
    """A perceptron on each k x k patch: a convolution, 1x1 convolutions, and ReLUs.

    Args:
        in_channels: C, channels of the input.
        kernel: k, odd.
        widths: D of each layer of the perceptron.

    Shape: (N, C, H, W) -> (N, D of the last, H, W).
    Raises: ValueError for an even kernel, no widths, or a number below 1.
    """

    def __init__(self, in_channels: int, kernel: int, widths: Sequence[int]) -> None:
        super().__init__()
        if kernel % 2 == 0 or not widths or min(in_channels, kernel, *widths) < 1:
            told = f"{in_channels=}, {kernel=}, {widths=}"
            raise ValueError(
                f"expected sizes of 1 or more and an odd kernel, got {told}"
            )
        layers: list[nn.Module] = []
        for width in widths:
            layers.append(nn.Conv2d(in_channels, width, kernel, padding=kernel // 2))
            layers.append(nn.ReLU(inplace=True))
            in_channels, kernel = width, 1  # from here on each pixel for itself
        self.perceptron = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        f: Tensor = self.perceptron(x)
        return f


class NetworkInNetwork(nn.Module):
    """Mlpconv layers with pooling between them; the mean of each last map is a score.

    Args:
        num_classes: K, maps of the last layer.
        layers: kernel and widths of each mlpconv layer, as `NIN_LAYERS`.
        dropout: share of the values after each pooling that is dropped.
        in_channels: C, channels of the images.

    Shape: (N, C, H, W) -> (N, K), for H and W of 4 or more.
    Raises: ValueError for a size below 1, or an input of another shape.
    """

    def __init__(
        self,
        num_classes: int = 10,
        layers: Sequence[tuple[int, Sequence[int]]] = NIN_LAYERS,
        dropout: float = 0.5,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if num_classes < 1 or not layers:
            told = f"{num_classes=}, {len(layers)} layers"
            raise ValueError(f"expected one class and one layer or more, got {told}")
        self.in_channels = channels = in_channels
        self.smallest = 2 ** (len(layers) - 1)  # pixels that leave one of the last maps
        modules: list[nn.Module] = []
        for kernel, widths in layers[:-1]:
            modules.append(MlpConv(channels, kernel, widths))
            modules.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))  # H/2, W/2
            modules.append(nn.Dropout(dropout))
            channels = widths[-1]
        kernel, widths = layers[-1]
        modules.append(MlpConv(channels, kernel, widths))
        # The paper has a ReLU here too, behind which all maps can be zero for good.
        modules.append(nn.Conv2d(widths[-1], num_classes, 1))
        self.features = nn.Sequential(*modules)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def maps(self, x: Tensor) -> Tensor:
        """The last maps, which say where there is evidence for each class."""
        c, s = self.in_channels, self.smallest
        if x.ndim != 4 or x.shape[1] != c or x.shape[2] < s or x.shape[3] < s:
            told = f"expected (N, {c}, H, W) with H and W of {s} or more"
            raise ValueError(f"{told}, got {tuple(x.shape)}")
        maps: Tensor = self.features(x)  # (N, K, H/4, W/4)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return torch.mean(self.maps(x), dim=(2, 3))  # (N, K), and no weights


def network_in_network(num_classes: int = 10) -> NetworkInNetwork:
    """The network for CIFAR-10, and with other last maps for CIFAR-100."""
    return NetworkInNetwork(num_classes)


# --8<-- [end:module]
