"""Lion: every weight moves by the same length, along the sign of a mean gradient.

Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023,
arXiv:2302.06675, algorithm 2 (the name: evolved sign momentum).
Legend: theta a parameter of any shape, g its gradient, m and c means of gradients.
"""

# --8<-- [start:imports]
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

# --8<-- [end:imports]


# --8<-- [start:module]
class Lion(Optimizer):
    """Steps of length lr in every coordinate, with a decay of their own.

    Args:
        params: parameters, or dicts with "params" and own values of what follows.
        lr: learning rate eta, the length of a step in every coordinate.
        betas: beta1 of the mean whose sign is the step, beta2 of the mean that is kept.
        weight_decay: lambda; each step takes the part lr * weight_decay of a weight.

    A parameter without a gradient (None) is left alone; one with a gradient of zeros
    keeps moving along the mean of the gradients it had. A state_dict can be loaded by
    timm's Lion, and back.
    Raises: ValueError for a value out of range or the state of another optimizer;
        TypeError for a sparse gradient or parameters that are not real floating-point
        numbers.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        group = {**self.defaults, **param_group}
        for name in ("lr", "weight_decay"):
            if not 0 <= group[name] < float("inf"):
                raise ValueError(f"expected {name} of 0 or more, got {group[name]}")
        betas = group["betas"]
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"expected two betas from 0 to below 1, got {betas}")
        super().add_param_group(param_group)
        for theta in self.param_groups[-1]["params"]:
            if not theta.is_floating_point():
                raise TypeError(f"expected real parameters, got {theta.dtype}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; torch would take that of any optimizer."""
        groups, entries = state_dict["param_groups"], state_dict["state"].values()
        options = self.defaults.keys() - {"differentiable"}  # torch adds that one
        if (
            len(groups) != len(self.param_groups)
            or not all(options <= group.keys() for group in groups)
            or not all(entry.keys() == {"exp_avg"} for entry in entries)
        ):
            raise ValueError(
                f"expected a state of {len(self.param_groups)} groups with "
                f"{sorted(options)}, and exp_avg of every parameter, got "
                f"{len(groups)} groups with {sorted(set().union(*groups))}, and "
                f"{sorted(set().union(*entries))}"
            )
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Change every parameter that has a gradient.

        Returns what `closure` returned, which is called first with gradients enabled.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for theta in group["params"]:
                if theta.grad is not None:
                    self._lion_step(theta, theta.grad, group)
        return loss

    def _lion_step(self, theta: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        if g.layout != torch.strided:
            raise TypeError(f"expected a dense gradient, got layout {g.layout}")
        state = self.state[theta]
        if not state:
            state["exp_avg"] = torch.zeros_like(theta)  # timm's name
        m, lr, weight_decay = state["exp_avg"], group["lr"], group["weight_decay"]
        beta1, beta2 = group["betas"]
        # --8<-- [start:update]
        c = beta1 * m + (1 - beta1) * g
        theta -= lr * (c.sign() + weight_decay * theta)
        m.mul_(beta2).add_((1 - beta2) * g)
        # --8<-- [end:update]


# --8<-- [end:module]
