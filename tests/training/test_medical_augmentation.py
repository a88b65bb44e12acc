"""Elastic deformation is the paper's equations, SciPy's filter and map, and torchvision's warp; a mask bends with its image."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import torch
from torch import Tensor
from torchvision import tv_tensors
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
    MedicalAugmentation,
    change_intensity,
    deform_images,
    elastic_displacement,
    elastic_radius,
)

H, W = 18, 25


def photos(channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (3, channels, H, W)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def noise(seed: int, sigma: float, height: int = H, width: int = W) -> Tensor:
    r = elastic_radius(sigma)
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 2, height + 2 * r, width + 2 * r)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1


def field(seed: int, alpha: float = 30.0, sigma: float = 2.0) -> Tensor:
    return elastic_displacement(noise(seed, sigma), alpha, sigma)


FIELDS = {"small": field(0, 5.0), "large": field(1, 60.0)}
THREE = torch.tensor([0.7, 1.0, 1.4])
DEVICE_CASES = {
    "deform_images": lambda: (deform_images, (photos() / 255, field(0).float())),
    "change_intensity": lambda: (
        change_intensity,
        (photos() / 255, THREE, THREE, THREE - 1),
    ),
}


# ---------------------------------------------------------------- SciPy


def test_displacements_are_scipys_gaussian_of_the_noise(evidence) -> None:
    sigma = 2.3
    r = elastic_radius(sigma)

    def reference(_: Tensor, drawn: Tensor) -> Tensor:
        blurred = scipy.ndimage.gaussian_filter(drawn.numpy(), (0, 0, sigma, sigma))
        return 34 * torch.tensor(blurred)[..., r:-r, r:-r]

    comparison = compare_draws(
        lambda _, drawn: elastic_displacement(drawn, 34.0, sigma),
        reference,
        {"float64": torch.zeros(1, H, W).double()},
        {"seed 0": noise(0, sigma), "seed 1": noise(1, sigma)},
    )
    evidence.equivalent(
        "displacement",
        comparison,
        reference="scipy.ndimage.gaussian_filter",
        settings="the same noise, sigma 2.3, alpha 34; where the filter sees no edge; float64",
    )


def mapped_by_scipy(images: Tensor, drawn: Tensor, order: int, fill: float) -> Tensor:
    y, x = np.mgrid[:H, :W].astype(float)
    found = []
    for image, (dx, dy) in zip(images.numpy(), drawn.numpy(), strict=True):
        at = np.stack([y + dy, x + dx])
        read = partial(scipy.ndimage.map_coordinates, coordinates=at, order=order, mode="grid-constant", cval=fill)  # fmt: skip
        found.append([read(channel) for channel in image])
    return torch.tensor(np.array(found))


@pytest.mark.parametrize("fill", [0.0, 0.3])
def test_images_are_read_as_scipy_reads_them(evidence, fill: float) -> None:
    comparison = compare_draws(
        partial(deform_images, fill=fill),
        partial(mapped_by_scipy, order=1, fill=fill),
        {"float64": photos().double() / 255},
        FIELDS,
    )
    if fill == 0:
        evidence.equivalent(
            "deform",
            comparison,
            reference="scipy.ndimage.map_coordinates",
            settings="order 1, mode grid-constant, the same displacement; float64",
        )


@pytest.mark.parametrize("fill", [0, 255])
def test_masks_are_read_as_scipy_reads_the_nearest_pixel(evidence, fill: int) -> None:
    comparison = compare_draws(
        partial(deform_images, nearest=True, fill=fill),
        partial(mapped_by_scipy, order=0, fill=fill),
        {"uint8": photos(1), "int64": photos(1).long()},
        FIELDS,
    )
    if fill == 255:
        evidence.equivalent(
            "mask",
            comparison,
            reference="scipy.ndimage.map_coordinates",
            settings="order 0, mode grid-constant, the same displacement; integers, from outside 255",
        )


def test_integers_are_within_one_level_of_scipys() -> None:
    for drawn in FIELDS.values():
        expected = mapped_by_scipy(photos().double(), drawn, 1, 0.0).round()
        gap = (deform_images(photos(), drawn).double() - expected).abs()
        assert gap.max() <= 1
        assert (gap == 0).double().mean() > 0.99


# ---------------------------------------------------------------- torchvision


def in_torchvisions_units(drawn: Tensor) -> Tensor:
    """Half an image is 1 there: (2, H, W) in pixels -> (1, H, W, 2)."""
    scale = torch.tensor([2 / W, 2 / H], dtype=drawn.dtype)
    return (drawn.permute(1, 2, 0) * scale)[None]


def warped_by_torchvision(images: Tensor, drawn: Tensor, kind: type) -> Tensor:
    theirs = v2.ElasticTransform(fill=None)
    found = []
    for image, one in zip(images, drawn, strict=True):
        params = {"displacement": in_torchvisions_units(one)}
        found.append(theirs.transform(kind(image), params).as_subclass(Tensor))
    return torch.stack(found)


def test_images_and_masks_are_torchvisions_with_the_same_displacement(evidence) -> None:
    images, masks = photos().double() / 255, photos(1)[:, 0] % 4

    def ours(value: dict[str, Tensor], drawn: Tensor) -> dict[str, Tensor]:
        bent = deform_images(value["mask"][:, None], drawn, nearest=True)
        return {"image": deform_images(value["image"], drawn), "mask": bent[:, 0]}

    def reference(value: dict[str, Tensor], drawn: Tensor) -> dict[str, Tensor]:
        return {
            "image": warped_by_torchvision(value["image"], drawn, tv_tensors.Image),
            "mask": warped_by_torchvision(value["mask"], drawn, tv_tensors.Mask),
        }

    comparison = compare_draws(
        ours, reference, {"both": {"image": images, "mask": masks}}, FIELDS
    )
    evidence.equivalent(
        "torchvision",
        comparison,
        reference="torchvision.transforms.v2.ElasticTransform",
        settings="fill=None, the same displacement; float64 images, integer masks",
    )


def test_torchvisions_alpha_moves_half_as_far() -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, 200, 300)
    drawn = v2.ElasticTransform(34.0, 4.0).make_params([image])["displacement"][0]
    pixels = drawn * torch.tensor([300 / 2, 200 / 2])  # 1 is half an image
    ours = MedicalAugmentation(34.0, 4.0).draw(1, 200, 300)["displacement"]
    for k in range(2):
        found = (pixels[..., k].std() / ours[0, k].std()).item()
        assert found == pytest.approx(0.5, rel=0.1)


def test_torchvisions_fill_weighs_the_edge_twice() -> None:
    white, drawn = torch.ones(1, 1, H, W).double(), torch.full((1, 2, H, W), 0.5)
    bent = deform_images(white, drawn)
    theirs = v2.ElasticTransform().transform(
        white[0], {"displacement": in_torchvisions_units(drawn[0].double())}
    )
    torch.testing.assert_close(theirs, bent[0] ** 2)
    torch.testing.assert_close(deform_images(white, drawn, fill=1.0), white)


def test_intensities_are_torchvisions_on_images_from_0_to_1(evidence) -> None:
    images = photos(1).double() / 255
    images[:, :, 0, 0], images[:, :, 0, 1] = 0, 1  # the range of each, in full

    def reference(value: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        found = []
        for image, g, c in zip(value, drawn["gamma"], drawn["contrast"], strict=True):
            bent = VF.adjust_gamma(image, g.item())
            found.append(VF.adjust_contrast(bent, c.item()))
        return torch.stack(found)

    zero = torch.zeros(3)
    draws = {
        "one": {"gamma": THREE, "contrast": 1 - THREE / 2, "brightness": zero},
        "two": {"gamma": THREE.flip(0), "contrast": THREE / 2, "brightness": zero},
    }
    comparison = compare_draws(
        lambda value, drawn: change_intensity(value, **drawn),
        reference,
        {"float64": images},
        draws,
    )
    evidence.equivalent(
        "intensity",
        comparison,
        reference="torchvision.transforms.v2.functional.adjust_gamma and adjust_contrast",
        settings="images whose values span 0 to 1, contrast at most 1, the same numbers; float64",
    )


# ---------------------------------------------------------------- the paper, written a second way


def test_a_point_between_four_pixels_is_the_papers_example() -> None:
    # Section 2: moved by (1.75, -0.5), y upwards, between 3 and 7 above 5 and 9.
    image = torch.tensor([[0.0, 3, 7], [0, 5, 9]]).view(1, 1, 2, 3)
    drawn = torch.zeros(1, 2, 2, 3)
    drawn[0, :, 0, 0] = torch.tensor([1.75, 0.5])  # here y is downwards
    assert deform_images(image, drawn)[0, 0, 0, 0].item() == pytest.approx(7)


def test_pixel_by_pixel_it_is_the_papers_equations() -> None:
    sigma, alpha, height, width = 1.0, 6.0, 5, 7
    r, drawn = elastic_radius(sigma), noise(3, sigma, height, width)[:1]
    image = photos(1)[:1, :, :height, :width].double()
    gauss = [math.exp(-(t**2) / (2 * sigma**2)) for t in range(-r, r + 1)]
    total = sum(gauss)
    expected = torch.zeros(1, 1, height, width).double()
    for y, x in product(range(height), range(width)):
        window = drawn[0, :, y : y + 2 * r + 1, x : x + 2 * r + 1]
        move = [0.0, 0.0]
        for axis, i, j in product(range(2), range(2 * r + 1), range(2 * r + 1)):
            share = gauss[i] * gauss[j] / total**2
            move[axis] += alpha * share * window[axis, i, j].item()
        left, top = math.floor(x + move[0]), math.floor(y + move[1])
        for v, u in product((top, top + 1), (left, left + 1)):
            if 0 <= v < height and 0 <= u < width:
                near = (1 - abs(x + move[0] - u)) * (1 - abs(y + move[1] - v))
                expected[0, 0, y, x] += near * image[0, 0, v, u]
    found = deform_images(image, elastic_displacement(drawn, alpha, sigma))
    torch.testing.assert_close(found, expected)


def test_values_are_changed_as_the_equations_say() -> None:
    images = photos().double() * 10 - 1000  # as in CT: no range is assumed
    g, c, b = THREE.double(), THREE.flip(0).double(), THREE.double() - 1
    found = change_intensity(images, g, c, b)
    for n, image in enumerate(images.numpy()):
        low, high = image.min(), image.max()
        bent = low + (high - low) * ((image - low) / (high - low)) ** g[n].item()
        expected = bent.mean() + c[n].item() * (bent - bent.mean())
        expected = expected + b[n].item() * (high - low)
        np.testing.assert_allclose(found[n].numpy(), expected, rtol=1e-12)


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize(("alpha", "sigma"), [(34.0, 4.0), (100.0, 7.5), (5.0, 1.5)])
def test_displacements_have_the_spread_of_the_closed_form(
    alpha: float, sigma: float
) -> None:
    torch.manual_seed(0)
    drawn = MedicalAugmentation(alpha, sigma).draw(8, 256, 256)["displacement"]
    expected = alpha / (2 * math.sqrt(3 * math.pi) * sigma)
    assert drawn.std().item() == pytest.approx(expected, rel=0.05)
    # Everywhere: the noise reaches beyond the edges.
    edge = torch.cat([drawn[..., :3, :].flatten(), drawn[..., -3:].flatten()])
    assert edge.std().item() == pytest.approx(expected, rel=0.2)
    slope = (drawn[..., 1:] - drawn[..., :-1]).std().item()
    assert slope == pytest.approx(expected / (math.sqrt(2) * sigma), rel=0.1)


def test_without_displacement_nothing_moves_and_a_constant_one_shifts() -> None:
    images = photos()
    still = torch.zeros(3, 2, H, W)
    assert torch.equal(deform_images(images, still), images)
    still[:, 0], still[:, 1] = 3, -2
    moved = deform_images(images, still)
    assert torch.equal(moved[:, :, 2:, :-3], images[:, :, :-2, 3:])
    assert moved[:, :, :2].max() == moved[..., -3:].max() == 0


def test_image_and_mask_bend_together() -> None:
    torch.manual_seed(0)
    row, column = torch.arange(96)[:, None], torch.arange(96)
    disc = ((row - 48) ** 2 + (column - 48) ** 2 < 900).expand(4, 96, 96)
    augment = MedicalAugmentation(300.0, 8.0)
    image, mask = augment(disc[:, None].float(), disc.long())
    assert mask is not None
    assert (mask != disc.long()).float().mean() > 0.05
    assert ((image[:, 0] > 0.5) == (mask == 1)).float().mean() > 0.99
    _, other = augment(disc[:, None].float(), disc.long())
    assert other is not None
    assert ((image[:, 0] > 0.5) == (other == 1)).float().mean() < 0.95


def test_a_mask_gets_no_class_that_it_had_not() -> None:
    torch.manual_seed(0)
    masks = torch.randint(0, 2, (4, 40, 40)) * 200 + 7
    _, bent = MedicalAugmentation(mask_fill=255)(torch.rand(4, 1, 40, 40), masks)
    assert bent is not None
    assert bent.unique().tolist() == [7, 207, 255]
    assert bent.dtype == masks.dtype


def test_neutral_numbers_and_images_of_one_value_change_nothing() -> None:
    images, one = photos().double(), torch.ones(3)
    torch.testing.assert_close(change_intensity(images, one, one, 0 * one), images)
    assert torch.equal(change_intensity(photos(), one, one, 0 * one), photos())
    flat = torch.full((3, 1, 4, 5), 0.3).double()
    torch.testing.assert_close(change_intensity(flat, 2 * one, 3 * one, one), flat)
    ends = change_intensity(images, 3 * one, one, 0 * one)
    assert (ends.amin((1, 2, 3)) == images.amin((1, 2, 3))).all()
    torch.testing.assert_close(ends.amax((1, 2, 3)), images.amax((1, 2, 3)))
    bright = change_intensity(photos(), one, one, one)
    assert bright.min() >= 254  # bytes end at 255


def test_every_image_has_a_draw_of_its_own_in_the_ranges_that_were_given() -> None:
    torch.manual_seed(0)
    drawn = MedicalAugmentation(34.0, 1.0, 1.5, 0.3, 0.2).draw(20_000, 1, 1)
    even = {
        "gamma": drawn["gamma"].log() / math.log(1.5),
        "contrast": (drawn["contrast"] - 1) / 0.3,
        "brightness": drawn["brightness"] / 0.2,
    }
    for at in even.values():  # even from -1 to 1
        assert 0.99 < at.abs().max() <= 1 + 1e-5
        assert at.mean().item() == pytest.approx(0, abs=0.02)
        assert at.var().item() == pytest.approx(1 / 3, rel=0.03)
    moves = drawn["displacement"].flatten(1)
    together = torch.cat([torch.stack(list(even.values())), moves.T])
    off = torch.corrcoef(together) - torch.eye(5)
    assert off.abs().max() < 0.04


def test_the_seed_decides_and_the_batch_is_not_changed() -> None:
    images, masks = photos(), photos(1)[:, 0].long()
    before, outs = (images.clone(), masks.clone()), []
    augment = MedicalAugmentation(30.0, 2.0, 1.5, 0.2, 0.1)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(augment(images, masks))
    assert torch.equal(outs[0][0], outs[1][0])
    assert torch.equal(outs[0][1], outs[1][1])
    assert not torch.equal(outs[0][0], outs[2][0])
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])
    assert outs[0][0].dtype == torch.uint8
    assert augment(images.double())[0].dtype == torch.float64
    assert augment(images.double())[1] is None


def test_gradients_come_back_to_the_pixels_that_were_read() -> None:
    images = photos().double().requires_grad_()
    deform_images(images, FIELDS["large"]).sum().backward()
    expected = mapped_by_scipy(torch.ones_like(images).detach(), FIELDS["large"], 1, 0.0)  # fmt: skip
    assert images.grad is not None
    assert images.grad.sum().item() == pytest.approx(expected.sum().item())


def test_the_optic_disc_of_the_left_eye_is_left_and_of_its_mirror_image_right() -> None:
    eye = torch.tensor(skimage.data.retina())[..., 1].float()[None, None]
    green = torch.nn.functional.avg_pool2d(eye, 51)[0, 0]
    width = green.shape[1]
    assert green.amax(0).argmax() < width / 3
    assert green.flip(1).amax(0).argmax() > 2 * width / 3


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, r"alpha of 0 or more, got alpha=-1\.0"),
        ({"alpha": math.nan}, "got alpha=nan"),
        ({"sigma": 0.0}, r"sigma above 0 pixels, got sigma=0\.0"),
        ({"sigma": math.inf}, "got sigma=inf"),
        ({"gamma": 0.5}, r"gamma of 1 or more, got gamma=0\.5"),
        ({"contrast": 1.5}, r"contrast from 0 to 1, got contrast=1\.5"),
        ({"brightness": -0.1}, r"brightness of 0 or more, got brightness=-0\.1"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MedicalAugmentation(**options)


def test_images_and_masks_that_do_not_fit_are_refused() -> None:
    augment, images = MedicalAugmentation(), photos()
    with pytest.raises(ValueError, match=r"got \(3, 18, 25\)"):
        augment(images[0])
    with pytest.raises(ValueError, match=r"masks \(3, 18, 25\), got \(3, 25, 18\)"):
        augment(images, torch.zeros(3, W, H).long())
    with pytest.raises(TypeError, match=r"class numbers, got torch\.float32"):
        augment(images, torch.zeros(3, H, W))
    with pytest.raises(ValueError, match=r"\(3, 2, 18, 25\), got \(3, 2, 25, 18\)"):
        deform_images(images, torch.zeros(3, 2, W, H))


def test_a_scan_of_16_bits_keeps_its_values_below_zero_and_above_255() -> None:
    torch.manual_seed(0)
    scan = torch.randint(-1000, 1000, (2, 1, 8, 8), dtype=torch.int16)
    one, zero = torch.ones(2), torch.zeros(2)
    assert torch.equal(change_intensity(scan, one, one, zero), scan)
    far = change_intensity(scan, one, 100 * one, zero)
    assert far.dtype == torch.int16
    assert (far.min(), far.max()) == (-(2**15), 2**15 - 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"float32, float64 or integers, got {dtype}"):
        MedicalAugmentation()(torch.zeros(2, 1, 8, 8, dtype=dtype))


# ---------------------------------------------------------------- the bench


ARMS = ["elastic", "few"]
BLACK = -0.2860 / 0.3530  # of the bench's images, which are normalised


def bench_arm(key: str) -> bench.Arm:
    names = {"elastic": "Elastic, 34 and 4", "few": "Elastic, few images"}
    handicap = {"elastic": "none", "few": "few images"}[key]
    augment = MedicalAugmentation(34.0, 4.0, fill=BLACK)

    def changed(x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        torch.manual_seed(draw.initial_seed())  # `fit` gives the global state back
        return augment(x)[0], y

    return bench.Arm(names[key], batch_transform=changed, handicap=handicap)


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
