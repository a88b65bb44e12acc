"""Batch normalisation: each channel with mean 0 and deviation 1 over the batch.

Source: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by
Reducing Internal Covariate Shift", ICML 2015, arXiv:1502.03167, algorithms 1 and 2,
the gradients of section 3, and section 3.2 for feature maps.
Legend: N images, C channels, H x W pixels, m = N * H * W values per channel.
"""

# --8<-- [start:imports]
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# --8<-- [end:imports]


# --8<-- [start:module]
class _BatchNormTraining(torch.autograd.Function):
    """Algorithm 1, and its gradients by hand: they need x and two numbers per channel.

    Shape: x (N, C, H, W), gamma and beta (C,) -> y as x, mu and var (1, C, 1, 1).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        gamma, beta = gamma.view(-1, 1, 1), beta.view(-1, 1, 1)  # (C, 1, 1)
        # --8<-- [start:forward]
        mu = x.mean(dim=(0, 2, 3), keepdim=True)  # (1, C, 1, 1)
        var = (x - mu).square().mean(dim=(0, 2, 3), keepdim=True)
        x_hat = (x - mu) / (var + eps).sqrt()  # (N, C, H, W)
        y = gamma * x_hat + beta
        # --8<-- [end:forward]
        ctx.save_for_backward(x, gamma, mu, (var + eps).rsqrt())
        ctx.mark_non_differentiable(mu, var)
        return y, mu, var

    @staticmethod
    @once_differentiable  # a second derivative is refused, it would be wrong
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, mu, inverse = ctx.saved_tensors  # inverse is 1 / sqrt(var + eps)
        over, m = (0, 2, 3), x.numel() // x.shape[1]
        # --8<-- [start:parameters]
        x_hat = (x - mu) * inverse
        dgamma = (dy * x_hat).sum(over)  # (C,)
        dbeta = dy.sum(over)
        # --8<-- [end:parameters]
        # --8<-- [start:backward]
        dx_hat = dy * gamma  # (N, C, H, W)
        dvar = (dx_hat * (x - mu)).sum(over, keepdim=True) * -(inverse**3) / 2
        dmu = -(dx_hat * inverse).sum(over, keepdim=True)  # x - mu adds up to 0
        dx = dx_hat * inverse + dvar * 2 * (x - mu) / m + dmu / m
        # --8<-- [end:backward]
        return dx, dgamma, dbeta, None


class BatchNorm2d(nn.Module):
    """Normalises each channel over batch, height and width, then scales and shifts it.

    In training by the batch's own mean and variance, of which running averages are
    kept; in evaluation by these averages, so that no image depends on another.

    Args:
        num_features: C.
        eps: keeps the division finite.
        momentum: weight of the newest batch in the running averages; None: all batches
            weigh the same.
        affine: learn a scale (weight) and a shift (bias) per channel.
        track_running_stats: keep the averages; else evaluation uses the batch too.

    Parameters, buffers and their names are those of torch's BatchNorm2d. Statistics are
    computed in the precision of the input.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Raises: ValueError for a value out of range, an input of another shape, or a batch
        of one value per channel in training; RuntimeError for a second derivative.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        if num_features < 1 or not 0 < eps < math.inf:
            raise ValueError(
                "expected 1 channel or more and eps above 0, "
                f"got {num_features=}, {eps=}"
            )
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"expected momentum from 0 to 1 or None, got {momentum=}")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        one, zero = torch.ones(num_features), torch.zeros(num_features)
        self.weight = nn.Parameter(one) if affine else None  # gamma
        self.bias = nn.Parameter(zero) if affine else None  # beta
        tracked = track_running_stats
        self.register_buffer("running_mean", zero.clone() if tracked else None)
        self.register_buffer("running_var", one.clone() if tracked else None)
        count = torch.tensor(0) if tracked else None
        self.register_buffer("num_batches_tracked", count)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.num_features:
            expected = f"(N, {self.num_features}, H, W)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        gamma = x.new_ones(self.num_features) if self.weight is None else self.weight
        beta = x.new_zeros(self.num_features) if self.bias is None else self.bias
        if not self.training and self.running_mean is not None:
            return self._with_running_averages(x, gamma, beta)
        if self.training and x.numel() == self.num_features:
            raise ValueError(
                f"expected 2 values or more per channel, got {tuple(x.shape)}"
            )
        y, mu, var = _BatchNormTraining.apply(x, gamma, beta, self.eps)
        if self.training and self.running_mean is not None:
            self._update(mu.flatten(), var.flatten(), x.numel() // self.num_features)
        return y

    def _with_running_averages(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        # --8<-- [start:evaluation]
        scale = gamma / (self.running_var + self.eps).sqrt()  # (C,)
        shift = beta - scale * self.running_mean
        return scale.view(-1, 1, 1) * x + shift.view(-1, 1, 1)
        # --8<-- [end:evaluation]

    @torch.no_grad()
    def _update(self, mu: Tensor, var: Tensor, m: int) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        alpha = self.momentum
        if alpha is None:  # the mean of all batches so far
            alpha = 1 / int(self.num_batches_tracked)
        # --8<-- [start:running]
        self.running_mean.mul_(1 - alpha).add_(alpha * mu)
        self.running_var.mul_(1 - alpha).add_(alpha * var * m / (m - 1))
        # --8<-- [end:running]


# --8<-- [end:module]
