"""Group and layer normalisation: statistics of one image alone, whatever the batch.

Source: Wu and He, "Group Normalization", ECCV 2018, arXiv:1803.08494, section 3.1,
equations (1), (2), (6) and (7); Ba, Kiros and Hinton, "Layer Normalization",
arXiv:1607.06450, equation (3).
Legend: N images, C channels, G groups of C / G channels, H x W pixels.
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
def _normalised(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """With mean 0 and variance 1 over `dims`: equations (1) and (2)."""
    # --8<-- [start:normalise]
    mu = x.mean(dim=dims, keepdim=True)
    sigma = ((x - mu).square().mean(dim=dims, keepdim=True) + eps).sqrt()
    return (x - mu) / sigma
    # --8<-- [end:normalise]


class GroupNorm(nn.Module):
    """Normalises each group of neighbouring channels of each image, over all places.

    One group is layer norm (Wu and He, equation 4), C groups are instance norm (5).

    Args:
        num_groups: G, a divisor of C (paper: 32).
        num_channels: C.
        eps: keeps the division finite.
        affine: learn a scale (weight) and a shift (bias) per channel.

    Shape: (N, C, ...) -> (N, C, ...), any number of places.
    Raises: ValueError for groups that do not divide C, eps of 0 or less, or an input
        of another shape.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels < 1 or num_channels % num_groups:
            raise ValueError(
                f"expected groups that divide the channels, got {num_groups=}, "
                f"{num_channels=}"
            )
        _check_norm_eps(eps)
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            expected = f"(N, {self.num_channels}, ...)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        # --8<-- [start:groups]
        groups = x.reshape(x.shape[0], self.num_groups, -1)  # (N, G, C/G * H * W)
        x_hat = _normalised(groups, (2,), self.eps).view(x.shape)
        # --8<-- [end:groups]
        if self.weight is None or self.bias is None:
            return x_hat
        gamma, beta = (
            p.view(-1, *[1] * (x.ndim - 2)) for p in (self.weight, self.bias)
        )
        return gamma * x_hat + beta


class LayerNorm(nn.Module):
    """Normalises over the last dimensions: each token, or each image, by itself.

    Args:
        normalized_shape: sizes of the last dimensions, which are normalised together.
        eps: keeps the division finite.
        elementwise_affine: learn a scale (weight) and a shift (bias) per entry of them.

    Shape: (..., *normalized_shape) -> the same.
    Raises: ValueError for sizes below 1, eps of 0 or less, or an input of another
        shape.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
    ) -> None:
        super().__init__()
        sizes = [normalized_shape] if isinstance(normalized_shape, int) else None
        shape = tuple(sizes or normalized_shape)  # type: ignore[arg-type]
        if not shape or min(shape) < 1:
            raise ValueError(f"expected sizes of 1 or more, got {normalized_shape=}")
        _check_norm_eps(eps)
        self.normalized_shape, self.eps = shape, eps
        learns = elementwise_affine
        self.weight = nn.Parameter(torch.ones(shape)) if learns else None
        self.bias = nn.Parameter(torch.zeros(shape)) if learns else None

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.normalized_shape)
        if x.shape[-last:] != self.normalized_shape:
            expected = f"(..., {', '.join(map(str, self.normalized_shape))})"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        # --8<-- [start:layer]
        x_hat = _normalised(x, tuple(range(-last, 0)), self.eps)
        # --8<-- [end:layer]
        if self.weight is None or self.bias is None:
            return x_hat
        return self.weight * x_hat + self.bias


class LayerNorm2d(LayerNorm):
    """Layer norm over the channels of each place, as in ConvNeXt.

    Args:
        normalized_shape: C.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Raises: as `LayerNorm`.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or (x.shape[1],) != self.normalized_shape:
            expected = f"(N, {self.normalized_shape[0]}, H, W)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        # --8<-- [start:places]
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        # --8<-- [end:places]


def _check_norm_eps(eps: float) -> None:
    if not 0 < eps < math.inf:
        raise ValueError(f"expected eps above 0, got {eps=}")


# --8<-- [end:module]
