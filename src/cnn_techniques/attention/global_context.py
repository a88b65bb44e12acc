"""Global context: one attention map for all places, and its result added to each.

Source: Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and
Beyond", ICCV Workshops 2019, arXiv:1904.11492 (the global context block).
Legend: N images, C channels, H x W pixels, R = C / r squeeze channels.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
class GlobalContext(nn.Module):
    """Average the places by learned weights; add what a bottleneck makes of the mean.

    The last convolution starts at zero, so that a new block is the identity.

    Args:
        channels: C, number of input channels; the output has the same number.
        squeeze_channels: R, width of the bottleneck (published networks: C // 16 or
            C // 4), at least 2: a norm over one entry is the same for every input.

    Shape: (N, C, H, W) -> (N, C, H, W), for any H and W.
    Parameters: 2 * C * R + C weights, R + C + 1 biases, 2 * R of the norm.
    Raises: ValueError for widths too small, or an input of another shape.
    """

    def __init__(self, channels: int, squeeze_channels: int) -> None:
        super().__init__()
        if channels < 1 or squeeze_channels < 2:
            told = f"{channels=}, {squeeze_channels=}"
            raise ValueError(f"expected widths of at least 1 and 2, got {told}")
        self.w_k = nn.Conv2d(channels, 1, 1)
        self.w_v1 = nn.Conv2d(channels, squeeze_channels, 1)
        self.norm = nn.LayerNorm(squeeze_channels)
        self.w_v2 = nn.Conv2d(squeeze_channels, channels, 1)
        for parameter in self.w_v2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.w_k.in_channels:
            wanted = f"(N, {self.w_k.in_channels}, H, W)"
            raise ValueError(f"expected {wanted}, got {tuple(x.shape)}")
        weights = torch.softmax(self.w_k(x).flatten(2), dim=2)  # (N, 1, H*W)
        context = x.flatten(2) @ weights.transpose(1, 2)  # (N, C, 1)
        squeezed = self.norm(self.w_v1(context.unsqueeze(3)).flatten(1))  # (N, R)
        added = self.w_v2(torch.relu(squeezed)[:, :, None, None])  # (N, C, 1, 1)
        return x + added  # (N, C, H, W)


# --8<-- [end:module]
