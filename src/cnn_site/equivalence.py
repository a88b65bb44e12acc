"""Hold an implementation against an independent one, in numbers that prove something.

At default initialisation a network can be as good as dead (outputs of 5e-14) or explode (gradients of 8e13),
and a small difference then says nothing. So every parameter and buffer is drawn at random, batch norms are
calibrated, and the reference must be alive before anything is compared.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .trees import flatten, mapped

OUTPUT_BOUND = 1e-10  # of the largest entry of that output
GRADIENT_BOUND = (
    1e-8  # of max(largest entry of that gradient, 1e-6 of the largest gradient)
)
FLOAT32_BOUND = 1e-5
ALIVE = (1e-3, 1e3)
DIFFERENT = 1e-3  # how far two images must be apart, as a part of the largest output


@dataclass(frozen=True)
class Comparison:
    """What was checked against the reference, and the largest relative differences seen (None: not compared).

    `settings` is what the helper itself knows of how it compared; the record adds it to what the proof says.
    """

    parameters: int | None
    tensors: int | None
    output: float
    gradient: float | None
    buffers: float | None
    dtype: str
    shape: list[int]
    modes: list[str]
    bounds: dict[str, float]  # of output, gradient, buffers, as far as compared
    settings: list[str] = field(default_factory=list)


class _Pass(NamedTuple):
    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]


def compare(
    ours: nn.Module,
    reference: nn.Module,
    inputs: Any,
    *,
    match: Literal["name", "order"] = "name",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    train: bool = True,
    outputs: Callable[[Any], Any]
    | tuple[Callable[[Any], Any], Callable[[Any], Any]]
    | None = None,
    square: bool = False,
) -> Comparison:
    """Compare two networks parameter by parameter, output by output, gradient by gradient. Both are changed.

    Args:
        ours: the implementation under test.
        reference: the independent one.
        inputs: a tensor, or a tuple of what both take; tensors may sit in lists, tuples and dicts. An image
            batch, (N, C, H, W) or a list of (C, H, W) with 1 or 3 channels, holds two images or more, none square.
        match: pair parameters and buffers by "name", or by "order" where the names differ.
        seed: of the draw; and set before every pass of either side, so that dropout, drop path and sampled losses
            can be compared in training where both draw in the same order.
        dtype: float64; or float32 with `train=False`: outputs in evaluation mode, to 1e-5 (large networks).
        train: compare the training mode too, batch-norm buffers after the step included.
        outputs: picks what is compared from what a network returns; a pair (for ours, for the reference)
            where they return different structures.
        square: accept square images, for a network whose input size is fixed.

    Raises: AssertionError naming the tensor and the difference; ValueError for arguments that prove nothing.
    """
    if match not in ("name", "order"):
        raise ValueError(f'match must be "name" or "order", got {match!r}')
    if dtype not in (torch.float64, torch.float32) or (
        dtype == torch.float32 and train
    ):
        raise ValueError(
            f"float32 is for train=False only, training needs float64, got {dtype=}, {train=}"
        )
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    batch = check_inputs(arguments, square)
    of_ours, of_reference = (
        outputs if isinstance(outputs, tuple) else (outputs, outputs)
    )
    with default_dtype(dtype):
        ours.to(dtype), reference.to(dtype)
        names = paired_names(ours, reference, match)  # reference's name -> our name
        generator = torch.Generator().manual_seed(seed)
        draw_parameters(reference, generator)
        calibrate(reference, arguments, dtype, generator)
        state = reference.state_dict()
        ours.load_state_dict(
            {names[name]: value for name, value in state.items()}, strict=True
        )

        gradients = dtype == torch.float64
        bound = OUTPUT_BOUND if gradients else FLOAT32_BOUND
        worst: dict[str, float] = {"output": 0.0, "gradient": 0.0, "buffers": 0.0}
        modes = ["evaluation", "training"] if train else ["evaluation"]
        for mode in modes:
            expected = _run(
                reference, arguments, dtype, mode, of_reference, gradients, seed
            )
            if mode == "evaluation":
                assert_alive(expected.outputs, batch)
            actual = _run(ours, arguments, dtype, mode, of_ours, gradients, seed)
            where = f" in {mode} mode"
            seen = {"output": 0.0, "gradient": 0.0, "buffers": 0.0}
            try:
                seen["output"] = _outputs(
                    actual.outputs, expected.outputs, bound, where
                )
                if gradients:
                    seen["gradient"] = _gradients(
                        actual.gradients, expected.gradients, names, where
                    )
                if train:
                    seen["buffers"] = _buffers(
                        actual.buffers, expected.buffers, names, where
                    )
            except AssertionError as error:
                drawing = _drawing("ours", ours) + _drawing("the reference", reference)
                if mode == "training" and drawing:
                    error.add_note(
                        f"training draws at random, from one seed on both sides, but perhaps in another order: "
                        f"{'; '.join(drawing)}; rates of 0 take that away"
                    )
                raise
            worst = {key: max(worst[key], value) for key, value in seen.items()}
    return Comparison(
        parameters=sum(p.numel() for p in ours.parameters()),
        tensors=len(names),
        output=worst["output"],
        gradient=worst["gradient"] if gradients else None,
        buffers=worst["buffers"]
        if train and any(True for _ in reference.buffers())
        else None,
        dtype=str(dtype).removeprefix("torch."),
        shape=batch.shape,
        modes=modes,
        bounds=_bounds(
            bound, gradients, train and any(True for _ in reference.buffers())
        ),
        settings=["parameters paired by order"] * (match == "order"),
    )


def difference(
    outputs: Mapping[str, tuple[Tensor, Tensor]],
    gradients: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    *,
    bound: float = OUTPUT_BOUND,
    shape: Sequence[int] = (),
    modes: Sequence[str] = (),
) -> Comparison:
    """Compare tensors that two functions made: name -> (ours, theirs), as outputs and as gradients.

    `shape` is that of the input and `modes` names the cases, for the record. Integers must be equal.
    """
    if not outputs:
        raise ValueError("no outputs to compare")
    actual = {name: pair[0] for name, pair in outputs.items()}
    expected = {name: pair[1] for name, pair in outputs.items()}
    if not any(bool(value.any()) for value in expected.values()):
        raise AssertionError(
            f"the reference is not alive: {', '.join(expected)} hold nothing but zeros"
        )
    output = _outputs(actual, expected, bound, "")
    gradient = None
    if gradients:
        ours: dict[str, Tensor | None] = {
            name: pair[0] for name, pair in gradients.items()
        }
        theirs: dict[str, Tensor | None] = {
            name: pair[1] for name, pair in gradients.items()
        }
        gradient = _gradients(ours, theirs, {name: name for name in gradients}, "")
    floats = [value.dtype for value in expected.values() if value.is_floating_point()]
    dtype = str(
        floats[0] if floats else next(iter(expected.values())).dtype
    ).removeprefix("torch.")
    return Comparison(
        None,
        None,
        output,
        gradient,
        None,
        dtype,
        list(shape),
        list(modes),
        bounds=_bounds(bound, gradient is not None, False),
    )


def _bounds(output: float, gradient: bool, buffers: bool) -> dict[str, float]:
    inner = {"gradient": GRADIENT_BOUND} if gradient else {}
    return {"output": output, **inner, **({"buffers": OUTPUT_BOUND} if buffers else {})}


# ---------------------------------------------------------------- before the comparison


class _Batch(NamedTuple):
    """How many images the inputs hold, and whether as a list of (C, H, W) instead of (N, C, H, W)."""

    shape: list[int]
    listed: bool

    @property
    def images(self) -> int:
        return self.shape[0]


def check_inputs(arguments: tuple[Any, ...], square: bool) -> _Batch:
    flat = flatten(arguments).values()
    floating = [value for value in flat if value.is_floating_point()]
    if not floating:
        raise ValueError("no floating-point tensor among the inputs")
    batches = list(_batches(arguments))
    for batch, sizes in batches:
        if batch.images < 2:
            raise ValueError(
                f"one image cannot be told from another: batch of {tuple(batch.shape)}, at least 2 needed"
            )
        for height, width in sizes:
            if height == width > 1 and not square:
                raise ValueError(
                    f"square images hide swapped height and width: {tuple(batch.shape)}"
                )
    first = batches[0][0] if batches else None
    return first or _Batch(list(floating[0].shape), listed=False)


def _batches(value: Any) -> Iterator[tuple[_Batch, list[tuple[int, int]]]]:
    """Each batch of images among the inputs, with the height and width of its images."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.ndim == 4:
            height, width = value.shape[2:]
            yield _Batch(list(value.shape), listed=False), [(height, width)]
    elif isinstance(value, list) and value and all(map(_is_image, value)):
        shape = [len(value), *value[0].shape]
        yield _Batch(shape, listed=True), [(x.shape[1], x.shape[2]) for x in value]
    elif isinstance(value, Mapping | list | tuple):
        inner = value.values() if isinstance(value, Mapping) else value
        for item in inner:
            yield from _batches(item)


def _is_image(value: Any) -> bool:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return floating and value.ndim == 3 and value.shape[0] in (1, 3)


def _drawing(side: str, network: nn.Module) -> list[str]:
    """What draws at random in training: both sides are seeded alike, and must draw in the same order."""
    lines = []
    for name, module in network.named_modules():
        kind = type(module).__name__
        if "drop" in kind.lower() or kind == "StochasticDepth":
            rate = getattr(module, "p", getattr(module, "drop_prob", 0.0)) or 0.0
            if rate > 0:
                lines.append(f"{side}: {name} is {kind} with rate {rate}")
    return lines


def paired_names(ours: nn.Module, reference: nn.Module, match: str) -> dict[str, str]:
    """Reference's name -> our name, for every parameter and buffer that is saved; shapes checked."""
    pairs: dict[str, str] = {}
    for kind in ("parameter", "buffer"):
        mine, theirs = _saved(ours, kind), _saved(reference, kind)
        if match == "name":
            missing, extra = theirs.keys() - mine.keys(), mine.keys() - theirs.keys()
            if missing or extra:
                raise AssertionError(
                    f"{kind}s differ: missing {sorted(missing)}, extra {sorted(extra)}"
                )
            matched = {name: name for name in theirs}
        else:
            if len(mine) != len(theirs):
                raise AssertionError(
                    f"{len(mine)} {kind}s, the reference has {len(theirs)}"
                )
            matched = dict(zip(theirs, mine, strict=True))
        for name, own in matched.items():
            if mine[own] != theirs[name]:
                raise AssertionError(
                    f"{kind} {own} has shape {tuple(mine[own])}, "
                    f"the reference's {name} has {tuple(theirs[name])}"
                )
        pairs |= matched
    return pairs


def _saved(network: nn.Module, kind: str) -> dict[str, torch.Size]:
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    state = network.state_dict()
    return {
        name: value.shape
        for name, value in state.items()
        if (name in parameters) == (kind == "parameter")
    }


@torch.no_grad()
def draw_parameters(network: nn.Module, generator: torch.Generator) -> None:
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            continue  # num_batches_tracked, index tables
        last = name.rpartition(".")[2]
        fan_in = value[0].numel() if value.ndim > 1 else 1
        # A state dict shares memory with its network. Four times as fast in float32;
        # what is stored has all digits of float64 by its factor. The millions of a
        # large tensor repeat a prime number of draws, so that no two rows are equal.
        count = value.numel()
        normal = torch.randn(min(count, 1_000_003), generator=generator)
        normal = normal.repeat(math.ceil(count / max(len(normal), 1)))[:count]
        normal = normal.view(value.shape)
        if "bias" in last or last == "running_mean":
            value.copy_(normal).mul_(0.1)
        elif fan_in > 1 and "var" not in last:  # He: keeps the signal's size in a ReLU
            value.copy_(normal).mul_((2 / fan_in) ** 0.5)
        else:  # norm weights, layer scales, gates, variances: about 1, never 0
            value.copy_(torch.rand(value.shape, generator=generator)).add_(0.5)


@torch.no_grad()
def calibrate(
    network: nn.Module,
    arguments: tuple[Any, ...],
    dtype: torch.dtype,
    generator: torch.Generator,
) -> None:
    """Give batch norms the statistics of these images, then move them a little.

    Left exactly there, the training step would move them nowhere, and a wrong momentum would pass.
    """
    norms = [
        m
        for m in network.modules()
        if isinstance(m, _NormBase) and m.running_mean is not None
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    for norm in norms:
        norm.train()

    def prepare(x: Any) -> Any:
        floating = isinstance(x, Tensor) and x.is_floating_point()
        return x.detach().to(dtype) if floating else x

    network(*mapped(arguments, prepare))
    for module, training in modes:
        module.training = training
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        shift = torch.randn(mean.shape, generator=generator, dtype=torch.float64).to(
            dtype
        )
        scale = torch.rand(var.shape, generator=generator, dtype=torch.float64).to(
            dtype
        )
        mean.add_(0.1 * var.sqrt() * shift)
        var.mul_(0.8 + 0.4 * scale)


def assert_alive(outputs: dict[str, Tensor], batch: _Batch) -> None:
    compared = False
    for name, value in outputs.items():
        if not value.is_floating_point() or value.numel() == 0:
            continue
        largest = float(value.abs().max())
        if not ALIVE[0] <= largest <= ALIVE[1]:
            raise AssertionError(
                f"the reference is not alive: the largest entry of {name} is {largest:.3g}, "
                f"expected between {ALIVE[0]:g} and {ALIVE[1]:g}"
            )
        pair = _two_images(name, outputs, batch)
        if pair is None:
            continue
        compared = True
        if pair[0].shape != pair[1].shape:  # as many boxes as each image has
            continue
        apart = _largest(pair[0] - pair[1]) / largest
        if apart <= DIFFERENT:
            raise AssertionError(
                f"the reference is not alive: {name} of two different images differs by {apart:.3g} of "
                f"its largest entry, expected more than {DIFFERENT:g}"
            )
    if batch.images > 1 and not compared:
        raise AssertionError(
            "no output tells one image from another: pick one with `outputs`"
        )


def _two_images(
    name: str, outputs: dict[str, Tensor], batch: _Batch
) -> tuple[Tensor, Tensor] | None:
    """The output `name` of the first two images, where it has one per image."""
    value = outputs[name]
    first, dot, rest = name.partition(".")
    if batch.listed and first == "0" and f"1{dot}{rest}" in outputs:
        return value, outputs[f"1{dot}{rest}"]
    if value.ndim > 0 and value.shape[0] == batch.images and batch.images > 1:
        return value[0], value[1]
    return None


# ---------------------------------------------------------------- one pass


def _run(
    network: nn.Module,
    arguments: tuple[Any, ...],
    dtype: torch.dtype,
    mode: str,
    pick: Callable[[Any], Any] | None,
    gradients: bool,
    seed: int,
) -> _Pass:
    network.train(mode == "training")
    network.zero_grad(set_to_none=True)

    def prepare(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = x.detach().clone()
        return x.to(dtype).requires_grad_(gradients) if x.is_floating_point() else x

    def behind(x: Any) -> Any:
        # An identity in front: a network that works in place may touch neither a leaf nor our copy.
        return x * 1 if isinstance(x, Tensor) and x.requires_grad else x

    prepared = mapped(arguments, prepare)
    leaves = {
        f"input {name}": x for name, x in flatten(prepared).items() if x.requires_grad
    }
    with torch.set_grad_enabled(gradients), seeded(seed):
        raw = network(*mapped(prepared, behind))
        outputs = flatten(pick(raw) if pick else raw)
    if gradients:
        generator = torch.Generator().manual_seed(seed + 1)
        total = torch.zeros((), dtype=dtype)
        for name in sorted(outputs):
            value = outputs[name]
            cotangent = torch.randn(
                value.shape, generator=generator, dtype=torch.float64
            ).to(dtype)
            if value.requires_grad:
                total = total + (value * cotangent).sum()
        if not total.requires_grad:
            raise AssertionError(f"no output has a gradient in {mode} mode")
        total.backward()  # type: ignore[no-untyped-call]
    # A parameter under two names has one gradient; the pairing knows both names.
    slopes = {
        name: p.grad for name, p in network.named_parameters(remove_duplicate=False)
    }
    slopes |= {name: x.grad for name, x in leaves.items()}
    parameters = dict(network.named_parameters(remove_duplicate=False))
    buffers = {
        k: v.detach().clone()
        for k, v in network.state_dict().items()
        if k not in parameters
    }
    return _Pass(
        {name: value.detach() for name, value in outputs.items()}, slopes, buffers
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The same draws on both sides (dropout, drop path, sampled losses); the caller's go on as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """For tensors that a network makes inside its forward pass (anchors, grids)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# ---------------------------------------------------------------- the comparison itself


def _outputs(
    actual: dict[str, Tensor], expected: dict[str, Tensor], bound: float, where: str
) -> float:
    if actual.keys() != expected.keys():
        raise AssertionError(
            f"outputs{where} are {sorted(actual)}, the reference's are {sorted(expected)}"
        )
    worst = 0.0
    for name, value in expected.items():
        title = f"{name}{where}"
        _same_form(title, actual[name], value)
        if not value.is_floating_point():
            wrong = int((actual[name] != value).sum())
            if wrong:
                raise AssertionError(
                    f"{title}: {wrong} of {value.numel()} entries differ"
                )
            continue
        worst = max(
            worst, _relative(title, actual[name], value, _largest(value), bound)
        )
    return worst


def _gradients(
    actual: Mapping[str, Tensor | None],
    expected: Mapping[str, Tensor | None],
    names: dict[str, str],
    where: str,
) -> float:
    overall = max(
        (_largest(g) for g in expected.values() if g is not None), default=0.0
    )
    if overall == 0:
        raise AssertionError(
            f"the reference is not alive: every gradient{where} is zero"
        )
    worst = 0.0
    for name, theirs in expected.items():
        own = names.get(name, name)  # inputs have the same name on both sides
        title = f"gradient of {own}{where}"
        mine = actual[own]
        if theirs is None and mine is None:
            continue
        theirs = (
            torch.zeros_like(mine) if theirs is None and mine is not None else theirs
        )
        mine = torch.zeros_like(theirs) if mine is None and theirs is not None else mine
        assert mine is not None
        assert theirs is not None
        _same_form(title, mine, theirs)
        scale = max(_largest(theirs), 1e-6 * overall)
        worst = max(worst, _relative(title, mine, theirs, scale, GRADIENT_BOUND))
    return worst


def _buffers(
    actual: dict[str, Tensor],
    expected: dict[str, Tensor],
    names: dict[str, str],
    where: str,
) -> float:
    worst = 0.0
    for name, theirs in expected.items():
        title, mine = f"buffer {names[name]}{where}", actual[names[name]]
        _same_form(title, mine, theirs)
        if theirs.is_floating_point():
            worst = max(
                worst,
                _relative(
                    title, mine, theirs, max(_largest(theirs), 1e-3), OUTPUT_BOUND
                ),
            )
        elif not torch.equal(mine, theirs):
            raise AssertionError(
                f"{title} is {mine.tolist()}, the reference's is {theirs.tolist()}"
            )
    return worst


def _same_form(title: str, mine: Tensor, theirs: Tensor) -> None:
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        raise AssertionError(
            f"{title} is {mine.dtype} of shape {tuple(mine.shape)}, "
            f"the reference's is {theirs.dtype} of shape {tuple(theirs.shape)}"
        )


def _largest(value: Tensor) -> float:
    """Of the absolute values; NaN and infinity come through. No copy is made: some tensors have 800 MB."""
    if not value.numel():
        return 0.0
    lowest, highest = map(float, torch.aminmax(value))
    return highest if math.isnan(highest) else max(-lowest, highest)


def _relative(
    title: str, mine: Tensor, theirs: Tensor, scale: float, bound: float
) -> float:
    if not math.isfinite(_largest(theirs)):
        raise AssertionError(f"{title}: the reference is not finite")
    apart = 0.0 if torch.equal(mine, theirs) else _largest(mine - theirs)
    relative = 0.0 if apart == 0 else apart / scale if scale else float("inf")
    if not relative <= bound:  # catches NaN too
        raise AssertionError(
            f"{title} differs by {apart:.3g}, {relative:.3g} of {scale:.3g}; at most {bound:g} is allowed"
        )
    return relative
