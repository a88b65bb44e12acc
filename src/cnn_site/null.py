"""A technique without its effect: what a page prints must not survive it.

A block whose output is the same when the technique does nothing shows nothing about the technique. What "does nothing"
means depends on the kind of thing:

| thing | without its effect |
|---|---|
| `nn.Module` | `forward` gives zeros of the same structure; a module without parameters hands back an input of that shape |
| optimizer | `step` evaluates the closure and changes nothing |
| schedule | the rates stay those that the optimizer was made with |
| metric (a class with `compute`) | `compute` gives zeros |
| other classes | `step` and `update` do nothing; other public methods as functions |
| function that gets a module and returns one, or None | hands the module back untouched |
| function that makes a module, an optimizer, a schedule or a function | what it makes is without effect |
| other functions, `__call__` | hand back an input of the result's shape and type (a transform), else zeros |
"""

import copy
import dataclasses
import enum
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

# What every optimizer has, and which is no step.
KEPT = {"zero_grad", "add_param_group", "state_dict", "load_state_dict"}


def without_effect(thing: Any) -> Any:
    """The class, function or object, doing nothing; classes and objects are changed in place.

    Args:
        thing: a class, a function or an instance that a technique's module defines.
    """
    if inspect.isclass(thing):
        return _class(thing)
    if isinstance(thing, nn.Module):
        forward = _function(thing.forward, handed_back=not _learns(thing))
        vars(thing)["forward"] = forward  # of this one, not of its class
        return thing
    if isinstance(thing, Optimizer | LRScheduler):
        if isinstance(thing, LRScheduler):  # its first step was made when it was built
            _set_rates(thing)
        vars(thing)["step"] = _no_step
        return thing
    return _function(thing) if callable(thing) else zeros(thing)


def zeros(value: Any, like: tuple[Tensor, ...] = ()) -> Any:
    """The same structure with zeros in it; a tensor that has the shape and type of one of `like` becomes that one."""
    if isinstance(value, Tensor):
        same = (t for t in like if t.shape == value.shape and t.dtype == value.dtype)
        match = next(same, None)
        if match is None and value.requires_grad:  # a loss can still be sent backward
            return value.nan_to_num() * 0 + 0
        return torch.zeros_like(value) if match is None else match
    if isinstance(value, int | float):  # False too
        return type(value)(0)
    if isinstance(value, dict):
        return {k: zeros(v, like) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(zeros(v, like) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(zeros(v, like) for v in value)
    if isinstance(value, Iterator):
        return (zeros(v, like) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: zeros(getattr(value, f.name), like)
            for f in dataclasses.fields(value)
            if f.init
        }
        return dataclasses.replace(value, **fields)
    if isinstance(value, nn.Module | Optimizer | LRScheduler) or inspect.isroutine(
        value
    ):
        return without_effect(value)
    return value


def _class(cls: type) -> type:
    if issubclass(cls, enum.Enum | BaseException) or hasattr(cls, "_fields"):
        return cls
    own: Any = cls  # methods are set on it
    if issubclass(cls, Optimizer):
        steps = [n for n, m in vars(cls).items() if inspect.isfunction(m)]
        for name in {"step", *(n for n in steps if not n.startswith("_"))} - KEPT:
            setattr(cls, name, _no_own_step)  # first_step and second_step too
    elif issubclass(cls, LRScheduler):
        if "step" in vars(cls):  # ReduceLROnPlateau has no rates of its own
            own.step = _no_own_step
        own.get_lr = lambda self: [g["initial_lr"] for g in self.optimizer.param_groups]
    elif issubclass(cls, torch.autograd.Function):
        own.apply = staticmethod(_function(cls.apply))
    elif issubclass(cls, nn.Module) and cls.forward is not nn.Module.forward:
        own.forward = _method(cls.forward)
    else:
        for name, method in list(vars(cls).items()):
            if not inspect.isfunction(method) or (
                name.startswith("_") and name != "__call__"
            ):
                continue
            if name == "step" or (name == "update" and not hasattr(cls, "compute")):
                setattr(cls, name, _no_own_step)
            elif name != "update":
                setattr(cls, name, _method(method))
    return cls


def _learns(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _method(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        handed_back = not (isinstance(self, nn.Module) and _learns(self))
        bound = functools.partial(method, self)
        return _function(bound, handed_back)(*args, **kwargs)

    return call


def _function(function: Callable[..., Any], handed_back: bool = True) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        args = tuple(list(a) if isinstance(a, Iterator) else a for a in args)
        leaves = [*_leaves(args), *_leaves(kwargs)]
        modules = [m for m in leaves if isinstance(m, nn.Module)]
        tensors = [t for t in leaves if isinstance(t, Tensor)]
        slopes = [t.grad if t.is_leaf else None for t in tensors]
        before = [
            (t, t.detach().clone(), g, None if g is None else g.detach().clone())
            for t, g in zip(tensors, slopes, strict=True)
        ]
        # Modules are changed as copies, tensors in place: a copy would lose its gradient.
        memo: dict[int, Any] = {}
        for module in modules:
            copy.deepcopy(module, memo)
        made = function(*_swapped(args, memo), **_swapped(kwargs, memo))
        for tensor, value, gradient, slope in before:
            if not torch.equal(tensor, value):
                tensor.data.copy_(value)
            if gradient is not None and slope is not None:
                gradient.data.copy_(slope)
            if tensor.is_leaf:
                tensor.grad = gradient
        if made is None:
            return None
        if isinstance(made, nn.Module) and modules:
            return modules[0]
        if isinstance(made, list | tuple) and modules:
            return type(made)(
                modules[0] if isinstance(m, nn.Module) else zeros(m) for m in made
            )
        return zeros(made, tuple(tensors) if handed_back else ())

    return functools.update_wrapper(call, function) if callable(function) else call


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for v in value:
            yield from _leaves(v)
    else:
        yield value


def _swapped(value: Any, memo: dict[int, Any]) -> Any:
    """With the copies in place of the modules."""
    if isinstance(value, nn.Module):
        return memo[id(value)]
    if isinstance(value, dict):
        return {k: _swapped(v, memo) for k, v in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_swapped(v, memo) for v in value)
    return value


def _no_step(*args: Any, **kwargs: Any) -> Any:
    closure = args[0] if args else kwargs.get("closure")
    return closure() if inspect.isroutine(closure) else None


def _no_own_step(self: Any, *args: Any, **kwargs: Any) -> Any:
    return _no_step(*args, **kwargs)


def _set_rates(schedule: LRScheduler) -> None:
    for group in schedule.optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])
    schedule._last_lr = [group["lr"] for group in schedule.optimizer.param_groups]
