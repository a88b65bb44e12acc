"""Coordinate attention: a gate per channel and row times a gate per channel and column.

Source: Hou et al., "Coordinate Attention for Efficient Mobile Network Design",
CVPR 2021, arXiv:2103.02907, the section on the block.
Legend: N images, C channels, H x W pixels, R = C / r squeeze channels.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
class CoordinateAttention(nn.Module):
    """Gate rows and columns by what their means, seen together, say.

    Args:
        channels: C, number of input channels; the output has the same number.
        reduction: r; R = max(8, C // r), as in the authors' code.

    Shape: (N, C, H, W) -> (N, C, H, W), for any H and W.
    Parameters: 3 * C * R weights, R + 2 * C biases, 2 * R of the norm.
    Raises: ValueError for a size below 1, or an input of another shape.
    """

    def __init__(self, channels: int, reduction: int = 32) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"sizes must be at least 1, got {channels=}, {reduction=}")
        squeezed = max(8, channels // reduction)
        # The norm takes this bias out again; the authors' weights have it.
        self.conv1 = nn.Conv2d(channels, squeezed, 1)
        self.bn1 = nn.BatchNorm2d(squeezed)
        self.activation = nn.Hardswish()
        self.conv_h = nn.Conv2d(squeezed, channels, 1)
        self.conv_w = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.conv1.in_channels:
            wanted = f"(N, {self.conv1.in_channels}, H, W)"
            raise ValueError(f"expected {wanted}, got {tuple(x.shape)}")
        height, width = x.shape[2:]
        rows = x.mean(dim=3, keepdim=True)  # (N, C, H, 1)
        columns = x.mean(dim=2, keepdim=True).transpose(2, 3)  # (N, C, W, 1)
        f = self.conv1(torch.cat([rows, columns], dim=2))  # (N, R, H + W, 1)
        f = self.activation(self.bn1(f))
        f_h, f_w = f.split([height, width], dim=2)  # (N, R, H, 1), (N, R, W, 1)
        g_h = torch.sigmoid(self.conv_h(f_h))  # (N, C, H, 1)
        g_w = torch.sigmoid(self.conv_w(f_w.transpose(2, 3)))  # (N, C, 1, W)
        return x * (g_h * g_w)  # (N, C, H, W)


# --8<-- [end:module]
