"""AdamW: steps of a similar size in every coordinate, and a decay of its own.

Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
arXiv:1711.05101, algorithm 2; Kingma and Ba, arXiv:1412.6980, for Adam.
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
class AdamW(Optimizer):
    """Adam, with a weight decay that does not go through its moments.

    Args:
        params: parameters, or dicts with "params" and own values of what follows.
        lr: learning rate, the paper's eta * alpha (paper: alpha = 0.001).
        betas: beta1 and beta2, how slowly the means of g and of g * g forget.
        eps: keeps the division finite.
        weight_decay: lambda; each step takes the part lr * weight_decay of a weight.

    A parameter without a gradient (None) is left alone, decay included; one with a
    gradient of zeros decays. A state_dict can be loaded by torch's AdamW, and back.
    Raises: ValueError for a value out of range; TypeError for a sparse gradient or
        parameters that are not real floating-point numbers.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(params, defaults)  # calls add_param_group for every group

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        group = {**self.defaults, **param_group}
        for name in ("lr", "weight_decay"):
            if not 0 <= group[name] < float("inf"):
                raise ValueError(f"expected {name} of 0 or more, got {group[name]}")
        if not 0 < group["eps"] < float("inf"):
            raise ValueError(f"expected eps above 0, got {group['eps']}")
        betas = group["betas"]
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"expected two betas from 0 to below 1, got {betas}")
        super().add_param_group(param_group)
        for theta in self.param_groups[-1]["params"]:
            if not theta.is_floating_point():
                raise TypeError(f"expected real parameters, got {theta.dtype}")

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
                    self._adamw_step(theta, theta.grad, group)
        return loss

    def _adamw_step(self, theta: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        if g.layout != torch.strided:
            raise TypeError(f"expected a dense gradient, got layout {g.layout}")
        state = self.state[theta]
        if not state:  # torch's names, so that state dicts can be exchanged
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(theta)
            state["exp_avg_sq"] = torch.zeros_like(theta)
        t = state["step"] = int(state["step"]) + 1
        m, v = state["exp_avg"], state["exp_avg_sq"]
        lr, weight_decay, eps = group["lr"], group["weight_decay"], group["eps"]
        beta1, beta2 = group["betas"]
        # --8<-- [start:update]
        m.mul_(beta1).add_((1 - beta1) * g)
        v.mul_(beta2).add_((1 - beta2) * g * g)
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        theta -= lr * (m_hat / (v_hat.sqrt() + eps) + weight_decay * theta)
        # --8<-- [end:update]


# --8<-- [end:module]
