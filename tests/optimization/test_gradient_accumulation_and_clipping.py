"""TODO why Gradient accumulation and clipping is right."""

from typing import Any

from functools import partial

import pytest
import torch
from torch import Tensor

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.parity import compare_draws
from cnn_techniques.optimization import (
    gradient_accumulation_and_clipping,
    gradient_accumulation_and_clipping_drawn,
)

NO_DEVICE_CASES = "it moves pixels and computes nothing"


def reference(images: Tensor, drawn: Any) -> Tensor:
    """TODO large-batch gradient equal with the same draw."""
    return torch.stack(
        [torch.fliplr(i.mT).mT if f else i for i, f in zip(images, drawn, strict=True)]
    )


def test_does_with_a_draw_what_the_reference_does(evidence) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 3, 9, 7), generator=generator, dtype=torch.uint8)
    comparison = compare_draws(
        gradient_accumulation_and_clipping_drawn,
        reference,
        {"uint8": images, "float64": images.double() / 255},
        {
            "two of four": torch.tensor([True, False, True, False]),
            "all": torch.ones(4, dtype=torch.bool),
        },
    )
    evidence.equivalent("draws", comparison, reference="TODO", settings="same draws")


# TODO the laws: what stays, how often, the limits
def test_changes_each_image_with_its_probability() -> None:
    images = torch.arange(2.0).expand(4000, 1, 1, 2)
    changed = (gradient_accumulation_and_clipping(images, 0.25) != images).any(
        dim=(1, 2, 3)
    )
    assert abs(changed.double().mean() - 0.25) < 0.03
    assert torch.equal(gradient_accumulation_and_clipping(images, 0.0), images)
    assert torch.equal(gradient_accumulation_and_clipping(images, 1.0), images.flip(-1))


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(ValueError, match=f"p={p}"):
        gradient_accumulation_and_clipping(torch.zeros(1, 1, 2, 2), p)


def test_refuses_images_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"got \(1, 2, 2\)"):
        gradient_accumulation_and_clipping(torch.zeros(1, 2, 2))


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    def changed(x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        return gradient_accumulation_and_clipping_drawn(
            x, torch.rand(len(x), generator=draw) < 0.5
        ), y

    return bench.Arm("Gradient accumulation and clipping", batch_transform=changed)


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed(
        "bench",
        cost_beside_the_baseline(bench_arm, ["gradient_accumulation_and_clipping"]),
    )


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(
        beside_the_baseline, bench_arm, ["gradient_accumulation_and_clipping"]
    )
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(
        time_beside_the_baseline, bench_arm, ["gradient_accumulation_and_clipping"]
    )
    evidence.measured("time", arguments={}, run=run)
