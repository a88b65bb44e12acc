"""Is a figure right? `check`: does it draw what a module computes; `faults`: is it drawn cleanly.

`check` compares two graphs: the drawn boxes and arrows, and the module's torch.fx trace. Both become one nested
string per node, made of its operation and of what flows into it; the outputs must agree.
A box stands for a chain: its label first, then the parts of its second line ("BN · ReLU").
"""

from __future__ import annotations

import operator
import re
import runpy
from collections import Counter
from itertools import pairwise
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

from cnn_site import ROOT, snake

from .diagrams import Box, Canvas, Figure, Item, Point, Tensor, text_width

WORDS = {  # what a figure writes -> what the trace says
    "BN": "BatchNorm2d",
    "LN": "LayerNorm",
    "GN": "GroupNorm",
    "Global avg pool": "AvgPool→1",
    "Mean over H, W": "AvgPool→1",
    "Max over H, W": "amax",
    "Max over C": "amax",
    "Mean to 6×6": "AdaptiveAvgPool2d",
    "Mean to 7×7": "AdaptiveAvgPool2d",
    "Concatenate": "cat",
    "concat": "cat",
    "Concatenate, shuffle": "stack",
    "Stack": "stack",
    "Sum over paths": "sum",
    "Softmax over paths": "Softmax",
    "Split": "chunk",
    "+": "add",
    "×": "mul",
    "Matrix product": "matmul",
    "softmax": "Softmax",
    "Layer scale": "mul",
    "GRN": "GlobalResponseNorm",
    "Self-attention": "MultiHeadAttention",
    "Squeeze-excitation": "SqueezeExcitation",
}
CALLS = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    operator.mul: "mul",
    torch.mul: "mul",
    torch.cat: "cat",
    torch.concat: "cat",
    F.relu: "ReLU",
    F.relu6: "ReLU6",
    torch.relu: "ReLU",
    torch.sigmoid: "Sigmoid",
    torch.tanh: "Tanh",
    F.silu: "SiLU",
    F.gelu: "GELU",
    F.softmax: "Softmax",
    torch.softmax: "Softmax",
    "add": "add",
    "mul": "mul",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softmax": "Softmax",
    "mean": "AvgPool→1",
    torch.mean: "AvgPool→1",
    "split": "chunk",
}
IGNORED = {  # no line of a figure
    torch.flatten,
    operator.getitem,
    getattr,
    "flatten",
    "unflatten",
    "view",
    "reshape",
    "size",
    "unsqueeze",
    "squeeze",
    "expand",
    "expand_as",
    "contiguous",
    "transpose",
    "permute",
}
NO_OPS = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)


class Tracer(torch.fx.Tracer):
    """Takes no branch that depends on the input: `if u.ndim != 4: raise ...` is not what a figure draws."""

    def __init__(self, leaves: tuple[type[nn.Module], ...] = ()) -> None:
        super().__init__()
        self.leaves = leaves

    def to_bool(self, obj: torch.fx.Proxy) -> bool:
        return False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(
            m, module_qualified_name
        )


def words(label: str, sub: str) -> list[str]:
    """The operations that a box names, in order."""
    first = label.replace("\n", " ")
    parts = [p.strip() for p in sub.replace("\n", " · ").split("·") if p.strip()]
    if (
        re.search(r"\d×\d$", first) and parts and parts[0].isdigit()
    ):  # "Conv 3×3" over "64"
        first += ", " + parts.pop(0)
    if parts and parts[0].startswith(("stride", "dilation")):
        first += ", " + parts.pop(0)
    return [WORDS.get(p, p) for p in [first, *parts]]


def first_of(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def name(m: nn.Module) -> str:
    """The words for a module, as a figure writes them."""
    kernel = getattr(m, "kernel_size", 0)
    k = "×".join(map(str, kernel if isinstance(kernel, tuple) else (kernel, kernel)))
    stride = first_of(getattr(m, "stride", 1))
    if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
        kind = (
            "Depthwise"
            if m.groups == m.in_channels > 1
            else "Grouped"
            if m.groups > 1
            else "Conv"
        )
        kind = "Up-conv" if isinstance(m, nn.ConvTranspose2d) else kind
        return (
            f"{kind} {k}, {m.out_channels}"
            + (f", stride {stride}" if stride > 1 else "")
            + (f", dilation {first_of(m.dilation)}" if first_of(m.dilation) > 1 else "")
        )
    if isinstance(m, nn.Conv1d):
        return f"Conv1d {k}, {m.out_channels}"
    if isinstance(m, nn.Linear):
        return f"Linear {m.in_features}→{m.out_features}"
    if isinstance(m, nn.MaxPool2d | nn.AvgPool2d):
        return f"{'Max' if isinstance(m, nn.MaxPool2d) else 'Avg'} {k}, stride {stride}"
    if isinstance(m, nn.AdaptiveAvgPool2d) and m.output_size in (1, (1, 1)):
        return "AvgPool→1"
    return type(m).__name__


def of_shape(n: torch.fx.Node) -> bool:
    """A size that was read from a tensor, or what follows from sizes alone: no line of a figure."""
    if n.target is getattr:
        return bool(n.args[1] == "shape")
    return bool(n.all_input_nodes) and all(map(of_shape, n.all_input_nodes))


def mean_over(n: torch.fx.Node) -> str:
    """`mean` of one dimension of (N, C, H, W) says which; of height and width it is a global pool."""
    dim = n.kwargs.get("dim", n.args[1] if len(n.args) > 1 else None)
    return {1: "Mean over C", 2: "Mean over H", 3: "Mean over W"}.get(
        dim if isinstance(dim, int) else 0, "AvgPool→1"
    )


def combine(word: str, ins: list[str]) -> str:
    return f"{word}({' ; '.join(sorted(ins))})" if word else ins[0]


def drawn(figure: Figure) -> tuple[str, Counter[str]]:
    """The graph that the figure shows, as one string, and how often each operation is in it."""
    edges = figure.canvas().edges
    into: dict[int, list[Item]] = {}
    nodes: dict[int, Item] = {}
    for a, b in edges:
        into.setdefault(id(b), []).append(a)
        nodes[id(a)], nodes[id(b)] = a, b
    count: Counter[str] = Counter()
    seen: dict[int, str] = {}

    def walk(n: Item) -> str:
        if id(n) not in seen:
            ins = [walk(p) for p in into.get(id(n), [])]
            if isinstance(n, Tensor) or not isinstance(n, Box) or n.role == "data":
                seen[id(n)] = ins[0] if ins else "x"
            else:
                h, *rest = words(n.label, n.sub)
                out = combine(h, ins or ["x"])
                for w in rest:
                    out = combine(w, [out])
                count.update([h, *rest])
                seen[id(n)] = out
        return seen[id(n)]

    starts = {id(a) for a, _ in edges}
    return " | ".join(
        sorted(walk(n) for n in nodes.values() if id(n) not in starts)
    ), count


def computed(
    module: nn.Module, leaves: tuple[type[nn.Module], ...] = ()
) -> tuple[str, Counter[str]]:
    """The same for what the module computes. Modules of the types in `leaves` count as one operation each."""
    graph = Tracer(leaves).trace(module)
    for n in reversed(graph.nodes):  # the shapes that validation looked at
        if not n.users and n.op not in {"placeholder", "output"}:
            graph.erase_node(n)
    seen: dict[torch.fx.Node, str] = {}
    count: Counter[str] = Counter()
    out = ""
    for n in graph.nodes:
        ins = [seen[a] for a in n.all_input_nodes if not of_shape(a)]
        word = ""
        if n.op == "call_module":
            part = module.get_submodule(str(n.target))
            word = (
                ""
                if isinstance(part, NO_OPS) or type(part).__name__ == "StochasticDepth"
                else name(part)
            )
        elif n.op in {"call_function", "call_method"} and n.target not in IGNORED:
            word = CALLS.get(n.target, "") or CALLS.get(
                str(n.target).removesuffix("_"), ""
            )
            word = word or getattr(n.target, "__name__", str(n.target)).removesuffix(
                "_"
            )
            word = mean_over(n) if word == "AvgPool→1" else word
        elif n.op == "output":
            out = " | ".join(sorted(ins))
            continue
        seen[n] = (
            combine(word, ins)
            if ins
            else "x"
            if n.op == "placeholder"
            else str(n.target)
        )
        count.update([word] if word else [])
    return out, count


def figure_source(slug: str) -> dict[str, Any]:
    """What the source of a technique's figures defines: "modern/resnet" -> figure, SIZES, ..."""
    category, name = snake(slug).split("/")
    return runpy.run_path(str(ROOT / "snippets" / category / "figures" / f"{name}.py"))


def check(
    figure: Figure, module: nn.Module, leaves: tuple[type[nn.Module], ...] = ()
) -> None:
    """Raise AssertionError that says what is only in the figure, or only in the module."""
    (a, shown), (b, real) = drawn(figure), computed(module, leaves)
    if shown != real:
        raise AssertionError(
            f"{figure.slug}: only in the figure {dict(shown - real)}, only in the module {dict(real - shown)}"
        )
    if a != b:
        raise AssertionError(
            f"{figure.slug}: the same boxes, joined differently\n  figure {a}\n  module {b}"
        )


Rect = tuple[float, float, float, float]


class RecordingCanvas(Canvas):
    """Keeps what is drawn as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes: list[Rect] = []
        self.lines: list[Rect] = []
        self.labels: list[tuple[str, Rect]] = []

    def rect(self, role: str, x: float, y: float, w: float, h: float, r: float) -> None:
        if role != "frame":
            self.boxes.append((x, y, x + w, y + h))

    def line(
        self, pts: list[Point], head: bool = True, dash: bool = False, r: float = 7
    ) -> None:
        self.lines += [
            (min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]))
            for a, b in pairwise(pts)
        ]

    def text(
        self, text: str, x: float, y: float, size: float, align: str = "middle"
    ) -> None:
        w = text_width(text, size)
        left = x - w * {"start": 0, "middle": 0.5, "end": 1}[align]
        self.labels += (
            [(text, (left, y - 0.75 * size, left + w, y + 0.2 * size))] if text else []
        )


def faults(figure: Figure) -> list[str]:
    """Lines through boxes, boxes and labels on one another, labels cut off: by arithmetic, without a browser."""
    c = RecordingCanvas()
    figure.canvas(c)

    def meet(p: Rect, q: Rect, by: float = 1.0) -> bool:
        return (
            min(p[2], q[2]) - max(p[0], q[0]) > by
            and min(p[3], q[3]) - max(p[1], q[1]) > by
        )

    def through(line: Rect, box: Rect) -> bool:
        x0, y0, x1, y1 = line
        return meet((x0 - 1, y0 - 1, x1 + 1, y1 + 1), box, 1.5)

    messages = [
        f"a line runs through the box at {b[0]:.0f}, {b[1]:.0f}"
        for b in c.boxes
        for k in c.lines
        if through(k, b)
    ]
    messages += [
        f"two boxes meet at {a[0]:.0f}, {a[1]:.0f}"
        for n, a in enumerate(c.boxes)
        for b in c.boxes[:n]
        if meet(a, b)
    ]
    for n, (t, a) in enumerate(c.labels):
        messages += [f"'{t}' is cut off"] if a[0] < -1 or a[2] > figure.w + 1 else []
        messages += [f"'{t}' lies on a line" for k in c.lines if through(k, a)]
        messages += [f"'{t}' and '{u}' meet" for u, b in c.labels[:n] if meet(a, b)]
        messages += [
            f"'{t}' leaves its box"
            for b in c.boxes
            if meet(a, b) and not (b[0] <= a[0] and a[2] <= b[2])
        ]
    return messages
