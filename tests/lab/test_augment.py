"""Augmentation: what is drawn, for whom, and what becomes of an image."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as T

from cnn_lab.augment import AUGMENTATIONS, by_name, crop, cutout, flip, per_image
from cnn_techniques.training import AutoAugment, RandAugment, TrivialAugment


def uniform(n: int, draws: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, draws, dtype=torch.float64, generator=draw)


def noise(n: int, channels: int = 3, h: int = 16, w: int = 16) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(
        1, 256, (n, channels, h, w), dtype=torch.uint8, generator=draw
    )  # 0 marks what was blacked out


def distinct(images: Tensor) -> int:
    return len(images.flatten(1).unique(dim=0))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_batch_of_equal_images_comes_out_as_many_different_ones(name: str) -> None:
    augmentation = by_name([name])
    same = noise(1).expand(40, -1, -1, -1)
    # TrivialAugment draws one of 14 operations, and one of 31 strengths for most.
    assert distinct(augmentation.apply(same, uniform(40, augmentation.draws))) > 15


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_what_becomes_of_an_image_does_not_depend_on_the_images_beside_it(
    name: str,
) -> None:
    augmentation = by_name([name])
    images, draws = noise(6), uniform(6, augmentation.draws)
    whole = augmentation.apply(images, draws)
    order = torch.tensor([4, 2, 5])
    assert torch.equal(augmentation.apply(images[order], draws[order]), whole[order])
    for n in range(6):
        alone = augmentation.apply(images[n : n + 1], draws[n : n + 1])
        assert torch.equal(alone[0], whole[n])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_bytes_come_in_and_go_out_and_nothing_else_is_changed(
    name: str, channels: int
) -> None:
    augmentation = by_name([name])
    images = noise(8, channels, 12, 14)
    before, state = images.clone(), torch.get_rng_state()
    out = augmentation.apply(images, uniform(8, augmentation.draws))
    assert (out.dtype, out.shape) == (torch.uint8, images.shape)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_flip_mirrors_the_images_whose_number_is_below_one_half() -> None:
    images, draws = noise(30), uniform(30, 1)
    out = flip(images, draws)
    for n in range(30):
        expected = T.hflip(images[n]) if draws[n, 0] < 0.5 else images[n]
        assert torch.equal(out[n], expected)


def test_crop_is_the_crop_of_the_padded_image_at_the_drawn_corner() -> None:
    images, draws = noise(40, 3, 9, 12), uniform(40, 2)
    out = crop(images, draws, padding=3)
    for n in range(40):
        top, left = int(draws[n, 0] * 7), int(draws[n, 1] * 7)
        plain = T.crop(T.pad(images[n], [3]), top, left, 9, 12)
        assert torch.equal(out[n], plain)
        for y in range(9):  # and pixel by pixel
            for x in range(12):
                from_y, from_x = y + top - 3, x + left - 3
                inside = 0 <= from_y < 9 and 0 <= from_x < 12
                pixel = images[n, :, from_y, from_x] if inside else torch.zeros(3)
                assert out[n, :, y, x].tolist() == pixel.tolist()


@pytest.mark.parametrize(("h", "w"), [(8, 8), (9, 14), (28, 28)])
def test_cutout_blacks_out_a_square_of_half_the_height_around_the_drawn_centre(
    h: int, w: int
) -> None:
    images, draws = noise(40, 3, h, w), uniform(40, 2)
    out, side = cutout(images, draws), h // 2
    for n in range(40):
        top = int(draws[n, 0] * h) - side // 2
        left = int(draws[n, 1] * w) - side // 2
        plain = images[n].clone()
        plain[:, max(top, 0) : top + side, max(left, 0) : left + side] = 0
        assert torch.equal(out[n], plain)
        inside = [max(top, 0), max(left, 0)]
        size = [min(top + side, h) - inside[0], min(left + side, w) - inside[1]]
        erased = T.erase(images[n], *inside, *size, v=torch.zeros(3, 1, 1).byte())
        assert torch.equal(out[n], erased)


def test_a_square_that_lies_within_the_image_hides_a_quarter_of_it() -> None:
    out = cutout(noise(1, 3, 32, 32), torch.tensor([[0.5, 0.5]]).double())
    assert int((out == 0).sum()) == 3 * 16 * 16


def test_half_of_the_images_are_mirrored() -> None:
    images = noise(1).expand(4000, -1, -1, -1)
    kept = (flip(images, uniform(4000, 1)) == images).flatten(1).all(1)
    count = int(kept.sum())
    assert chisquare([count, 4000 - count]).pvalue > 0.001


def test_every_shift_is_as_likely_as_every_other() -> None:
    points = torch.zeros(8100, 1, 9, 9, dtype=torch.uint8)
    points[:, :, 4, 4] = 1  # where it is afterwards tells the shift
    out = crop(points, uniform(8100, 2), padding=4)
    places = Counter(out.flatten(1).int().argmax(1).tolist())
    assert len(places) == 81
    assert chisquare(list(places.values())).pvalue > 0.001


def test_every_centre_of_cutout_is_as_likely_as_every_other() -> None:
    images = torch.ones(1000, 1, 2, 5, dtype=torch.uint8)  # the square is one pixel
    hidden = (cutout(images, uniform(1000, 2)) == 0).flatten(1)
    assert hidden.sum(1).unique().tolist() == [1]
    assert chisquare(hidden.sum(0).tolist()).pvalue > 0.001


@pytest.mark.parametrize(
    ("name", "transform"),
    [
        ("autoaugment", AutoAugment()),
        ("randaugment", RandAugment()),
        ("trivialaugment", TrivialAugment()),
        ("augmix", v2.AugMix(all_ops=False)),
    ],
)
def test_a_transform_of_a_page_gives_what_it_gives_under_the_seed(
    name: str, transform: Callable[[Tensor], Tensor]
) -> None:
    images, draws = noise(10), uniform(10, 1)
    out = by_name([name]).apply(images, draws)
    for image, draw, mine in zip(images, draws, out, strict=True):
        torch.manual_seed(int(draw.item() * 2**53))
        assert torch.equal(transform(image), mine)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_usual_type_of_numbers_decides_nothing(name: str) -> None:
    augmentation = by_name([name])
    images, draws = noise(30), uniform(30, augmentation.draws)
    plain = augmentation.apply(images, draws)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(augmentation.apply(images, draws), plain)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_augmentations_follow_one_another_with_draws_of_their_own() -> None:
    both = by_name(["cutout", "randaugment"])
    images, draws = noise(6), uniform(6, both.draws)
    first = by_name(["cutout"]).apply(images, draws[:, :2])
    second = by_name(["randaugment"]).apply(first, draws[:, 2:])
    assert torch.equal(both.apply(images, draws), second)


def test_the_numbers_of_one_image_are_enough_for_all_that_is_drawn() -> None:
    drawn = per_image(lambda: lambda image: torch.rand(4))
    out = drawn.apply(noise(2000), uniform(2000, 1)).flatten()
    counts = torch.histc(out, 20, 0, 1).tolist()
    assert chisquare(counts).pvalue > 0.001


def test_a_digit_is_shifted_and_not_mirrored() -> None:
    augmentation = by_name(["basic-augmentation"], mirror=False)
    images, draws = noise(20), uniform(20, augmentation.draws)
    assert torch.equal(augmentation.apply(images, draws), crop(images, draws))


def test_an_unknown_augmentation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"'flip'; expected basic-augmentation, cutout"
    ):
        by_name(["cutout", "flip"])


def test_no_augmentation_changes_nothing() -> None:
    images, none = noise(3), by_name([])
    assert none.draws == 0
    assert torch.equal(none.apply(images, uniform(3, 0)), images)
