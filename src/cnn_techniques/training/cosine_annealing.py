"""Cosine annealing: a rate that falls along half a cosine, once or with restarts.

Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
ICLR 2017, arXiv:1608.03983, section 3, equation (5).
Legend: T_i the steps of run i, T_cur those since it began, eta a learning rate.
"""

# --8<-- [start:imports]
import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

# --8<-- [end:imports]


# --8<-- [start:module]
def cosine_rate(
    eta_max: float | Tensor, eta_min: float, T_cur: int, T_i: int
) -> float | Tensor:
    """The rate after T_cur of T_i steps, from eta_max down to eta_min (equation 5)."""
    # --8<-- [start:rate]
    return eta_min + (eta_max - eta_min) * (1 + math.cos(math.pi * T_cur / T_i)) / 2
    # --8<-- [end:rate]


class _CosineSchedule(LRScheduler):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; torch would take the state of any schedule."""
        settings = {name for name in self.state_dict() if not name.startswith("_")}
        groups = len(state_dict.get("base_lrs", []))
        if not settings <= state_dict.keys() or groups != len(self.base_lrs):
            raise ValueError(
                f"expected a state of {len(self.base_lrs)} groups with "
                f"{sorted(settings)}, got {groups} groups with {sorted(state_dict)}"
            )
        super().load_state_dict(state_dict)


class CosineAnnealing(_CosineSchedule):
    """Half a cosine from each group's rate down to eta_min.

    Args:
        optimizer: whose rates are set; call `step()` once after each of its steps.
        T_max: after how many steps the rate is eta_min; past it the rate rises again.
        eta_min: the last rate, the same for all groups.

    State dicts can be exchanged with torch's CosineAnnealingLR.
    Raises: ValueError for fewer than 1 step, a rate below 0, a state of another kind.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, T_max: int, eta_min: float = 0.0
    ) -> None:
        if not (T_max >= 1 and 0 <= eta_min < math.inf):
            raise ValueError(
                f"expected T_max >= 1 and eta_min >= 0, got {T_max=}, {eta_min=}"
            )
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)  # sets the first rate

    def get_lr(self) -> list[float | Tensor]:
        T_cur = self.last_epoch  # torch's name; it counts calls of `step`
        return [cosine_rate(b, self.eta_min, T_cur, self.T_max) for b in self.base_lrs]


class CosineWarmRestarts(_CosineSchedule):
    """Cosine annealing that starts again at the full rate, each time for longer.

    Args:
        optimizer: whose rates are set; call `step()` once after each of its steps.
        T_0: how many steps the first run has.
        T_mult: how many times as long each run is as the one before.
        eta_min: the rate at the end of a run, the same for all groups.

    State dicts can be exchanged with torch's CosineAnnealingWarmRestarts.
    Raises: ValueError for fewer than 1 step, a factor that is not 1, 2, 3, ..., a rate
        below 0, a state of another kind.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
    ) -> None:
        if not (T_0 >= 1 and T_mult in range(1, 1000) and 0 <= eta_min < math.inf):
            raise ValueError(
                "expected T_0 >= 1, T_mult of 1, 2, 3, ... and eta_min >= 0, "
                f"got {T_0=}, {T_mult=}, {eta_min=}"
            )
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        # --8<-- [start:restart]
        self.T_cur, self.T_i = self.last_epoch, self.T_0
        while self.T_cur >= self.T_i:  # that run is over
            self.T_cur -= self.T_i
            self.T_i *= self.T_mult
        # --8<-- [end:restart]
        T_cur, T_i = self.T_cur, self.T_i
        return [cosine_rate(b, self.eta_min, T_cur, T_i) for b in self.base_lrs]


# --8<-- [end:module]
