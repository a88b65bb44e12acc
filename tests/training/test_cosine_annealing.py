"""Cosine annealing gives the rates of equation 5, which are torch's, and refuses what is no schedule of its kind."""

import math
from functools import partial

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    StepLR,
)

from cnn_lab import bench
from cnn_lab.fit import Scheduler
from cnn_site.bench import arguments, beside_the_baseline, cost_beside_the_baseline
from cnn_site.parity import compare_rates
from cnn_techniques.training import CosineAnnealing, CosineWarmRestarts

NO_DEVICE_CASES = "a schedule computes Python numbers"


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


@pytest.mark.parametrize("eta_min", [0.0, 1e-3])
def test_a_thousand_rates_are_those_of_torch(evidence, eta_min: float) -> None:
    comparison = compare_rates(
        lambda o: CosineAnnealing(o, 1000, eta_min),
        lambda o: CosineAnnealingLR(o, 1000, eta_min),
        steps=1000,
    )
    if eta_min:
        evidence.equivalent(
            "once",
            comparison,
            reference="torch.optim.lr_scheduler.CosineAnnealingLR",
            settings="T_max=1000, eta_min=0.001",
        )


@pytest.mark.parametrize(
    ("T_0", "T_mult", "eta_min"), [(30, 2, 1e-3), (125, 1, 0.0), (1, 3, 0.0)]
)
def test_a_thousand_rates_with_restarts_are_those_of_torch(
    evidence, T_0: int, T_mult: int, eta_min: float
) -> None:
    comparison = compare_rates(
        lambda o: CosineWarmRestarts(o, T_0, T_mult, eta_min),
        lambda o: CosineAnnealingWarmRestarts(o, T_0, T_mult, eta_min),
        steps=1000,
    )
    if eta_min:
        evidence.equivalent(
            "restarts",
            comparison,
            reference="torch.optim.lr_scheduler.CosineAnnealingWarmRestarts",
            settings=f"{T_0=}, {T_mult=}, {eta_min=}",
        )


def test_the_rate_is_the_integral_of_half_a_sine() -> None:
    # equation 5 a second way: the fall over a step is the area below half a sine
    schedule = CosineAnnealing(sgd(0.3), 40, 0.02)
    fine = torch.linspace(0, math.pi, 40 * 1000 + 1, dtype=torch.float64)
    fallen = torch.cumulative_trapezoid(fine.sin(), fine)[999::1000] / 2
    expected = 0.3 - (0.3 - 0.02) * fallen
    found = torch.tensor(rates(schedule, 40)[1:], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_it_starts_at_the_full_rate_is_half_way_in_the_middle_and_ends_at_the_least() -> (
    None
):
    found = rates(CosineAnnealing(sgd(0.1), 10, 0.02), 10)
    assert found[0] == pytest.approx(0.1)
    assert found[5] == pytest.approx(0.06)
    assert found[10] == pytest.approx(0.02)
    assert found == sorted(found, reverse=True)


def test_past_its_last_step_the_rate_rises_again() -> None:
    found = rates(CosineAnnealing(sgd(0.1), 10), 20)
    assert found[20] == pytest.approx(0.1)


def test_every_run_is_a_multiple_of_the_one_before_and_starts_at_the_full_rate() -> (
    None
):
    found = rates(CosineWarmRestarts(sgd(0.1), 3, 2), 3 + 6 + 12 + 1)
    full = [step for step, rate in enumerate(found) if rate == pytest.approx(0.1)]
    assert full == [0, 3, 3 + 6, 3 + 6 + 12]


def test_one_long_run_is_annealing_without_restarts() -> None:
    assert rates(CosineWarmRestarts(sgd(), 50), 49) == rates(
        CosineAnnealing(sgd(), 50), 49
    )


def test_each_group_falls_from_its_own_rate() -> None:
    optimizer = sgd(0.1, 0.01)
    rates(CosineAnnealing(optimizer, 4), 2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
        [0.05, 0.005]
    )


@pytest.mark.parametrize("value", [0, -3, math.nan])
def test_no_steps_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"T_max={value}"):
        CosineAnnealing(sgd(), value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"T_0={value}"):
        CosineWarmRestarts(sgd(), value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, 1.5, -2, math.nan])
def test_a_factor_that_is_no_whole_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"T_mult={value}"):
        CosineWarmRestarts(sgd(), 3, value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1e-3, math.inf, math.nan])
def test_a_least_rate_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"eta_min={value}"):
        CosineAnnealing(sgd(), 3, value)
    with pytest.raises(ValueError, match=f"eta_min={value}"):
        CosineWarmRestarts(sgd(), 3, eta_min=value)


def test_a_state_of_another_kind_is_refused_and_changes_nothing() -> None:
    schedule = CosineWarmRestarts(sgd(), 5)
    rates(schedule, 2)
    before = dict(schedule.state_dict())
    for other in (
        CosineAnnealing(sgd(), 5),
        StepLR(sgd(), 5),
        CosineWarmRestarts(sgd(0.1, 0.2), 5),
    ):
        with pytest.raises(ValueError, match="expected a state of 1 groups with"):
            schedule.load_state_dict(other.state_dict())
    assert schedule.state_dict() == before


# ---------------------------------------------------------------- the bench


ARMS = ["constant", "restarts"]


def bench_arm(key: str) -> bench.Arm:
    if key == "constant":
        return bench.Arm("Constant rate", schedule=lambda optimizer, n: None)
    return bench.Arm(  # three runs, of 1, 2 and 4 sevenths of the steps
        "Warm restarts",
        schedule=lambda optimizer, n: CosineWarmRestarts(optimizer, -(-n // 7), 2),
    )


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ARMS))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)
