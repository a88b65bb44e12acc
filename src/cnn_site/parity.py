"""Hold what is no module against an independent one: optimizers, schedules, transforms, metrics, changes of a network.

As in `equivalence.compare`, the reference must be alive before anything is compared: parameters move, rates change,
draws and cases give different results, the network is another one afterwards. All end in a `Comparison`.
"""

import copy
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .equivalence import (
    FLOAT32_BOUND,
    OUTPUT_BOUND,
    Comparison,
    assert_alive,
    calibrate,
    check_inputs,
    default_dtype,
    difference,
    draw_parameters,
    paired_names,
    seeded,
)
from .trees import flatten, mapped

MakeOptimizer = Callable[..., Optimizer]  # of parameters or groups, and options
MakeSchedule = Callable[[Optimizer], Any]
SEEN = 1e-6  # by how much a path must change, relative, for an option to count as used


# ---------------------------------------------------------------- optimizers


PARAMETERS = {  # of a convolution, a norm and a linear layer: a group each
    "kernel": (4, 2, 3, 3),
    "scale": (4,),
    "shift": (4,),
    "matrix": (6, 8),
    "bias": (6,),
}
GROUPS = (("kernel",), ("scale", "shift"), ("matrix", "bias"))


@dataclass(frozen=True)
class _Plan:
    """How both sides go down the bowl."""

    options: Mapping[str, Any]
    groups: Sequence[Mapping[str, Any]]
    closure: bool
    schedule: MakeSchedule | None
    only: Callable[[Tensor], bool]
    seed: int

    def parts(self) -> list[list[str]]:
        """The names of each group's parameters."""
        if len(self.groups) not in (1, len(GROUPS)):
            raise ValueError(
                f"expected options of 3 groups ({'; '.join(map(', '.join, GROUPS))}), got {len(self.groups)}"
            )
        start = self.start()
        parts = GROUPS if len(self.groups) > 1 else [sum(GROUPS, ())]
        return [[name for name in part if name in start] for part in parts]

    def start(self) -> dict[str, Tensor]:
        """Where the parameters start; all of them are drawn, so that `only` moves none of the others' draws."""
        drawn = self.drawn(0)
        return {name: value for name, value in drawn.items() if self.only(value)}

    def drawn(self, number: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1000 * self.seed + number)
        return {
            name: torch.randn(shape, dtype=torch.float64, generator=generator)
            for name, shape in PARAMETERS.items()
        }


class _Descent:
    """One optimizer on its way down a bowl: curvatures from 0.1 to 10, and a bottom that is redrawn at every step.

    A network's loss would not do: there two right implementations part by rounding alone, exponentially. In a bowl
    such a difference stays as small as it is.
    """

    def __init__(
        self, make: MakeOptimizer, plan: _Plan, before: "_Descent | None" = None
    ) -> None:
        self.plan = plan
        start: Mapping[str, Tensor] = before.parameters if before else plan.start()
        self.parameters: dict[str, nn.Parameter] = {
            name: nn.Parameter(value.detach().clone()) for name, value in start.items()
        }
        groups = [
            {"params": [self.parameters[name] for name in part], **own}
            for part, own in zip(plan.parts(), plan.groups, strict=True)
            if part
        ]
        if not groups:
            raise ValueError("`only` leaves no parameter to optimise")
        self.optimizer = make(groups, **plan.options)
        self.schedule = plan.schedule(self.optimizer) if plan.schedule else None
        self.curvature = {n: 10 ** v.tanh() for n, v in plan.drawn(1).items()}
        self.losses: list[Tensor] = []
        self.path: list[dict[str, Tensor]] = []

    def loss(self, step: int) -> Tensor:
        bottom = self.plan.drawn(2 + step)
        parts = [
            self.curvature[name] * (value - bottom[name]) ** 2 / 2
            for name, value in self.parameters.items()
        ]
        return torch.stack([part.sum() for part in parts]).sum()

    def go(self, steps: Iterable[int]) -> "_Descent":
        for step in steps:

            def closure(step: int = step) -> Tensor:
                self.optimizer.zero_grad()
                loss = self.loss(step)
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            loss: Any
            if self.plan.closure:
                loss = self.optimizer.step(closure)  # type: ignore[arg-type]
                if loss is None:
                    kind = type(self.optimizer).__name__
                    raise AssertionError(
                        f"{kind}.step(closure) returned None, expected the closure's loss"
                    )
            else:
                loss = closure()
                self.optimizer.step()
            if self.schedule:
                self.schedule.step()
            self.losses.append(torch.as_tensor(loss, dtype=torch.float64).detach())
            now = {name: p.detach().clone() for name, p in self.parameters.items()}
            self.path.append(now)
        return self

    def displacements(self) -> dict[str, Tensor]:
        """How far each parameter is from its start after each step; relative to that, a step cannot hide in a weight."""
        start = self.plan.start()
        return {
            name: torch.stack([now[name] - start[name] for now in self.path])
            for name in start
        }

    def states(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """Entries of the state at the end, by parameter and by the reference's name of the entry."""
        entries = {}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            for theirs, own in names.items():
                if own not in state:
                    kind = type(self.optimizer).__name__
                    raise AssertionError(
                        f"{kind} keeps no {own!r} for {name}, only {sorted(state)}"
                    )
                value = torch.as_tensor(state[own], dtype=torch.float64)
                entries[f"{name}: {theirs}"] = value.detach().clone()
        return entries

    def taken_over(
        self, make: MakeOptimizer, names: Mapping[str, str], steps: Iterable[int]
    ) -> "_Descent":
        """Go on with another implementation that loads this one's saved state, its entries renamed by `names`."""
        other = _Descent(make, self.plan, before=self)
        saved, fresh = (c.optimizer.state_dict() for c in (self, other))
        saved["state"] = {
            index: {names[key]: value for key, value in entry.items() if key in names}
            for index, entry in saved["state"].items()
        }
        saved["param_groups"] = [  # what only the other one knows stays as it is
            {**known, **{k: v for k, v in saved_group.items() if k in known}}
            for known, saved_group in zip(
                fresh["param_groups"], saved["param_groups"], strict=True
            )
        ]
        other.optimizer.load_state_dict(_through_a_file(saved))
        if self.schedule and other.schedule:
            other.schedule.load_state_dict(copy.deepcopy(self.schedule.state_dict()))
        return other.go(steps)


def compare_steps(
    ours: MakeOptimizer,
    reference: MakeOptimizer,
    *,
    options: Mapping[str, Any] | None = None,
    steps: int = 50,
    groups: Literal["one", "three"] | Sequence[Mapping[str, Any]] = "three",
    state: Mapping[str, str] | None = None,
    closure: bool = False,
    schedule: MakeSchedule | None = None,
    only: Callable[[Tensor], bool] = lambda parameter: True,
    seed: int = 0,
) -> Comparison:
    """Compare two optimizers: losses, where every parameter goes at every step, and the states at the end, in float64.

    Five parameters, shaped like those of a convolution, a norm and a linear layer, go down a noisy bowl.

    Args:
        ours, reference: the classes, or functions of parameter groups and `options`.
        options: of both, as {"lr": 1e-2}.
        groups: "three": convolution, norm and linear layer with own rates and decay; or the options of these three
            groups; or "one". Each option must change where the reference goes.
        state: the reference's name of each entry of its state -> ours. The entries are compared at the end, and in
            mid-run each side goes on from the other's saved state.
        closure: call `step(closure)`, which may evaluate the loss several times.
        schedule: a schedule for both, as `lambda optimizer: CosineAnnealingLR(optimizer, 50)`.
        only: which parameters are optimised, as `lambda p: p.ndim == 2`; the others stay.

    Raises: AssertionError naming the tensor, the difference and the first step; ValueError for what proves nothing.
    """
    if steps < 2:
        raise ValueError(f"expected 2 steps or more, got {steps=}")
    plan_options = dict(options or {})
    plan = _Plan(plan_options, [{}], closure, schedule, only, seed)
    defaults = _Descent(reference, plan).optimizer.defaults
    if groups == "three":
        plan = replace(plan, groups=_own_rates_and_decay(defaults))
    elif groups != "one":
        plan = replace(plan, groups=groups)
    theirs = _Descent(reference, plan).go(range(steps))
    _assert_moving(theirs, reference, steps, defaults)

    half = steps // 2
    mine = _Descent(ours, plan).go(range(steps))
    expected = {"losses": torch.stack(theirs.losses), **theirs.displacements()}
    actual = {"losses": torch.stack(mine.losses), **mine.displacements()}
    outputs = {name: (actual[name], expected[name]) for name in expected}
    if state:
        own, back = dict(state), {mine: name for name, mine in state.items()}
        end = mine.states(own), theirs.states({name: name for name in own})
        outputs |= {name: (end[0][name], end[1][name]) for name in end[1]}
        rest = range(half, steps)
        for title, maker, giver, names in (
            ("from the reference's state", ours, reference, own),
            ("the reference, from our state", reference, ours, back),
        ):
            stopped = _Descent(giver, plan).go(range(half))
            resumed = stopped.taken_over(maker, names, rest).displacements()
            for name, value in resumed.items():
                outputs[f"{name}, {title}"] = value, expected[name][half:]
    return _by_step(outputs, [_mode(plan, steps, half, bool(state))])


def _own_rates_and_decay(defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "lr" not in defaults:
        raise ValueError(
            f"the reference has no lr among its defaults {sorted(defaults)}: give `groups`"
        )
    own = [{}, {"lr": 2 * defaults["lr"]}, {"lr": defaults["lr"] / 2}]
    if "weight_decay" in defaults:
        own[0]["weight_decay"], own[2]["weight_decay"] = 0.3, 0.0
    return own


def _assert_moving(
    theirs: _Descent, reference: MakeOptimizer, steps: int, defaults: Mapping[str, Any]
) -> None:
    """Every parameter moves, and every option of a group is seen in where its parameters go."""
    plan, path = theirs.plan, theirs.displacements()
    parts = plan.parts()
    for name, moved in path.items():
        if float(moved.abs().max()) < 1e-9:
            raise AssertionError(f"the reference is not alive: {name} stays")
    for number, own in enumerate(plan.groups):
        for key, value in own.items():
            if value == defaults.get(key) or not parts[number]:
                continue  # it cannot be told from the default
            without = [dict(group) for group in plan.groups]
            del without[number][key]
            other = _Descent(reference, replace(plan, groups=without)).go(range(steps))
            apart = [
                float((value - path[name]).abs().max() / path[name].abs().max())
                for name, value in other.displacements().items()
            ]
            if max(apart) < SEEN:
                raise AssertionError(
                    f"the reference is not alive: {key}={value!r} of group {number} changes nothing"
                )


def _mode(plan: _Plan, steps: int, half: int, exchanged: bool) -> str:
    keys = {key: None for group in plan.groups for key in group}
    parts = [f"{steps} steps"]
    if len(plan.groups) > 1:
        names = [key.replace("weight_", "") for key in keys]
        parts.append(f"three parameter groups with own {', '.join(names)}")
    if plan.closure:
        parts.append("with a closure")
    if plan.schedule:
        parts.append("rates from a schedule")
    if exchanged:
        parts.append(f"states exchanged after {half}")
    return "; ".join(parts)


def _through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def _by_step(
    outputs: Mapping[str, tuple[Tensor, Tensor]], modes: list[str]
) -> Comparison:
    """`difference`, whose error says at which step two paths part; entries of dimension 0 are the steps."""
    try:
        return difference(outputs, modes=modes)
    except AssertionError as error:
        name = next((n for n in outputs if str(error).startswith(f"{n} differs")), "")
        if name:
            mine, theirs = outputs[name]
            far = (mine - theirs).abs() > OUTPUT_BOUND * theirs.abs().max()
            if far.ndim:
                first = int(far.reshape(len(far), -1).any(1).nonzero()[0])
                error.add_note(f"first at entry {first}, counted from 0")
        raise


# ---------------------------------------------------------------- schedules


@dataclass
class _Rates:
    """An optimizer of two groups under a schedule, and what the schedule made of its rates."""

    make: MakeSchedule
    rows: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        groups = [
            {"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.03)
        ]
        self.optimizer = torch.optim.SGD(groups, momentum=0.9)
        self.schedule = self.make(self.optimizer)
        self.note()

    def note(self) -> None:
        groups = self.optimizer.param_groups
        self.rows.append([g[key] for key in ("lr", "momentum") for g in groups])

    def go(self, steps: Iterable[int], metrics: Sequence[float] | None) -> "_Rates":
        for step in steps:
            self.optimizer.step()
            self.schedule.step(*([metrics[step]] if metrics is not None else []))
            self.note()
        return self

    def columns(self) -> dict[str, Tensor]:
        names = [f"{key} of group {n}" for key in ("lr", "momentum") for n in (0, 1)]
        table = torch.tensor(self.rows, dtype=torch.float64)
        return dict(zip(names, table.T, strict=True))


def compare_rates(
    ours: MakeSchedule,
    reference: MakeSchedule,
    *,
    steps: int = 50,
    metrics: Sequence[float] | None = None,
    exchange: bool = True,
) -> Comparison:
    """Compare two schedules: rate and momentum of two groups at the start and after each of `steps` steps.

    Args:
        ours, reference: of an optimizer, as `lambda optimizer: CosineAnnealingLR(optimizer, 50)`. It is SGD with two
            groups, lr 0.1 and 0.03, momentum 0.9.
        metrics: for `schedule.step(metric)`, one for each step.
        exchange: in mid-run each side goes on from the other's `state_dict()`.

    Raises: AssertionError naming the rate, the difference and the first step; ValueError for what proves nothing.
    """
    if steps < 2:
        raise ValueError(f"expected 2 steps or more, got {steps=}")
    if metrics is not None and len(metrics) != steps:
        raise ValueError(
            f"expected a metric for each of {steps} steps, got {len(metrics)}"
        )
    expected = _Rates(reference).go(range(steps), metrics).columns()
    if all(bool((column == column[0]).all()) for column in expected.values()):
        raise AssertionError("the reference is not alive: no rate ever changes")
    actual = _Rates(ours).go(range(steps), metrics).columns()
    outputs = {name: (actual[name], expected[name]) for name in expected}
    half = steps // 2
    if exchange:
        for title, maker, giver in (
            ("from the reference's state", ours, reference),
            ("the reference, from our state", reference, ours),
        ):
            stopped, resumed = _Rates(giver).go(range(half), metrics), _Rates(maker)
            resumed.optimizer.load_state_dict(
                copy.deepcopy(stopped.optimizer.state_dict())
            )
            resumed.schedule.load_state_dict(
                copy.deepcopy(stopped.schedule.state_dict())
            )
            resumed.rows.clear()
            resumed.note()
            for name, column in (
                resumed.go(range(half, steps), metrics).columns().items()
            ):
                outputs[f"{name}, {title}"] = column, expected[name][half:]
    mode = f"{steps} steps" + f"; states exchanged after {half}" * exchange
    return _by_step(outputs, [mode])


# ---------------------------------------------------------------- transforms


def compare_draws(
    ours: Callable[[Any, Any], Any],
    reference: Callable[[Any, Any], Any],
    inputs: Mapping[str, Any],
    draws: Mapping[str, Any],
    *,
    square: bool = False,
) -> Comparison:
    """Compare two random transforms, with the same draw put into both; integers (uint8 images) exactly.

    Args:
        ours, reference: of an input and a draw, as `lambda image, draw: erase(image, **draw)`.
        inputs: name -> image, or a structure of tensors (image, boxes, labels). Floats: float64 is held to 1e-10,
            float32 to 1e-5 of the largest entry.
        draws: name -> what is drawn, two or more, which must give different results.
        square: accept square images.

    Raises: AssertionError naming input, draw and difference, also where a transform draws again by itself or writes
        into its input; ValueError for what proves nothing.
    """
    if len(draws) < 2:
        raise ValueError(
            f"one draw does not show that it is used: two or more needed, got {list(draws)}"
        )
    outputs: dict[str, tuple[Tensor, Tensor]] = {}
    bound, shape = OUTPUT_BOUND, None
    for title, value in inputs.items():
        for leaf in flatten(value).values():
            if leaf.ndim > 2 and leaf.shape[-2] == leaf.shape[-1] > 1 and not square:
                raise ValueError(
                    f"square images hide swapped height and width: {title} is {tuple(leaf.shape)}"
                )
            bound = FLOAT32_BOUND if leaf.dtype == torch.float32 else bound
            shape = list(leaf.shape) if shape is None else shape
        results = []
        for name, drawn in draws.items():
            case = f"{title}, {name}"
            expected = _transformed("the reference", reference, value, drawn, case)
            actual = _transformed("ours", ours, value, drawn, case)
            if actual.keys() != expected.keys():
                raise AssertionError(
                    f"{case}: results are {sorted(actual)}, the reference's are {sorted(expected)}"
                )
            results.append(expected)
            outputs |= {
                f"{case}: {key}": (actual[key], expected[key]) for key in expected
            }
        if all(_same(results[0], other) for other in results[1:]):
            raise AssertionError(
                f"the reference is not alive: every draw gives the same of {title}"
            )
    return difference(outputs, bound=bound, shape=shape or [], modes=list(draws))


def _transformed(
    side: str, run: Callable[[Any, Any], Any], value: Any, drawn: Any, case: str
) -> dict[str, Tensor]:
    """The result, after it was found to follow from the draw alone and to leave the input as it was."""

    def clone(leaf: Any) -> Any:
        return leaf.clone() if isinstance(leaf, Tensor) else leaf

    results = []
    for seed in (0, 1):
        copied, draw = mapped(value, clone), copy.deepcopy(drawn)
        with seeded(seed):
            results.append(flatten(run(copied, draw)))
        if not _same(flatten(copied), flatten(value)):
            raise AssertionError(f"{side} writes into its input ({case})")
    if not _same(*results):
        raise AssertionError(
            f"{side} draws again by itself: another seed gives another result for the same draw ({case})"
        )
    return results[0]


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a
    )


# ---------------------------------------------------------------- metrics


def compare_metric(
    ours: Callable[..., Any],
    reference: Callable[..., Any],
    cases: Mapping[str, tuple[Any, ...]],
    *,
    bound: float = OUTPUT_BOUND,
) -> Comparison:
    """Compare two metrics on named cases: the ordinary one and the edges (ties, an empty class, nothing right).

    A case may give zeros, or NaN on both sides, where another one is alive: the cases must differ in their results.
    Differences are relative to the largest value that the quantity has in any case.

    Args:
        cases: name -> arguments of both.

    Raises: AssertionError naming case, quantity and difference.
    """
    if len(cases) < 2:
        raise ValueError(f"expected two cases or more, got {list(cases)}")
    theirs = {case: flatten(reference(*arguments)) for case, arguments in cases.items()}
    first, *others = theirs.values()
    if all(_same(first, other) for other in others):
        raise AssertionError(
            "the reference is not alive: every case gives the same value"
        )
    largest: dict[str, float] = {}
    for values in theirs.values():
        for name, value in values.items():
            top = value[~value.isnan()].abs()
            largest[name] = max(
                largest.get(name, 0.0), float(top.max()) if top.numel() else 0.0
            )
    outputs: dict[str, tuple[Tensor, Tensor]] = {}
    for case, expected in theirs.items():
        actual = flatten(ours(*cases[case]))
        if actual.keys() != expected.keys():
            raise AssertionError(
                f"{case}: results are {sorted(actual)}, the reference's are {sorted(expected)}"
            )
        for name, value in expected.items():
            title = f"{case}: {name}"
            if not torch.equal(actual[name].isnan(), value.isnan()):
                raise AssertionError(
                    f"{title}: NaN in other places than in the reference"
                )
            # With the largest value beside them, all cases have one scale.
            outputs[title] = tuple(  # type: ignore[assignment]
                torch.cat([v.flatten(), v.new_tensor([largest[name]])]).nan_to_num()
                for v in (actual[name], value)
            )
    return difference(outputs, bound=bound, modes=list(cases))


# ---------------------------------------------------------------- changes of a network


def compare_change(
    ours: Callable[[nn.Module], nn.Module | None],
    reference: Callable[[nn.Module], nn.Module | None],
    network: nn.Module,
    inputs: Any,
    *,
    match: Literal["name", "order"] | None = "name",
    outputs: Callable[[Any], Any] | None = None,
    dtype: torch.dtype = torch.float64,
    square: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare two functions that change a network (prune, fold, quantise): what they leave in it, and what it computes.

    Both get a copy of `network` whose parameters and buffers were drawn at random and whose batch norms were
    calibrated, in evaluation mode. Each must have changed it.

    Args:
        ours, reference: change the network in place (and return None or it), or return another one.
        inputs: as for `equivalence.compare`.
        match: compare parameters and buffers by "name" or by "order"; None: outputs alone, where the two keep
            them in different forms.
        outputs: picks what is compared from what the network returns.
        dtype: float64, or float32 (to 1e-5) where a change needs it.

    Raises: AssertionError naming the tensor and the difference, or the side that changed nothing.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected float64 or float32, got {dtype}")
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    batch = check_inputs(arguments, square)
    pick = outputs or (lambda out: out)
    with default_dtype(dtype):
        original = copy.deepcopy(network).to(dtype)
        generator = torch.Generator().manual_seed(seed)
        draw_parameters(original, generator)
        calibrate(original, arguments, dtype, generator)
        original.eval()
        mine = _changed("ours", ours, original)
        theirs = _changed("the reference", reference, original)

        def prepare(leaf: Any) -> Any:
            floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
            return leaf.detach().clone().to(dtype) if floating else leaf

        results = []
        for changed in (mine, theirs):
            with torch.no_grad(), seeded(seed):
                result = changed.eval()(*mapped(arguments, prepare))
            results.append(flatten(pick(result)))
        assert_alive(results[1], batch)
        if results[0].keys() != results[1].keys():
            raise AssertionError(
                f"outputs are {sorted(results[0])}, the reference's are {sorted(results[1])}"
            )
        pairs = {key: (results[0][key], results[1][key]) for key in results[1]}
        names = paired_names(mine, theirs, match) if match else {}
        states = mine.state_dict(), theirs.state_dict()
        for name, own in names.items():
            pairs[f"state {own}"] = states[0][own], states[1][name]
        bound = OUTPUT_BOUND if dtype == torch.float64 else FLOAT32_BOUND
        result = difference(pairs, bound=bound, shape=batch.shape, modes=["evaluation"])
    parameters = sum(p.numel() for p in mine.parameters()) if match else None
    settings = ["parameters paired by order"] * (match == "order")
    return replace(
        result, parameters=parameters, tensors=len(names) or None, settings=settings
    )


def _changed(
    side: str, change: Callable[[nn.Module], nn.Module | None], original: nn.Module
) -> nn.Module:
    copied = copy.deepcopy(original)
    changed = change(copied)
    changed = copied if changed is None else changed
    if _unchanged(changed, original):
        raise AssertionError(f"{side} changed nothing: the network is the same")
    return changed


def _unchanged(network: nn.Module, original: nn.Module) -> bool:
    """The same kinds of modules, and everything saved has the same name, type and entries."""
    kinds = [
        [(name, type(module)) for name, module in n.named_modules()]
        for n in (network, original)
    ]
    mine, before = network.state_dict(), original.state_dict()
    return (
        kinds[0] == kinds[1]
        and mine.keys() == before.keys()
        and all(
            mine[k].dtype == before[k].dtype and torch.equal(mine[k], before[k])
            if isinstance(mine[k], Tensor)
            else repr(mine[k]) == repr(before[k])
            for k in mine
        )
    )
