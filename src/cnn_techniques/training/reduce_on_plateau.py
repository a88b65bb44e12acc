"""Reduce on plateau: the rate falls when a measure has not got better for a while.

Source: the rule of Krizhevsky et al., "ImageNet Classification with Deep Convolutional
Neural Networks", NeurIPS 2012, section 5, there carried out by hand; the settings are
those of torch.optim.lr_scheduler.
Legend: m the measure, b the best one so far.
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:module]
class ReduceOnPlateau:
    """Multiplies the rates by factor after more than `patience` steps without a gain.

    Args:
        optimizer: whose rates are lowered; call `step(measure)` once per evaluation.
        mode: "min" for a measure that shall fall, "max" for one that shall rise.
        factor: in (0, 1).
        patience: how many steps without a gain are accepted.
        threshold: a gain is more than this part of the best ("rel"), or more than this
            difference ("abs"); 0 or above.
        threshold_mode: "rel" or "abs"; "rel" is for measures above 0.
        cooldown: steps after a reduction that are not counted.
        min_lr: no rate falls below it; one number, or one for each group.
        eps: a reduction by this or less is not made.

    State dicts can be exchanged with torch's ReduceLROnPlateau.
    Raises: ValueError for values outside these ranges, a measure that is NaN, a state
        of another kind.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        groups = len(optimizer.param_groups)
        min_lrs = [*min_lr] if isinstance(min_lr, Sequence) else [min_lr] * groups
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ValueError(
                'expected mode "min" or "max" and threshold_mode "rel" or "abs", '
                f"got {mode=}, {threshold_mode=}"
            )
        if not (0 < factor < 1 and patience >= 0 and cooldown >= 0):
            raise ValueError(
                "expected factor in (0, 1), patience >= 0 and cooldown >= 0, "
                f"got {factor=}, {patience=}, {cooldown=}"
            )
        if not (0 <= threshold < math.inf and 0 <= eps < math.inf):
            raise ValueError(
                f"expected threshold >= 0 and eps >= 0, got {threshold=}, {eps=}"
            )
        if len(min_lrs) != groups or not all(0 <= low < math.inf for low in min_lrs):
            raise ValueError(
                f"expected a min_lr of at least 0, or {groups} of them, got {min_lr=}"
            )
        self.optimizer = optimizer
        self.mode, self.factor, self.patience = mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.min_lrs, self.eps = cooldown, min_lrs, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0

    def better(self, m: float) -> bool:
        """Whether the measure m is a gain over the best one so far."""
        # --8<-- [start:better]
        b, sign = self.best, 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            bar = b * (1 + sign * self.threshold)
        else:
            bar = b + sign * self.threshold
        return m > bar if self.mode == "max" else m < bar
        # --8<-- [end:better]

    def step(self, measure: float | Tensor) -> None:
        """Look at the newest measure, and lower the rates if it is time."""
        m = float(measure)
        if math.isnan(m):
            raise ValueError(f"expected a measure that is a number, got {measure}")
        self.last_epoch += 1
        # --8<-- [start:count]
        if self.better(m):
            self.best, self.num_bad_epochs = m, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self.reduce()
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        # --8<-- [end:count]

    def reduce(self) -> None:
        """Lower the rate of every group."""
        for group, low in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
            # --8<-- [start:reduce]
            lr = max(float(group["lr"]) * self.factor, low)
            # --8<-- [end:reduce]
            if float(group["lr"]) - lr > self.eps:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(lr)
                else:
                    group["lr"] = lr

    def get_last_lr(self) -> list[float]:
        """The rates as they are."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer, under torch's names."""
        return {name: v for name, v in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; the rates themselves are in the optimizer's."""
        mine, groups = self.state_dict(), len(state_dict.get("min_lrs", []))
        if not mine.keys() <= state_dict.keys() or groups != len(self.min_lrs):
            raise ValueError(
                f"expected a state of {len(self.min_lrs)} groups with {sorted(mine)}, "
                f"got {groups} groups with {sorted(state_dict)}"
            )
        vars(self).update({name: state_dict[name] for name in mine})


# --8<-- [end:module]
