"""Progressive learning: TODO the idea in one sentence.

Source: TODO authors, "title", venue year, arXiv:id, section.
Legend: t the step, T all steps.
"""

# --8<-- [start:imports]
import torch

# --8<-- [end:imports]


# --8<-- [start:module]
class ProgressiveLearning(torch.optim.lr_scheduler.LRScheduler):
    """TODO what it does.

    Args:
        optimizer: whose rates are set, one per group.
        steps: T, after which the rate is 0.

    Raises: ValueError for fewer than 1 step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"expected 1 step or more, got {steps=}")
        self.steps = steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        # --8<-- [start:step]
        left = max(0.0, 1 - self.last_epoch / self.steps)  # TODO the formula
        return [base * left for base in self.base_lrs]
        # --8<-- [end:step]


# --8<-- [end:module]
