"""One cycle gives the rates and momenta of torch's OneCycleLR, in two and three phases, and refuses a run it does not fit."""

import copy
import math
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from cnn_lab import bench
from cnn_site.bench import arguments, beside_the_baseline, cost_beside_the_baseline
from cnn_site.parity import compare_rates
from cnn_techniques.training import OneCycle

NO_DEVICE_CASES = "a schedule computes Python numbers"
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "three phases": {"three_phase": True},
    "linear": {"anneal_strategy": "linear"},
    "paper": {"anneal_strategy": "linear", "three_phase": True, "pct_start": 0.45},
    "no third phase": {"three_phase": True, "pct_start": 0.5},
    "rates alone": {"cycle_momentum": False},
    "range": {"base_momentum": 0.8, "max_momentum": 0.99},
    "factors": {"div_factor": 10.0, "final_div_factor": 100.0, "pct_start": 0.123},
}


def one(kind: Any = SGD, **options: Any) -> Optimizer:
    optimizer: Optimizer = kind([torch.nn.Parameter(torch.zeros(1))], lr=0.1, **options)
    return optimizer


def walk(schedule: Any, steps: int) -> list[tuple[float, float]]:
    """Rate and momentum before each of `steps` steps."""
    found, optimizer = [], schedule.optimizer
    for _ in range(steps):
        group = optimizer.param_groups[0]
        momentum = group["betas"][0] if "betas" in group else group["momentum"]
        found.append((group["lr"], momentum))
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_a_thousand_rates_and_momenta_are_those_of_torch(evidence, name: str) -> None:
    options = OPTIONS[name]
    comparison = compare_rates(  # the rates of 1,000 steps: the first, and 999 after it
        lambda o: OneCycle(o, [0.3, 0.1], 1000, **options),
        lambda o: OneCycleLR(o, [0.3, 0.1], 1000, **options),
        steps=999,
    )
    if name in ("default", "paper"):
        given = ", ".join(f"{k}={v!r}" for k, v in options.items())
        evidence.equivalent(
            {"default": "two", "paper": "three"}[name],
            comparison,
            reference="torch.optim.lr_scheduler.OneCycleLR",
            settings=f"max_lr=[0.3, 0.1], total_steps=1000{', ' if given else ''}{given}",
        )


@pytest.mark.parametrize("name", ["default", "paper"])
def test_the_betas_of_adam_are_those_of_torch(name: str) -> None:
    ours, theirs = one(Adam), one(Adam)
    mine = walk(OneCycle(ours, 0.1, 1000, **OPTIONS[name]), 1000)
    other = walk(OneCycleLR(theirs, 0.1, 1000, **OPTIONS[name]), 1000)
    assert torch.tensor(mine).allclose(torch.tensor(other), rtol=1e-12, atol=1e-15)
    assert ours.param_groups[0]["betas"][1] == 0.999


@pytest.mark.parametrize("name", ["default", "paper"])
def test_also_the_smallest_rates_are_those_of_torch(name: str) -> None:
    ours = walk(OneCycle(one(), 0.1, 1000, **OPTIONS[name]), 1000)
    theirs = walk(OneCycleLR(one(), 0.1, 1000, **OPTIONS[name]), 1000)
    assert theirs[-1][0] == pytest.approx(0.1 / 25 / 1e4, rel=1e-6)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine[0] == pytest.approx(other[0], rel=1e-9, abs=0)


def test_the_rate_starts_low_is_highest_at_the_turn_and_ends_lowest() -> None:
    found = walk(OneCycle(one(), 0.5, 101, pct_start=0.3), 101)
    rates, momenta = zip(*found, strict=True)
    assert rates[0] == pytest.approx(0.5 / 25)
    assert max(rates) == pytest.approx(0.5, rel=1e-3)
    assert rates.index(max(rates)) == 30  # next to 0.3 * 101 - 1, where it is flatter
    assert rates[-1] == pytest.approx(0.5 / 25 / 1e4)
    assert momenta[0] == momenta[-1] == pytest.approx(0.95)
    assert min(momenta) == pytest.approx(0.85, abs=1e-4)


def test_momentum_falls_exactly_where_the_rate_rises() -> None:
    for options in (OPTIONS["default"], OPTIONS["linear"]):
        found = walk(OneCycle(one(), 0.1, 100, **options), 100)
        for (rate, momentum), (later, moment) in pairwise(found):
            assert (later > rate) == (moment < momentum)


def test_the_lines_of_three_phases_are_straight_and_the_first_two_equally_long() -> (
    None
):
    # the policy a second way: interpolation between its four corners
    found = walk(
        OneCycle(one(), 1.0, 101, **(OPTIONS["paper"] | {"pct_start": 0.4})), 101
    )
    corners = {0.0: 0.04, 39.4: 1.0, 78.8: 0.04, 100.0: 0.04 / 1e4}
    for step, (rate, _) in enumerate(found):
        left = max(c for c in corners if c <= step)
        right = min(c for c in corners if c > left) if left < 100 else left
        part = (step - left) / (right - left) if right > left else 0.0
        line = corners[left] * (1 - part) + corners[right] * part
        assert rate == pytest.approx(line, rel=1e-9)


def test_the_call_after_the_last_batch_keeps_the_last_rate() -> None:
    # torch goes on along the line, to a rate below 0, which no batch sees
    ours, theirs = one(), one()
    walk(OneCycle(ours, 0.1, 50, anneal_strategy="linear"), 50)
    walk(OneCycleLR(theirs, 0.1, 50, anneal_strategy="linear"), 50)
    assert ours.param_groups[0]["lr"] == pytest.approx(0.1 / 25 / 1e4)
    assert theirs.param_groups[0]["lr"] < 0


def test_more_steps_than_the_run_has_are_refused() -> None:
    schedule = OneCycle(one(), 0.1, 20)
    walk(schedule, 20)
    with pytest.raises(ValueError, match="expected 20 steps"):
        schedule.step()


def test_without_a_cycle_of_momentum_it_stays_as_it_was() -> None:
    found = walk(OneCycle(one(momentum=0.7), 0.1, 20, cycle_momentum=False), 20)
    assert {momentum for _, momentum in found} == {0.7}


def test_rates_may_be_tensors() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=torch.tensor(0.1))
    found = walk(OneCycle(optimizer, 0.1, 20), 3)
    assert float(found[0][0]) == pytest.approx(float(optimizer.param_groups[0]["lr"]))
    assert float(optimizer.param_groups[0]["lr"]) > 0.004


@pytest.mark.parametrize(
    ("told", "options"),
    [
        ("max_lr=0.0", {"max_lr": 0.0}),
        ("max_lr=nan", {"max_lr": math.nan}),
        (r"max_lr=\[0.1, 0.2\]", {"max_lr": [0.1, 0.2]}),
        ("total_steps=0", {"total_steps": 0}),
        ("total_steps=3,", {"total_steps": 3}),
        ("pct_start=0.0", {"pct_start": 0.0}),
        ("pct_start=1.0", {"pct_start": 1.0}),
        ("pct_start=nan", {"pct_start": math.nan}),
        ("pct_start=0.6, three_phase=True", {"pct_start": 0.6, "three_phase": True}),
        ("anneal_strategy='cosine'", {"anneal_strategy": "cosine"}),
        ("base_momentum=-0.1", {"base_momentum": -0.1}),
        ("max_momentum=1.0", {"max_momentum": 1.0}),
        ("base_momentum=0.96", {"base_momentum": 0.96}),
        ("div_factor=0", {"div_factor": 0}),
        ("final_div_factor=-1", {"final_div_factor": -1}),
    ],
)
def test_impossible_values_are_refused_and_change_nothing(
    told: str, options: dict[str, Any]
) -> None:
    optimizer = one(momentum=0.7)
    before = dict(optimizer.param_groups[0])
    with pytest.raises(ValueError, match=told):
        OneCycle(optimizer, **({"max_lr": 0.1, "total_steps": 100} | options))
    assert optimizer.param_groups[0] == before


def test_an_optimizer_without_momentum_is_refused() -> None:
    with pytest.raises(ValueError, match="got Adagrad"):
        OneCycle(one(Adagrad), 0.1, 100)
    OneCycle(one(Adagrad), 0.1, 100, cycle_momentum=False)


def test_a_state_of_another_kind_is_refused_and_changes_nothing() -> None:
    schedule = OneCycle(one(), 0.1, 30)
    walk(schedule, 7)
    before = copy.deepcopy(schedule.state_dict())
    two = SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in "ab"], lr=0.1)
    for other in (
        CosineAnnealingLR(one(), 30),
        OneCycle(one(Adam), 0.1, 30),
        OneCycle(one(), 0.1, 30, cycle_momentum=False),
        OneCycle(two, 0.1, 30),
    ):
        with pytest.raises(ValueError, match="expected a state of 1 groups with"):
            schedule.load_state_dict(other.state_dict())
        assert schedule.state_dict() == before


# ---------------------------------------------------------------- the bench


ARMS = ["one_cycle"]


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        "One cycle", schedule=lambda optimizer, n: OneCycle(optimizer, 0.1, n)
    )


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ARMS))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)
