"""The schedules of the pages, by name: a maker for each, for a run of known length."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import lr_scheduler

from cnn_techniques.training import (
    CosineAnnealing,
    LinearWarmUp,
    MultiStepDecay,
    OneCycle,
    ReduceOnPlateau,
)

from .options import Schedule

Make = Callable[[torch.optim.Optimizer, int], lr_scheduler.LRScheduler]


def constant(optimizer: torch.optim.Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ConstantLR(optimizer, 1.0)


def step_decay(optimizer: torch.optim.Optimizer, steps: int) -> MultiStepDecay:
    """A tenth after each third."""
    marks = [max(steps // 3, 1), max(2 * steps // 3, 2)]
    return MultiStepDecay(optimizer, marks, 0.1)


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> OneCycle:
    rates = [group["lr"] for group in optimizer.param_groups]
    total = steps + 1  # one more than is made: the last rate is one that no batch sees
    rise = 0.3 if 0.3 * total > 1 else 1.5 / total  # two steps are not enough for 0.3
    return OneCycle(optimizer, rates, total, rise)


# Called with the optimizer and the number of steps; stepped after every batch.
SCHEDULES: dict[str, Make] = {
    Schedule.constant: constant,
    Schedule.step_decay: step_decay,
    Schedule.cosine_annealing: CosineAnnealing,
    Schedule.one_cycle: one_cycle,
    Schedule.reduce_on_plateau: constant,  # but for what `OnPlateau` takes off
}


def warmed_up(
    make: Make, optimizer: torch.optim.Optimizer, steps: int, warm: int
) -> lr_scheduler.LRScheduler:
    """A schedule of which the first `warm` steps are a rise to the full rate."""
    if not warm:
        return make(optimizer, steps)
    return LinearWarmUp(optimizer, warm, lambda o: make(o, steps - warm), 1 / warm)


class OnPlateau:
    """Rates that fall when an epoch's measure has not got better for a while.

    The measure is the share of wrong answers on the images that are held out, or the
    training loss where none are; never one of the test part.

    Args:
        every_step: sets the rates from batch to batch (the warm-up).
        warm: the steps of the warm-up; an epoch that ends in it is not looked at.
        patience: epochs without a gain that are accepted.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        every_step: lr_scheduler.LRScheduler,
        warm: int,
        patience: int,
    ) -> None:
        self.every_step, self.warm = every_step, warm
        self.plateau = ReduceOnPlateau(optimizer, patience=patience)

    def step(self) -> None:
        self.every_step.step()

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Look at an epoch's row of the history."""
        if self.every_step.last_epoch < self.warm:
            return
        if "validation_accuracy" in row:
            self.plateau.step(1 - row["validation_accuracy"])
        else:
            self.plateau.step(row["loss"])

    def state_dict(self) -> dict[str, Any]:
        return {
            "every_step": self.every_step.state_dict(),
            "plateau": self.plateau.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.every_step.load_state_dict(state["every_step"])
        self.plateau.load_state_dict(state["plateau"])
