"""CBAM: gate the channels by what is in the image, then the places by where it is.

Source: Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018,
arXiv:1807.06521, section 3.
Legend: N images, C channels, H x W pixels, R squeeze channels, k kernel size.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
class CBAM(nn.Module):
    """Multiply by a gate per channel, then by a gate per place.

    Args:
        channels: C, number of input channels; the output has the same number.
        reduction: r of the paper; R = max(4, C // r). Four is what the paper's
            narrowest feature map (64 channels, r = 16) has.
        kernel_size: k of the convolution that makes the gate per place, odd.

    Shape: (N, C, H, W) -> (N, C, H, W), for any H and W.
    Parameters: 2 * C * R + 2 * k * k weights, 2 of the batch norm.
    Raises: ValueError for a size below 1, an even kernel, or an input of another shape.
    """

    def __init__(
        self, channels: int, reduction: int = 16, kernel_size: int = 7
    ) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"sizes below 1: {channels=}, {reduction=}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel size, got {kernel_size=}")
        squeeze_channels = max(4, channels // reduction)
        # On a 1x1 map, 1x1 convolutions are linear layers.
        self.fc1 = nn.Conv2d(channels, squeeze_channels, 1, bias=False)
        self.fc2 = nn.Conv2d(squeeze_channels, channels, 1, bias=False)
        padding = kernel_size // 2
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.fc1.in_channels:
            wanted = f"(N, {self.fc1.in_channels}, H, W)"
            raise ValueError(f"expected {wanted}, got {tuple(x.shape)}")
        mean = x.mean(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        peak = x.amax(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        mean = self.fc2(torch.relu(self.fc1(mean)))  # both through the same layers
        peak = self.fc2(torch.relu(self.fc1(peak)))  # (N, C, 1, 1)
        x = x * torch.sigmoid(mean + peak)  # (N, C, H, W)

        mean = x.mean(dim=1, keepdim=True)  # (N, 1, H, W)
        peak = x.amax(dim=1, keepdim=True)  # (N, 1, H, W)
        places = self.conv(torch.cat([mean, peak], dim=1))  # (N, 1, H, W)
        return x * torch.sigmoid(self.bn(places))  # (N, C, H, W)


# --8<-- [end:module]
