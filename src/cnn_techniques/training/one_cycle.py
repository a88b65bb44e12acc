"""One cycle: the rate rises to a high maximum, then falls far below its start.

Source: Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks
Using Large Learning Rates", 2017, arXiv:1708.07120 (the policy "1cycle"); two phases
along half cosines, the default here, are fastai's and torch's.
Legend: t the calls of `step` so far, T all steps, p the part of a phase that is done.
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

# --8<-- [end:imports]


# --8<-- [start:module]
def _one_cycle_value(
    start: float | Tensor, end: float | Tensor, p: float, strategy: str
) -> float | Tensor:
    """The value at the part p in [0, 1] of the way from start to end."""
    # --8<-- [start:value]
    way = p if strategy == "linear" else (1 - math.cos(math.pi * p)) / 2
    return start + (end - start) * way
    # --8<-- [end:value]


class OneCycle(LRScheduler):
    """Sets rate and momentum for one run of known length; step it after every batch.

    Args:
        optimizer: its rates and momentum (Adam: its first beta) are overwritten.
        max_lr: the highest rate; one number, or one for each group.
        total_steps: T, of the whole run.
        pct_start: the part of the run in which the rate rises, in (0, 1).
        anneal_strategy: "cos" along half cosines, "linear" along straight lines.
        cycle_momentum: whether momentum falls while the rate rises, and rises again.
        base_momentum: the least momentum, 0 or more.
        max_momentum: the largest, below 1.
        div_factor: the first rate is max_lr / div_factor.
        final_div_factor: the last rate is max_lr / div_factor / final_div_factor.
        three_phase: fall to the first rate as fast as it rose, then to the last rate.

    State dicts can be exchanged with torch's OneCycleLR.
    Raises: ValueError for values outside these ranges, a phase without a step, an
        optimizer without momentum, a state of another kind, a step after the last.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
    ) -> None:
        groups = optimizer.param_groups
        max_lrs = [*max_lr] if isinstance(max_lr, Sequence) else [max_lr] * len(groups)
        if len(max_lrs) != len(groups) or not all(0 < m < math.inf for m in max_lrs):
            raise ValueError(
                f"expected a max_lr above 0, or {len(groups)} of them, got {max_lr=}"
            )
        turn = pct_start * total_steps - 1  # the step at the highest rate
        if not 0 < turn < (total_steps - 1) / (2 if three_phase else 1):
            raise ValueError(
                "expected 1 < pct_start * total_steps and no phase without a step, "
                f"got {total_steps=}, {pct_start=}, {three_phase=}"
            )
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f'expected "cos" or "linear", got {anneal_strategy=}')
        if not 0 <= base_momentum <= max_momentum < 1:
            raise ValueError(
                "expected 0 <= base_momentum <= max_momentum < 1, "
                f"got {base_momentum=}, {max_momentum=}"
            )
        if not (0 < div_factor < math.inf and 0 < final_div_factor < math.inf):
            raise ValueError(
                "expected div_factor and final_div_factor above 0, "
                f"got {div_factor=}, {final_div_factor=}"
            )
        if cycle_momentum and not {"momentum", "betas"} & optimizer.defaults.keys():
            raise ValueError(
                "expected an optimizer with momentum or betas, "
                f"or cycle_momentum=False, got {type(optimizer).__name__}"
            )
        # --8<-- [start:phases]
        T = total_steps
        up = (turn, "initial_lr", "max_lr", "max_momentum", "base_momentum")
        phases: list[tuple[float, str, str, str, str]]
        if three_phase:
            down = (2 * turn, "max_lr", "initial_lr", "base_momentum", "max_momentum")
            rest = (T - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum")
            phases = [up, down, rest]
        else:
            down = (T - 1, "max_lr", "min_lr", "base_momentum", "max_momentum")
            phases = [up, down]
        # --8<-- [end:phases]
        names = ("end_step", "start_lr", "end_lr", "start_momentum", "end_momentum")
        self._schedule_phases: list[dict[str, Any]] = [  # torch's names from here on
            dict(zip(names, phase, strict=True)) for phase in phases
        ]
        self.total_steps, self._anneal_func_type = total_steps, anneal_strategy
        self.cycle_momentum = cycle_momentum
        for group, high in zip(groups, max_lrs, strict=True):
            group["max_lr"], group["initial_lr"] = high, high / div_factor
            group["min_lr"] = group["initial_lr"] / final_div_factor
            if cycle_momentum:
                group["max_momentum"] = max_momentum
                group["base_momentum"] = base_momentum
        if cycle_momentum:
            self.use_beta1 = "betas" in optimizer.defaults
        super().__init__(optimizer)  # sets the first rate and momentum

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the groups; their momentum is set here, as torch does."""
        if self.last_epoch > self.total_steps:
            raise ValueError(
                f"expected {self.total_steps} steps, as total_steps says, got one more"
            )
        # The call after the last batch is step T, whose rate no batch sees.
        t, begin = min(self.last_epoch, self.total_steps - 1), 0.0
        for phase in self._schedule_phases:
            if t <= phase["end_step"]:
                break
            begin = phase["end_step"]
        p, strategy = (t - begin) / (phase["end_step"] - begin), self._anneal_func_type
        rates = []
        for g in self.optimizer.param_groups:
            ends = g[phase["start_lr"]], g[phase["end_lr"]]
            rates.append(_one_cycle_value(*ends, p, strategy))
            if self.cycle_momentum:
                ends = g[phase["start_momentum"]], g[phase["end_momentum"]]
                momentum = _one_cycle_value(*ends, p, strategy)
                if self.use_beta1:
                    g["betas"] = (momentum, *g["betas"][1:])
                else:
                    g["momentum"] = momentum
        return rates

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; the rates themselves are in the optimizer's."""
        mine, groups = self.state_dict(), len(state_dict.get("base_lrs", []))
        settings = {"total_steps", "_schedule_phases", "_anneal_func_type"}
        settings |= {"cycle_momentum", "last_epoch"}
        same = mine.get("use_beta1") == state_dict.get("use_beta1")
        if not (settings <= state_dict.keys() and same) or groups != len(self.base_lrs):
            raise ValueError(
                f"expected a state of {len(self.base_lrs)} groups with "
                f"{sorted(settings)} and use_beta1={mine.get('use_beta1')}, "
                f"got {groups} groups with {state_dict}"
            )
        super().load_state_dict(state_dict)


# --8<-- [end:module]
