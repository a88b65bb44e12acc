"""Feature pyramid: maps of every scale, each of which knows what the coarsest knows.

Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017,
arXiv:1612.03144, section 3.
Legend: N images, C_l channels and H_l x W_l size of the backbone's map l, D channels of
every pyramid level.
"""

# --8<-- [start:imports]
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
class FeaturePyramidNetwork(nn.Module):
    """Add to each map the upsampled sum of the coarser ones, and smooth the result.

    Args:
        in_channels: C_l of each map, from the finest to the coarsest.
        out_channels: D, the width of every pyramid level (paper: 256).
        extra_blocks: makes coarser levels from the last map and the last level.

    Shape: maps (N, C_l, H_l, W_l), finest first -> levels (N, D, H_l, W_l), and extra.
    Parameters: C_l * D + D for each lateral, 9 * D * D + D for each smoothing.
    Raises: ValueError for a width below 1, or maps that do not fit in_channels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        extra_blocks: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not in_channels or min(*in_channels, out_channels) < 1:
            given = f"{in_channels=}, {out_channels=}"
            raise ValueError(f"need one map or more, of widths >= 1, got {given}")
        laterals = [nn.Conv2d(c, out_channels, 1) for c in in_channels]
        smooths = [
            nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels
        ]
        for conv in (*laterals, *smooths):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        # Each in a Sequential of its own: torchvision has keys inner_blocks.0.0.weight.
        self.inner_blocks = nn.ModuleList(nn.Sequential(conv) for conv in laterals)
        self.layer_blocks = nn.ModuleList(nn.Sequential(conv) for conv in smooths)
        self.extra_blocks = extra_blocks
        self.in_channels = tuple(in_channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        if len(maps) != len(self.in_channels):
            raise ValueError(f"expected {len(self.in_channels)} maps, got {len(maps)}")
        for c, width in zip(maps, self.in_channels, strict=True):
            if c.ndim != 4 or c.shape[1] != width:
                raise ValueError(f"expected (N, {width}, H, W), got {tuple(c.shape)}")
        # --8<-- [start:topdown]
        merged = [self.inner_blocks[-1](maps[-1])]  # the coarsest, (N, D, H_l, W_l)
        for lateral, c in zip(self.inner_blocks[-2::-1], maps[-2::-1], strict=True):
            upsampled = F.interpolate(merged[0], size=c.shape[-2:], mode="nearest")
            merged.insert(0, lateral(c) + upsampled)
        levels = [
            smooth(m) for smooth, m in zip(self.layer_blocks, merged, strict=True)
        ]
        # --8<-- [end:topdown]
        if self.extra_blocks is not None:
            levels.extend(self.extra_blocks(maps[-1], levels[-1]))
        return levels


class FeaturePyramidP6P7(nn.Module):
    """Two coarser levels by strided convolutions, as RetinaNet uses them.

    Args:
        in_channels: width of the map that is read: C5's, or D when P5 is read.
        out_channels: D, the pyramid's width.
        from_c5: read C5, as RetinaNet's paper does; else P5, as torchvision's weights.

    Shape: C5 (N, C_5, H, W), P5 (N, D, H, W) -> P6 and P7 at 1/2 and 1/4, rounded up.
    """

    def __init__(
        self, in_channels: int, out_channels: int, from_c5: bool = False
    ) -> None:
        super().__init__()
        if not from_c5 and in_channels != out_channels:
            given = f"{in_channels=}, {out_channels=}"
            raise ValueError(f"P5 has the pyramid's width, both must be equal: {given}")
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        for conv in (self.p6, self.p7):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.from_c5 = from_c5

    def forward(self, c5: Tensor, p5: Tensor) -> list[Tensor]:
        p6 = self.p6(c5 if self.from_c5 else p5)
        return [p6, self.p7(torch.relu(p6))]


class FeaturePyramidPool(nn.Module):
    """One coarser level: every second pixel of P5, as region proposals use it."""

    def forward(self, c5: Tensor, p5: Tensor) -> list[Tensor]:
        return [p5[:, :, ::2, ::2]]


# --8<-- [end:module]
