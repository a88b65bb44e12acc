"""Each operation gives torchvision's values; where Pillow gives others, they are off by one level."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from cnn_site.parity import compare_draws
from cnn_techniques.training import (
    auto_contrast,
    change_brightness,
    change_colour,
    change_contrast,
    change_sharpness,
    equalize,
    invert,
    operation_table,
    posterize,
    rotate_about_centre,
    shear_x,
    shear_y,
    solarize,
    translate_x,
    translate_y,
    warp,
)

# The widest that any policy uses; 90 degrees are among the angles.
TABLE = operation_table(31, 0.99, [32.0, 32.0], 135.0, 0.99, 2)


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def photo() -> Tensor:
    return torch.tensor(skimage.data.chelsea()).permute(2, 0, 1)  # (3, 300, 451)


DEVICE_CASES = {
    "equalize": lambda: (equalize, (noise(2, 3, 19, 23),)),
    "posterize": lambda: (lambda image: posterize(image, 3), (noise(2, 3, 19, 23),)),
}


# ---------------------------------------------------------------- torchvision


def sheared(image: Tensor, x: float, y: float) -> Tensor:
    angles = [math.degrees(math.atan(slope)) for slope in (x, y)]
    return TF.affine(image, 0.0, [0, 0], 1.0, angles, center=[0, 0])


def moved(image: Tensor, x: float, y: float) -> Tensor:
    return TF.affine(image, 0.0, [int(x), int(y)], 1.0, [0.0, 0.0])


REFERENCE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, m: sheared(image, m, 0),
    "ShearY": lambda image, m: sheared(image, 0, m),
    "TranslateX": lambda image, m: moved(image, m, 0),
    "TranslateY": lambda image, m: moved(image, 0, m),
    "Rotate": TF.rotate,
    "Brightness": lambda image, m: TF.adjust_brightness(image, 1.0 + m),
    "Color": lambda image, m: TF.adjust_saturation(image, 1.0 + m),
    "Contrast": lambda image, m: TF.adjust_contrast(image, 1.0 + m),
    "Sharpness": lambda image, m: TF.adjust_sharpness(image, 1.0 + m),
    "Posterize": lambda image, m: TF.posterize(image, int(m)),
    "Solarize": lambda image, m: TF.solarize(image, 255.0 * m),
    "AutoContrast": lambda image, _: TF.autocontrast(image),
    "Equalize": lambda image, _: TF.equalize(image),
    "Invert": lambda image, _: TF.invert(image),
}


def every_magnitude() -> dict[str, tuple[str, float | None]]:
    draws: dict[str, tuple[str, float | None]] = {}
    for name, operation in TABLE.items():
        if operation.magnitudes is None:
            draws[name] = name, None
            continue
        for value in operation.magnitudes.tolist():
            for sign in (1, -1) if operation.signed else (1,):
                draws[f"{name} {sign * value}"] = name, sign * value
    return draws


def test_every_operation_at_every_magnitude_gives_the_values_of_torchvision(
    evidence,
) -> None:
    draws = every_magnitude()
    comparison = compare_draws(
        lambda image, draw: TABLE[draw[0]](image, draw[1]),
        lambda image, draw: REFERENCE[draw[0]](image, draw[1]),
        {
            "photo": photo()[:, 90:131, 120:173],
            "dull noise": noise(3, 17, 24) // 4 + 60,
            "a batch of one channel": noise(2, 1, 14, 19),
            "hardly any pixels": noise(3, 2, 5),
        },
        draws,
    )
    told = f"{len(draws)} draws: {len(TABLE)} operations, 31 magnitudes, both signs"
    evidence.equivalent(
        "draws",
        replace(comparison, modes=[told]),
        reference="torchvision.transforms.v2.functional",
        settings="uint8, nearest neighbour, black from outside",
    )


def test_square_images_too_where_torchvision_turns_by_90_degrees_without_a_grid() -> (
    None
):
    for image in (noise(3, 16, 16), noise(1, 15, 15), noise(1, 1, 1)):
        for name, magnitude in every_magnitude().values():
            expected = REFERENCE[name](image, magnitude)
            assert torch.equal(TABLE[name](image, magnitude), expected), name
    image = noise(3, 16, 16)
    assert torch.equal(rotate_about_centre(image, 90), image.rot90(1, (-2, -1)))


def test_bilinear_pixels_are_within_a_level_of_torchvisions() -> None:
    image = photo()[:, :61, :83]
    for angle in (-30.0, 4.5, 117.0):
        sin, cos = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        mine = warp(image, ((cos, -sin, 0), (sin, cos, 0)), "bilinear")
        theirs = TF.rotate(image, angle, InterpolationMode.BILINEAR)
        assert (mine.int() - theirs.int()).abs().max() <= 1


# ---------------------------------------------------------------- Pillow


def pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


def slanted(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


Both = tuple[Callable[[Tensor], Tensor], Callable[[Image.Image], Image.Image]]
PILLOW: dict[str, Both] = {
    "Invert": (invert, ImageOps.invert),
    "Solarize from 0.5": (
        lambda x: solarize(x, 0.5),
        lambda x: ImageOps.solarize(x, 127.5),
    ),
    "Posterize to 3 bits": (
        lambda x: posterize(x, 3),
        lambda x: ImageOps.posterize(x, 3),
    ),
    "Equalize": (equalize, ImageOps.equalize),
    "Brightness −0.7": (
        lambda x: change_brightness(x, -0.7),
        lambda x: ImageEnhance.Brightness(x).enhance(1 - 0.7),
    ),
    "Sharpness +0.9": (
        lambda x: change_sharpness(x, 0.9),
        lambda x: ImageEnhance.Sharpness(x).enhance(1.9),
    ),
    "ShearX 0.3": (
        lambda x: shear_x(x, 0.3),
        lambda x: slanted(x, 1, 0.3, 0, 0, 1, 0),
    ),
    "ShearY −0.3": (
        lambda x: shear_y(x, -0.3),
        lambda x: slanted(x, 1, 0, 0, -0.3, 1, 0),
    ),
    "TranslateX −9": (
        lambda x: translate_x(x, -9),
        lambda x: slanted(x, 1, 0, 9, 0, 1, 0),
    ),
    "TranslateY 9": (
        lambda x: translate_y(x, 9),
        lambda x: slanted(x, 1, 0, 0, 0, 1, -9),
    ),
    "AutoContrast": (auto_contrast, ImageOps.autocontrast),
    "Contrast −0.7": (
        lambda x: change_contrast(x, -0.7),
        lambda x: ImageEnhance.Contrast(x).enhance(1 - 0.7),
    ),
    "Color −0.7": (
        lambda x: change_colour(x, -0.7),
        lambda x: ImageEnhance.Color(x).enhance(1 - 0.7),
    ),
}
ROUNDED = {"AutoContrast", "Contrast −0.7", "Color −0.7"}


def test_where_the_values_are_not_those_of_pillow_they_are_off_by_one_level(
    evidence,
) -> None:
    image, rows = photo() // 2 + 20, {}
    for name, (mine, theirs) in PILLOW.items():
        found = np.array(theirs(pillow(image)))
        expected = torch.tensor(found).permute(2, 0, 1).int()
        gap = int((mine(image).int() - expected).abs().max())
        assert gap == (1 if name in ROUNDED else 0), name
        rows[name] = {"name": name, "levels": gap}
    evidence.computed("pillow", rows)


def test_rotated_pixels_are_pillows_but_for_three_in_a_thousand() -> None:
    image = photo()  # there another neighbour is the nearest
    expected = torch.tensor(np.array(pillow(image).rotate(31.0))).permute(2, 0, 1)
    other = (rotate_about_centre(image, 31.0) != expected).any(dim=0)
    assert 0 < other.double().mean() < 0.003


# ---------------------------------------------------------------- laws


def test_no_change_is_the_image_itself() -> None:
    image = noise(3, 20, 31)
    for name, operation in TABLE.items():
        if operation.signed:
            assert torch.equal(operation(image, 0.0), image), name
    assert torch.equal(posterize(image, 8), image)
    assert torch.equal(invert(invert(image)), image)


def test_the_strongest_changes_are_black_grey_and_the_mean_grey() -> None:
    image = noise(3, 20, 31)
    assert change_brightness(image, -1.0).max() == 0
    grey = change_colour(image, -1.0)
    assert torch.equal(grey[0], grey[2])
    assert change_contrast(image, -1.0).unique().numel() == 1
    assert posterize(image, 0).max() == 0
    assert torch.equal(solarize(image, 0.0), invert(image))


def test_posterize_rounds_down_to_multiples() -> None:
    image = noise(3, 20, 31)
    for bits in range(9):
        size = 2 ** (8 - bits)
        expected = (image.int() // size * size).to(torch.uint8)
        assert torch.equal(posterize(image, bits), expected)


def test_auto_contrast_fills_the_range_but_for_one_level_lost_by_rounding() -> None:
    dull = noise(1, 20, 31) // 4 + 60
    once = auto_contrast(dull)
    assert (int(once.amin()), int(once.amax())) == (0, 254)
    assert (auto_contrast(once).int() - once.int()).abs().max() <= 1
    flat = torch.full((1, 4, 5), 77, dtype=torch.uint8)
    assert torch.equal(auto_contrast(flat), flat)
    assert torch.equal(equalize(flat), flat)


def test_equalize_gives_each_quarter_of_the_range_a_quarter_of_the_pixels() -> None:
    dark = (noise(1, 200, 300).float() ** 2 / 255).to(torch.uint8)
    before, after = (torch.histc(x.float(), 4, 0, 256) for x in (dark, equalize(dark)))
    assert before[0] > 0.45 * dark.numel()
    assert (after / dark.numel() - 0.25).abs().max() < 0.04


def test_shears_and_translations_move_pixel_by_pixel() -> None:
    image = noise(1, 4, 12)
    expected = torch.zeros_like(image)
    for y in range(4):
        for x in range(12 - (2 * y + 1)):  # 2 times the distance y + 1/2
            expected[0, y, x] = image[0, y, x + 2 * y + 1]
    assert torch.equal(shear_x(image, 2.0), expected)
    upright = shear_y(image.mT.contiguous(), 2.0)
    assert torch.equal(upright, expected.mT)
    shifted = translate_x(image, 2.9)
    assert torch.equal(shifted[..., 2:], image[..., :-2])
    assert shifted[..., :2].max() == 0
    assert torch.equal(translate_y(image, -1.9)[0, :-1], image[0, 1:])


def test_a_batch_is_its_images_one_by_one() -> None:
    images = noise(3, 3, 13, 22)
    for name, operation in TABLE.items():
        magnitude = operation.magnitude(20)
        together = operation(images, magnitude)
        alone = torch.stack([operation(image, magnitude) for image in images])
        assert torch.equal(together, alone), name


def test_half_of_the_signs_are_minus_and_only_of_signed_operations() -> None:
    torch.manual_seed(0)
    drawn = [TABLE["Rotate"].magnitude(20) for _ in range(2000)]
    assert set(drawn) == {90.0, -90.0}
    assert abs(drawn.count(90.0) / 2000 - 0.5) < 0.04
    assert {TABLE["Posterize"].magnitude(30) for _ in range(50)} == {2}
    assert TABLE["Equalize"].magnitude(3) is None


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", [name for name in TABLE if name != "Identity"])
def test_other_images_are_refused(name: str) -> None:
    magnitude = None if TABLE[name].magnitudes is None else 1
    with pytest.raises(TypeError, match=r"uint8, got torch\.float32"):
        TABLE[name](torch.rand(3, 4, 5), magnitude)
    for shape in ((4, 5), (2, 4, 5), (3, 0, 5)):
        with pytest.raises(ValueError, match=r"1 or 3 channels .* got \("):
            TABLE[name](torch.zeros(shape, dtype=torch.uint8), magnitude)


def test_impossible_magnitudes_are_refused() -> None:
    image = noise(3, 4, 5)
    blends = change_brightness, change_contrast, change_colour, change_sharpness
    for change in (-1.01, math.nan, math.inf):
        for blend in blends:
            with pytest.raises(ValueError, match=f"-1 or more, got {change}"):
                blend(image, change)
    for threshold in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=f"0 to 1, got {threshold}"):
            solarize(image, threshold)
    for bits in (-1, 9, 2.5):
        with pytest.raises(ValueError, match=f"0 to 8 bits, got {bits}"):
            posterize(image, bits)  # type: ignore[arg-type]
    for value in (math.nan, math.inf):
        for move in (shear_x, shear_y, translate_x, translate_y, rotate_about_centre):
            with pytest.raises(ValueError, match="finite numbers"):
                move(image, value)
    with pytest.raises(ValueError, match="'bicubic'"):
        warp(image, ((1, 0, 0), (0, 1, 0)), "bicubic")
    with pytest.raises(ValueError, match="bins=1"):
        operation_table(1, 0.3, [1.0, 1.0], 30.0, 0.9, 4)
    with pytest.raises(ValueError, match="bits=8"):
        operation_table(31, 0.3, [1.0, 1.0], 30.0, 0.9, 8)
