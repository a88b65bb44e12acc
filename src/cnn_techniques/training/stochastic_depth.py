"""Stochastic depth: in training, residual branches are left out at random.

Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016,
arXiv:1603.09382, section 3.
Legend: N images, L blocks, p_l the probability that the branch of block l survives,
b_l whether it does.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
class StochasticDepth(nn.Module):
    """The last layer of a residual branch, which in training drops it now and then.

    Args:
        p: probability that the branch is dropped, 1 - p_l in the paper; below 1.
        per_image: decide for each image of the batch; False: once for the batch.

    Shape: (N, ...) -> (N, ...). In evaluation the input itself is returned.
    Raises: ValueError for a p outside [0, 1).
    """

    def __init__(self, p: float, per_image: bool = True) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"expected 0 <= p < 1, got {p=}")
        self.p, self.per_image = p, per_image

    def forward(self, f: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return f
        # --8<-- [start:draw]
        survival = 1 - self.p
        shape = len(f) if self.per_image else 1, *[1] * (f.ndim - 1)  # (N or 1, 1, ...)
        b = torch.empty(shape, dtype=f.dtype, device=f.device).bernoulli_(survival)
        # --8<-- [end:draw]
        # --8<-- [start:drop]
        return f * (b / survival)  # (N, ...): zero, or larger, so that the mean stays
        # --8<-- [end:drop]

    def extra_repr(self) -> str:
        return f"p={self.p}, per_image={self.per_image}"


def linear_drop_rates(blocks: int, last: float) -> list[float]:
    """Drop probabilities of blocks 1 to L that grow evenly to `last`.

    Args:
        blocks: L, one or more.
        last: of the last block, 1 - p_L in the paper, whose p_L is 0.5; below 1.

    Raises: ValueError for fewer blocks, or a `last` outside [0, 1).
    """
    if not (blocks >= 1 and 0 <= last < 1):
        raise ValueError(f"expected blocks >= 1, 0 <= last < 1, got {blocks=}, {last=}")
    # --8<-- [start:rates]
    return [block / blocks * last for block in range(1, blocks + 1)]
    # --8<-- [end:rates]


# --8<-- [end:module]
