"""The one walk through nested results and inputs: dicts, lists, tuples, named tuples and dataclasses."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


def flatten(value: Any, path: str = "") -> dict[str, Tensor]:
    """Every tensor and number by its path, numbers as tensors: {"out.0": tensor}. None is left out.

    Raises: TypeError for what is neither a number, a tensor nor a container of them.
    """
    if isinstance(value, Tensor):
        return {path or "output": value}
    if isinstance(value, bool | int | float):
        dtype = torch.float64 if isinstance(value, float) else None
        return {path or "output": torch.tensor(value, dtype=dtype)}
    if value is None:
        return {}
    items: Any
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        items = _fields(value).items()
    else:
        raise TypeError(f"cannot compare {type(value).__name__} at {path or 'the top'}")
    flat: dict[str, Tensor] = {}
    for key, item in items:
        flat |= flatten(item, f"{path}.{key}" if path else str(key))
    return flat


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same structure with `function` of each leaf: of all that is no container."""
    if isinstance(value, Mapping):
        items = ((key, mapped(item, function)) for key, item in value.items())
        return type(value)(items)  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, function) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, function) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changes = {key: mapped(item, function) for key, item in _fields(value).items()}
        return replace(value, **changes)
    return function(value)


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}
