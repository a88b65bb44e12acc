"""RandAugment draws what torchvision draws, from the same ranges: n operations, each equally likely, of magnitude m."""

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import skimage.data
import torch
from timm.data.auto_augment import LEVEL_TO_ARG
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
from cnn_techniques.training import RandAugment

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


@pytest.mark.parametrize(("n", "m"), [(2, 9), (1, 30), (3, 0), (0, 5)])
def test_the_same_seed_gives_the_image_that_torchvision_gives(
    evidence, n: int, m: int
) -> None:
    ours, theirs = RandAugment(n, m), v2.RandAugment(n, m)
    if n == 0:
        image = noise(3, 8, 9)
        assert torch.equal(ours(image), theirs(image))
        return
    seeds = range(400 if n == 2 else 60)
    comparison = compare_draws(
        partial(seeded, ours),
        partial(seeded, theirs),
        inputs(),
        {f"seed {seed}": seed for seed in seeds},
    )
    if n == 2:
        evidence.equivalent(
            "draws",
            replace(comparison, modes=[f"{len(seeds)} seeds"]),
            reference="torchvision.transforms.v2.RandAugment",
            settings="n = 2, m = 9; the same seed, an image at a time; nearest neighbour, black",
        )


@pytest.mark.parametrize("bins", [2, 31])
def test_operations_and_magnitudes_are_those_of_torchvision_one_by_one(
    bins: int,
) -> None:
    ours = RandAugment(m=1, bins=bins).operations(20, 31)
    theirs = v2.RandAugment._AUGMENTATION_SPACE
    assert list(ours) == list(theirs)
    for name, (magnitudes, signed) in theirs.items():
        expected = magnitudes(bins, 20, 31)
        assert ours[name].signed == signed, name
        if expected is None:
            assert ours[name].magnitudes is None, name
        else:
            assert torch.equal(ours[name].magnitudes, expected), name


def test_n_operations_are_drawn_each_equally_likely_and_with_either_sign() -> None:
    torch.manual_seed(0)
    augment, names = RandAugment(n=7, m=30), Counter()
    angles: Counter[float | None] = Counter()
    for _ in range(1000):
        drawn = augment.draw(20, 31)
        assert len(drawn) == 7
        names.update(name for name, _ in drawn)
        angles.update(m for name, m in drawn if name == "Rotate")
    assert len(names) == 14
    assert all(abs(count - 500) < 90 for count in names.values())  # 4 deviations
    assert set(angles) == {30.0, -30.0}
    assert abs(angles[30.0] / angles.total() - 0.5) < 0.1


def test_nine_is_27_degrees_on_the_scale_of_timm_and_9_on_that_of_torchvision() -> None:
    (theirs,) = LEVEL_TO_ARG["Rotate"](9, {})
    assert abs(theirs) == pytest.approx(27)
    for bins, expected in ((11, 27.0), (31, 9.0)):
        angles = RandAugment(bins=bins).operations(224, 224)["Rotate"].magnitudes
        assert angles[9].item() == pytest.approx(expected)


def test_translations_grow_with_the_image() -> None:
    small, large = (RandAugment(m=30).operations(n, 2 * n) for n in (33, 66))
    for name in ("TranslateX", "TranslateY"):
        a, b = (table[name].magnitudes[-1].item() for table in (small, large))
        assert b == pytest.approx(2 * a)
    assert small["TranslateX"].magnitudes[-1] == 2 * small["TranslateY"].magnitudes[-1]


@pytest.mark.parametrize(
    ("n", "m", "bins"),
    [(-1, 9, 31), (1.5, 9, 31), (2, 31, 31), (2, -1, 31), (2, 2.5, 31), (2, 0, 1)],
)
def test_impossible_numbers_are_refused(n: int, m: int, bins: int) -> None:
    with pytest.raises(ValueError, match=f"got n={n}, m={m}, bins={bins}"):
        RandAugment(n, m, bins)


def test_the_seed_decides_and_each_image_of_a_batch_has_its_own_draw() -> None:
    images = noise(1, 3, 20, 31).expand(40, -1, -1, -1)
    first, again = (seeded(RandAugment(), images, 0) for _ in range(2))
    assert torch.equal(first, again)
    assert len(set(map(str, first.sum(dim=(1, 2, 3)).tolist()))) > 10
    assert torch.equal(images[0], noise(1, 3, 20, 31)[0])


def test_other_images_are_refused_whatever_would_be_drawn() -> None:
    for _ in range(40):
        with pytest.raises(TypeError, match=r"torch\.float32"):
            RandAugment()(torch.rand(3, 4, 5))
    for shape in ((4, 5), (0, 3, 4, 5), (2, 2, 3, 4, 5), (3, 0, 5)):
        with pytest.raises(ValueError, match=r"expected an image .*got \("):
            RandAugment()(torch.zeros(shape, dtype=torch.uint8))


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    augment = RandAugment()

    def changed(x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        torch.manual_seed(draw.initial_seed())  # `fit` gives the generator back
        levels = ((x * 0.3530 + 0.2860) * 255).round().clamp(0, 255).to(torch.uint8)
        return (augment(levels).float() / 255 - 0.2860) / 0.3530, y

    return bench.Arm("RandAugment, n = 2, m = 9", batch_transform=changed)


def test_what_the_bench_augments_are_the_bytes_of_its_images() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    x = (levels.float() / 255 - 0.2860) / 0.3530
    back = ((x * 0.3530 + 0.2860) * 255).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(back, levels)


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["randaugment"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["randaugment"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["randaugment"])
    evidence.measured("time", arguments={}, run=run)
