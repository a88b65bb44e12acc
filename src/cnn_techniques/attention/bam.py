"""BAM: at the end of a stage, one gate for every channel at every place.

Source: Park et al., "BAM: Bottleneck Attention Module", BMVC 2018, arXiv:1807.06514,
section 3.
Legend: N images, C channels, H x W pixels, R squeeze channels, d dilation.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
def _bam_hidden(
    in_channels: int, channels: int, kernel: int = 1, dilation: int = 1
) -> nn.Module:
    """A hidden layer: convolution, batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(
            in_channels, channels, kernel, 1, padding, dilation=dilation, bias=False
        ),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class BAM(nn.Module):
    """Add to the input what one gate per channel and place lets through of it.

    Args:
        channels: C, number of input channels; the output has the same number.
        reduction: r of the paper; R = max(4, C // r). Four is what 64 channels have
            at the paper's r of 16.
        dilation: d of the two 3x3 convolutions of the spatial branch.

    Shape: (N, C, H, W) -> (N, C, H, W), for any H and W. In training N > 1: the batch
    norms of the channel branch see one number per image and channel.
    Parameters: 3 * C * R + 18 * R * R + R weights, 2 * C + 8 * R + 2 of batch norms.
    Raises: ValueError for a size below 1, or an input of another shape.
    """

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4) -> None:
        super().__init__()
        if min(channels, reduction, dilation) < 1:
            sizes = f"{channels=}, {reduction=}, {dilation=}"
            raise ValueError(f"sizes must be at least 1, got {sizes}")
        self.channels = channels
        squeezed = max(4, channels // reduction)
        # A batch norm follows every convolution and would cancel a bias.
        self.channel = nn.Sequential(
            _bam_hidden(channels, squeezed),
            nn.Conv2d(squeezed, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.spatial = nn.Sequential(
            _bam_hidden(channels, squeezed),
            _bam_hidden(squeezed, squeezed, 3, dilation),
            _bam_hidden(squeezed, squeezed, 3, dilation),
            nn.Conv2d(squeezed, 1, 1, bias=False),
            nn.BatchNorm2d(1),
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels:
            wanted = f"(N, {self.channels}, H, W)"
            raise ValueError(f"expected {wanted}, got {tuple(x.shape)}")
        channel = self.channel(x.mean(dim=(2, 3), keepdim=True))  # (N, C, 1, 1)
        spatial = self.spatial(x)  # (N, 1, H, W)
        m = torch.sigmoid(channel + spatial)  # (N, C, H, W)
        return x + x * m


# --8<-- [end:module]
