"""A network of floor 1 by its name, or by the Python that makes it."""

import ast
import difflib
import inspect
import operator
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import nn

from . import own

ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
PLACES = ("foundations", "modern", "attention")


@cache
def parts() -> dict[str, Any]:
    """What a network may be made of: every public name of these categories."""
    return {
        name: thing
        for place in PLACES
        for name, thing in vars(import_module(f"cnn_techniques.{place}")).items()
        if not name.startswith("_") and not inspect.ismodule(thing)
    }


@cache
def networks() -> dict[str, Callable[..., nn.Module]]:
    """The functions and classes that make a classifier from a number of classes alone."""
    return {
        name: thing
        for name, thing in parts().items()
        if callable(thing) and _needs_classes_alone(thing)
    }


def _needs_classes_alone(thing: Callable[..., Any]) -> bool:
    parameters = inspect.signature(thing).parameters
    rest = [p for name, p in parameters.items() if name != "num_classes"]
    return "num_classes" in parameters and all(
        p.default is not p.empty for p in rest if p.kind is not p.VAR_KEYWORD
    )


def build(
    spec: str, num_classes: int, known: Mapping[str, Any] | None = None
) -> nn.Module:
    """The network that `spec` names, with that many classes.

    Args:
        spec: a name, such as "resnet18", or a call as in Python, such as
            "ResNet(BasicBlock, (1, 1, 1), width=16)". It holds names of floor 1,
            numbers and arithmetic, text, tuples, calls, and a lambda where a network
            takes a function; nothing else: it is read, not executed. Or a function of
            one's own, package.module:function, which is.
        known: names that it may hold; those of `parts` if None.

    Raises: ValueError for a spec that says anything else.
    """
    if own.is_code(spec):
        return own.network(spec, num_classes)
    if spec.startswith(own.GIVEN):
        raise ValueError(
            f"the network was {spec!r}: give it again as model=..., or by a name, "
            "package.module:function"
        )
    try:
        tree = ast.parse(spec.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(
            f"{spec!r} is not a network: {error.msg}, character {error.offset}"
        ) from None
    if isinstance(tree, ast.Name):
        tree = ast.Call(tree, [], [])
    if not isinstance(tree, ast.Call):
        raise ValueError(
            f"{spec!r} is not a network: expected a name or a call, as in 'resnet18' "
            "or 'ResNet(BasicBlock, (1, 1, 1), width=16)'"
        )
    known = parts() if known is None else known
    named = [keyword.arg for keyword in tree.keywords]
    argument = _classes_argument(known.get(ast.unparse(tree.func)))
    if argument not in named:
        tree.keywords.append(ast.keyword(argument, ast.Constant(num_classes)))
    try:
        model = _value(tree, spec, known)
    except (TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{spec!r} is not a network: {error}") from None
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec!r} is not a network but a {type(model).__name__}")
    return model


def _classes_argument(thing: Any) -> str:
    """What the number of classes is called: num_classes, U-Net's classes."""
    if not callable(thing) or "num_classes" in inspect.signature(thing).parameters:
        return "num_classes"
    return (
        "classes" if "classes" in inspect.signature(thing).parameters else "num_classes"
    )


def _value(node: ast.expr, spec: str, known: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(n, spec, known) for n in node.elts)
    if isinstance(node, ast.Name):
        if node.id not in known:
            lower = {name.lower(): name for name in known}
            near = difflib.get_close_matches(node.id.lower(), lower, 1)
            cure = f"did you mean {lower[near[0]]}?" if near else "see `cnn-lab list`"
            raise ValueError(f"there is no network {node.id!r}; {cure}")
        return known[node.id]
    if isinstance(node, ast.Call) and all(k.arg for k in node.keywords):
        arguments = [_value(n, spec, known) for n in node.args]
        options = {str(k.arg): _value(k.value, spec, known) for k in node.keywords}
        return _value(node.func, spec, known)(*arguments, **options)
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        sides = (_value(n, spec, known) for n in (node.left, node.right))
        return ARITHMETIC[type(node.op)](*sides)
    if isinstance(node, ast.Lambda) and ast.unparse(node.args) == ", ".join(
        names := [a.arg for a in node.args.args]  # no defaults, no stars
    ):
        return lambda *given: _value(
            node.body, spec, {**known, **dict(zip(names, given, strict=True))}
        )
    raise ValueError(
        f"{spec!r} is not a network: {ast.unparse(node)!r} may not stand there"
    )


def outline(spec: str, num_classes: int) -> nn.Module:
    """The network without its numbers; code of one's own may need them while it builds."""
    if own.is_code(spec):
        with torch.random.fork_rng(devices=[]):
            return build(spec, num_classes)
    with torch.device("meta"):
        return build(spec, num_classes)


def channels(model: nn.Module) -> int:
    """How many channels the first convolution reads; ValueError where there is none."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ValueError(
        "the network has no Conv2d, which tells how many channels its images have: "
        "give it data of your own"
    )
