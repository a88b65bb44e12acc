"""AutoAugment has torchvision's policies entry by entry, and draws from them as torchvision does."""

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import skimage.data
import torch
from torch import Tensor
from torchvision.transforms import v2

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.parity import compare_draws
from cnn_techniques.training import AutoAugment
from cnn_techniques.training.autoaugment import AUTOAUGMENT_POLICIES

NO_DEVICE_CASES = (
    "its draws are made on the CPU; the operations are tested by their own"
)


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def seeded(transform, image: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return transform(image)


def inputs() -> dict[str, Tensor]:
    photo = torch.tensor(skimage.data.chelsea()).permute(2, 0, 1)
    return {"photo": photo[:, 90:131, 120:173], "one channel": noise(1, 28, 31)}


POLICIES = list(AUTOAUGMENT_POLICIES)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_image_that_torchvision_gives(
    evidence, policy: str
) -> None:
    comparison = compare_draws(
        partial(seeded, AutoAugment(policy)),
        partial(seeded, v2.AutoAugment(v2.AutoAugmentPolicy(policy))),
        inputs(),
        {f"seed {seed}": seed for seed in range(200)},
    )
    evidence.equivalent(
        policy,
        replace(comparison, modes=["200 seeds"]),
        reference="torchvision.transforms.v2.AutoAugment",
        settings=f"policy {policy}; the same seed, an image at a time; nearest neighbour, black",
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_those_of_torchvision_entry_by_entry(policy: str) -> None:
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy(policy))._policies
    assert len(theirs) == 25
    for ours, expected in zip(AUTOAUGMENT_POLICIES[policy], theirs, strict=True):
        assert ours == expected


def test_operations_and_magnitudes_are_those_of_torchvision_one_by_one() -> None:
    ours = AutoAugment().operations(20, 31)
    theirs = v2.AutoAugment._AUGMENTATION_SPACE
    assert [name for name in ours if name != "Identity"] == list(theirs)
    for name, (magnitudes, signed) in theirs.items():
        expected = magnitudes(10, 20, 31)
        assert ours[name].signed == signed, name
        if expected is None:
            assert ours[name].magnitudes is None, name
        else:
            assert torch.equal(ours[name].magnitudes, expected), name


def test_what_has_a_magnitude_has_its_number_and_nothing_else() -> None:
    table = AutoAugment().operations(20, 31)
    for pairs in AUTOAUGMENT_POLICIES.values():
        for pair in pairs:
            for name, p, number in pair:
                assert (number is None) == (table[name].magnitudes is None)
                assert 0 <= p <= 1
                assert number is None or number in range(10)


@pytest.mark.parametrize("policy", POLICIES)
def test_operations_are_as_frequent_as_the_policy_says(policy: str) -> None:
    torch.manual_seed(0)
    augment, found, runs = AutoAugment(policy), Counter(), 4000
    for _ in range(runs):
        found.update(name for name, _ in augment.draw(20, 31))
    expected: Counter[str] = Counter()
    for pair in AUTOAUGMENT_POLICIES[policy]:
        for name, p, _ in pair:
            expected[name] += p / 25  # type: ignore[assignment]
    for name, per_image in expected.items():
        assert abs(found[name] / runs - per_image) < 0.05, name


MOVING = ("Shear", "Translate", "Rotate")


def test_how_often_each_kind_is_applied(evidence) -> None:
    kinds = {
        "moved": lambda name: name.startswith(MOVING),
        "inverted": lambda name: name == "Invert",
        "equalised": lambda name: name == "Equalize",
    }
    titles = {"imagenet": "ImageNet", "cifar10": "CIFAR-10", "svhn": "SVHN"}
    rows = {}
    for policy, pairs in AUTOAUGMENT_POLICIES.items():
        row = {"name": titles[policy], "operations": 0.0, **dict.fromkeys(kinds, 0.0)}
        for pair in pairs:
            row["operations"] += sum(p for _, p, _ in pair) / len(pairs)
            for kind, belongs in kinds.items():
                kept = 1.0
                for name, p, _ in pair:
                    kept *= 1 - p if belongs(name) else 1
                row[kind] += (1 - kept) / len(pairs)
        rows[policy] = row
    evidence.computed("policies", rows)
    torch.manual_seed(0)
    drawn = [AutoAugment("svhn").draw(20, 31) for _ in range(3000)]
    inverted = sum(any(n == "Invert" for n, _ in draw) for draw in drawn) / 3000
    assert inverted == pytest.approx(rows["svhn"]["inverted"], abs=0.04)


@pytest.mark.parametrize("policy", ["", "CIFAR10", "coco"])
def test_unknown_policies_are_refused(policy: str) -> None:
    with pytest.raises(ValueError, match=f"'svhn', got '{policy}'"):
        AutoAugment(policy)


def test_the_seed_decides_and_each_image_of_a_batch_has_its_own_draw() -> None:
    images = noise(1, 3, 20, 31).expand(40, -1, -1, -1)
    first, again = (seeded(AutoAugment("cifar10"), images, 0) for _ in range(2))
    assert torch.equal(first, again)
    assert len(set(map(str, first.sum(dim=(1, 2, 3)).tolist()))) > 10
    assert torch.equal(images[0], noise(1, 3, 20, 31)[0])


def test_other_images_are_refused_whatever_would_be_drawn() -> None:
    for _ in range(40):
        with pytest.raises(TypeError, match=r"torch\.float32"):
            AutoAugment("cifar10")(torch.rand(3, 4, 5))
    for shape in ((4, 5), (0, 3, 4, 5), (2, 2, 3, 4, 5), (3, 0, 5)):
        with pytest.raises(ValueError, match=r"expected an image .*got \("):
            AutoAugment("cifar10")(torch.zeros(shape, dtype=torch.uint8))


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    augment = AutoAugment("cifar10")

    def changed(x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        torch.manual_seed(draw.initial_seed())  # `fit` gives the generator back
        levels = ((x * 0.3530 + 0.2860) * 255).round().clamp(0, 255).to(torch.uint8)
        return (augment(levels).float() / 255 - 0.2860) / 0.3530, y

    return bench.Arm("AutoAugment, policy of CIFAR-10", batch_transform=changed)


def test_what_the_bench_augments_are_the_bytes_of_its_images() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    x = (levels.float() / 255 - 0.2860) / 0.3530
    back = ((x * 0.3530 + 0.2860) * 255).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(back, levels)


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["autoaugment"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["autoaugment"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["autoaugment"])
    evidence.measured("time", arguments={}, run=run)
