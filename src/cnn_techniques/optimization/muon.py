"""Muon: TODO the idea in one sentence.

Source: TODO authors, "title", venue year, arXiv:id, algorithm.
Legend: p a parameter, g its gradient, of any shape.
"""

# --8<-- [start:imports]
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:module]
class Muon(torch.optim.Optimizer):
    """TODO what it does.

    Args:
        params: parameters or groups of them.
        lr: length of a step.

    Raises: ValueError for a negative rate.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-2) -> None:
        if lr < 0:
            raise ValueError(f"expected a rate of 0 or more, got {lr=}")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr = group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad
                # --8<-- [start:step]
                p -= lr * g  # TODO the steps
                # --8<-- [end:step]
        return loss


# --8<-- [end:module]
