"""Adam: steps of about one length for every weight, whatever the size of its gradient.

Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015,
arXiv:1412.6980, algorithm 1; Reddi, Kale and Kumar, "On the Convergence of Adam and
Beyond", ICLR 2018, arXiv:1904.09237, for AMSGrad as torch has it.
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
class Adam(Optimizer):
    """A mean of the gradient, divided by the root of the mean of its square.

    Args:
        params: parameters, or dicts with "params" and own values of what follows.
        lr: learning rate, the paper's alpha; about the length of a step.
        betas: beta1 and beta2, how slowly the means of g and of g * g forget.
        eps: keeps the division finite.
        weight_decay: L2; this times the weights is added to the gradient.
        amsgrad: divide by the root of the largest mean of the square so far.

    A parameter without a gradient (None) is left alone. A state_dict can be loaded by
    torch's Adam, and back.
    Raises: ValueError for a value out of range or a state of another kind; TypeError
        for a sparse gradient or parameters that are not real floating-point numbers.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(params, {**defaults, "amsgrad": amsgrad})

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
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"expected two betas from 0 to below 1, got {betas}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, of torch's Adam too; no other is taken over."""
        for group in state_dict.get("param_groups", [{}]):
            names = {"step", "exp_avg", "exp_avg_sq"}
            names |= {"max_exp_avg_sq"} if group.get("amsgrad") else set()
            states = [state_dict["state"].get(n) or {} for n in group.get("params", [])]
            found = {name for state in states for name in state}
            other = group.get("maximize") or group.get("decoupled_weight_decay")
            known = self.defaults.keys() <= group.keys() and not other
            if not known or any(s and s.keys() != names for s in states):
                raise ValueError(
                    f"expected a state of Adam with {sorted(self.defaults)} and "
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
                    self._adam_step(theta, theta.grad, group)
        return loss

    def _adam_step(self, theta: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[theta]
        if not state:  # torch's names, so that state dicts can be exchanged
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(theta)
            state["exp_avg_sq"] = torch.zeros_like(theta)
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros_like(theta)
        t = state["step"] = int(state["step"]) + 1
        m, v = state["exp_avg"], state["exp_avg_sq"]
        lr, eps, (beta1, beta2) = group["lr"], group["eps"], group["betas"]
        # --8<-- [start:means]
        g = g + group["weight_decay"] * theta
        m.mul_(beta1).add_((1 - beta1) * g)
        v.mul_(beta2).add_((1 - beta2) * g * g)
        # --8<-- [end:means]
        # --8<-- [start:amsgrad]
        if group["amsgrad"]:
            v = state["max_exp_avg_sq"].copy_(v.maximum(state["max_exp_avg_sq"]))
        # --8<-- [end:amsgrad]
        # --8<-- [start:update]
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        theta -= lr * m_hat / (v_hat.sqrt() + eps)
        # --8<-- [end:update]


# --8<-- [end:module]
