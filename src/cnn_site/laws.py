"""Laws that many techniques share, as assertions that name what breaks them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .trees import flatten


def every(
    model: nn.Module,
    kind: type[nn.Module] | tuple[type[nn.Module], ...],
    holds: Callable[..., bool],
) -> int:
    """`holds(module)` for every module of that type: every layer that a change names was changed.

    Returns: how many there are, one at least.

    Raises: AssertionError naming the modules for which it does not hold, or a model that has none.
    """
    modules = [(n or "the model", m) for n, m in model.named_modules() if isinstance(m, kind)]  # fmt: skip
    if not modules:
        raise AssertionError(f"{type(model).__name__} has no module of type {kind}")
    broken = [name for name, module in modules if not holds(module)]
    if broken:
        raise AssertionError(
            f"{len(broken)} of {len(modules)} modules break the law: {', '.join(broken[:8])}"
        )
    return len(modules)


def gradient_reaches_every_parameter(model: nn.Module, *inputs: Any) -> None:
    """The gradient of the sum of squared outputs is no zero tensor for any parameter.

    Raises: AssertionError naming the parameters that have none, or only zeros.
    """
    for parameter in model.parameters():
        parameter.grad = None
    outputs = flatten(model(*inputs)).values()
    total: Tensor = sum(out.square().sum() for out in outputs if out.requires_grad)  # type: ignore[assignment]
    total.backward()  # type: ignore[no-untyped-call]
    missed = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    if missed:
        raise AssertionError(f"no gradient reaches {', '.join(missed)}")
