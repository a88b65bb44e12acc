"""Linear warm-up: a rate that rises in equal steps, before any other schedule begins.

Source: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
2017, arXiv:1706.02677, section 2.2 (gradual warmup).
Legend: t the calls of `step` so far, n those of the warm-up, s the part of the full
rate at which it starts, eta a learning rate.
"""

# --8<-- [start:imports]
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

# --8<-- [end:imports]


# --8<-- [start:module]
class LinearWarmUp(LRScheduler):
    """Raises each group's rate to its full value, then hands over to another schedule.

    Args:
        optimizer: whose rates are set; call `step()` once after each of its steps.
        total_iters: n, after how many steps the other schedule is at its start.
        after: makes that schedule of the optimizer: `lambda o: StepLR(o, 30)`. Its
            lengths count from the end of the warm-up.
        start_factor: s, the first rate as a part of the full one, in (0, 1].

    State dicts can be exchanged with torch's SequentialLR of a LinearLR and a schedule.
    Raises: ValueError for fewer than 1 step, a start_factor outside (0, 1], or a state
        that is not of two schedules, the first a rise to the full rate and the second
        with the entries of `after`'s, or that has another number of groups.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        total_iters: int,
        after: Callable[[torch.optim.Optimizer], LRScheduler],
        start_factor: float = 0.01,
    ) -> None:
        if not (total_iters >= 1 and 0 < start_factor <= 1):
            raise ValueError(
                "expected total_iters >= 1 and start_factor in (0, 1], "
                f"got {total_iters=}, {start_factor=}"
            )
        self.total_iters, self.start_factor = total_iters, start_factor
        self.after = after(optimizer)  # made here, while the rates are full
        self.first_rates = self.after.get_last_lr()
        super().__init__(optimizer)  # sets the first rate

    def get_lr(self) -> list[float | Tensor]:
        t, n, s = self.last_epoch, self.total_iters, self.start_factor
        # --8<-- [start:rise]
        if t < n:
            return [eta * (s + (1 - s) * t / n) for eta in self.base_lrs]
        # --8<-- [end:rise]
        # --8<-- [start:after]
        if t > n:
            self.after.step()
        return self.after.get_last_lr()
        # --8<-- [end:after]

    def state_dict(self) -> dict[str, Any]:
        """In the form of torch's SequentialLR."""
        rise = {
            "start_factor": self.start_factor,
            "end_factor": 1.0,
            "total_iters": self.total_iters,
            "base_lrs": self.base_lrs,
            "last_epoch": min(self.last_epoch, self.total_iters - 1),
        }
        return {
            "last_epoch": self.last_epoch,
            "_last_lr": self.get_last_lr(),
            "_milestones": [self.total_iters],
            "_schedulers": [rise, self.after.state_dict()],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, that of the schedule after the warm-up included."""
        parts: list[dict[str, Any]] = state_dict.get("_schedulers", [])
        rise, after = parts if len(parts) == 2 else ({}, {})
        n, groups = rise.get("total_iters", 0), len(rise.get("base_lrs", []))
        form = rise.get("end_factor"), state_dict.get("_milestones"), groups
        entries = {k for k in self.after.state_dict() if not k.startswith("_")}
        if form != (1, [n], len(self.base_lrs)) or not entries <= after.keys():
            raise ValueError(
                "expected a state of a linear warm-up to the full rate, a schedule "
                f"with {sorted(entries)} and {len(self.base_lrs)} groups, got {groups} "
                f"groups, {state_dict}"
            )
        if state_dict["last_epoch"] < n:  # torch counts one that has not begun from -1
            after = {**after, "last_epoch": 0, "_last_lr": self.first_rates}
        self.after.load_state_dict(after)  # may refuse, so before anything is changed
        own = {name: state_dict[name] for name in ("last_epoch", "_last_lr")}
        rise = {
            name: rise[name] for name in ("start_factor", "total_iters", "base_lrs")
        }
        super().load_state_dict(own | rise)


# --8<-- [end:module]
