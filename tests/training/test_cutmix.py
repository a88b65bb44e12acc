"""CutMix pastes what torchvision's pastes, and its labels are the shares of the pixels that were replaced."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.parity import compare_draws
from cnn_techniques.training import CutMix, cutmix_batch, cutmix_box

BOX = (2, 3, 7, 5)  # top, left, bottom, right
MEAN_SHARE = 77 / 240  # of the pixels that are pasted, with alpha 1; see the test


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, 9, 12), generator=generator, dtype=torch.uint8)
    return images, torch.arange(n) % 5


def one_hot(labels: Tensor, classes: int = 5) -> Tensor:
    return F.one_hot(labels, classes).double()


def device_case() -> tuple[Callable, tuple[Tensor, ...]]:
    images, labels = batch()
    soft, partner = one_hot(labels).float(), torch.arange(6).roll(1)

    def pasted(images: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
        return cutmix_batch(images, soft, BOX, partner.to(images.device))

    return pasted, (images / 255, soft)


DEVICE_CASES = {"cutmix_batch": device_case}


# ---------------------------------------------------------------- the reference


def test_images_and_labels_are_torchvisions_given_the_same_draw(evidence) -> None:
    images, labels = batch()
    soft = one_hot(labels)
    partner = torch.arange(6).roll(1)

    def ours(given: Tensor, draw: tuple[float, int, int]) -> tuple[Tensor, Tensor]:
        return cutmix_batch(given, soft, cutmix_box(*draw, 9, 12), partner)

    def reference(given: Tensor, draw: tuple[float, int, int]):
        theirs = v2.CutMix(num_classes=5)
        lam, row, column = draw
        drawn = iter([column, row])  # its order: x, then y

        class Share:
            def sample(self, _shape: tuple[int, ...]) -> float:
                return lam

        theirs._dist = Share()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randint", lambda *_, **__: torch.tensor([next(drawn)]))  # fmt: skip
            return theirs(given, soft)

    comparison = compare_draws(
        ours,
        reference,
        {"uint8": images, "float64": images.double() / 255},
        {
            "inside": (0.7, 4, 6),
            "over a corner": (0.4, 0, 11),
            "over an edge": (0.1, 8, 5),
            "nothing": (1.0, 3, 3),
            "everything it can": (0.0, 4, 6),
        },
    )
    evidence.equivalent(
        "draws",
        comparison,
        reference="torchvision.transforms.v2.CutMix",
        settings="the same λ and centre; partner = the image before; images uint8 and float64",
    )


@pytest.mark.parametrize(("height", "width"), [(32, 32), (9, 30), (224, 160)])
def test_the_rectangle_of_a_share_and_a_centre_is_torchvisions(
    height: int, width: int
) -> None:
    theirs, image = v2.CutMix(num_classes=5), torch.zeros(1, 1, height, width)
    seen = set()
    for seed in range(200):
        torch.manual_seed(seed)
        params = theirs.make_params([image])
        torch.manual_seed(seed)  # what it drew, in its order
        lam = float(theirs._dist.sample(()))
        column, row = (int(torch.randint(side, (1,))) for side in (width, height))
        top, left, bottom, right = cutmix_box(lam, row, column, height, width)
        assert (left, top, right, bottom) == params["box"]
        share = (bottom - top) * (right - left) / (height * width)
        assert params["lam_adjusted"] == 1.0 - share
        seen.add(params["box"])
    assert len(seen) > 150


def test_integer_labels_become_torchvisions_soft_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, labels = batch()
    theirs, ours = v2.CutMix(num_classes=5), CutMix(5)
    top, left, bottom, right = BOX
    params = {"box": (left, top, right, bottom), "lam_adjusted": 1 - 10 / 108}
    monkeypatch.setattr(theirs, "make_params", lambda _: params)
    monkeypatch.setattr(ours, "draw", lambda n, *_: (BOX, torch.arange(n).roll(1)))
    for given in (images / 255, images):
        for a, b in zip(ours(given, labels), theirs(given, labels), strict=True):
            torch.testing.assert_close(a, b)
    # Soft labels keep their type.
    soft = one_hot(labels).half()
    assert ours(images, soft)[1].dtype == torch.float16


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("seed", range(20))
def test_label_shares_are_counted_from_the_pixels_that_were_replaced(seed: int) -> None:
    n = 8
    images = torch.arange(n).reshape(n, 1, 1, 1).expand(n, 2, 9, 12)
    torch.manual_seed(seed)
    x, y = CutMix(n)(images, torch.arange(n))
    for image, label in zip(x, y.double(), strict=True):
        counted = torch.bincount(image.flatten(), minlength=n).double() / image.numel()
        torch.testing.assert_close(label, counted, rtol=0, atol=1e-6)


def test_the_mean_pasted_share_is_the_closed_form_of_rectangles_cut_at_the_edges() -> (
    None
):
    # A side s = sqrt(u), its centre anywhere, keeps s - s^2/4 on average; u is uniform:
    # the mean of (s - s^2/4)^2 = u - u^1.5 / 2 + u^2 / 16 is 1/2 - 1/5 + 1/48.
    assert pytest.approx(1 / 2 - 1 / 5 + 1 / 48) == MEAN_SHARE
    torch.manual_seed(0)
    mix, side, n = CutMix(2), 1000, 20_000
    shares = []
    for _ in range(n):
        (top, left, bottom, right), _partner = mix.draw(2, side, side)
        shares.append((bottom - top) * (right - left) / side**2)
    share = torch.tensor(shares, dtype=torch.float64)
    assert (share.mean() - MEAN_SHARE).abs() < 4 * share.std() / math.sqrt(n) + 0.001


def test_without_cutting_at_the_edges_the_share_is_the_drawn_one() -> None:
    for lam in (0.0, 0.25, 0.64, 0.99):
        top, left, bottom, right = cutmix_box(lam, 500, 400, 1000, 800)
        kept = 1 - (bottom - top) * (right - left) / 800_000
        assert kept == pytest.approx(lam, abs=0.006)


def test_the_rectangle_has_the_shape_of_the_image_and_both_ends_are_reached() -> None:
    top, left, bottom, right = cutmix_box(0.75, 50, 100, 100, 200)
    assert (bottom - top, right - left) == (50, 100)
    assert cutmix_box(1.0, 3, 4, 9, 12) == (3, 4, 3, 4)
    assert cutmix_box(0.0, 50, 100, 100, 200) == (0, 0, 100, 200)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_share_follows_beta(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []

    def seen(lam: float, *_: int) -> tuple[int, int, int, int]:
        drawn.append(lam)
        return 0, 0, 0, 0

    monkeypatch.setitem(CutMix.draw.__globals__, "cutmix_box", seen)
    torch.manual_seed(0)
    mix = CutMix(2, alpha)
    for _ in range(4000):
        mix.draw(2, 9, 12)
    lam = torch.tensor(drawn, dtype=torch.float64)
    assert lam.mean().item() == pytest.approx(0.5, abs=0.03)
    assert lam.var().item() == pytest.approx(1 / (8 * alpha + 4), rel=0.08)


def test_every_pixel_is_the_centre_equally_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = torch.zeros(3, 4)

    def seen(_lam: float, row: int, column: int, *_: int) -> tuple[int, int, int, int]:
        counts[row, column] += 1
        return 0, 0, 0, 0

    monkeypatch.setitem(CutMix.draw.__globals__, "cutmix_box", seen)
    torch.manual_seed(0)
    mix = CutMix(2)
    for _ in range(6000):
        mix.draw(2, 3, 4)
    assert (counts / 500 - 1).abs().max() < 0.2


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_a_batch_is_changed_with_its_probability_and_else_returned_as_it_is(
    p: float,
) -> None:
    torch.manual_seed(0)
    mix = CutMix(2, alpha=4.0, p=p)
    boxes = [mix.draw(2, 64, 64)[0] for _ in range(2000)]
    changed = sum(box != (0, 0, 0, 0) for box in boxes) / 2000
    assert changed == pytest.approx(p, abs=0.04 if 0 < p < 1 else 0)
    images, labels = batch()
    x, y = CutMix(5, p=0.0)(images, labels)
    assert torch.equal(x, images)
    assert torch.equal(y.double(), one_hot(labels))


def test_one_rectangle_for_the_batch_and_a_partner_for_each_image() -> None:
    torch.manual_seed(0)
    images = torch.arange(64.0).reshape(64, 1, 1, 1).expand(64, 1, 30, 40)
    box, partner = CutMix(5).draw(64, 30, 40)
    soft = one_hot(torch.arange(64) % 5)
    x, _ = cutmix_batch(images, soft, box, partner)
    moved = (x != images)[partner != torch.arange(64)]
    assert moved.any()
    assert len(moved.unique(dim=0)) == 1
    assert torch.equal(partner.sort().values, torch.arange(64))


def test_the_loss_with_the_soft_label_is_the_papers_sum_of_two_losses() -> None:
    torch.manual_seed(0)
    images, labels = batch()
    partner = torch.randperm(6)
    _, y = cutmix_batch(images, one_hot(labels), BOX, partner)
    scores, lam = torch.randn(6, 5).double(), 1 - 10 / 108
    two = lam * F.cross_entropy(scores, labels)
    two = two + (1 - lam) * F.cross_entropy(scores, labels[partner])
    torch.testing.assert_close(F.cross_entropy(scores, y), two)


def test_gradients_go_to_the_image_that_a_pixel_is_from() -> None:
    images = batch(2)[0].double().requires_grad_()
    soft = one_hot(torch.tensor([0, 1]))
    x, _ = cutmix_batch(images, soft, BOX, torch.tensor([1, 0]))
    x[0].sum().backward()
    top, left, bottom, right = BOX
    pasted = torch.zeros(3, 9, 12).double()
    pasted[:, top:bottom, left:right] = 1
    assert images.grad is not None
    assert torch.equal(images.grad, torch.stack([1 - pasted, pasted]))


def test_the_seed_decides_and_the_batch_is_not_changed() -> None:
    images, labels = batch()
    before, outs = images.clone(), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(CutMix(5, alpha=4.0)(images, labels)[0])
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    assert torch.equal(images, before)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CutMix(0), "classes=0"),
        (lambda: CutMix(5, alpha=0.0), r"alpha=0\.0"),
        (lambda: CutMix(5, alpha=math.nan), "alpha=nan"),
        (lambda: CutMix(5, alpha=math.inf), "alpha=inf"),
        (lambda: CutMix(5, p=1.5), r"p=1\.5"),
        (lambda: cutmix_box(1.5, 0, 0, 9, 12), r"lam=1\.5"),
        (lambda: cutmix_box(0.5, 9, 0, 9, 12), "row=9, column=0"),
        (lambda: cutmix_box(0.5, 0, -1, 9, 12), "row=0, column=-1"),
    ],
)
def test_impossible_arguments_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_batches_that_do_not_fit_are_refused() -> None:
    images, labels = batch()
    mix, soft, partner = CutMix(5), one_hot(labels), torch.arange(6)
    with pytest.raises(ValueError, match="0 to 4, got 0 to 5"):
        mix(images, torch.arange(6))
    with pytest.raises(ValueError, match=r"\(6, 4\)"):
        mix(images, torch.zeros(6, 4))
    with pytest.raises(ValueError, match=r"got \(3, 9, 12\)"):
        mix(images[0], labels)
    with pytest.raises(ValueError, match=r"\(6, 3, 9, 12\), \(5, 5\)"):
        mix(images, labels[:5])
    with pytest.raises(ValueError, match=r"box=\(0, 0, 10, 12\)"):
        cutmix_batch(images, soft, (0, 0, 10, 12), partner)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        cutmix_batch(images, soft, BOX, partner[:3])
    with pytest.raises(TypeError, match=r"torch\.int64"):
        cutmix_batch(images, labels, BOX, partner)


# ---------------------------------------------------------------- the bench


ARMS = ["cutmix"]


def bench_arm(key: str) -> bench.Arm:
    mix = CutMix(10)

    def mixed(x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        torch.manual_seed(draw.initial_seed())  # `fit` gives the global state back
        return mix(x, y)

    return bench.Arm("CutMix, α = 1", batch_transform=mixed)


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
