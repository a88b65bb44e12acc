"""Inception-v2 and v3: take large windows apart into chains of small ones.

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
CVPR 2016, arXiv:1512.00567, sections 3 to 6, table 1, figures 5, 6, 7 and 10.
Legend: N images, C channels, H x W pixels, K classes.
"""

# --8<-- [start:imports]
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
Step = tuple[int, int, int]  # channels, height and width of the kernel
Chains = Mapping[str, Sequence[Step | list[Step]]]


def _inception_v3_conv(
    in_channels: int, step: Step, stride: int = 1, same: bool = True
) -> nn.Sequential:
    """A convolution, with the padding that keeps H x W or none; batch norm; ReLU."""
    width, rows, columns = step
    padding = (rows // 2, columns // 2) if same else 0
    conv = nn.Conv2d(in_channels, width, (rows, columns), stride, padding, bias=False)
    norm = nn.BatchNorm2d(width, eps=0.001)
    return nn.Sequential(OrderedDict(conv=conv, bn=norm, relu=nn.ReLU(inplace=True)))


class FactorisedInception(nn.Module):
    """Chains of convolutions over the same input, their maps concatenated.

    Args:
        in_channels: C, channels of the input.
        chains: name -> its convolutions. A list at the end of a chain is a fork: they
            read the same map. The chain "branch_pool" follows a mean of 3x3.
        stride: 2 reduces the grid (figure 10): the last convolution of each chain and
            a maximum pooling beside them stride, without padding.

    Shape: (N, C, H, W) -> (N, sum of the chains' ends, H, W); with stride 2 also the C
    pooled channels, and H and W become (H - 1) // 2 and (W - 1) // 2.
    Raises: ValueError for a fork that does not end its chain.
    """

    def __init__(self, in_channels: int, chains: Chains, stride: int = 1) -> None:
        super().__init__()
        reduce = stride == 2
        self.pool = nn.MaxPool2d(3, 2) if reduce else nn.AvgPool2d(3, 1, padding=1)
        self.reduce, self.chains = reduce, dict[str, list[list[str]]]()
        for chain, steps in chains.items():
            self.chains[chain], channels = [], in_channels
            for number, step in enumerate(steps, start=1):
                last = number == len(steps)
                if isinstance(step, list) and not last:
                    raise ValueError(f"expected {chain=} to end with the fork {step}")
                ends = step if isinstance(step, list) else [step]
                name = chain if len(steps) == 1 else f"{chain}_{number}"
                names = [name + letter for letter in "ab"] if len(ends) > 1 else [name]
                self.chains[chain].append(names)
                for name, end in zip(names, ends, strict=True):
                    conv = _inception_v3_conv(
                        channels, end, stride if last else 1, not (reduce and last)
                    )
                    self.add_module(name, conv)
                channels = ends[0][0]

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x)
        maps: list[Tensor] = []
        for chain, steps in self.chains.items():
            ends = [pooled if chain == "branch_pool" else x]
            for names in steps:
                ends = [self.get_submodule(name)(ends[0]) for name in names]
            maps += ends
        return torch.cat([*maps, pooled] if self.reduce else maps, dim=1)


def inception_v3_at_35(pool: int) -> Chains:
    """Maps of 35 x 35: a 5x5, and one taken apart into two 3x3 (figure 5)."""
    return {
        "branch1x1": [(64, 1, 1)],
        "branch5x5": [(48, 1, 1), (64, 5, 5)],
        "branch3x3dbl": [(64, 1, 1), (96, 3, 3), (96, 3, 3)],
        "branch_pool": [(pool, 1, 1)],
    }


def inception_v3_at_17(width: int) -> Chains:
    """Maps of 17 x 17: 7x7 taken apart into 1x7 and 7x1, once and twice (figure 6)."""
    narrow, across, down = (width, 1, 1), (width, 1, 7), (width, 7, 1)
    return {
        "branch1x1": [(192, 1, 1)],
        "branch7x7": [narrow, across, (192, 7, 1)],
        "branch7x7dbl": [narrow, down, across, down, (192, 1, 7)],
        "branch_pool": [(192, 1, 1)],
    }


# Maps of 8 x 8: wide, so 1x3 and 3x1 stand side by side instead (figure 7).
INCEPTION_V3_AT_8: Chains = {
    "branch1x1": [(320, 1, 1)],
    "branch3x3": [(384, 1, 1), [(384, 1, 3), (384, 3, 1)]],
    "branch3x3dbl": [(448, 1, 1), (384, 3, 3), [(384, 1, 3), (384, 3, 1)]],
    "branch_pool": [(192, 1, 1)],
}
INCEPTION_V3_TO_17: Chains = {
    "branch3x3": [(384, 3, 3)],
    "branch3x3dbl": [(64, 1, 1), (96, 3, 3), (96, 3, 3)],
}
INCEPTION_V3_TO_8: Chains = {
    "branch3x3": [(192, 1, 1), (320, 3, 3)],
    "branch7x7x3": [(192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3)],
}


class InceptionV3Auxiliary(nn.Module):
    """A classifier on the last map of 17 x 17, batch-normalised, for training only.

    Shape: (N, C, H, W) -> (N, K), H and W at least 17.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv0 = _inception_v3_conv(in_channels, (128, 1, 1))
        # On a map of 5 x 5 this is a fully connected layer.
        self.conv1 = _inception_v3_conv(128, (768, 5, 5), same=False)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv0(F.avg_pool2d(x, 5, stride=3))  # (N, 128, 5, 5) at 17 x 17
        scores: Tensor = self.fc(self.conv1(y).mean(dim=(2, 3)))  # (N, K)
        return scores


class InceptionV3Outputs(NamedTuple):
    """What training returns, with torchvision's names."""

    logits: Tensor
    aux_logits: Tensor


class InceptionV3(nn.Module):
    """A stem of small convolutions, eleven modules on three grids, mean, linear layer.

    Args:
        num_classes: K, width of the output.
        aux_logits: have the auxiliary classifier (the published weights do).
        dropout: rate before the last layer.

    Shape: (N, 3, H, W) -> (N, K), H and W at least 75. In training with the auxiliary
    classifier at least 299, and `InceptionV3Outputs` of two such scores.
    Raises: ValueError for a size below 1 or an input of another shape.
    """

    def __init__(
        self, num_classes: int = 1000, aux_logits: bool = True, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"expected one class or more, got {num_classes=}")
        self.Conv2d_1a_3x3 = _inception_v3_conv(3, (32, 3, 3), stride=2, same=False)
        self.Conv2d_2a_3x3 = _inception_v3_conv(32, (32, 3, 3), same=False)
        self.Conv2d_2b_3x3 = _inception_v3_conv(32, (64, 3, 3))
        self.maxpool1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = _inception_v3_conv(64, (80, 1, 1))
        self.Conv2d_4a_3x3 = _inception_v3_conv(80, (192, 3, 3), same=False)
        self.maxpool2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = FactorisedInception(192, inception_v3_at_35(pool=32))
        self.Mixed_5c = FactorisedInception(256, inception_v3_at_35(pool=64))
        self.Mixed_5d = FactorisedInception(288, inception_v3_at_35(pool=64))
        self.Mixed_6a = FactorisedInception(288, INCEPTION_V3_TO_17, stride=2)
        self.Mixed_6b = FactorisedInception(768, inception_v3_at_17(width=128))
        self.Mixed_6c = FactorisedInception(768, inception_v3_at_17(width=160))
        self.Mixed_6d = FactorisedInception(768, inception_v3_at_17(width=160))
        self.Mixed_6e = FactorisedInception(768, inception_v3_at_17(width=192))
        self.AuxLogits = InceptionV3Auxiliary(768, num_classes) if aux_logits else None
        self.Mixed_7a = FactorisedInception(768, INCEPTION_V3_TO_8, stride=2)
        self.Mixed_7b = FactorisedInception(1280, INCEPTION_V3_AT_8)
        self.Mixed_7c = FactorisedInception(2048, INCEPTION_V3_AT_8)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, x: Tensor) -> Tensor | InceptionV3Outputs:
        least = 299 if self.training and self.AuxLogits is not None else 75
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] < least or x.shape[3] < least:
            why = ", 75 with aux_logits=False" if least == 299 else ""
            expected = f"(N, 3, H, W) with H and W of {least} or more{why}"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        # Sizes of an image of 299 x 299.
        x = self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))  # (N, 32, 147, 147)
        x = self.maxpool1(self.Conv2d_2b_3x3(x))  # (N, 64, 73, 73)
        x = self.maxpool2(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))  # (N, 192, 35, 35)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # (N, 288, 35, 35)
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        middle = self.Mixed_6e(self.Mixed_6d(x))  # (N, 768, 17, 17)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(middle)))  # (N, 2048, 8, 8)
        scores: Tensor = self.fc(self.dropout(x.mean(dim=(2, 3))))  # (N, K)
        if self.training and self.AuxLogits is not None:
            return InceptionV3Outputs(scores, self.AuxLogits(middle))
        return scores


def inception_v3(num_classes: int = 1000) -> InceptionV3:
    """torchvision's, with the auxiliary head."""
    return InceptionV3(num_classes)


# --8<-- [end:module]
