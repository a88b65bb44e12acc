"""Squeeze-and-Excitation: let the whole image decide how loud each channel is.

Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507,
section 3.
Legend: N images, C channels, H x W pixels, R = C / r squeeze channels.
"""

# --8<-- [start:imports]
from collections.abc import Callable

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
class SqueezeExcitation(nn.Module):
    """Multiply every channel by a gate that sees all channels.

    Args:
        channels: C, number of input channels; the output has the same number.
        squeeze_channels: R, width of the bottleneck (paper: C // 16).
        activation: makes the non-linearity inside the bottleneck.
        gate: makes what squashes to (0, 1) (paper: sigmoid; MobileNetV3: hard sigmoid).

    Shape: (N, C, H, W) -> (N, C, H, W), for any H and W.
    Parameters: 2 * C * R weights, R + C biases.
    Raises: ValueError for a width below 1, or an input of another shape.
    """

    def __init__(
        self,
        channels: int,
        squeeze_channels: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        if channels < 1 or squeeze_channels < 1:
            raise ValueError(f"widths below 1: {channels=}, {squeeze_channels=}")
        # On a 1x1 map, 1x1 convolutions are linear layers, in torchvision's shapes.
        self.fc1 = nn.Conv2d(channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, channels, 1)
        self.activation = activation()
        self.gate = gate()

    def forward(self, u: Tensor) -> Tensor:
        if u.ndim != 4 or u.shape[1] != self.fc1.in_channels:
            wanted = f"(N, {self.fc1.in_channels}, H, W)"
            raise ValueError(f"expected {wanted}, got {tuple(u.shape)}")
        z = torch.mean(u, dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        s = self.activation(self.fc1(z))  # (N, R, 1, 1)
        s = self.gate(self.fc2(s))  # (N, C, 1, 1)
        return u * s  # (N, C, H, W)


# --8<-- [end:module]
