"""Step decay falls when and by what it was told to, as torch's two schedules do, and refuses what is no schedule of its kind."""

import math
from functools import partial

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR, MultiStepLR, StepLR

from cnn_lab import bench
from cnn_lab.fit import Scheduler
from cnn_site.bench import arguments, beside_the_baseline, cost_beside_the_baseline
from cnn_site.parity import compare_rates
from cnn_techniques.training import MultiStepDecay, StepDecay

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


@pytest.mark.parametrize(
    ("step_size", "gamma"), [(300, 0.1), (30, 0.9), (1, 0.999), (7, 1 / 3)]
)
def test_a_thousand_rates_are_those_of_torch(
    evidence, step_size: int, gamma: float
) -> None:
    comparison = compare_rates(
        lambda o: StepDecay(o, step_size, gamma),
        lambda o: StepLR(o, step_size, gamma),
        steps=1000,
    )
    if step_size == 30:
        evidence.equivalent(
            "regular",
            comparison,
            reference="torch.optim.lr_scheduler.StepLR",
            settings=f"{step_size=}, {gamma=}",
        )


@pytest.mark.parametrize(
    ("milestones", "gamma"),
    [((300, 700, 900), 0.2), ((900, 20, 500), 0.5), ((40, 40, 800), 0.7)],
)
def test_a_thousand_rates_with_milestones_are_those_of_torch(
    evidence, milestones: tuple[int, ...], gamma: float
) -> None:
    comparison = compare_rates(
        lambda o: MultiStepDecay(o, milestones, gamma),
        lambda o: MultiStepLR(o, milestones, gamma),
        steps=1000,
    )
    if gamma == 0.2:
        evidence.equivalent(
            "milestones",
            comparison,
            reference="torch.optim.lr_scheduler.MultiStepLR",
            settings=f"{milestones=}, {gamma=}",
        )


def test_also_the_smallest_rates_are_those_of_torch() -> None:
    # compare_rates looks at differences beside the largest rate; here each beside itself
    ours, theirs = rates(StepDecay(sgd(), 30), 1000), rates(StepLR(sgd(), 30), 1000)
    assert theirs[-1] == pytest.approx(1e-34)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-12, abs=0)


def test_the_rate_falls_by_the_factor_at_the_step_and_stays_until_the_next() -> None:
    found = rates(StepDecay(sgd(0.1), 3), 8)
    assert found == pytest.approx([0.1] * 3 + [0.01] * 3 + [0.001] * 3)


def test_the_rate_after_a_milestone_counts_those_that_are_passed() -> None:
    found = rates(MultiStepDecay(sgd(0.8), [2, 3, 6], 0.5), 7)
    assert found == pytest.approx([0.8, 0.8, 0.4, 0.2, 0.2, 0.2, 0.1, 0.1])


def test_a_milestone_that_is_given_twice_counts_twice() -> None:
    assert rates(MultiStepDecay(sgd(0.1), [2, 2]), 2)[-1] == pytest.approx(0.001)


def test_steps_at_equal_distance_are_step_decay() -> None:
    assert rates(MultiStepDecay(sgd(), [5, 10, 15]), 19) == rates(
        StepDecay(sgd(), 5), 19
    )


def test_a_fall_at_every_step_is_exponential() -> None:
    assert rates(StepDecay(sgd(), 1, 0.9), 50) == pytest.approx(
        rates(ExponentialLR(sgd(), 0.9), 50)
    )


def test_a_factor_of_one_and_no_milestones_leave_the_rate() -> None:
    assert set(rates(StepDecay(sgd(), 2, 1.0), 9)) == {0.1}
    assert set(rates(MultiStepDecay(sgd(), []), 9)) == {0.1}


def test_each_group_falls_from_its_own_rate() -> None:
    optimizer = sgd(0.1, 0.02)
    rates(StepDecay(optimizer, 4), 4)
    found = [group["lr"] for group in optimizer.param_groups]
    assert found == pytest.approx([0.01, 0.002])


def test_rates_may_be_tensors() -> None:
    rate = torch.tensor(0.1, dtype=torch.float64)
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    rates(MultiStepDecay(optimizer, [1, 3]), 4)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.001)


@pytest.mark.parametrize("value", [0, -3, 2.5, math.nan])
def test_a_distance_that_is_no_number_of_steps_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"step_size={value}"):
        StepDecay(sgd(), value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"milestones=\[3, {value}\]"):
        MultiStepDecay(sgd(), [3, value])  # type: ignore[list-item]


@pytest.mark.parametrize("value", [0.0, -0.1, 1.5, math.nan])
def test_a_factor_that_does_not_lower_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"gamma={value}"):
        StepDecay(sgd(), 3, value)
    with pytest.raises(ValueError, match=f"gamma={value}"):
        MultiStepDecay(sgd(), [3], value)


def test_a_state_of_another_kind_is_refused_and_changes_nothing() -> None:
    schedule = StepDecay(sgd(), 5)
    rates(schedule, 7)
    before = dict(schedule.state_dict())
    for other in (
        MultiStepDecay(sgd(), [5]),
        ExponentialLR(sgd(), 0.1),
        StepDecay(sgd(0.1, 0.2), 5),
    ):
        with pytest.raises(ValueError, match="expected a state of 1 groups with"):
            schedule.load_state_dict(other.state_dict())
    assert schedule.state_dict() == before


# ---------------------------------------------------------------- the bench


ARMS = ["milestones"]


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        "Step decay, a tenth after 50 % and 75 %",
        schedule=lambda optimizer, n: MultiStepDecay(optimizer, [n // 2, 3 * n // 4]),
    )


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ARMS))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)
