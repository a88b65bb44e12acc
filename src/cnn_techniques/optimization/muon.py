"""Muon: momentum whose matrix is made orthogonal, so that every direction counts alike.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
kellerjordan.github.io/posts/muon; convolutions flattened as in the authors' code.
Legend: G a matrix (m, n) with singular values U diag(S) V^T, theta a parameter.
"""

# --8<-- [start:imports]
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

# --8<-- [end:imports]
from cnn_techniques.optimization.adamw import AdamW


# --8<-- [start:module]
def newton_schulz(
    G: Tensor,
    steps: int = 5,
    coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
    eps: float = 1e-7,
) -> Tensor:
    """A matrix (m, n) near U V^T, where G (m, n) is U diag(S) V^T, by products alone.

    With the default coefficients five steps take singular values from 0.01 of the
    norm upwards to between 0.68 and 1.14; with (15/8, -10/8, 3/8) and more steps
    they converge to 1. A matrix of zeros stays one.
    Raises: ValueError for what is no matrix, or a negative number of steps.
    """
    if G.ndim != 2 or steps < 0:
        raise ValueError(
            f"expected a matrix and steps of 0 or more, got {tuple(G.shape)}, {steps=}"
        )
    a, b, c = coefficients
    # --8<-- [start:iteration]
    X = G.mT if len(G) > len(G.mT) else G  # wide: X X^T is the smaller product
    X = X / X.norm().clamp(min=eps)  # no singular value above 1
    for _ in range(steps):
        A = X @ X.mT
        B = torch.addmm(A, A, A, beta=b, alpha=c)  # b A + c A A
        X = torch.addmm(X, B, X, beta=a)  # a X + B X
    # --8<-- [end:iteration]
    return X.mT if len(G) > len(G.mT) else X


class Muon(AdamW):
    """Orthogonalised momentum for matrices and convolutions, AdamW for the rest.

    Weights (out, in, ...) with out and in of 2 or more get Muon's step; a convolution
    counts as a matrix (out, in * height * width). Biases, the parameters of norms,
    depthwise convolutions and groups with use_muon=False get AdamW's.

    Args:
        params: parameters, or dicts with "params" and own values of what follows.
        lr: learning rate eta, of both kinds of step: set the groups' one by one, or
            match_rms_adamw.
        momentum: mu, how slowly the mean of the gradients forgets.
        nesterov: mix the newest gradient into the mean once more.
        weight_decay: each step takes the part lr * weight_decay of a weight.
        ns_steps: of the Newton-Schulz iteration.
        match_rms_adamw: make a step 0.2 * lr long, as root mean square, like AdamW's;
            False: lr in every direction, more for matrices with more rows than columns.
        betas: AdamW's beta1 and beta2.
        eps: keeps the divisions of both finite.
        use_muon: False: AdamW's step, as is usual for the first and the last layer.
        dtype: of the iteration; weights and means keep their own.

    A parameter without a gradient (None) is left alone. States of the Muon of torch and
    timm can be loaded; options that they lack or have besides stay as they are here.
    Raises: ValueError for a value out of range or the state of another optimizer;
        TypeError for a sparse gradient or parameters that are not real floating-point
        numbers.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        ns_steps: int = 5,
        match_rms_adamw: bool = False,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-7,
        use_muon: bool = True,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        defaults = dict(
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            ns_steps=ns_steps,
            match_rms_adamw=match_rms_adamw,
            betas=betas,
            eps=eps,
            use_muon=use_muon,
            dtype=dtype,
        )
        Optimizer.__init__(self, params, defaults)  # AdamW's own knows fewer options

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        group = {**self.defaults, **param_group}
        if not 0 <= group["momentum"] < 1:
            raise ValueError(
                f"expected momentum from 0 to below 1, got {group['momentum']}"
            )
        if group["ns_steps"] not in range(1, 100):
            raise ValueError(f"expected ns_steps of 1 to 99, got {group['ns_steps']}")
        if not group["dtype"].is_floating_point:
            raise ValueError(f"expected a floating-point dtype, got {group['dtype']}")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; torch would take that of any optimizer."""
        groups, entries = state_dict["param_groups"], state_dict["state"].values()
        options = {"lr", "momentum", "nesterov", "weight_decay", "ns_steps"}
        kept = [{"momentum_buffer"}, {"step", "exp_avg", "exp_avg_sq"}]
        if (
            len(groups) != len(self.param_groups)
            or not all(options <= group.keys() for group in groups)
            or not all(entry.keys() - {"use_muon"} in kept for entry in entries)
        ):
            raise ValueError(
                f"expected a state of {len(self.param_groups)} groups with "
                f"{sorted(options)}, and momentum_buffer of every matrix, got "
                f"{len(groups)} groups with {sorted(set().union(*groups))}, and "
                f"{sorted(set().union(*entries))}"
            )
        known = [
            {**own, **{k: v for k, v in given.items() if k in own}}
            for own, given in zip(self.param_groups, groups, strict=True)
        ]
        super().load_state_dict({**state_dict, "param_groups": known})

    def _adamw_step(self, theta: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        """AdamW's `step` calls this for every parameter that has a gradient."""
        if group["use_muon"] and theta.ndim > 1 and min(theta.shape[:2]) > 1:
            self._muon_step(theta, g, group)
        else:
            super()._adamw_step(theta, g, group)

    def _muon_step(self, theta: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        if g.layout != torch.strided:
            raise TypeError(f"expected a dense gradient, got layout {g.layout}")
        state = self.state[theta]
        if "momentum_buffer" not in state:  # torch's name
            state["momentum_buffer"] = torch.zeros_like(theta)
        B, mu, lr = state["momentum_buffer"], group["momentum"], group["lr"]
        # --8<-- [start:momentum]
        B.lerp_(g, 1 - mu)  # mu B + (1 - mu) g
        G = g.lerp(B, mu) if group["nesterov"] else B  # (1 - mu) g + mu B
        # --8<-- [end:momentum]
        # --8<-- [start:step]
        G = G.flatten(1).to(group["dtype"])  # a convolution: (out, in * height * width)
        X = newton_schulz(G, group["ns_steps"], eps=group["eps"])
        rows, columns = X.shape
        if group["match_rms_adamw"]:
            length = 0.2 * max(rows, columns) ** 0.5
        else:
            length = max(1, rows / columns) ** 0.5
        theta.mul_(1 - lr * group["weight_decay"])
        theta.add_(X.view_as(theta), alpha=-lr * length)
        # --8<-- [end:step]


# --8<-- [end:module]
