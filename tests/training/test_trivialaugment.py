"""TrivialAugment draws what torchvision draws, from the same ranges; every operation and magnitude is equally likely."""

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
from cnn_techniques.training import TrivialAugment

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


def test_the_same_seed_gives_the_image_that_torchvision_gives(evidence) -> None:
    comparison = compare_draws(
        partial(seeded, TrivialAugment()),
        partial(seeded, v2.TrivialAugmentWide()),
        inputs(),
        {f"seed {seed}": seed for seed in range(500)},
    )
    evidence.equivalent(
        "draws",
        replace(comparison, modes=["500 seeds"]),
        reference="torchvision.transforms.v2.TrivialAugmentWide",
        settings="the same seed, an image at a time; nearest neighbour, black",
    )


@pytest.mark.parametrize("bins", [2, 31])
def test_operations_and_magnitudes_are_those_of_torchvision_one_by_one(
    bins: int,
) -> None:
    ours, theirs = TrivialAugment(bins).operations, v2.TrivialAugmentWide(bins)
    assert list(ours) == list(theirs._AUGMENTATION_SPACE)
    for name, (magnitudes, signed) in theirs._AUGMENTATION_SPACE.items():
        expected = magnitudes(bins, 20, 31)
        assert ours[name].signed == signed, name
        if expected is None:
            assert ours[name].magnitudes is None, name
        else:
            assert torch.equal(ours[name].magnitudes, expected), name


def test_every_operation_and_every_magnitude_is_equally_likely() -> None:
    torch.manual_seed(0)
    augment = TrivialAugment(4)
    drawn = Counter(augment.draw() for _ in range(14_000))
    by_name: Counter[str] = Counter()
    for (name, _), count in drawn.items():
        by_name[name] += count
    assert len(by_name) == 14
    assert all(abs(count - 1000) < 130 for count in by_name.values())  # 4 deviations
    for name, operation in augment.operations.items():
        counts = [count for (n, _), count in drawn.items() if n == name]
        if operation.magnitudes is None:
            assert len(counts) == 1, name
        elif operation.signed:  # 4 magnitudes, each with plus and minus; 0 is one
            assert len(counts) == 7, name
            assert sum(counts) / 4 == pytest.approx(max(counts), rel=0.25), name
        else:
            assert len(counts) == 4, name
            assert max(counts) - min(counts) < 120, name


MOVING = ("Shear", "Translate", "Rotate")


def test_one_image_in_ten_stays_as_it_is(evidence) -> None:
    operations, bins = TrivialAugment().operations, 31
    share = {"none": 0.0, "moved": 0.0}
    for name, operation in operations.items():
        idle = 0.0
        if name == "Identity":
            idle = 1.0
        elif operation.signed:
            idle = (operation.magnitudes == 0).sum().item() / bins
        elif name == "Posterize":
            idle = (operation.magnitudes == 8).sum().item() / bins
        share["none"] += idle / len(operations)
        share["moved"] += (1 - idle) / len(operations) * name.startswith(MOVING)
    rows = {
        "none": {"name": "An operation without effect", "share": share["none"]},
        "moved": {"name": "Pixels moved", "share": share["moved"]},
        "values": {"name": "Values changed", "share": 1 - sum(share.values())},
    }
    evidence.computed("share", rows)
    image = noise(3, 20, 31).clamp(min=3)
    image[:, 0, 0] = 255  # so that the weakest solarisation changes something
    images = image.expand(4000, -1, -1, -1)
    changed = seeded(TrivialAugment(), images, 0)
    same = (changed == images).all(dim=-1).all(dim=-1).all(dim=-1).double().mean()
    assert share["none"] == pytest.approx((1 + 9 / 31 + 3 / 31) / 14)
    assert same.item() == pytest.approx(share["none"], abs=0.02)


@pytest.mark.parametrize("bins", [-1, 0, 1])
def test_fewer_than_two_magnitudes_are_refused(bins: int) -> None:
    with pytest.raises(ValueError, match=f"bins={bins}"):
        TrivialAugment(bins)


def test_the_seed_decides_and_each_image_of_a_batch_has_its_own_draw() -> None:
    images = noise(1, 3, 20, 31).expand(40, -1, -1, -1)
    first, again = (seeded(TrivialAugment(), images, 0) for _ in range(2))
    assert torch.equal(first, again)
    assert len(set(map(str, first.sum(dim=(1, 2, 3)).tolist()))) > 10
    assert torch.equal(images[0], noise(1, 3, 20, 31)[0])


def test_other_images_are_refused_whatever_would_be_drawn() -> None:
    for _ in range(40):
        with pytest.raises(TypeError, match=r"torch\.float32"):
            TrivialAugment()(torch.rand(3, 4, 5))
    for shape in ((4, 5), (0, 3, 4, 5), (2, 2, 3, 4, 5), (3, 0, 5)):
        with pytest.raises(ValueError, match=r"expected an image .*got \("):
            TrivialAugment()(torch.zeros(shape, dtype=torch.uint8))


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    augment = TrivialAugment()

    def changed(x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        torch.manual_seed(draw.initial_seed())  # `fit` gives the generator back
        levels = ((x * 0.3530 + 0.2860) * 255).round().clamp(0, 255).to(torch.uint8)
        return (augment(levels).float() / 255 - 0.2860) / 0.3530, y

    return bench.Arm("TrivialAugment", batch_transform=changed)


def test_what_the_bench_augments_are_the_bytes_of_its_images() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    x = (levels.float() / 255 - 0.2860) / 0.3530
    back = ((x * 0.3530 + 0.2860) * 255).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(back, levels)


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["trivialaugment"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["trivialaugment"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["trivialaugment"])
    evidence.measured("time", arguments={}, run=run)
