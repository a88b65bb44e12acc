"""AdaBelief: Adam that divides by how much gradients stray, not by how large they are.

Source: Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in
Observed Gradients", NeurIPS 2020, arXiv:2010.07468, algorithm 2.
Legend: theta a parameter of any shape, g its gradient, t the step counted from 1.
"""

# --8<-- [start:imports]
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

# --8<-- [end:imports]


# --8<-- [start:module]
class AdaBelief(Optimizer):
    """Long steps where the mean of the gradient predicts the next one well.

    Args:
        params: parameters, or dicts with "params" and own values of what follows.
        lr: learning rate, the paper's alpha.
        betas: beta1 and beta2, how slowly the means of g and of its deviation forget.
        eps: added to the mean of the deviation in every step, and to its root.
        weight_decay: each step takes the part lr * weight_decay of a weight.
        decoupled_decay: False for L2 instead: weight_decay times the weights is added
            to the gradient.

    A parameter without a gradient (None) is left alone. The entries of the state have
    the names of timm's AdaBelief.
    Raises: ValueError for a value out of range or a state of another kind; TypeError
        for a sparse gradient or parameters that are not real floating-point numbers.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        decoupled_decay: bool = True,
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        defaults |= dict(decoupled_decay=decoupled_decay)
        super().__init__(params, defaults)  # calls add_param_group for every group

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        for theta in self.param_groups[-1]["params"]:
            if not theta.is_floating_point():
                self.param_groups.pop()
                raise TypeError(f"expected real parameters, got {theta.dtype}")

    def _check(self, group: dict[str, Any]) -> None:
        for name in ("lr", "weight_decay"):
            if not 0 <= group[name] < float("inf"):
                raise ValueError(f"expected {name} of 0 or more, got {group[name]}")
        if not 0 < group["eps"] < float("inf"):
            raise ValueError(f"expected eps above 0, got {group['eps']}")
        betas = group["betas"]
        if len(betas) != 2 or not (0 < betas[0] < 1 and 0 <= betas[1] < 1):
            raise ValueError(
                "expected beta1 between 0 and 1 (at 0 no gradient strays from its "
                f"mean) and beta2 from 0 to below 1, got {betas}"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, of timm's AdaBelief too; no other is taken over."""
        for group in state_dict.get("param_groups", [{}]):
            names = {"step", "exp_avg", "exp_avg_var"}
            states = [state_dict["state"].get(n) or {} for n in group.get("params", [])]
            found = {name for state in states for name in state}
            other = any(group.get(k) for k in ("rectify", "fixed_decay", "amsgrad"))
            known = self.defaults.keys() <= group.keys() and not other
            if not known or any(s and s.keys() != names for s in states):
                raise ValueError(
                    f"expected a state of AdaBelief with {sorted(self.defaults)} and "
                    f"{sorted(names)}, got {sorted(found)} and {group}"
                )
            self._check(group)
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
        for theta in (p for group in self.param_groups for p in group["params"]):
            if theta.grad is not None and theta.grad.layout != torch.strided:
                raise TypeError(f"expected dense gradients, got {theta.grad.layout}")
        for group in self.param_groups:
            for theta in group["params"]:
                if theta.grad is not None:
                    self._adabelief_step(theta, theta.grad, group)
        return loss

    def _adabelief_step(self, theta: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[theta]
        if not state:  # timm's names, so that states can be exchanged
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(theta)
            state["exp_avg_var"] = torch.zeros_like(theta)
        t = state["step"] = int(state["step"]) + 1
        m, s = state["exp_avg"], state["exp_avg_var"]
        lr, eps, (beta1, beta2) = group["lr"], group["eps"], group["betas"]
        if group["decoupled_decay"]:
            theta *= 1 - lr * group["weight_decay"]
        else:
            g = g + group["weight_decay"] * theta
        # --8<-- [start:means]
        m.mul_(beta1).add_((1 - beta1) * g)
        s.mul_(beta2).add_((1 - beta2) * (g - m) ** 2 + eps)
        # --8<-- [end:means]
        # --8<-- [start:update]
        m_hat = m / (1 - beta1**t)
        s_hat = s / (1 - beta2**t)
        theta -= lr * m_hat / (s_hat.sqrt() + eps)
        # --8<-- [end:update]


# --8<-- [end:module]
