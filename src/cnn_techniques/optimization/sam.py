"""Sharpness-aware minimisation: the gradient is taken where the loss nearby is high.

Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving
Generalization", ICLR 2021, arXiv:2010.01412, with p = 2.
Legend: w all parameters as one vector, g the gradient of the loss at w, epsilon a
vector of length rho.
"""

# --8<-- [start:imports]
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

# --8<-- [end:imports]


# --8<-- [start:module]
@contextmanager
def running_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Forward passes inside leave the running statistics of batch norms as they are."""
    # --8<-- [start:kept]
    modules: list[Any] = list(model.modules())
    norms = [m for m in modules if getattr(m, "track_running_stats", False)]
    for m in norms:  # in training they then use the batch's statistics, and update none
        m.track_running_stats = False
    try:
        yield
    finally:
        for m in norms:
            m.track_running_stats = True
    # --8<-- [end:kept]


class SAM(Optimizer):
    """Steps of another optimizer, with the gradient at w + epsilon instead of w.

    Args:
        model: whose batch norms keep their running statistics in the second pass.
        base: the optimizer that makes the steps, over any parameters of the model.
        rho: length of epsilon; 0 leaves the steps of `base`.

    `step` needs a closure, as two gradients are taken. Groups and state are those of
    `base`, so that a schedule may hold either.
    Raises: ValueError for a rho below 0, a missing closure, a closure that leaves no
        gradient, or a state that is not of SAM with such a base; TypeError for a base
        that is no optimizer or a sparse gradient.
    """

    def __init__(self, model: nn.Module, base: Optimizer, rho: float = 0.05) -> None:
        if not isinstance(base, Optimizer):
            raise TypeError(f"expected an optimizer as base, got {base!r}")
        if not 0 <= rho < float("inf"):
            raise ValueError(f"expected rho of 0 or more, got {rho}")
        self.model, self.base, self.rho = model, base, rho
        super().__init__(base.param_groups, base.defaults)
        self.param_groups, self.state = base.param_groups, base.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.param_groups is self.base.param_groups:
            self.base.add_param_group(param_group)
        else:  # called while this one is made
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        kind = type(self.base).__name__
        return {**self.base.state_dict(), "rho": self.rho, "base": kind}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, with its rho; torch would take any optimizer's."""
        kind, groups = type(self.base).__name__, len(state_dict["param_groups"])
        given = state_dict.get("base"), state_dict.get("rho")
        if given[0] != kind or given[1] is None or groups != len(self.param_groups):
            raise ValueError(
                f"expected a state of SAM over {kind} with {len(self.param_groups)} "
                f"groups, got base and rho {given} with {groups} groups"
            )
        own = {key: state_dict[key] for key in ("state", "param_groups")}
        self.base.load_state_dict(own)
        self.rho = state_dict["rho"]
        self.param_groups, self.state = self.base.param_groups, self.base.state

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], Tensor] | None = None
    ) -> Tensor:
        """Change every parameter that has a gradient, and return the loss at w.

        `closure` computes the loss of the batch, calls `backward` and returns it. It is
        called twice, with gradients cleared and enabled. If it raises an error, the
        weights are what they were.
        """
        if closure is None:
            raise ValueError(
                "SAM takes two gradients: expected step(closure), where closure() "
                "computes the loss, calls backward() and returns the loss, got None"
            )
        self.zero_grad()
        with torch.enable_grad():
            loss = closure()
        steps = self._epsilon()
        before = [w.clone() for w, _ in steps]
        # --8<-- [start:second]
        try:
            for w, epsilon in steps:
                w.add_(epsilon)
            self.zero_grad()
            with torch.enable_grad(), running_statistics_kept(self.model):
                closure()  # leaves the gradient at w + epsilon
        finally:
            for (w, _), value in zip(steps, before, strict=True):
                w.copy_(value)  # exactly: w + epsilon - epsilon is rounded
        self.base.step()
        # --8<-- [end:second]
        return loss

    def _epsilon(self) -> list[tuple[Tensor, Tensor]]:
        """Parameters, and the step from each towards a higher loss."""
        parameters = [w for group in self.param_groups for w in group["params"]]
        pairs = [(w, w.grad) for w in parameters if w.grad is not None]
        if not pairs:
            raise ValueError("no parameter has a gradient: closure() calls no backward")
        for _, g in pairs:
            if g.layout != torch.strided:
                raise TypeError(f"expected a dense gradient, got layout {g.layout}")
        rho, device = self.rho, pairs[0][0].device
        # --8<-- [start:epsilon]
        norm = torch.stack([g.norm().to(device) for _, g in pairs]).norm()  # of all
        scale = rho / norm.clamp(min=1e-12)  # a gradient of zero: no epsilon
        return [(w, scale.to(g.device) * g) for w, g in pairs]
        # --8<-- [end:epsilon]


# --8<-- [end:module]
