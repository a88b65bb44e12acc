"""Efficient channel attention: gate each channel by the means of its neighbours.

Source: Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural
Networks", CVPR 2020, arXiv:1910.03151, section 3.
Legend: N images, C channels, H x W pixels, k neighbours that decide about a channel.
"""

# --8<-- [start:imports]
import math

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
def eca_kernel_size(channels: int, gamma: float = 2, b: float = 1) -> int:
    """The odd number nearest to (log2(C) + b) / gamma, of two the larger.

    Raises: ValueError for channels below 1 or gamma not above 0.
    """
    if channels < 1 or gamma <= 0:
        raise ValueError(f"expected C of 1 or more, gamma > 0: {channels=}, {gamma=}")
    t = int(abs((math.log2(channels) + b) / gamma))
    return t if t % 2 else t + 1


class EfficientChannelAttention(nn.Module):
    """Multiply every channel by a gate that sees the means of the k nearest channels.

    Args:
        channels: C, number of input channels; the output has the same number.
        kernel_size: k, odd; None: `eca_kernel_size(channels)`, the paper's.

    Shape: (N, C, H, W) -> (N, C, H, W), for any H and W.
    Parameters: k weights.
    Raises: ValueError for channels below 1, an even k, or an input of another shape.
    """

    def __init__(self, channels: int, kernel_size: int | None = None) -> None:
        super().__init__()
        k = eca_kernel_size(channels) if kernel_size is None else kernel_size
        if channels < 1 or k < 1 or k % 2 == 0:
            got = f"{channels=}, {kernel_size=}"
            raise ValueError(f"expected C of 1 or more and an odd kernel, got {got}")
        self.channels = channels
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels:
            wanted = f"(N, {self.channels}, H, W)"
            raise ValueError(f"expected {wanted}, got {tuple(x.shape)}")
        y = x.mean(dim=(2, 3))  # (N, C)
        # A signal of one channel and C places.
        w = torch.sigmoid(self.conv(y.unsqueeze(1)))  # (N, 1, C)
        return x * w.transpose(1, 2).unsqueeze(3)  # (N, C, H, W)


# --8<-- [end:module]
