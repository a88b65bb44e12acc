"""TODO why Progressive learning is right."""

from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import LinearLR

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.parity import compare_rates
from cnn_techniques.training import ProgressiveLearning

NO_DEVICE_CASES = "a schedule computes Python numbers"


def test_gives_the_rates_of_the_reference(evidence) -> None:
    # TODO paper's table of sizes instead of LinearLR
    comparison = compare_rates(
        lambda optimizer: ProgressiveLearning(optimizer, 50),
        lambda optimizer: LinearLR(optimizer, 1.0, 1e-12, total_iters=50),
        exchange=False,
    )
    evidence.equivalent("rates", comparison, reference="TODO", settings="50 steps")


# TODO the laws: first and last rate, what follows the last step
def test_ends_at_zero() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = ProgressiveLearning(optimizer, 3)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == [0.0]


def test_refuses_no_steps() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match="steps=0"):
        ProgressiveLearning(optimizer, 0)


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm("Progressive learning", schedule=lambda optimizer, n: ProgressiveLearning(optimizer, n))


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["progressive_resizing"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["progressive_resizing"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["progressive_resizing"])
    evidence.measured("time", arguments={}, run=run)
