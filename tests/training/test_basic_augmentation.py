"""Each image of a batch is what torchvision makes of it with the same draw; the draws follow the ranges that were given."""

import colorsys
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as VF

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.parity import compare_draws
from cnn_techniques.training import (
    BasicAugmentation,
    crop_images,
    flip_images,
    rotate_images,
    turn_hue,
)


def photos(channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (4, channels, 9, 12)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def one_by_one(change: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Torchvision's functional on each image, with the number that was drawn for it."""

    def run(images: Tensor, drawn: Tensor) -> Tensor:
        pairs = zip(images, drawn.tolist(), strict=True)
        return torch.stack([change(image, value) for image, value in pairs])

    return run


TURNS = torch.tensor([0.0, 13.0, -45.0, 100.0])
DEVICE_CASES = {
    "rotate_images": lambda: (rotate_images, (photos() / 255, TURNS)),
    "turn_hue": lambda: (turn_hue, (photos() / 255, TURNS / 300)),
}
INPUTS = {"uint8": photos(), "float64": photos().double() / 255}
SETTINGS = "the same draw for each image, uint8 and float64"


# ---------------------------------------------------------------- the reference


def test_mirrored_images_are_torchvisions(evidence) -> None:
    comparison = compare_draws(
        flip_images,
        one_by_one(lambda image, yes: VF.horizontal_flip(image) if yes else image),
        INPUTS,
        {
            "two": torch.tensor([True, False, True, False]),
            "others": torch.tensor([False, True, True, True]),
        },
    )
    evidence.equivalent(
        "flip",
        comparison,
        reference="torchvision.transforms.v2.functional.horizontal_flip",
        settings=SETTINGS,
    )


@pytest.mark.parametrize("fill", [0, 1])
def test_shifted_images_are_torchvisions_padded_and_cropped(
    evidence, fill: int
) -> None:
    def cropped(image: Tensor, place: list[int]) -> Tensor:
        padded = VF.pad(image, [3], fill=fill)
        return VF.crop(padded, *place, 9, 12)

    comparison = compare_draws(
        lambda images, d: crop_images(images, *d.unbind(1), 3, fill),
        one_by_one(cropped),
        INPUTS,
        {
            "corners": torch.tensor([[0, 0], [6, 6], [0, 6], [6, 0]]),
            "inner": torch.tensor([[3, 3], [1, 2], [4, 5], [2, 3]]),
        },
    )
    if fill == 0:
        evidence.equivalent(
            "crop",
            comparison,
            reference="torchvision.transforms.v2.functional.pad and crop",
            settings=SETTINGS,
        )


def test_turned_images_are_torchvisions(evidence) -> None:
    def turned(image: Tensor, angle: float) -> Tensor:
        return VF.rotate(image, angle, v2.InterpolationMode.BILINEAR)

    comparison = compare_draws(
        rotate_images,
        one_by_one(turned),
        {"float64": INPUTS["float64"]},
        {"small": TURNS / 10, "large": TURNS},
    )
    evidence.equivalent(
        "rotate",
        comparison,
        reference="torchvision.transforms.v2.functional.rotate",
        settings="the same angle for each image, bilinear, without fill, float64",
    )


def test_a_pixel_that_comes_in_by_half_is_filled_by_half() -> None:
    white, turn = torch.ones(1, 1, 9, 12).double(), torch.tensor([13.0])
    torch.testing.assert_close(rotate_images(white, turn, fill=1.0), white)
    seen, fill = rotate_images(white, turn), 0.3  # seen: from 0 to 1
    expected = seen + fill * (1 - seen)
    torch.testing.assert_close(rotate_images(white, turn, fill), expected)
    # torchvision's option weighs such a pixel twice: white with white is grey there.
    theirs = partial(VF.rotate, white, 13.0, v2.InterpolationMode.BILINEAR)
    torch.testing.assert_close(theirs(fill=[0.0]), seen**2)
    assert theirs(fill=[1.0]).min() < 0.8


COLOURS = {
    "brightness": VF.adjust_brightness,
    "contrast": VF.adjust_contrast,
    "saturation": VF.adjust_saturation,
    "hue": VF.adjust_hue,
}
FACTORS = torch.tensor([0.0, 0.6, 1.0, 1.7])


def jitter(**drawn: Tensor) -> Callable[[Tensor], Tensor]:
    """Only the colours that are named, by factors that are given."""
    least = {name: 0.5 for name in drawn}
    augment = BasicAugmentation(0.0, 0, **least)
    return lambda images: augment.apply(images, drawn)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", COLOURS)
def test_each_colour_change_is_torchvisions(name: str, channels: int) -> None:
    drawn = FACTORS / 2 - 0.4 if name == "hue" else FACTORS
    images = photos(channels)
    found = jitter(**{name: drawn})(images)
    expected = one_by_one(COLOURS[name])(images, drawn)
    gap = (found.int() - expected.int()).abs()
    exact = name == "brightness" or (channels == 1 and name != "contrast")
    # The others are rounded down after the same sum in another order.
    assert gap.max() <= (0 if exact else 1)
    assert (gap == 0).double().mean() > 0.98
    floats = images.double() / 255
    # torchvision's hue is float32 whatever the images are.
    bound = 1e-5 if name == "hue" else 1e-10
    found, expected = jitter(**{name: drawn})(floats), one_by_one(COLOURS[name])(floats, drawn)  # fmt: skip
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=bound)


def test_the_colours_of_a_draw_are_torchvisions_jitter_in_this_order(evidence) -> None:
    theirs = v2.ColorJitter(0.5, 0.5, 0.5)

    def reference(images: Tensor, d: dict[str, Tensor]) -> Tensor:
        found = []
        for n, image in enumerate(images):
            factors = {
                f"{name}_factor": float(d[name][n]) for name in list(COLOURS)[:3]
            }
            order = {"fn_idx": torch.arange(4), "hue_factor": None}
            found.append(theirs.transform(image, {**factors, **order}))
        return torch.stack(found)

    draws = {}
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        draws[f"seed {seed}"] = BasicAugmentation(0.0, 0, 0.0, 0.5, 0.5, 0.5).draw(4)
    augment = BasicAugmentation(0.0, 0, 0.0, 0.5, 0.5, 0.5)
    comparison = compare_draws(
        augment.apply, reference, {"float64": INPUTS["float64"]}, draws
    )
    evidence.equivalent(
        "colours",
        comparison,
        reference="torchvision.transforms.v2.ColorJitter",
        settings="brightness, contrast, saturation in this order, the same factors, float64",
    )


def test_integers_that_are_turned_are_within_one_level_of_torchvisions() -> None:
    def turned(image: Tensor, angle: float) -> Tensor:
        return VF.rotate(image, angle, v2.InterpolationMode.BILINEAR)

    gap = rotate_images(photos(), TURNS).int() - one_by_one(turned)(photos(), TURNS).int()  # fmt: skip
    assert gap.abs().max() <= 1
    assert (gap == 0).double().mean() > 0.98


def test_turning_the_hue_is_pythons_way_through_hsv() -> None:
    floats = photos().double() / 255
    floats[0, :, 0, 0] = 0.4  # grey has no hue
    turn = torch.tensor([0.1, -0.3, 0.5, -0.5])
    found = turn_hue(floats, turn)
    for image, changed, by in zip(floats, found, turn.tolist(), strict=True):
        for pixel, other in zip(image.flatten(1).T, changed.flatten(1).T, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*pixel.tolist())
            expected = colorsys.hsv_to_rgb((h + by) % 1, s, v)
            assert other.tolist() == pytest.approx(expected, abs=1e-7)


# ---------------------------------------------------------------- laws


def test_what_moves_nothing_changes_nothing() -> None:
    images = photos().double() / 255
    zero, one, three = torch.zeros(4), torch.ones(4), torch.full((4,), 3)
    assert torch.equal(flip_images(images, zero.bool()), images)
    assert torch.equal(crop_images(images, three, three, 3), images)
    torch.testing.assert_close(rotate_images(images, zero), images)
    torch.testing.assert_close(turn_hue(images, zero), images)
    unchanged = jitter(brightness=one, contrast=one, saturation=one)(images)
    torch.testing.assert_close(unchanged, images)
    assert torch.equal(BasicAugmentation(0.0, 0)(images), images)


def test_two_flips_and_four_quarter_turns_give_the_image_back() -> None:
    images = torch.rand(2, 3, 9, 9, dtype=torch.float64)
    both = torch.tensor([True, True])
    assert torch.equal(flip_images(flip_images(images, both), both), images)
    turned, quarter = images, torch.tensor([90.0, 90.0], dtype=torch.float64)
    for _ in range(4):
        turned = rotate_images(turned, quarter)
    torch.testing.assert_close(turned, images)
    torch.testing.assert_close(
        rotate_images(images, quarter), images.rot90(1, (-2, -1))
    )


def test_the_ends_of_the_factors_are_black_grey_and_one_brightness() -> None:
    images, zero = photos().double() / 255, torch.zeros(4)
    assert jitter(brightness=zero)(images).max() == 0
    assert jitter(contrast=zero)(images).flatten(1).std(dim=1).max() < 1e-12
    grey = jitter(saturation=zero)(images)
    torch.testing.assert_close(grey, grey[:, :1].expand_as(grey))
    third = turn_hue(torch.eye(3).reshape(1, 3, 1, 3), torch.tensor([1 / 3]))
    torch.testing.assert_close(third[0, :, 0], torch.eye(3).roll(1, 0))  # red to green


def test_every_image_has_a_draw_of_its_own_in_the_ranges_that_were_given() -> None:
    torch.manual_seed(0)
    n = 20_000
    drawn = BasicAugmentation(0.3, 2, 15.0, 0.4, 0.3, 0.2, 0.1).draw(n)
    assert drawn["flipped"].double().mean().item() == pytest.approx(0.3, abs=0.015)
    for name in ("top", "left"):
        counts = torch.bincount(drawn[name]).double()
        assert len(counts) == 5
        assert (counts / (n / 5) - 1).abs().max() < 0.1
    for name, centre, spread in (
        ("degrees", 0, 15),
        ("brightness", 1, 0.4),
        ("contrast", 1, 0.3),
        ("saturation", 1, 0.2),
        ("hue", 0, 0.1),
    ):
        at = (drawn[name].double() - centre) / spread  # even from -1 to 1
        assert at.abs().max() <= 1 + 1e-6
        assert at.abs().max() > 0.99
        assert at.mean().item() == pytest.approx(0, abs=0.02)
        assert at.var().item() == pytest.approx(1 / 3, rel=0.03)
    # Torchvision draws evenly between the same ends.
    theirs = v2.ColorJitter(0.4, 0.3, 0.2, 0.1)
    assert theirs.brightness == (0.6, 1.4)
    assert theirs.hue == (-0.1, 0.1)
    together = torch.stack([drawn[k].double() for k in drawn])
    off = torch.corrcoef(together) - torch.eye(len(drawn)).double()
    assert off.abs().max() < 0.04


def test_the_seed_decides_and_the_batch_is_not_changed() -> None:
    images = photos()
    before, outs = images.clone(), []
    augment = BasicAugmentation(0.5, 2, 10.0, 0.4, 0.4, 0.4, 0.1)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(augment(images))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    assert torch.equal(images, before)
    assert outs[0].dtype == torch.uint8
    assert augment(images.double() / 255).dtype == torch.float64


def test_gradients_of_what_is_moved_come_back_to_where_it_was() -> None:
    images = photos().double().requires_grad_()
    shifted = crop_images(images, torch.zeros(4).long(), torch.full((4,), 3), 3)
    shifted.sum().backward()
    kept = torch.ones(4, 3, 9, 12).double()
    kept[:, :, 6:] = 0  # moved out below
    assert torch.equal(images.grad, kept)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, r"flip from 0 to 1, got 1\.5"),
        ({"padding": -1}, "padding=-1"),
        ({"padding": 1.5}, r"padding=1\.5"),
        ({"degrees": -3.0}, r"degrees from 0 to 180, got -3\.0"),
        ({"brightness": math.nan}, "brightness from 0 to 1, got nan"),
        ({"contrast": 1.2}, r"contrast from 0 to 1, got 1\.2"),
        ({"saturation": -0.1}, r"saturation from 0 to 1, got -0\.1"),
        ({"hue": 0.6}, r"hue from 0 to 0\.5, got 0\.6"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BasicAugmentation(**options)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(3, 9, 12\)"):
        BasicAugmentation()(photos()[0])
    colours = BasicAugmentation(brightness=0.2)
    with pytest.raises(ValueError, match="from 0 to 1, got -1 to 1"):
        colours(torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2))
    with pytest.raises(ValueError, match=r"1 or 3 channels.*\(4, 2, 9, 12\)"):
        colours(photos(2))


# ---------------------------------------------------------------- the bench


ARMS = ["flip", "crop", "both"]
BLACK = -0.2860 / 0.3530  # of the bench's images, which are normalised


def bench_arm(key: str) -> bench.Arm:
    names = {"flip": "Flip", "crop": "Crop, 4 pixels", "both": "Flip and crop"}
    flip, padding = {"flip": (0.5, 0), "crop": (0.0, 4), "both": (0.5, 4)}[key]
    augment = BasicAugmentation(flip, padding, fill=BLACK)

    def changed(x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        torch.manual_seed(draw.initial_seed())  # `fit` gives the global state back
        return augment(x), y

    return bench.Arm(names[key], batch_transform=changed)


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ARMS))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ARMS)
    evidence.measured("time", arguments={}, run=run)
