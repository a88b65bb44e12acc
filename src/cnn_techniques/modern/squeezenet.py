"""SqueezeNet: one sentence of the idea.

Source: authors, "title", venue year, arXiv:id, section.
Legend: N images, C channels, H x W pixels.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
class SqueezeNet(nn.Module):
    """What it does.

    Args:
        channels: C, number of input channels.

    Shape: (N, C, H, W) -> (N, C, H, W), for any H and W.
    Raises: ValueError for a width below 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"widths must be at least 1, got {channels=}")

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


# --8<-- [end:module]
