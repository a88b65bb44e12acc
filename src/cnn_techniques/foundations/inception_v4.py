"""Inception-v4 and Inception-ResNet: plainer modules, concatenated or added up.

Source: Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning", AAAI 2017, arXiv:1602.07261, sections 3.1 to 3.3.
Legend: N images, C channels in, D channels out, H x W pixels, K classes.
"""

# --8<-- [start:imports]
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
# A layer is (channels, kernel), padded so that H x W stays; (channels, kernel, stride),
# not padded, the paper's "V"; "average" or "max"; or a fork: a list of branches, each
# a list of layers, whose maps are concatenated.
INCEPTION_V4_STEM = [
    *[(32, 3, 2), (32, 3, 1), (64, 3)],
    [["max"], [(96, 3, 2)]],
    [[(64, 1), (96, 3, 1)], [(64, 1), (64, (1, 7)), (64, (7, 1)), (96, 3, 1)]],
    [[(192, 3, 2)], ["max"]],
]
INCEPTION_V4_A = [
    [(96, 1)],
    [(64, 1), (96, 3)],
    [(64, 1), (96, 3), (96, 3)],
    ["average", (96, 1)],
]
INCEPTION_V4_REDUCE_A = [[(384, 3, 2)], [(192, 1), (224, 3), (256, 3, 2)], ["max"]]
INCEPTION_V4_B = [
    [(384, 1)],
    [(192, 1), (224, (1, 7)), (256, (7, 1))],
    [(192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))],
    ["average", (128, 1)],
]
INCEPTION_V4_REDUCE_B = [
    [(192, 1), (192, 3, 2)],
    [(256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3, 2)],
    ["max"],
]
INCEPTION_V4_C = [
    [(256, 1)],
    [(384, 1), [[(256, (1, 3))], [(256, (3, 1))]]],
    [(384, 1), (448, (3, 1)), (512, (1, 3)), [[(256, (1, 3))], [(256, (3, 1))]]],
    ["average", (256, 1)],
]

INCEPTION_RESNET_STEM = [
    *[(32, 3, 2), (32, 3, 1), (64, 3), "max", (80, 1), (192, 3, 1), "max"],
    [  # a module of Inception-v3's kind
        [(96, 1)],
        [(48, 1), (64, 5)],
        [(64, 1), (96, 3), (96, 3)],
        ["average", (64, 1)],
    ],
]
INCEPTION_RESNET_A = [[(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)]]
INCEPTION_RESNET_REDUCE_A = [[(384, 3, 2)], [(256, 1), (256, 3), (384, 3, 2)], ["max"]]
INCEPTION_RESNET_B = [[(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))]]
INCEPTION_RESNET_REDUCE_B = [
    [(256, 1), (384, 3, 2)],
    [(256, 1), (288, 3, 2)],
    [(256, 1), (288, 3), (320, 3, 2)],
    ["max"],
]
INCEPTION_RESNET_C = [[(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))]]


def _inception_v4_stack(
    channels: int, layers: Sequence[Any]
) -> tuple[nn.Sequential, int]:
    """The layers of a branch as modules, and how many channels come out of them."""
    modules: list[nn.Module] = []
    for layer in layers:
        if layer == "max":
            modules.append(nn.MaxPool2d(3, stride=2))
        elif layer == "average":
            pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
            modules.append(pool)
        elif isinstance(layer, list):
            fork = InceptionFork(channels, layer)
            modules.append(fork)
            channels = fork.out_channels
        else:
            width, kernel, *stride = layer
            high, wide = kernel if isinstance(kernel, tuple) else (kernel, kernel)
            padding = (0, 0) if stride else (high // 2, wide // 2)
            size, step = (high, wide), stride[0] if stride else 1
            conv = nn.Conv2d(channels, width, size, step, padding, bias=False)
            norm = nn.BatchNorm2d(width, eps=0.001)
            modules += [conv, norm, nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*modules), channels


class InceptionFork(nn.Module):
    """Branches over the same input, their maps concatenated.

    Args:
        in_channels: C, channels of the input.
        branches: the layers of each branch, as in the tables above.

    Shape: (N, C, H, W) -> (N, D, H, W), or smaller maps where layers stride.
    """

    def __init__(self, in_channels: int, branches: Sequence[Any]) -> None:
        super().__init__()
        stacks = [_inception_v4_stack(in_channels, branch) for branch in branches]
        self.branches = nn.ModuleList(stack for stack, _ in stacks)
        self.out_channels = sum(width for _, width in stacks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class InceptionResidual(nn.Module):
    """A fork, a 1x1 convolution back to C channels, scaled down and added to the input.

    Args:
        channels: C, channels of the input and of the output.
        branches: as for `InceptionFork`.
        scale: multiplies what is added (paper: 0.1 to 0.3).
        relu: whether a ReLU follows the sum (not in the last block).

    Shape: (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(
        self, channels: int, branches: Sequence[Any], scale: float, relu: bool = True
    ) -> None:
        super().__init__()
        self.fork = InceptionFork(channels, branches)
        self.expand = nn.Conv2d(self.fork.out_channels, channels, 1)
        self.scale = scale
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.expand(self.fork(x))  # (N, C, H, W)
        y = self.relu(x + self.scale * y)
        return y


class InceptionStage(NamedTuple):
    """The same layers several times; with a scale, each time as a residual."""

    layers: Sequence[Any]
    repeat: int = 1
    scale: float | None = None
    relu: bool = True


INCEPTION_V4 = {
    "stem": InceptionStage(INCEPTION_V4_STEM),
    "35 x 35": InceptionStage([INCEPTION_V4_A], 4),
    "to 17": InceptionStage([INCEPTION_V4_REDUCE_A]),
    "17 x 17": InceptionStage([INCEPTION_V4_B], 7),
    "to 8": InceptionStage([INCEPTION_V4_REDUCE_B]),
    "8 x 8": InceptionStage([INCEPTION_V4_C], 3),
}
INCEPTION_RESNET_V2 = {
    "stem": InceptionStage(INCEPTION_RESNET_STEM),
    "35 x 35": InceptionStage(INCEPTION_RESNET_A, 10, scale=0.17),
    "to 17": InceptionStage([INCEPTION_RESNET_REDUCE_A]),
    "17 x 17": InceptionStage(INCEPTION_RESNET_B, 20, scale=0.10),
    "to 8": InceptionStage([INCEPTION_RESNET_REDUCE_B]),
    "8 x 8": InceptionStage(INCEPTION_RESNET_C, 9, scale=0.20),
    "last": InceptionStage(INCEPTION_RESNET_C, scale=1.0, relu=False),
    "widen": InceptionStage([(1536, 1)]),
}


class InceptionNet(nn.Module):
    """The stages of a table, the mean over the map, dropout and one linear layer.

    Args:
        stages: `INCEPTION_V4` or `INCEPTION_RESNET_V2`.
        num_classes: K, width of the output.
        in_channels: C, channels of the images.
        dropout: rate before the classifier (paper: 0.2).

    Shape: (N, C, H, W) -> (N, K), for H and W of 75 or more.
    Raises: ValueError for a size below 1, or an input of another shape.
    """

    def __init__(
        self,
        stages: Mapping[str, InceptionStage],
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            sizes = f"{num_classes=}, {in_channels=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        self.in_channels = channels = in_channels
        self.stages = nn.ModuleDict()
        for name, (layers, repeat, scale, relu) in stages.items():
            if scale is None:
                stage, channels = _inception_v4_stack(channels, list(layers) * repeat)
            else:
                blocks = [
                    InceptionResidual(channels, layers, scale, relu)
                    for _ in range(repeat)
                ]
                stage = nn.Sequential(*blocks)
            self.stages[name] = stage
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        expected = self.in_channels
        if x.ndim != 4 or x.shape[1] != expected or x.shape[2] < 75 or x.shape[3] < 75:
            wanted = f"(N, {expected}, H, W) with H and W of 75 or more"
            raise ValueError(f"expected {wanted}, got {tuple(x.shape)}")
        for stage in self.stages.values():
            x = stage(x)  # (N, 384, H/8, W/8) after the stem, 1536 channels at the end
        scores: Tensor = self.fc(self.dropout(x.mean(dim=(2, 3))))  # (N, K)
        return scores


def inception_v4(num_classes: int = 1000) -> InceptionNet:
    """Forks only: no residual connections."""
    return InceptionNet(INCEPTION_V4, num_classes)


def inception_resnet_v2(num_classes: int = 1000) -> InceptionNet:
    """Forty residual modules, as in Google's released weights (paper: twenty)."""
    return InceptionNet(INCEPTION_RESNET_V2, num_classes)


# --8<-- [end:module]
