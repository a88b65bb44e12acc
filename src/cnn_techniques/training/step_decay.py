"""Step decay: a rate that stays, and falls by a factor at chosen times.

Source: the schedule of He et al., "Deep Residual Learning for Image Recognition", CVPR
2016, arXiv:1512.03385, section 4.2: divided by 10 after 32k and 48k of 64k iterations.
Legend: t the calls of `step` so far, gamma the factor, eta a learning rate.
"""

# --8<-- [start:imports]
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

# --8<-- [end:imports]


# --8<-- [start:module]
class _StepSchedule(LRScheduler):
    gamma: float

    def falls(self, t: int) -> int:
        """How often the rate has fallen after t calls of `step`."""
        raise NotImplementedError

    # --8<-- [start:rate]
    def get_lr(self) -> list[float | Tensor]:
        t = self.last_epoch  # torch's name; it counts calls of `step`
        return [eta * self.gamma ** self.falls(t) for eta in self.base_lrs]

    # --8<-- [end:rate]
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


class StepDecay(_StepSchedule):
    """Multiplies each group's rate by gamma every step_size calls of `step`.

    Args:
        optimizer: whose rates are set.
        step_size: calls of `step` from one fall to the next.
        gamma: the factor, in (0, 1].

    State dicts can be exchanged with torch's StepLR.
    Raises: ValueError for a step_size that is no whole number from 1, a gamma outside
        (0, 1], a state of another kind.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, step_size: int, gamma: float = 0.1
    ) -> None:
        if not (isinstance(step_size, int) and step_size >= 1 and 0 < gamma <= 1):
            raise ValueError(
                "expected step_size of 1, 2, 3, ... and gamma in (0, 1], "
                f"got {step_size=}, {gamma=}"
            )
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)  # sets the first rate

    # --8<-- [start:regular]
    def falls(self, t: int) -> int:
        return t // self.step_size
        # --8<-- [end:regular]


class MultiStepDecay(_StepSchedule):
    """Multiplies each group's rate by gamma at every milestone.

    Args:
        optimizer: whose rates are set.
        milestones: calls of `step` after which the rate falls; one that is given twice
            counts twice.
        gamma: the factor, in (0, 1].

    State dicts can be exchanged with torch's MultiStepLR.
    Raises: ValueError for a milestone that is no whole number from 1, a gamma outside
        (0, 1], a state of another kind.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
    ) -> None:
        milestones = list(milestones)
        whole = all(isinstance(m, int) and m >= 1 for m in milestones)
        if not (whole and 0 < gamma <= 1):
            raise ValueError(
                "expected milestones of 1, 2, 3, ... and gamma in (0, 1], "
                f"got {milestones=}, {gamma=}"
            )
        self.milestones, self.gamma = Counter(milestones), gamma  # a Counter, as torch
        super().__init__(optimizer)

    # --8<-- [start:milestones]
    def falls(self, t: int) -> int:
        return sum(times for m, times in self.milestones.items() if m <= t)
        # --8<-- [end:milestones]


# --8<-- [end:module]
