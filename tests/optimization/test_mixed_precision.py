"""The loss scaler decides as torch's does, also where gradients overflow; what float16 loses and bfloat16 keeps is counted."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import functional as F

from cnn_site.equivalence import difference
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import resnet18
from cnn_techniques.optimization import LossScaler


def scaled_and_back(loss: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The loss times the scale, and a gradient divided by it."""
    weight = nn.Parameter(torch.zeros_like(gradient))
    scaler = LossScaler(1024.0)
    weight.grad = gradient.clone()
    scaler.unscale_(torch.optim.SGD([weight]))
    return scaler.scale(loss), weight.grad


DEVICE_CASES = {
    "scale": lambda: (scaled_and_back, (torch.randn(()), torch.randn(6, 5)))
}
BAD = {3: math.inf, 4: -math.inf, 11: math.nan, 12: math.inf, 40: math.inf}
OPTIONS: dict[str, dict[str, Any]] = {
    "growth every 5 steps": {"growth_interval": 5},
    "growth after every step": {"growth_interval": 1},
    "default": {},
    "factors that are no powers of 2": {
        "init_scale": 1000.0,
        "growth_factor": 1.7,
        "backoff_factor": 0.3,
        "growth_interval": 3,
    },
}
Run = dict[str, list[Any]]


def run(
    scaler: Any,
    steps: Iterable[int],
    weights: Tensor | None = None,
    bad: dict[int, float] = BAD,
) -> Run:
    """Descend with planted overflows; what was decided and what came of it, by step."""
    weight = nn.Parameter(torch.ones(4) if weights is None else weights.clone())
    optimizer = torch.optim.SGD([weight], lr=0.01)
    seen: Run = {"scale": [], "tracker": [], "made": [], "weight": [], "gradient": []}
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        factors = torch.randn(4, generator=draw)
        factors[1] = bad.get(step, factors[1])
        optimizer.zero_grad()
        scaler.scale((weight * factors).sum()).backward()
        before = weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        seen["scale"].append(scaler.get_scale())
        seen["tracker"].append(scaler.state_dict()["_growth_tracker"])
        seen["made"].append(not torch.equal(weight, before))
        seen["weight"].append(weight.detach().clone())
        assert weight.grad is not None
        seen["gradient"].append(weight.grad.clone())
    return seen


def same(ours: Run, theirs: Run) -> None:
    for name in ("scale", "tracker", "made"):
        assert ours[name] == theirs[name], name
    for name in ("weight", "gradient"):
        for a, b in zip(ours[name], theirs[name], strict=True):
            assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)), name


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_run_with_overflows_has_the_decisions_and_the_weights_of_torch(
    evidence, options: dict[str, Any]
) -> None:
    ours = run(LossScaler(**options), range(120))
    theirs = run(GradScaler("cpu", **options), range(120))
    same(ours, theirs)
    assert ours["made"].count(False) >= len(BAD)
    assert ours["made"].count(True) > 60
    if options == OPTIONS["factors that are no powers of 2"]:
        named = {
            "scale": lambda r: torch.tensor(r["scale"]),
            "made": lambda r: torch.tensor(r["made"]).int(),
            "tracker": lambda r: torch.tensor(r["tracker"]),
            "weight": lambda r: torch.stack(r["weight"]),
        }
        comparison = difference(
            {name: (pick(ours), pick(theirs)) for name, pick in named.items()},
            shape=[120, 4],
            modes=["scale", "steps left out", "weights"],
        )
        evidence.equivalent(
            "scaler",
            comparison,
            reference="torch.amp.GradScaler",
            settings="120 steps, five with an infinite gradient or NaN; "
            "growth 1.7, backoff 0.3, interval 3",
        )


def test_a_wrong_rule_is_seen() -> None:
    """The comparison can fail: a scaler that forgets to count anew after an overflow."""

    class Forgetful(LossScaler):
        def update(self) -> None:
            steps = self._growth_tracker
            super().update()
            if self._growth_tracker == 0:
                self._growth_tracker = min(steps, 4)

    ours = run(Forgetful(growth_interval=5), range(60))
    theirs = run(GradScaler("cpu", growth_interval=5), range(60))
    with pytest.raises(AssertionError, match=r"scale|tracker"):
        same(ours, theirs)


@pytest.mark.parametrize("to_torch", [True, False])
def test_states_are_exchanged_with_torch_in_mid_run(to_torch: bool) -> None:
    options = OPTIONS["growth every 5 steps"]
    whole = run(GradScaler("cpu", **options), range(60))
    first, second = LossScaler(**options), GradScaler("cpu")
    if not to_torch:
        first, second = GradScaler("cpu", **options), LossScaler()  # type: ignore[assignment]
    begun = run(first, range(25))
    state = copy.deepcopy(first.state_dict())
    assert state["_growth_tracker"] > 0
    second.load_state_dict(state)
    assert second.state_dict() == state
    went_on = run(second, range(25, 60), begun["weight"][-1])
    same({name: begun[name] + went_on[name] for name in whole}, whole)


def test_a_scale_that_falls_to_zero_and_one_that_reaches_the_top_are_torchs() -> None:
    always = {step: math.nan for step in range(180)}
    ours = run(LossScaler(), range(180), bad=always)
    same(ours, run(GradScaler("cpu"), range(180), bad=always))
    assert ours["scale"][-1] == 0.0
    large = {"init_scale": 2.0**120, "growth_factor": 16.0, "growth_interval": 1}
    ours = run(LossScaler(**large), range(5), bad={})
    same(ours, run(GradScaler("cpu", **large), range(5), bad={}))
    assert ours["scale"][-1] == 2.0**124  # and not infinity


def two_optimizers(make: Callable[[], Any]) -> list[Any]:
    a, b = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizers = [torch.optim.SGD([p], lr=0.1) for p in (a, b)]
    scaler, seen = make(), []
    for step in range(4):
        factor = math.inf if step == 1 else 1.0
        for optimizer in optimizers:
            optimizer.zero_grad()
        scaler.scale((a * factor).sum() + b.sum()).backward()
        scaler.unscale_(optimizers[1])
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        seen.append((scaler.get_scale(), a.tolist(), b.tolist()))
    return seen


def test_one_of_two_optimizers_steps_where_the_other_overflows_as_in_torch() -> None:
    ours = two_optimizers(lambda: LossScaler(growth_interval=2))
    assert ours == two_optimizers(lambda: GradScaler("cpu", growth_interval=2))
    assert ours[0][1] == ours[1][1] and ours[0][2] != ours[1][2]


def test_the_gradients_are_those_without_a_scale_to_the_last_bit() -> None:
    """A power of 2 changes the exponent alone."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
    images, labels = torch.randn(4, 1, 6, 6), torch.arange(4)
    F.cross_entropy(net(images), labels).backward()
    expected = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    optimizer, scaler = torch.optim.SGD(net.parameters(), lr=0.1), LossScaler(2.0**16)
    net.zero_grad()
    scaler.scale(F.cross_entropy(net(images), labels)).backward()
    scaler.unscale_(optimizer)
    found = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert scaler.step(optimizer) is True


def test_gradients_that_are_large_enough_times_the_scale_survive_float16() -> None:
    tiny = 2.0**-30
    for scale, kept in ((1.0, 0.0), (2.0**12, tiny)):
        weight = nn.Parameter(torch.zeros(1))
        scaler = LossScaler(scale)
        scaler.scale((weight.half() * tiny * 2**20).sum() * 2.0**-20).backward()
        scaler.unscale_(torch.optim.SGD([weight]))
        assert weight.grad is not None and weight.grad.item() == kept


def test_a_scalar_loss_in_float16_is_scaled_in_float32() -> None:
    loss = torch.tensor(2.0, dtype=torch.float16)
    assert loss * 2.0**16 == math.inf
    for scaler in (LossScaler(), GradScaler("cpu")):
        scaled = scaler.scale(loss)
        assert scaled.dtype == torch.float32 and scaled == 2.0**17


# ---------------------------------------------------------------- what is refused


def with_gradient(value: Tensor | None) -> torch.optim.SGD:
    weight = nn.Parameter(torch.ones(2, dtype=None if value is None else value.dtype))
    weight.grad = value
    return torch.optim.SGD([weight], lr=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_scale": 0.0}, "scale=0.0"),
        ({"init_scale": math.inf}, "scale=inf"),
        ({"init_scale": 1e39}, "scale=inf"),  # in float32
        ({"growth_factor": 1.0}, "growth=1.0"),
        ({"backoff_factor": 1.0}, "backoff=1.0"),
        ({"backoff_factor": 0.0}, "backoff=0.0"),
        ({"growth_interval": 0}, "interval=0"),
        ({"growth_interval": 2.5}, "interval=2.5"),
    ],
)
def test_settings_out_of_range_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LossScaler(**options)


def test_a_state_of_another_kind_is_refused_and_nothing_changes() -> None:
    scaler = LossScaler(64.0)
    before = scaler.state_dict()
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    for state in ({}, sgd.state_dict(), {**before, "more": 1}):
        with pytest.raises(ValueError, match="expected a state with scale"):
            scaler.load_state_dict(state)
    with pytest.raises(ValueError, match=r"backoff=2.0"):
        scaler.load_state_dict({**before, "scale": 8.0, "backoff_factor": 2.0})
    assert scaler.state_dict() == before


def test_calls_out_of_order_are_refused_as_in_torch() -> None:
    for scaler in (LossScaler(), GradScaler("cpu")):
        optimizer = with_gradient(torch.ones(2))
        scaler.scale(torch.ones(()))
        with pytest.raises((RuntimeError, AssertionError)):
            scaler.update()  # nothing was unscaled
        scaler.unscale_(optimizer)
        with pytest.raises(RuntimeError, match="since the last update"):
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        with pytest.raises(RuntimeError, match="since the last update"):
            scaler.step(optimizer)
        with pytest.raises(RuntimeError):
            scaler.unscale_(optimizer)
        scaler.update()
        with pytest.raises((RuntimeError, AssertionError)):
            scaler.step(with_gradient(None))


def test_gradients_in_float16_and_sparse_ones_are_refused_and_stay() -> None:
    half = torch.ones(2, dtype=torch.float16)
    for scaler in (LossScaler(), GradScaler("cpu")):
        scaler.scale(torch.ones(()))
        optimizer = with_gradient(half.clone())
        with pytest.raises(ValueError, match=r"(?i)float16|fp16"):
            scaler.step(optimizer)
        assert torch.equal(optimizer.param_groups[0]["params"][0].grad, half)
    with pytest.raises(ValueError, match="sparse"):
        LossScaler().step(with_gradient(torch.ones(2).to_sparse()))


# ---------------------------------------------------------------- what is lost, what is kept


def test_the_formats(evidence) -> None:
    rows = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        info, name = torch.finfo(dtype), str(dtype).removeprefix("torch.")
        rows[name] = {
            "name": name,
            "bits": info.bits,
            "largest": info.max,
            "normal": info.smallest_normal,
            "smallest": info.smallest_normal * info.eps,
            "eps": info.eps,
        }
        least = torch.tensor(rows[name]["smallest"], dtype=torch.float64)
        assert least.to(dtype) > 0 and (least / 2.1).to(dtype) == 0
    evidence.computed("formats", rows)


def slopes(net: nn.Sequential, images: Tensor, labels: Tensor) -> list[Tensor]:
    """The gradients of the outputs of all layers."""
    outputs = []
    x = images
    for layer in net:
        x = layer(x)
        outputs.append(x)
    return list(torch.autograd.grad(F.cross_entropy(x, labels), outputs))


def lost(
    gradients: Iterable[Tensor], scale: float, dtype: torch.dtype
) -> Iterator[float]:
    """The parts of the entries that become zero, and infinite."""
    entries = torch.cat([g[g != 0] for g in gradients])
    cast = (entries * scale).to(dtype)
    yield round((cast == 0).double().mean().item(), 4)
    yield round(cast.isinf().double().mean().item(), 4)


def test_what_becomes_zero_by_format_and_scale(evidence) -> None:
    """Of a small network, before it has learnt its images and after."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).double()  # fmt: skip
    images, labels = torch.randn(32, 3, 16, 16, dtype=torch.float64), torch.arange(32)
    labels %= 10
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    before = slopes(net, images, labels)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    after = slopes(net, images, labels)
    rows = {}
    for dtype, power in (
        (torch.bfloat16, 0),
        (torch.float16, 0),
        (torch.float16, 8),
        (torch.float16, 16),
        (torch.float16, 24),
    ):
        name = str(dtype).removeprefix("torch.")
        (first, up), (last, still_up) = (
            lost(g, 2.0**power, dtype) for g in (before, after)
        )
        rows[f"{name}_{power}"] = {
            "name": f"{name}, scale {2**power:,}",
            "zero_before": first,
            "zero_after": last,
            "infinite_before": up,
            "infinite_after": still_up,
        }
    assert rows["bfloat16_0"]["zero_after"] == 0
    assert rows["float16_0"]["zero_after"] > 0.01
    evidence.computed("lost", rows)


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip


def copied_weights(net: nn.Module) -> int:
    """Bytes of the 16-bit copies that autocast makes: of convolutions and linear layers."""
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return sum(2 * m.weight.numel() for m in layers)


def test_autocast_keeps_half_the_activations_and_a_copy_of_the_weights() -> None:
    """What is computed for a large network below is what autocast really keeps of a small one."""
    images = torch.randn(2, 3, 12, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = model_cost(small(), images).saved_bytes
    halved = model_cost(small().bfloat16(), images.bfloat16()).saved_bytes
    assert abs(cast - halved - copied_weights(small())) < 0.05 * halved


def test_memory_of_a_step_by_precision(evidence) -> None:
    rows = {}
    for size in (64, 1):
        for name, dtype in (("float32", torch.float32), ("mixed", torch.float16)):
            with torch.device("meta"):
                net = resnet18().train()
                fixed = 12 * sum(p.numel() for p in net.parameters())
                copies = copied_weights(net) if name == "mixed" else 0
                kept = model_cost(
                    net.to(dtype), torch.empty(size, 3, 224, 224, dtype=dtype)
                ).saved_bytes
            rows[f"{name}_{size}"] = {
                "name": f"{name}, {size} image{'s' * (size > 1)}",
                "weights": fixed,
                "copies": copies,
                "kept": kept,
                "all": fixed + copies + kept,
            }
    evidence.computed("memory", rows)


def test_a_weight_in_16_bits_does_not_feel_a_small_step() -> None:
    for dtype, moved in ((torch.float32, True), (torch.float16, False)):
        weight = torch.ones(1, dtype=dtype)
        for _ in range(1000):
            weight -= torch.tensor(1e-4, dtype=dtype)
        assert (weight.item() < 0.91) is moved
