"""SGD with momentum: steps along a sum of past gradients that slowly forgets.

Source: Polyak, USSR Comput. Math. Math. Phys. 4(5), 1964; Sutskever et al., "On the
importance of initialization and momentum in deep learning", ICML 2013.
Legend: theta a parameter of any shape, g its gradient, v its velocity.
"""

# --8<-- [start:imports]
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

# --8<-- [end:imports]


# --8<-- [start:module]
class SGD(Optimizer):
    """Gradient descent with momentum, Polyak's or Nesterov's.

    Args:
        params: parameters, or dicts with "params" and own values of what follows.
        lr: learning rate, the paper's epsilon.
        momentum: mu, the part of the velocity that is kept; 0 is plain SGD.
        dampening: the part of a gradient that is left out of the velocity, but of the
            first gradient nothing.
        weight_decay: L2; this times the weights is added to the gradient.
        nesterov: step by the gradient and the velocity that it leads to.

    A parameter without a gradient (None) is left alone. A state_dict can be loaded by
    torch's SGD, and back.
    Raises: ValueError for a value out of range or a state of another kind; TypeError
        for a sparse gradient or parameters that are not real floating-point numbers.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.1,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        defaults = dict(lr=lr, momentum=momentum, dampening=dampening)
        defaults |= dict(weight_decay=weight_decay, nesterov=nesterov)
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
        for name in ("momentum", "dampening"):
            if not 0 <= group[name] < 1:
                raise ValueError(
                    f"expected {name} from 0 to below 1, got {group[name]}"
                )
        mu, tau = group["momentum"], group["dampening"]
        if group["nesterov"] and (mu == 0 or tau != 0):
            raise ValueError(
                "expected momentum above 0 and no dampening with nesterov, "
                f"got momentum {mu} and dampening {tau}"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, of torch's SGD too; no other is taken over."""
        for group in state_dict.get("param_groups", [{}]):
            states = [state_dict["state"].get(n) or {} for n in group.get("params", [])]
            found = {name for state in states for name in state}
            known = self.defaults.keys() <= group.keys() and not group.get("maximize")
            if not known or not found <= {"momentum_buffer"}:
                raise ValueError(
                    f"expected a state of SGD with {sorted(self.defaults)} and "
                    f"momentum_buffer, got {sorted(found)} and {group}"
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
                    self._sgd_step(theta, theta.grad, group)
        return loss

    def _sgd_step(self, theta: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        lr, mu, tau = group["lr"], group["momentum"], group["dampening"]
        # --8<-- [start:decay]
        g = g + group["weight_decay"] * theta
        # --8<-- [end:decay]
        if mu == 0:
            theta -= lr * g
            return
        state = self.state[theta]
        v = state.get("momentum_buffer")  # torch's name
        # --8<-- [start:velocity]
        if v is None:
            v = state["momentum_buffer"] = g.clone()
        else:
            v.mul_(mu).add_((1 - tau) * g)
        # --8<-- [end:velocity]
        # --8<-- [start:update]
        theta -= lr * (g + mu * v if group["nesterov"] else v)
        # --8<-- [end:update]


# --8<-- [end:module]
