"""AugMix draws and blends as torchvision's does, and its loss is timm's and the entropies' one."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import skimage.data
import torch
from timm.loss import JsdCrossEntropy
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
from cnn_site.equivalence import difference
from cnn_site.parity import compare_draws
from cnn_techniques.training import (
    AugMix,
    AugMixDraw,
    jensen_shannon,
    jsd_cross_entropy,
)


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def logits(views: int = 3, n: int = 5, k: int = 7, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(views, n, k, generator=generator, dtype=torch.float64)
    return scale * drawn


DEVICE_CASES = {
    "jsd_cross_entropy": lambda: (
        lambda x: jsd_cross_entropy(x, torch.arange(5, device=x.device)),
        (logits().flatten(0, 1).float(),),
    )
}


# ---------------------------------------------------------------- torchvision


def seeded(transform, image: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return transform(image)


def inputs() -> dict[str, Tensor]:
    photo = torch.tensor(skimage.data.chelsea()).permute(2, 0, 1)
    return {"photo": photo[:, 90:114, 120:151], "one channel": noise(1, 14, 19)}


@pytest.mark.parametrize("all_ops", [False, True])
def test_the_same_seed_gives_the_image_that_torchvision_gives(
    evidence, all_ops: bool
) -> None:
    comparison = compare_draws(
        partial(seeded, AugMix(all_ops=all_ops)),
        partial(seeded, v2.AugMix(all_ops=all_ops)),
        inputs(),
        {f"seed {seed}": seed for seed in range(40)},
    )
    evidence.equivalent(
        "all_operations" if all_ops else "draws",
        replace(comparison, modes=["40 seeds"]),
        reference="torchvision.transforms.v2.AugMix",
        settings=f"{all_ops=}; the same seed, an image at a time; bilinear, black",
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"severity": 10, "alpha": 0.3},
        {"severity": 1, "mixture_width": 1, "chain_depth": 4},
        {"mixture_width": 5, "alpha": 4.0},
    ],
)
def test_every_setting_means_what_it_means_in_torchvision(settings: dict) -> None:
    theirs = v2.AugMix(**{"all_ops": False, **settings})
    ours = AugMix(**settings)
    for image in inputs().values():
        for seed in range(12):
            expected = seeded(theirs, image, seed)
            assert torch.equal(seeded(ours, image, seed), expected), seed


def test_operations_and_magnitudes_are_those_of_torchvision_one_by_one() -> None:
    for all_ops in (False, True):
        ours = AugMix(all_ops=all_ops).operations(20, 31)
        theirs = v2.AugMix._AUGMENTATION_SPACE
        if not all_ops:
            theirs = v2.AugMix._PARTIAL_AUGMENTATION_SPACE
        assert list(ours) == list(theirs)  # in the same order: they are drawn by number
        for name, (magnitudes, signed) in theirs.items():
            expected = magnitudes(10, 20, 31)
            assert ours[name].signed == signed, name
            if expected is None:
                assert ours[name].magnitudes is None, name
            else:
                assert torch.equal(ours[name].magnitudes, expected), name


# ---------------------------------------------------------------- the blend


def drawn(shares: list[float], weights: list[float], *chains) -> AugMixDraw:
    return AugMixDraw(torch.tensor(shares), torch.tensor(weights), list(chains))


def test_all_of_the_share_gives_the_image_and_none_of_it_the_chain() -> None:
    image = inputs()["photo"]
    augment = AugMix()
    chain = [("Posterize", 2), ("ShearX", 0.1)]
    expected = image
    for name, magnitude in chain:
        expected = augment.operations(*image.shape[-2:])[name](expected, magnitude)
    assert not torch.equal(expected, image)
    assert torch.equal(augment.mix(image, drawn([1, 0], [1], chain)), image)
    assert torch.equal(augment.mix(image, drawn([0, 1], [1], chain)), expected)


def test_the_blend_is_algorithm_1_of_the_paper_written_a_second_way() -> None:
    # x_aug = sum_i w_i chain_i(x); m x + (1 - m) x_aug, in float64
    image, augment = inputs()["photo"], AugMix(severity=10)
    table = augment.operations(*image.shape[-2:])
    for seed in range(10):
        torch.manual_seed(seed)
        draw = augment.draw(*image.shape[-2:])
        total = torch.zeros(image.shape, dtype=torch.float64)
        for weight, chain in zip(draw.weights.double(), draw.chains, strict=True):
            x = image
            for name, magnitude in chain:
                x = table[name](x, magnitude)
            total += weight * x
        m = draw.shares[0].double()
        expected = m * image + (1 - m) * total
        mixed = augment.mix(image, draw)
        assert (mixed - expected).max() < 1e-3  # rounded down
        assert (expected - mixed).max() < 1 + 1e-3


def test_an_image_that_no_operation_changes_is_kept_to_a_level() -> None:
    # Rounding down can lose a level where the shares add up to a little less than 1.
    for value in (0, 7, 255):
        image = torch.full((3, 8, 9), value, dtype=torch.uint8)
        augment = AugMix()
        chains = [[("AutoContrast", None)], [("Equalize", None)]]
        for m in torch.linspace(0, 1, 11).tolist():
            mixed = augment.mix(image, drawn([m, 1 - m], [0.3, 0.7], *chains))
            assert ((image - mixed.int()) >= 0).all()
            assert ((image - mixed.int()) <= 1).all()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 6.0])
def test_shares_follow_beta_and_weights_dirichlet(alpha: float) -> None:
    torch.manual_seed(0)
    augment = AugMix(mixture_width=4, chain_depth=1, alpha=alpha)
    draws = [augment.draw(9, 12) for _ in range(1000)]
    m = torch.stack([draw.shares for draw in draws])
    w = torch.stack([draw.weights for draw in draws])
    torch.testing.assert_close(m.sum(dim=1), torch.ones(1000))
    torch.testing.assert_close(w.sum(dim=1), torch.ones(1000))
    assert m[:, 0].mean().item() == pytest.approx(0.5, abs=0.04)
    assert m[:, 0].var().item() == pytest.approx(1 / (8 * alpha + 4), rel=0.15)
    variance = (1 / 4) * (3 / 4) / (4 * alpha + 1)  # of one weight of four
    for weight in w.unbind(dim=1):
        assert weight.mean().item() == pytest.approx(1 / 4, abs=0.04)
        assert weight.var().item() == pytest.approx(variance, rel=0.25)


def test_depths_operations_magnitudes_and_signs_are_drawn_evenly() -> None:
    torch.manual_seed(0)
    augment, depths, found = AugMix(), Counter(), Counter()
    turned = Counter()
    for _ in range(800):
        for chain in augment.draw(20, 31).chains:
            depths[len(chain)] += 1
            for name, magnitude in chain:
                found[name] += 1
                if name == "Rotate":
                    turned[round(magnitude, 2)] += 1
    assert depths.keys() == {1, 2, 3}
    assert max(depths.values()) < 1.2 * min(depths.values())
    assert len(found) == 9
    assert max(found.values()) < 1.3 * min(found.values())
    total = sum(turned.values())
    assert turned.keys() == {0.0, 3.33, 6.67, -3.33, -6.67}
    assert turned[0.0] / total == pytest.approx(1 / 3, abs=0.06)
    for angle in (3.33, 6.67, -3.33, -6.67):
        assert turned[angle] / total == pytest.approx(1 / 6, abs=0.05)


def test_a_depth_that_is_given_is_the_depth_of_every_chain() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        chains = AugMix(mixture_width=2, chain_depth=5).draw(9, 12).chains
        assert [len(chain) for chain in chains] == [5, 5]


def test_a_batch_has_the_draws_of_its_images_one_after_the_other() -> None:
    images = noise(4, 3, 20, 31)
    torch.manual_seed(0)
    together = AugMix()(images)
    torch.manual_seed(0)
    augment = AugMix()
    assert torch.equal(together, torch.stack([augment(image) for image in images]))
    assert torch.equal(images, noise(4, 3, 20, 31))
    same = images[:1].expand(12, -1, -1, -1)
    assert len({str(image.sum()) for image in AugMix()(same)}) > 6


# ---------------------------------------------------------------- the loss


def test_the_loss_and_its_gradient_are_those_of_timm(evidence) -> None:
    labels, outputs = torch.tensor([1, 0, 6, 2, 2]), {}
    for views in (2, 3, 4):
        for weight in (12, 1):
            results = []
            for loss in (
                lambda x, v=views, w=weight: jsd_cross_entropy(x, labels, v, w),
                lambda x, v=views, w=weight: JsdCrossEntropy(v, w, 0)(x, labels),
            ):
                x = logits(views).flatten(0, 1).requires_grad_()
                value = loss(x)
                (slope,) = torch.autograd.grad(value, x)
                results.append((value.detach(), slope))
            case = f"{views} views, weight {weight}"
            for name, *pair in zip(("loss", "gradient"), *results, strict=True):
                outputs[f"{case}: {name}"] = tuple(pair)
    comparison = difference(
        outputs, shape=[15, 7], modes=["2, 3 and 4 views", "weights 12 and 1"]
    )
    evidence.equivalent(
        "loss",
        comparison,
        reference="timm.loss.JsdCrossEntropy",
        settings="smoothing=0; probabilities of the mean above 1e-7, where timm cuts off",
    )


def test_the_divergence_is_the_entropy_of_the_mean_less_the_mean_entropy() -> None:
    p = logits().softmax(dim=2)  # a second way: H(M) - mean of H(p_v)
    entropy = torch.special.entr(p).sum(dim=2).mean()
    expected = torch.special.entr(p.mean(dim=0)).sum(dim=1).mean() - entropy
    torch.testing.assert_close(jensen_shannon(logits()), expected)


def test_it_is_zero_for_equal_views_and_the_logarithm_of_their_number_for_disjoint() -> (
    None
):
    same = logits(1).expand(3, -1, -1)
    assert jensen_shannon(same).abs() < 1e-15
    x = same.clone().requires_grad_()
    jensen_shannon(x).backward()
    assert x.grad is not None
    assert x.grad.abs().max() < 1e-15
    for views in (2, 3, 5):
        apart = 1e4 * torch.eye(views, dtype=torch.float64)[:, None].expand(-1, 4, -1)
        value = jensen_shannon(apart)
        assert value.item() == pytest.approx(math.log(views))


def test_it_has_no_order_of_views_and_no_scale_of_single_logits() -> None:
    value = jensen_shannon(logits())
    torch.testing.assert_close(jensen_shannon(logits().flip(0)), value)
    torch.testing.assert_close(jensen_shannon(logits() + 100), value)
    assert 0 < value < math.log(3)


def test_it_stays_finite_where_probabilities_are_zero() -> None:
    x = (1e5 * logits().float()).requires_grad_()  # softmax gives 0 and 1 alone
    assert (x.softmax(dim=2) == 0).any()
    value = jensen_shannon(x)
    value.backward()
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_labels_are_for_the_first_view_alone() -> None:
    x = logits().flatten(0, 1).requires_grad_()
    labels = torch.tensor([1, 0, 6, 2, 2])
    loss = jsd_cross_entropy(x, labels, weight=0.0)
    torch.testing.assert_close(loss, F.cross_entropy(x[:5], labels))
    (slope,) = torch.autograd.grad(loss, x)
    assert (slope[:5] != 0).any()
    assert (slope[5:] == 0).all()
    (slope,) = torch.autograd.grad(jsd_cross_entropy(x, labels), x)
    assert (slope[5:] != 0).any()


def test_soft_labels_are_taken_as_they_are() -> None:
    x, labels = logits().flatten(0, 1), torch.tensor([1, 0, 6, 2, 2])
    soft = F.one_hot(labels, 7).double()
    torch.testing.assert_close(jsd_cross_entropy(x, soft), jsd_cross_entropy(x, labels))


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AugMix(severity=0), "severity=0"),
        (lambda: AugMix(severity=11), "severity=11"),
        (lambda: AugMix(mixture_width=0), "mixture_width=0"),
        (lambda: AugMix(chain_depth=0), "chain_depth=0"),
        (lambda: AugMix(alpha=0.0), r"alpha=0\.0"),
        (lambda: AugMix(alpha=math.nan), "alpha=nan"),
        (lambda: jensen_shannon(torch.zeros(4, 5)), r"got \(4, 5\)"),
        (lambda: jensen_shannon(torch.zeros(0, 4, 5)), r"got \(0, 4, 5\)"),
        (lambda: jsd_cross_entropy(torch.zeros(8, 5), torch.zeros(4).long()), r"got \(8, 5\) and \(4,\)"),
        (lambda: jsd_cross_entropy(torch.zeros(3, 4, 5), torch.zeros(4).long()), r"got \(3, 4, 5\)"),
        (lambda: jsd_cross_entropy(torch.zeros(0, 5), torch.zeros(0).long()), r"got \(0, 5\)"),
        (lambda: jsd_cross_entropy(torch.zeros(4, 5), torch.zeros(4).long(), views=1), "views=1"),
        (lambda: jsd_cross_entropy(torch.zeros(8, 5), torch.zeros(4).long(), 2, -1.0), r"weight=-1\.0"),
    ],
)  # fmt: skip
def test_impossible_arguments_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_other_images_are_refused_whatever_would_be_drawn() -> None:
    for _ in range(20):
        with pytest.raises(TypeError, match=r"torch\.float32"):
            AugMix()(torch.rand(3, 4, 5))
    for shape in ((4, 5), (0, 3, 4, 5), (2, 2, 3, 4, 5), (3, 0, 5)):
        with pytest.raises(ValueError, match=r"expected an image .*got \("):
            AugMix()(torch.zeros(shape, dtype=torch.uint8))


# ---------------------------------------------------------------- the bench


ARMS = ["augmix", "jsd"]


def augmented(x: Tensor) -> Tensor:
    """AugMix of the bench's images, which are bytes less 0.2860 and through 0.3530."""
    levels = ((x * 0.3530 + 0.2860) * 255).round().clamp(0, 255).to(torch.uint8)
    return (AugMix()(levels).float() / 255 - 0.2860) / 0.3530


def alone(x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    torch.manual_seed(draw.initial_seed())  # `fit` gives the generator back
    return augmented(x), y


def three_views(x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    torch.manual_seed(draw.initial_seed())
    return torch.cat([x, augmented(x), augmented(x)]), y


def jsd(model: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return jsd_cross_entropy(model(x), y)


def bench_arm(key: str) -> bench.Arm:
    if key == "augmix":
        return bench.Arm("AugMix alone", batch_transform=alone)
    return bench.Arm("AugMix with the JSD loss", batch_transform=three_views, loss=jsd)


def test_the_bench_gives_three_views_to_the_loss_and_the_first_is_the_image() -> None:
    x = (noise(4, 1, 28, 28).float() / 255 - 0.2860) / 0.3530
    views, labels = three_views(x, torch.arange(4), torch.Generator().manual_seed(3))
    assert views.shape == (12, 1, 28, 28)
    assert labels.shape == (4,)
    assert torch.equal(views[:4], x)
    for view in (views[4:8], views[8:]):
        assert not torch.equal(view, x)
    assert not torch.equal(views[4:8], views[8:])
    again, _ = three_views(x, torch.arange(4), torch.Generator().manual_seed(3))
    assert torch.equal(views, again)
    bench.step(bench_arm("jsd"), 4)()


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
