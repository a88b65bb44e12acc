"""LAMB: Adam's step, made as long for each layer as its weights are large.

Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76
minutes", ICLR 2020, arXiv:1904.00962, algorithm 2, with the identity as phi.
Legend: x a parameter of any shape (a layer's weight, a bias), g its gradient, t the
step counted from 1.
"""

# --8<-- [start:imports]
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

# --8<-- [end:imports]


# --8<-- [start:module]
class LAMB(Optimizer):
    """Adam with decay, whose step changes every parameter by the same part of its norm.

    Args:
        params: parameters, or dicts with "params" and own values of what follows.
        lr: learning rate eta: the norm of a step divided by that of the parameter.
        betas: beta1 and beta2, how slowly the means of g and of g * g forget.
        eps: keeps the division finite.
        weight_decay: lambda, added to the step before its norm is taken.
        always_adapt: False: where weight_decay is 0, the step is Adam's as it is, as
            is usual for biases and for the scales and shifts of norms.

    A parameter without a gradient (None) is left alone. Steps are counted per group. A
    state_dict of timm's Lamb can be loaded; its further options have no effect here.
    Raises: ValueError for a value out of range or the state of another optimizer;
        TypeError for a sparse gradient or parameters that are not real floating-point
        numbers.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        always_adapt: bool = True,
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(params, {**defaults, "always_adapt": always_adapt})

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
        self.param_groups[-1].setdefault("step", 0)  # timm has it in the group, too
        for x in self.param_groups[-1]["params"]:
            if not x.is_floating_point():
                raise TypeError(f"expected real parameters, got {x.dtype}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; torch would take that of any optimizer."""
        groups, entries = state_dict["param_groups"], state_dict["state"].values()
        options = self.defaults.keys() - {"differentiable"}  # torch adds that one
        kept = {"exp_avg", "exp_avg_sq"}
        if (
            len(groups) != len(self.param_groups)
            or not all(options <= group.keys() for group in groups)
            or not all(entry.keys() == kept for entry in entries)
        ):
            raise ValueError(
                f"expected a state of {len(self.param_groups)} groups with "
                f"{sorted(options)}, and {sorted(kept)} of every parameter, got "
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
            group["step"] = int(group.get("step", 0)) + 1
            for x in group["params"]:
                if x.grad is not None:
                    self._lamb_step(x, x.grad, group)
        return loss

    def _lamb_step(self, x: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        if g.layout != torch.strided:
            raise TypeError(f"expected a dense gradient, got layout {g.layout}")
        state = self.state[x]
        if not state:  # timm's names, so that states can be exchanged
            state["exp_avg"] = torch.zeros_like(x)
            state["exp_avg_sq"] = torch.zeros_like(x)
        m, v, t = state["exp_avg"], state["exp_avg_sq"], group["step"]
        lr, weight_decay, eps = group["lr"], group["weight_decay"], group["eps"]
        beta1, beta2 = group["betas"]
        # --8<-- [start:adam]
        m.mul_(beta1).add_((1 - beta1) * g)
        v.mul_(beta2).add_((1 - beta2) * g * g)
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        r = m_hat / (v_hat.sqrt() + eps)
        # --8<-- [end:adam]
        # --8<-- [start:ratio]
        update = r + weight_decay * x
        ratio = x.norm() / update.norm()
        # --8<-- [end:ratio]
        ratio = ratio.where((ratio > 0) & ratio.isfinite(), 1.0)  # a norm is zero
        if weight_decay == 0 and not group["always_adapt"]:
            ratio = torch.ones_like(ratio)
        # --8<-- [start:step]
        x -= lr * ratio * update
        # --8<-- [end:step]


# --8<-- [end:module]
