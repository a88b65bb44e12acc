"""How far a changed network is from the original where equality is not to be had: quantised, pruned, low-rank.

The signal-to-noise ratio of a layer's output y and its approximation z is 10 log10(sum y^2 / sum (y - z)^2), in dB:
20 dB is noise of a tenth of the signal, 40 dB of a hundredth; each bit of a quantiser is worth about 6 dB.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .equivalence import ALIVE
from .trees import flatten, mapped


@dataclass(frozen=True)
class Approximation:
    """A changed network beside its original, on the same inputs in evaluation mode.

    Attributes:
        snr: of the output, in dB.
        output: the largest difference of an output, of that output's largest entry.
        layers: layer -> signal-to-noise ratio of its output in dB, in the order in which they run; None: equal to
            the last bit.
        dtype, shape: of the inputs.
        bounds: what `snr` is checked against.
    """

    snr: float
    output: float
    layers: dict[str, float | None]
    dtype: str
    shape: list[int]
    bounds: dict[str, float]


def approximate(
    changed: nn.Module,
    original: nn.Module,
    inputs: Any,
    *,
    least: float,
    layers: type[nn.Module] | tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear),
    names: Mapping[str, str] | None = None,
    outputs: Callable[[Any], Any] | None = None,
) -> Approximation:
    """Run both on the same inputs and tell the noise of each layer and of the output.

    Args:
        changed, original: both are put into evaluation mode and not changed otherwise.
        inputs: a tensor, or a tuple of what both take, in the precision that both take.
        least: the signal-to-noise ratio in dB that the output must have.
        layers: which of the original's layers are told; the changed network has each under the same name.
        names: the original's name of a layer -> the changed network's, where they differ.
        outputs: picks the output from what a network returns.

    Raises: AssertionError for an output below `least` or not finite, and for a network that was not changed or is
        not alive; LookupError for a layer that the changed network lacks.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    chosen = [name for name, m in original.named_modules() if isinstance(m, layers)]
    if not chosen:
        raise ValueError(f"the original has no layer of type {layers}")
    others = {name: (names or {}).get(name, name) for name in chosen}
    modules = dict(changed.named_modules())
    for name, other in others.items():
        if other not in modules:
            raise LookupError(
                f"the changed network has no layer {other!r} for {name!r}: give its name in `names`"
            )
    signals, signal = _outputs(original, arguments, chosen, outputs)
    noisy, result = _outputs(changed, arguments, list(others.values()), outputs)
    largest = max(float(value.abs().max()) for value in signal.values())
    if not ALIVE[0] <= largest <= ALIVE[1]:
        raise AssertionError(
            f"the original is not alive: its largest output is {largest:.3g}, expected between {ALIVE[0]:g} and {ALIVE[1]:g}"
        )
    if result.keys() != signal.keys():
        raise AssertionError(
            f"outputs are {sorted(result)}, the original's are {sorted(signal)}"
        )
    whole = _decibels(signal.values(), result.values(), "the output")
    if whole is None:
        raise AssertionError(
            "the outputs are equal to the last bit: was the network changed? Equality is shown by `compare_change`"
        )
    if whole < least:
        raise AssertionError(
            f"the output has a signal-to-noise ratio of {whole:.1f} dB, at least {least:g} dB were expected"
        )
    worst = max(
        float((signal[key] - result[key]).abs().max() / signal[key].abs().max())
        for key in signal
    )
    first = next(v for v in flatten(arguments).values() if v.is_floating_point())
    return Approximation(
        snr=whole,
        output=worst,
        layers={
            name: _decibels([signals[name]], [noisy[others[name]]], name)
            for name in signals
        },
        dtype=str(first.dtype).removeprefix("torch."),
        shape=list(first.shape),
        bounds={"snr": least},
    )


def _outputs(
    network: nn.Module,
    arguments: tuple[Any, ...],
    chosen: list[str],
    pick: Callable[[Any], Any] | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs of the chosen layers in the order in which they first ran, and of the network, in float64."""
    seen: dict[str, Tensor] = {}

    def keep(_: nn.Module, __: Any, out: Any, *, name: str) -> None:
        seen.setdefault(name, _exact(next(iter(flatten(out).values()))))

    def clone(leaf: Any) -> Any:
        return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf

    modules = dict(network.named_modules())
    hooks = [
        modules[name].register_forward_hook(partial(keep, name=name)) for name in chosen
    ]
    try:
        with torch.no_grad():
            out = network.eval()(*mapped(arguments, clone))
    finally:
        for hook in hooks:
            hook.remove()
    results = flatten(pick(out) if pick else out)
    return seen, {key: _exact(value) for key, value in results.items()}


def _exact(value: Tensor) -> Tensor:
    value = value.dequantize() if value.is_quantized else value
    return value.detach().to(torch.float64, copy=True)


def _decibels(signal: Any, noisy: Any, title: str) -> float | None:
    pairs = list(zip(signal, noisy, strict=True))
    for y, z in pairs:
        if y.shape != z.shape:
            raise AssertionError(
                f"{title} is of shape {tuple(z.shape)}, the original's of {tuple(y.shape)}"
            )
    power = sum(float(y.square().sum()) for y, _ in pairs)
    noise = sum(float((y - z).square().sum()) for y, z in pairs)
    if not math.isfinite(power + noise):
        raise AssertionError(f"{title} is not finite")
    if noise == 0:
        return None
    if power == 0:
        raise AssertionError(f"{title}: the original's is zero everywhere")
    return 10 * math.log10(power / noise)
