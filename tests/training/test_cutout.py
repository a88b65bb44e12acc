"""Cutout hides what the authors' code hides, random erasing what torchvision's hides; both draw by the law they state."""

import math
from collections.abc import Callable
from functools import partial

import pytest
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
from cnn_techniques.training import Cutout, RandomErasing, erase_boxes, erasing_size

BOXES = torch.tensor([[2, 3, 7, 5], [-2, 8, 4, 15], [0, 0, 0, 0], [5, -4, 99, 99]])
DEVICE_CASES = {
    "erase_boxes": lambda: (partial(erase_boxes, boxes=BOXES), (torch.rand(4, 3, 9, 12),))
}  # fmt: skip


def photos(n: int = 4, height: int = 9, width: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (n, 3, height, width)
    return torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8)


def inside(box: Tensor, height: int, width: int) -> dict[str, int]:
    """A box as torchvision names one, cut at the edges of the image."""
    top, left, bottom, right = box.tolist()
    top, left, bottom, right = max(top, 0), max(left, 0), min(bottom, height), min(right, width)  # fmt: skip
    return {"i": top, "j": left, "h": bottom - top, "w": right - left}


# ---------------------------------------------------------------- the references


@pytest.mark.parametrize("kind", ["number", "colour", "noise"])
def test_boxes_are_erased_as_torchvision_erases_them(evidence, kind: str) -> None:
    values = {
        "number": torch.tensor(0.25),
        "colour": torch.tensor([7.0, 0.5, 3.0]).reshape(3, 1, 1),
        "noise": torch.randn(3, 9, 12, generator=torch.Generator().manual_seed(1)),
    }
    value = values[kind].double()
    theirs = v2.RandomErasing()

    def reference(images: Tensor, boxes: Tensor) -> Tensor:
        found = []
        for image, box in zip(images, boxes, strict=True):
            b = inside(box, *image.shape[-2:])
            rows, columns = slice(b["i"], b["i"] + b["h"]), slice(b["j"], b["j"] + b["w"])  # fmt: skip
            v = value.expand(3, 9, 12)[:, rows, columns]
            found.append(theirs.transform(image, {**b, "v": v}))
        return torch.stack(found)

    images = photos()
    comparison = compare_draws(
        partial(erase_boxes, value=value),
        reference,
        {"uint8": images, "float64": images.double() / 255},
        {"boxes": BOXES, "upside down": BOXES.flip(0)},
    )
    if kind == "noise":
        evidence.equivalent(
            "erase",
            comparison,
            reference="torchvision.transforms.v2.RandomErasing",
            settings="the same box and noise for each image; uint8 and float64",
        )


@pytest.mark.parametrize(("height", "width"), [(28, 28), (9, 30), (224, 160)])
def test_a_drawn_share_and_ratio_give_torchvisions_rectangle(
    evidence, height: int, width: int
) -> None:
    theirs = v2.RandomErasing(scale=(0.02, 0.33), ratio=(0.3, 3.3))
    image = torch.zeros(1, height, width)
    bounds = [math.log(r) for r in (0.3, 3.3)]

    def reference(_: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        found = theirs.make_params([image])
        return torch.tensor([found["h"], found["w"]]).double()

    def ours(_: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)  # the first of ten that fits, drawn as torchvision does
        for _attempt in range(10):
            share = torch.empty(1).uniform_(0.02, 0.33)
            ratio = torch.empty(1).uniform_(*bounds).exp()
            h, w = erasing_size(share.double(), ratio.double(), height, width)
            if h < height and w < width:
                return torch.cat([h, w])
        raise AssertionError("no attempt fits")

    draws = {f"seed {seed}": seed for seed in range(200)}
    comparison = compare_draws(ours, reference, {"image": image}, draws, square=True)
    if height == 224:
        evidence.equivalent(
            "size",
            comparison,
            reference="torchvision.transforms.v2.RandomErasing.make_params",
            settings="200 seeds, the same share and ratio; height and width in pixels",
        )


def test_cutout_is_the_authors_code_written_out() -> None:
    images = torch.rand(50, 3, 11, 8) + 1
    torch.manual_seed(0)
    boxes = Cutout(6).draw(50, 11, 8)
    for image, box in zip(images, boxes.tolist(), strict=True):
        mask = torch.ones(11, 8)
        y, x, half = box[0] + 3, box[1] + 3, 6 // 2
        y1, y2 = (min(max(v, 0), 11) for v in (y - half, y + half))
        x1, x2 = (min(max(v, 0), 8) for v in (x - half, x + half))
        mask[y1:y2, x1:x2] = 0
        found = erase_boxes(image[None], torch.tensor([box]))[0]
        assert torch.equal(found, image * mask)


def test_our_rectangles_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    n, height, width = 3000, 28, 20
    ours = RandomErasing(p=1.0).draw(n, height, width).double()
    theirs = v2.RandomErasing(p=1.0)
    images = [torch.zeros(1, height, width)]
    found = [theirs.make_params(images) for _ in range(n)]
    boxes = torch.tensor([[p["i"], p["j"], p["i"] + p["h"], p["j"] + p["w"]] for p in found]).double()  # fmt: skip
    for k in range(4):
        both = torch.stack([ours[:, k], boxes[:, k]])
        gap = (both[0].mean() - both[1].mean()).abs()
        assert gap < 4 * both.std(dim=1).max() * math.sqrt(2 / n)
        edges = torch.arange(30.0).double()
        shares = (both[:, :, None] <= edges).double().mean(dim=1)  # Kolmogorov, Smirnov
        assert (shares[0] - shares[1]).abs().max() < 1.95 * math.sqrt(2 / n)


# ---------------------------------------------------------------- laws


def test_every_pixel_is_the_centre_of_a_square_equally_often() -> None:
    torch.manual_seed(0)
    boxes = Cutout(4).draw(60_000, 5, 4)
    centres = boxes[:, 0] + 2, boxes[:, 1] + 2
    counts = torch.zeros(5, 4).index_put_(centres, torch.ones(60_000), accumulate=True)
    assert (counts / 3000 - 1).abs().max() < 0.1


@pytest.mark.parametrize(("size", "height", "width"), [(16, 32, 32), (5, 9, 12)])
def test_the_mean_hidden_share_is_that_of_squares_cut_at_the_edges(
    size: int, height: int, width: int
) -> None:
    torch.manual_seed(0)
    n = 20_000
    hidden = (Cutout(size)(torch.ones(n, 1, height, width)) == 0).double().mean()
    expected = 1.0
    for side in (height, width):
        first = range(-(size // 2), side - size // 2)
        seen = [min(a + size, side) - max(a, 0) for a in first]
        expected *= sum(seen) / side**2
    assert hidden.item() == pytest.approx(expected, rel=0.01)


def test_an_odd_square_has_its_whole_side() -> None:
    images = torch.ones(1, 1, 9, 9)
    box = torch.tensor([[4 - 5 // 2, 4 - 5 // 2, 4 - 5 // 2 + 5, 4 - 5 // 2 + 5]])
    hidden = erase_boxes(images, box)[0, 0] == 0
    assert hidden.sum() == 25
    assert torch.equal(hidden, hidden.flip(0))


def test_erased_shares_and_ratios_are_in_their_ranges_and_boxes_inside() -> None:
    torch.manual_seed(0)
    n, height, width = 5000, 200, 160
    boxes = RandomErasing(1.0, scale=(0.1, 0.2), ratio=(0.5, 2.0)).draw(
        n, height, width
    )
    top, left, bottom, right = boxes.double().unbind(1)
    assert boxes.min() >= 0
    assert bottom.max() <= height
    assert right.max() <= width
    h, w = bottom - top, right - left
    share, log_ratio = h * w / (height * width), (h / w).log()
    assert 0.097 < share.min() < 0.103
    assert 0.197 < share.max() < 0.203
    assert share.mean().item() == pytest.approx(0.15, abs=0.002)
    assert log_ratio.mean().item() == pytest.approx(0.0, abs=0.02)
    assert log_ratio.std().item() == pytest.approx(
        math.log(4) / math.sqrt(12), rel=0.03
    )


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_each_image_is_erased_with_its_probability(p: float) -> None:
    torch.manual_seed(0)
    images = torch.ones(4000, 1, 12, 10)
    erased = (RandomErasing(p)(images) != images).any(dim=(1, 2, 3)).double().mean()
    assert erased.item() == pytest.approx(p, abs=0.03 if 0 < p < 1 else 0)


def test_every_image_of_a_batch_has_a_box_of_its_own() -> None:
    torch.manual_seed(0)
    for augment in (Cutout(16), RandomErasing(1.0)):
        assert len(augment.draw(20, 64, 64).unique(dim=0)) > 15


def test_an_image_that_no_rectangle_fits_stays_as_it_is() -> None:
    images = torch.ones(6, 1, 8, 8)
    whole = RandomErasing(1.0, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert torch.equal(whole(images), images)


def test_noise_is_standard_normal_and_other_for_every_pixel() -> None:
    torch.manual_seed(0)
    images = torch.full((400, 3, 32, 32), 9.0)
    found = RandomErasing(1.0, noise=True)(images)
    noise = found[found != 9.0]
    assert noise.mean().item() == pytest.approx(0.0, abs=0.01)
    assert noise.std().item() == pytest.approx(1.0, abs=0.01)
    assert noise.unique().numel() > 0.9 * noise.numel()


def test_only_pixels_that_are_seen_have_a_gradient() -> None:
    images = photos().double().requires_grad_()
    erase_boxes(images, BOXES).sum().backward()
    hidden = erase_boxes(torch.ones_like(images), BOXES) == 0
    assert hidden.any()
    assert torch.equal(images.grad, (~hidden).double())


def test_the_seed_decides_and_the_batch_is_not_changed() -> None:
    images = photos().float()
    before, outs = images.clone(), []
    for augment in (Cutout(4), RandomErasing(1.0)):
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            outs.append(augment(images))
        assert torch.equal(outs[-3], outs[-2])
        assert not torch.equal(outs[-3], outs[-1])
    assert torch.equal(images, before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float64])
def test_the_type_of_the_images_stays(dtype: torch.dtype) -> None:
    images = photos().to(dtype)
    for augment in (Cutout(4, value=3), RandomErasing(1.0)):
        assert augment(images).dtype == dtype


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cutout(0), "size=0"),
        (lambda: Cutout(2.5), r"size=2\.5"),  # type: ignore[arg-type]
        (lambda: RandomErasing(1.5), r"p=1\.5"),
        (lambda: RandomErasing(math.nan), "p=nan"),
        (lambda: RandomErasing(scale=(0.4, 0.2)), r"scale=\(0\.4, 0\.2\)"),
        (lambda: RandomErasing(scale=(0.4, 1.2)), r"scale=\(0\.4, 1\.2\)"),
        (lambda: RandomErasing(ratio=(0.0, 1.0)), r"ratio=\(0\.0, 1\.0\)"),
        (lambda: RandomErasing(ratio=(2.0, 1.0)), r"ratio=\(2\.0, 1\.0\)"),
    ],
)
def test_impossible_arguments_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_images_and_boxes_that_do_not_fit_are_refused() -> None:
    images = photos()
    for augment in (Cutout(4), RandomErasing()):
        with pytest.raises(ValueError, match=r"got \(3, 9, 12\)"):
            augment(images[0])
    with pytest.raises(ValueError, match=r"\(4, 3, 9, 12\) and \(3, 4\)"):
        erase_boxes(images, BOXES[:3])
    with pytest.raises(ValueError, match=r"got \(4, 1, 1\)"):
        erase_boxes(images, BOXES, torch.zeros(4, 1, 1))
    with pytest.raises(TypeError, match=r"torch\.float32"):
        erase_boxes(images, BOXES.float())
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        RandomErasing(noise=True)(images)


# ---------------------------------------------------------------- the bench


ARMS = ["cutout", "erasing"]


def bench_arm(key: str) -> bench.Arm:
    names = {"cutout": "Cutout, 14 × 14", "erasing": "Random erasing, p = 0.5"}
    augment = Cutout(14) if key == "cutout" else RandomErasing()

    def hidden(x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        torch.manual_seed(draw.initial_seed())  # `fit` gives the global state back
        return augment(x), y

    return bench.Arm(names[key], batch_transform=hidden)


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
