"""The ways in which a trained network is made smaller, and how a file's network gets its form again."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnn_techniques.compression import (
    HalfPrecision,
    apply_masks,
    fold_batch_norms,
    magnitude_masks,
    norms_to_fold,
    quantize_int4,
    quantize_int8,
    remove_filters,
    tied_filters,
    weakest_filters,
)

from .stop import Refused

Json = dict[str, Any]


class Method(StrEnum):
    fold = "fold"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"
    int4 = "int4"
    prune = "prune"
    structured = "structured"


# What these make is in floating point as before, and can be made smaller again.
STILL_FLOAT = (Method.fold, Method.prune, Method.structured)


@dataclass(frozen=True)
class Way:
    """One way: how it changes a network, and how a new network gets the same form."""

    change: Callable[[nn.Module, Tensor, float], nn.Module]  # network, images, share
    # Of a network as it was, images of that shape, and what `kept` told of the change.
    form: Callable[[nn.Module, Tensor, Json], nn.Module]
    kept: Callable[[nn.Module], Json] = lambda _: {}


def made_smaller(
    model: nn.Module, method: Method, images: Tensor, share: float
) -> tuple[nn.Module, Json]:
    """The smaller network, and what `in_form` needs to know of it.

    Raises: ValueError for a network that the method cannot change.
    """
    smaller = WAYS[method].change(model, images, share)
    shape = list(images[:2].shape)
    return smaller, {"method": method, "shape": shape, **WAYS[method].kept(smaller)}


def in_form(model: nn.Module, change: Mapping[str, Any]) -> nn.Module:
    """A network as it was, in the form that a change gave it: its weights are to be loaded.

    Raises: KeyError, TypeError, ValueError for a change that this is not.
    """
    images = torch.rand(change["shape"], generator=torch.Generator().manual_seed(0))
    return WAYS[Method(change["method"])].form(model.eval(), images, dict(change))


def still_float(path: Path, state: Json) -> list[Json]:
    """What was done to a checkpoint's network; Refused where that is the end of it."""
    changes: list[Json] = state.get("compressed", [])
    for change in changes:
        if change["method"] not in STILL_FLOAT:
            raise Refused(
                f"{path} is compressed by {change['method']}, which is the last step: "
                "begin with the checkpoint it was made of"
            )
    return changes


def _int8(model: nn.Module, images: Tensor, share: float = 0) -> nn.Module:
    if norms_to_fold(model, images[:2]):
        model = fold_batch_norms(model, images[:2])
    return quantize_int8(model, images, percentile=99.99)


def _prune(model: nn.Module, images: Tensor, share: float) -> nn.Module:
    pruned = copy.deepcopy(model)
    apply_masks(pruned, magnitude_masks(pruned, share))
    return pruned


def _structured(model: nn.Module, images: Tensor, share: float) -> nn.Module:
    groups = tied_filters(model, images[:2])
    if not groups:
        raise ValueError(f"{type(model).__name__} has no filters that can be removed")
    keep = _convolutions(model).keys() - {name for group in groups for name in group}
    masks = weakest_filters(model, share, images[:2], keep=keep)
    return remove_filters(model, masks, images[:2])


def _without_filters(model: nn.Module, images: Tensor, change: Json) -> nn.Module:
    masks = {
        name: torch.arange(layer.out_channels) < change["filters"][name]
        for name, layer in _convolutions(model).items()
        if change["filters"][name] < layer.out_channels
    }
    return remove_filters(model, masks, images)


def _filters(model: nn.Module) -> Json:
    layers = _convolutions(model).items()
    return {"filters": {name: layer.out_channels for name, layer in layers}}


def _convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def _half(dtype: torch.dtype) -> Way:
    def change(model: nn.Module, *_: Any) -> nn.Module:
        return HalfPrecision(model, dtype)

    return Way(change, change)


WAYS: dict[Method, Way] = {
    Method.fold: Way(
        lambda model, images, _: fold_batch_norms(model, images[:2]),
        lambda model, images, _: fold_batch_norms(model, images),
    ),
    Method.float16: _half(torch.float16),
    Method.bfloat16: _half(torch.bfloat16),
    Method.int8: Way(_int8, lambda model, images, _: _int8(model, images)),
    Method.int4: Way(
        lambda model, *_: quantize_int4(model), lambda model, *_: quantize_int4(model)
    ),
    Method.prune: Way(_prune, lambda model, *_: model),
    Method.structured: Way(_structured, _without_filters, _filters),
}
