"""Selective kernel: convolve at several dilations, and mix per image and channel.

Source: Li et al., "Selective Kernel Networks", CVPR 2019, arXiv:1903.06586,
the section on the convolution.
Legend: N images, C channels, H x W pixels, M paths, s stride, d channels of the
descriptor z.
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
class SelectiveKernel(nn.Module):
    """Replace a 3x3 convolution by M of them, weighted by a softmax over the paths.

    Args:
        channels: C, number of input channels; the output has the same number.
        stride: s of every path.
        groups: G of every path; None: 32, or the largest divisor of 32 that divides C.
        dilations: of the M paths; a 3x3 kernel at dilation D spans 2 * D + 1 pixels.
        reduction: r; z has max(C // r, min_width) channels.
        min_width: L in the paper.

    Shape: (N, C, H, W) -> (N, C, H / s, W / s), rounded up. In training N > 1: the
    batch norm after z sees one place per image.
    Parameters: M * (9 * C * C / G + 2 * C) of the paths, (M + 1) * C * d + 2 * d.
    Raises: ValueError for a size below 1, no dilation, groups that do not divide C,
        or an input of another shape.
    """

    def __init__(
        self,
        channels: int,
        stride: int = 1,
        groups: int | None = None,
        dilations: Sequence[int] = (1, 2),
        reduction: int = 16,
        min_width: int = 32,
    ) -> None:
        super().__init__()
        if min(channels, stride, reduction, min_width, *dilations) < 1:
            sizes = f"{channels=}, {stride=}, {dilations=}, {reduction=}, {min_width=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        if not dilations:
            raise ValueError(f"expected a dilation or more, got {dilations=}")
        groups = math.gcd(channels, 32) if groups is None else groups
        if groups < 1 or channels % groups:
            raise ValueError(f"groups must divide the channels: {channels=}, {groups=}")
        self.channels = channels
        self.paths = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(
                    channels,
                    channels,
                    3,
                    stride,
                    padding=dilation,
                    dilation=dilation,
                    groups=groups,
                    bias=False,
                ),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            )
            for dilation in dilations
        )
        width = max(channels // reduction, min_width)
        # On a 1x1 map, 1x1 convolutions are linear layers.
        self.fuse = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.select = nn.Conv2d(width, len(dilations) * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels:
            wanted = f"(N, {self.channels}, H, W)"
            raise ValueError(f"expected {wanted}, got {tuple(x.shape)}")
        paths = torch.stack([path(x) for path in self.paths], 1)  # (N, M, C, H/s, W/s)
        s = paths.sum(dim=1).mean(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        z = self.fuse(s)  # (N, d, 1, 1)
        logits = self.select(z).unflatten(1, (-1, self.channels))  # (N, M, C, 1, 1)
        return (paths * logits.softmax(dim=1)).sum(dim=1)  # (N, C, H/s, W/s)


# --8<-- [end:module]
