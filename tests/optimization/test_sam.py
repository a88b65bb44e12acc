"""TODO why Sharpness-aware minimisation is right."""

from functools import partial

import pytest
import torch
from torch import nn

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.parity import compare_steps
from cnn_techniques.optimization import SharpnessAwareMinimisation

NO_DEVICE_CASES = "element by element, in place: what a device can change is in torch"


def test_takes_the_steps_of_the_reference(evidence) -> None:
    # TODO paper's equations instead of SGD, in three groups; state={"its name": "ours"}
    comparison = compare_steps(
        SharpnessAwareMinimisation, torch.optim.SGD, options={"lr": 1e-2}, groups="one"
    )
    evidence.equivalent("steps", comparison, reference="TODO", settings="defaults")


# TODO the laws: a gradient of zero, the limits of its options
def test_without_a_rate_nothing_moves() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    SharpnessAwareMinimisation([weight], lr=0.0).step()
    assert weight.tolist() == [1, 1, 1]


def test_refuses_a_negative_rate() -> None:
    with pytest.raises(ValueError, match="lr=-1"):
        SharpnessAwareMinimisation([nn.Parameter(torch.ones(3))], lr=-1)


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        "Sharpness-aware minimisation",
        optimizer=lambda model: SharpnessAwareMinimisation(model.parameters()),
    )


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["sam"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["sam"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["sam"])
    evidence.measured("time", arguments={}, run=run)
