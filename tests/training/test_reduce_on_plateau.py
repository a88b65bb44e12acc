"""Reduce on plateau lowers the rate when torch's ReduceLROnPlateau does, in all its settings, and refuses a measure that is none."""

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from cnn_lab import bench
from cnn_lab.fit import AcceleratorLike, Update, generator, one_step, steps
from cnn_site.bench import arguments, beside_the_baseline, cost_beside_the_baseline
from cnn_site.parity import compare_rates
from cnn_techniques.training import ReduceOnPlateau

NO_DEVICE_CASES = "a schedule computes Python numbers"
GENTLE = {"factor": 0.9, "patience": 2}  # so that it falls often in 1,000 steps
OPTIONS: dict[str, dict[str, Any]] = {
    "min, rel": {"threshold": 0.01},
    "min, abs": {"threshold": 0.01, "threshold_mode": "abs"},
    "max, rel": {"mode": "max", "threshold": 0.01},
    "max, abs": {"mode": "max", "threshold": 0.01, "threshold_mode": "abs"},
    "no patience": {"patience": 0},
    "patient": {"patience": 25},
    "cooldown": {"cooldown": 7},
    "floor": {"min_lr": 0.01},
    "two floors": {"min_lr": [0.02, 0.001]},
    "coarse": {"eps": 1e-3},
    "no threshold": {"threshold": 0.0},
}


def sgd(*rates: float) -> SGD:
    return SGD(
        [
            {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr}
            for lr in rates or (0.1,)
        ]
    )


def measures(rising: bool, below: bool = False) -> list[float]:
    """A thousand noisy values that get better for a while, and then no more."""
    noise = torch.randn(1000, dtype=torch.float64, generator=generator(1)) / 20
    curve = 0.5 + torch.exp(-torch.arange(1000, dtype=torch.float64) / 100)
    curve = curve + noise
    if rising:
        curve = 2 - curve
    found: list[float] = (curve - 3 if below else curve).tolist()
    return found


def falls(schedule: Any, values: list[float]) -> list[int]:
    """After which measures, counted from 1, the rate of the first group fell."""
    group, found = schedule.optimizer.param_groups[0], []
    for number, value in enumerate(values, 1):
        before = group["lr"]
        schedule.step(value)
        if group["lr"] < before:
            found.append(number)
    return found


@pytest.mark.parametrize("below", [False, True], ids=["above 0", "below 0"])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_thousand_rates_are_those_of_torch(evidence, name: str, below: bool) -> None:
    options = GENTLE | OPTIONS[name]
    comparison = compare_rates(
        lambda o: ReduceOnPlateau(o, **options),
        lambda o: ReduceLROnPlateau(o, **options),
        steps=1000,
        metrics=measures(options.get("mode") == "max", below),
    )
    if name in ("min, rel", "max, abs") and not below:
        evidence.equivalent(
            f"mode_{name[:3]}",
            comparison,
            reference="torch.optim.lr_scheduler.ReduceLROnPlateau",
            settings=", ".join(f"{k}={v!r}" for k, v in options.items()),
        )


@pytest.mark.parametrize("name", OPTIONS)
def test_the_state_is_that_of_torch_after_every_measure(name: str) -> None:
    options = GENTLE | OPTIONS[name]
    ours = ReduceOnPlateau(sgd(0.1, 0.03), **options)
    theirs = ReduceLROnPlateau(sgd(0.1, 0.03), **options)
    for value in measures(options.get("mode") == "max")[:300]:
        ours.step(value)
        theirs.step(value)
        expected = theirs.state_dict()
        assert ours.get_last_lr() == theirs.get_last_lr()
        for key, entry in ours.state_dict().items():
            assert entry == expected[key], key


def test_the_rate_falls_after_one_measure_more_than_the_patience() -> None:
    for patience in (0, 1, 5):
        schedule = ReduceOnPlateau(sgd(), patience=patience)
        values = [1.0] + [1.0] * (2 * patience + 2)  # the first one is the best
        assert falls(schedule, values) == [patience + 2, 2 * patience + 3]


def test_a_gain_starts_the_count_anew() -> None:
    schedule = ReduceOnPlateau(sgd(), patience=2)
    assert falls(schedule, [1.0, 1.0, 1.0, 0.9, 0.9, 0.9, 0.9]) == [7]


def test_only_more_than_the_threshold_is_a_gain() -> None:
    for mode, options, just, beyond in (
        ("min", {"threshold_mode": "rel"}, 3.6, 3.599),
        ("min", {"threshold_mode": "abs"}, 3.9, 3.899),
        ("max", {"threshold_mode": "rel"}, 4.4, 4.401),
        ("max", {"threshold_mode": "abs"}, 4.1, 4.101),
    ):
        for value, number in ((just, 2), (beyond, None)):
            schedule = ReduceOnPlateau(
                sgd(), mode, patience=0, threshold=0.1, **options
            )
            assert falls(schedule, [4.0, value]) == ([number] if number else [])


def test_after_a_reduction_the_cooldown_is_not_counted() -> None:
    schedule = ReduceOnPlateau(sgd(), patience=1, cooldown=3)
    assert falls(schedule, [1.0] * 14) == [3, 8, 13]


def test_a_gain_in_the_cooldown_is_remembered() -> None:
    schedule = ReduceOnPlateau(sgd(), patience=1, cooldown=3)
    falls(schedule, [1.0, 1.0, 1.0, 0.5])
    assert schedule.best == 0.5


def test_no_rate_falls_below_its_floor() -> None:
    optimizer = sgd(0.1, 0.1)
    falls(ReduceOnPlateau(optimizer, patience=0, min_lr=[0.03, 0.0]), [1.0] * 4)
    found = [group["lr"] for group in optimizer.param_groups]
    assert found == pytest.approx([0.03, 1e-4])


def test_while_the_measure_gets_better_the_rate_is_never_lowered() -> None:
    values = [2.0 * 0.99**step for step in range(200)]
    assert falls(ReduceOnPlateau(sgd(), patience=0), values) == []


def test_measures_and_rates_may_be_tensors() -> None:
    rate = torch.tensor(0.1, dtype=torch.float64)
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = ReduceOnPlateau(optimizer, patience=0)
    for _ in range(2):
        schedule.step(torch.tensor(1.0))
    assert schedule.get_last_lr() == pytest.approx([0.01])
    assert optimizer.param_groups[0]["lr"] is rate


@pytest.mark.parametrize("value", [math.nan, torch.tensor(math.nan)])
def test_a_measure_that_is_not_a_number_is_refused_and_changes_nothing(
    value: float | Tensor,
) -> None:
    # torch counts it as a measure without a gain
    schedule = ReduceOnPlateau(sgd(), patience=0)
    falls(schedule, [1.0, 0.9])
    before = dict(schedule.state_dict())
    with pytest.raises(ValueError, match="expected a measure that is a number, got"):
        schedule.step(value)
    assert schedule.state_dict() == before
    assert schedule.get_last_lr() == [0.1]


@pytest.mark.parametrize(
    ("told", "options"),
    [
        ("mode='least'", {"mode": "least"}),
        ("threshold_mode='part'", {"threshold_mode": "part"}),
        ("factor=1.0", {"factor": 1.0}),
        ("factor=0.0", {"factor": 0.0}),
        ("factor=nan", {"factor": math.nan}),
        ("patience=-1", {"patience": -1}),
        ("cooldown=-1", {"cooldown": -1}),
        ("threshold=-0.1", {"threshold": -0.1}),
        ("threshold=nan", {"threshold": math.nan}),
        ("eps=-1", {"eps": -1}),
        ("min_lr=-0.1", {"min_lr": -0.1}),
        (r"min_lr=\[0.1, 0.1\]", {"min_lr": [0.1, 0.1]}),
    ],
)
def test_impossible_values_are_refused(told: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=told):
        ReduceOnPlateau(sgd(), **options)


def test_a_state_of_another_kind_is_refused_and_changes_nothing() -> None:
    schedule = ReduceOnPlateau(sgd(), patience=1)
    falls(schedule, [1.0, 1.0])
    before = copy.deepcopy(schedule.state_dict())
    for other in (StepLR(sgd(), 5), ReduceOnPlateau(sgd(0.1, 0.2))):
        with pytest.raises(ValueError, match="expected a state of 1 groups with"):
            schedule.load_state_dict(other.state_dict())
    assert schedule.state_dict() == before


# ---------------------------------------------------------------- the bench


ARMS = ["plateau"]


def plateau(patience: int, threshold: float) -> Update:
    """Steps as usual, and after an epoch shows the mean of its losses to the schedule.

    The bench steps its schedules after every batch and tells them nothing; an update
    sees every loss, and the optimizer.
    """
    handicap = bench.HANDICAPS["none"]
    per_epoch = steps(handicap["images"], epochs=1, batch_size=bench.BATCH_SIZE)
    losses: list[float] = []
    schedules: list[ReduceOnPlateau] = []

    def update(
        loss: Any, optimizer: torch.optim.Optimizer, accelerator: AcceleratorLike
    ) -> None:
        if not schedules:
            schedules.append(
                ReduceOnPlateau(optimizer, patience=patience, threshold=threshold)
            )

        def told() -> Tensor:
            value: Tensor = loss()
            losses.append(value.item())
            return value

        one_step(told, optimizer, accelerator)
        if len(losses) == per_epoch:
            schedules[0].step(sum(losses) / per_epoch)
            losses.clear()

    return update


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        "A tenth after an epoch that gains less than 10 %",
        schedule=lambda optimizer, n: None,
        update=lambda: plateau(patience=0, threshold=0.1),
    )


def test_the_arm_lowers_the_rate_after_an_epoch_without_a_gain() -> None:
    arm, optimizer = bench_arm("plateau"), sgd()
    update, rates = arm.update(), []
    weight = optimizer.param_groups[0]["params"][0]
    accelerator: Any = type(
        "Direct", (), {"backward": lambda self, loss: loss.backward()}
    )()
    for value in (2.0, 1.0, 0.95):
        for _ in range(94):
            update(lambda value=value: value + 0 * weight.sum(), optimizer, accelerator)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.1, 0.01])


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ARMS))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)
