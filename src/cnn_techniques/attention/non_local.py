"""Non-local block: every place of a map reads from all places.

Source: Wang et al., "Non-local Neural Networks", CVPR 2018, arXiv:1711.07971,
sections 3.1 to 3.3 and 4.1 (embedded Gaussian).
Legend: N images, C channels, H x W pixels, D channels of the embeddings,
L = H * W places that read, S places that are read.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
class NonLocal(nn.Module):
    """Add to every place a mean over all places, weighted by likeness.

    The last norm starts at zero, so that a new block is the identity.

    Args:
        channels: C, number of input channels; the output has the same number.
        inner_channels: D, width of the three embeddings (paper: C // 2).
        subsample: let the places that are read be maxima over 2 x 2 pixels,
            which costs a quarter of the products.

    Shape: (N, C, H, W) -> (N, C, H, W), for any H and W.
    Parameters: 4 * C * D weights, 3 * D + C biases, 2 * C of the norm.
    Raises: ValueError for a width below 1, or an input of another shape.
    """

    def __init__(
        self, channels: int, inner_channels: int, subsample: bool = False
    ) -> None:
        super().__init__()
        if channels < 1 or inner_channels < 1:
            raise ValueError(f"widths below 1: {channels=}, {inner_channels=}")
        self.theta = nn.Conv2d(channels, inner_channels, 1)
        self.phi = nn.Conv2d(channels, inner_channels, 1)
        self.g = nn.Conv2d(channels, inner_channels, 1)
        self.w_z = nn.Conv2d(inner_channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn.weight)
        # ceil_mode keeps the last row and column of a map of odd size.
        pool = nn.MaxPool2d(2, ceil_mode=True)
        self.pool = pool if subsample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.theta.in_channels:
            wanted = f"(N, {self.theta.in_channels}, H, W)"
            raise ValueError(f"expected {wanted}, got {tuple(x.shape)}")
        theta = self.theta(x).flatten(2)  # (N, D, L)
        phi = self.pool(self.phi(x)).flatten(2)  # (N, D, S)
        g = self.pool(self.g(x)).flatten(2)  # (N, D, S)
        weights = torch.softmax(theta.transpose(1, 2) @ phi, dim=2)  # (N, L, S)
        y = (weights @ g.transpose(1, 2)).transpose(1, 2)  # (N, D, L)
        z: Tensor = self.bn(self.w_z(y.unflatten(2, x.shape[2:]))) + x  # (N, C, H, W)
        return z


# --8<-- [end:module]
