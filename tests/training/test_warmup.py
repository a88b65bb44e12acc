"""Warm-up rises in equal steps and then leaves the rate to any other schedule, as torch's SequentialLR of a LinearLR does."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from cnn_lab import bench
from cnn_lab.fit import Scheduler
from cnn_site.bench import arguments, beside_the_baseline, cost_beside_the_baseline
from cnn_site.parity import compare_rates
from cnn_techniques.training import CosineAnnealing, LinearWarmUp, StepDecay

NO_DEVICE_CASES = "a schedule computes Python numbers"
Maker = Callable[[Any], LRScheduler]
AFTER: dict[str, Maker] = {
    "cosine": lambda o: CosineAnnealingLR(o, 900, 1e-3),
    "steps": lambda o: MultiStepLR(o, [300, 600], 0.2),
    "exponential": lambda o: ExponentialLR(o, 0.99),
    "restarts": lambda o: CosineAnnealingWarmRestarts(o, 30, 2),
    "one cycle": lambda o: OneCycleLR(o, [0.1, 0.03], 1000),
    "constant": lambda o: ConstantLR(o, 1.0),
}


def sgd(*rates: float) -> SGD:
    return SGD(
        [
            {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr}
            for lr in rates or (0.1,)
        ]
    )


def rates(schedule: Scheduler, steps: int) -> list[float]:
    """The rate of the first group before each of `steps` steps, and after the last."""
    optimizer = schedule.optimizer  # type: ignore[attr-defined]
    out = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        out.append(optimizer.param_groups[0]["lr"])
    return out


def sequential(optimizer: Any, n: int, after: Maker, start: float) -> SequentialLR:
    # the schedule that follows is made first, as ours does: OneCycleLR sets the rate at
    # which it starts in the optimizer, and that is where the rise should end
    then = after(optimizer)
    rise = LinearLR(optimizer, start, total_iters=n)
    return SequentialLR(optimizer, [rise, then], [n])


@pytest.mark.parametrize("n", [100, 600])  # states are exchanged after 500 steps
@pytest.mark.parametrize("name", AFTER)
def test_a_thousand_rates_are_those_of_torch(evidence, n: int, name: str) -> None:
    comparison = compare_rates(
        lambda o: LinearWarmUp(o, n, AFTER[name], 0.01),
        lambda o: sequential(o, n, AFTER[name], 0.01),
        steps=1000,
    )
    if name in ("cosine", "steps"):
        what = {"cosine": "CosineAnnealingLR", "steps": "MultiStepLR"}[name]
        evidence.equivalent(
            f"then_{name}_{n}",
            comparison,
            reference=f"torch.optim.lr_scheduler.SequentialLR of LinearLR and {what}",
            settings=f"total_iters={n}, start_factor=0.01",
        )


@pytest.mark.parametrize("start", [1.0, 1 / 3, 1e-6])
def test_the_first_rate_may_be_any_part_of_the_full_one(start: float) -> None:
    compare_rates(
        lambda o: LinearWarmUp(o, 7, AFTER["steps"], start),
        lambda o: sequential(o, 7, AFTER["steps"], start),
        steps=1000,
    )


@pytest.mark.parametrize("done", [1, 99, 100, 101])
def test_states_are_exchanged_around_the_end_of_the_warm_up(done: int) -> None:
    def run(make: Callable[[SGD], Any], load: dict[str, Any] | None) -> Any:
        optimizer = sgd(0.3)
        schedule = make(optimizer)
        if load is not None:
            optimizer.load_state_dict(copy.deepcopy(load["optimizer"]))
            schedule.load_state_dict(copy.deepcopy(load["schedule"]))
        found = rates(schedule, done if load is None else 300)
        state = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        return state, found

    for after in AFTER.values():
        if after is AFTER["one cycle"]:  # has two groups, and compare_rates covers it
            continue
        ours = partial(LinearWarmUp, total_iters=100, after=after)
        theirs = partial(sequential, n=100, after=after, start=0.01)
        state, _ = run(theirs, None)
        expected = run(theirs, state)[1]
        assert run(ours, state)[1] == pytest.approx(expected, rel=1e-12)
        assert run(theirs, run(ours, None)[0])[1] == pytest.approx(expected, rel=1e-12)


def test_the_rate_rises_by_the_same_amount_at_each_step_and_is_full_after_n() -> None:
    # from eta to k eta, as in section 2.2
    found = rates(LinearWarmUp(sgd(0.8), 7, AFTER["constant"], 1 / 8), 9)
    assert found == pytest.approx([0.1 * k for k in range(1, 9)] + [0.8, 0.8])


def test_the_schedule_after_it_is_as_long_and_starts_as_without_a_warm_up() -> None:
    found = rates(LinearWarmUp(sgd(), 20, lambda o: CosineAnnealing(o, 50)), 70)
    assert found[20:] == rates(CosineAnnealing(sgd(), 50), 50)


def test_a_start_at_the_full_rate_waits_for_the_schedule_after_it() -> None:
    found = rates(LinearWarmUp(sgd(), 5, lambda o: StepDecay(o, 2), 1.0), 8)
    assert found == pytest.approx([0.1] * 7 + [0.01] * 2)


def test_each_group_rises_to_its_own_rate() -> None:
    optimizer = sgd(0.1, 0.02)
    rates(LinearWarmUp(optimizer, 4, AFTER["constant"], 0.5), 2)
    found = [group["lr"] for group in optimizer.param_groups]
    assert found == pytest.approx([0.075, 0.015])


def test_rates_may_be_tensors() -> None:
    rate = torch.tensor(0.1, dtype=torch.float64)
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = LinearWarmUp(optimizer, 4, lambda o: StepDecay(o, 2), 0.2)
    found = []
    for _ in range(7):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    assert found == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("value", [0, -3, math.nan])
def test_no_steps_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"total_iters={value}"):
        LinearWarmUp(sgd(), value, AFTER["constant"])  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, math.nan])
def test_a_start_that_is_no_part_of_the_rate_is_refused(value: float) -> None:
    optimizer = sgd()
    with pytest.raises(ValueError, match=f"start_factor={value}"):
        LinearWarmUp(optimizer, 3, AFTER["constant"], value)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_state_of_another_kind_is_refused_and_changes_nothing() -> None:
    schedule = LinearWarmUp(sgd(), 5, lambda o: CosineAnnealing(o, 9))
    rates(schedule, 7)
    before = copy.deepcopy(schedule.state_dict())
    for other in (
        CosineAnnealing(sgd(), 5),
        LinearLR(sgd(), 0.1),
        SequentialLR(o := sgd(), [ConstantLR(o), ConstantLR(o)], [5]),
        SequentialLR(o, [LinearLR(o, 0.1, 0.9), ConstantLR(o)], [5]),
        SequentialLR(o, [LinearLR(o, 0.1), ConstantLR(o)], [9]),
        SequentialLR(o, [LinearLR(o, 0.1), ConstantLR(o), ConstantLR(o)], [5, 9]),
        LinearWarmUp(sgd(0.1, 0.2), 5, lambda o: CosineAnnealing(o, 9)),
        LinearWarmUp(sgd(), 5, lambda o: StepDecay(o, 9)),
        LinearWarmUp(sgd(), 5, AFTER["steps"]),
        LambdaLR(sgd(), lambda t: 1.0),
    ):
        with pytest.raises(ValueError, match="expected a state of"):
            schedule.load_state_dict(other.state_dict())
        assert schedule.state_dict() == before


def test_the_state_of_another_schedule_after_it_is_refused_for_torchs_schedules_too() -> (
    None
):
    schedule = LinearWarmUp(sgd(), 5, AFTER["cosine"])
    with pytest.raises(ValueError, match=r"a schedule with .'T_max', 'base_lrs'"):
        schedule.load_state_dict(LinearWarmUp(sgd(), 5, AFTER["steps"]).state_dict())


# ---------------------------------------------------------------- the bench


ARMS = ["cosine"]


def bench_arm(key: str) -> bench.Arm:
    def schedule(optimizer: torch.optim.Optimizer, n: int) -> LRScheduler:
        warm = max(n // 20, 1)
        return LinearWarmUp(optimizer, warm, lambda o: CosineAnnealing(o, n - warm))

    return bench.Arm("Warm-up over 5 % of the steps, then cosine", schedule=schedule)


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ARMS))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)
