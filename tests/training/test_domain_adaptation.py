"""Domain adaptation computes the papers' equations; what it is worth is measured from clean to moved images."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab import bench
from cnn_lab.fit import accuracy, fit, steps
from cnn_lab.record import interval, paired, repeat
from cnn_site import ROOT
from cnn_site.equivalence import difference
from cnn_techniques.training import (
    ReverseGradient,
    coral_loss,
    covariance,
    domain_adversarial_loss,
    reversal_factor,
)

Json = dict[str, Any]


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=dtype)


def device_case() -> tuple[object, tuple[Tensor, ...]]:
    dtype = torch.get_default_dtype()
    return coral_loss, (
        features(6, 5, dtype=dtype),
        features(4, 5, seed=1, dtype=dtype),
    )


DEVICE_CASES = {"coral_loss": device_case}


# ---------------------------------------------------------------- gradient reversal


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 2.5])
def test_reversal_is_the_identity_with_the_gradient_times_minus_the_factor(
    factor: float,
) -> None:
    x = features(4, 3).requires_grad_()
    out = ReverseGradient.apply(x, factor)
    assert torch.equal(out, x)
    (out * features(4, 3, seed=1)).sum().backward()
    assert torch.equal(x.grad, -factor * features(4, 3, seed=1))


def classifier_of(d: int) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(d, 7), nn.Tanh(), nn.Linear(7, 1)).double()


def by_two_optimizers(
    source: Tensor, target: Tensor, classifier: nn.Module, factor: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Without a reversed gradient: log-likelihoods image by image, and the sign turned by hand."""
    missed = [
        -torch.stack(
            [F.logsigmoid(sign * classifier(row[None])) for row in rows]
        ).mean()
        for rows, sign in ((source, -1), (target, 1))
    ]
    loss = sum(missed) / 2
    leaves = [source, target, *classifier.parameters()]
    gradients = torch.autograd.grad(loss, leaves)
    names = ["source", "target", *dict(classifier.named_parameters())]
    turned = {
        name: -factor * g if name in ("source", "target") else g
        for name, g in zip(names, gradients, strict=True)
    }
    return loss.detach(), turned


def test_the_domain_loss_is_the_papers_objective_with_the_sign_turned_by_hand(
    evidence,
) -> None:
    outputs, gradients = {}, {}
    for factor in (0.0, 0.1, 1.0, 3.0):
        source, target = features(9, 5), 1 + features(4, 5, seed=1)
        source.requires_grad_(), target.requires_grad_()
        classifier = classifier_of(5)
        loss = domain_adversarial_loss(source, target, classifier, factor)
        loss.backward()
        other, turned = by_two_optimizers(source, target, classifier_of(5), factor)
        outputs[f"lambda = {factor:g}"] = (loss.detach(), other)
        own = {"source": source.grad, "target": target.grad}
        own |= {n: p.grad for n, p in classifier.named_parameters()}
        gradients |= {
            f"lambda = {factor:g}, {name}": (own[name], turned[name]) for name in own
        }
    evidence.equivalent(
        "adversarial",
        difference(outputs, gradients, shape=[9, 5], modes=["lambda 0 to 3"]),
        reference="the objective written image by image, the sign turned by hand",
        settings="9 source and 4 target images",
    )


def test_a_step_of_the_features_makes_the_domains_harder_to_tell_apart() -> None:
    source, target = features(50, 5), 0.5 + features(50, 5, seed=1)
    classifier = classifier_of(5)

    def loss(factor: float) -> Tensor:
        return domain_adversarial_loss(source, target, classifier, factor)

    for _ in range(50):  # the classifier learns to tell them apart
        slopes = torch.autograd.grad(loss(0.0), list(classifier.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(classifier.parameters(), slopes, strict=True):
                parameter -= 0.5 * slope
    before = loss(1.0)
    assert before < 0.65  # below log 2, that of a guess
    target.requires_grad_()
    (slope,) = torch.autograd.grad(loss(1.0), [target])
    target = (target - 20 * slope).detach()
    assert loss(1.0) > before + 0.01


def test_a_classifier_that_cannot_tell_them_apart_loses_log_2() -> None:
    constant = nn.Linear(5, 1).double()
    nn.init.zeros_(constant.weight), nn.init.zeros_(constant.bias)
    loss = domain_adversarial_loss(features(9, 5), features(4, 5), constant, 1.0)
    torch.testing.assert_close(loss.item(), math.log(2))


def test_domains_of_unequal_size_weigh_the_same() -> None:
    source, target = features(3, 5), features(4, 5, seed=1)
    once = domain_adversarial_loss(source, target, classifier_of(5), 1.0)
    thrice = domain_adversarial_loss(source.repeat(3, 1), target, classifier_of(5), 1.0)
    torch.testing.assert_close(once, thrice, rtol=1e-14, atol=0)


def test_the_factor_rises_from_nothing_to_nearly_one() -> None:
    values = [reversal_factor(p / 100) for p in range(101)]
    assert values[0] == 0 and 0.9999 < values[-1] < 1
    assert values == sorted(values)
    for p in (0.1, 0.5, 0.9):  # 2 / (1 + e^-x) - 1 is the hyperbolic tangent of x / 2
        assert reversal_factor(p) == pytest.approx(math.tanh(5 * p), rel=1e-14)
    assert reversal_factor(0.2, gamma=20) == pytest.approx(reversal_factor(0.4))


# ---------------------------------------------------------------- correlation alignment


def by_the_paper(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Covariances by sums of products, and the paper's gradients, with columns of ones."""
    d = source.shape[1]

    def matrix(features: Tensor) -> Tensor:
        n, ones = len(features), torch.ones(len(features), 1, dtype=features.dtype)
        sums = ones.T @ features
        return (features.T @ features - sums.T @ sums / n) / (n - 1)

    gap = matrix(source) - matrix(target)

    def slope(features: Tensor, sign: int) -> Tensor:
        n, ones = len(features), torch.ones(len(features), 1, dtype=features.dtype)
        centred = features.T - (ones.T @ features).T @ ones.T / n
        return sign * (centred.T @ gap) / (d**2 * (n - 1))

    loss = torch.linalg.matrix_norm(gap) ** 2 / (4 * d**2)
    return loss, slope(source, 1), slope(target, -1)


def test_coral_and_its_gradient_are_the_papers_equations(evidence) -> None:
    outputs, gradients = {}, {}
    for n, (n_s, n_t, d) in enumerate([(9, 4, 5), (2, 2, 3), (40, 60, 16)]):
        source, target = features(n_s, d, seed=n), 2 * features(n_t, d, seed=n + 10)
        source.requires_grad_(), target.requires_grad_()
        loss = coral_loss(source, target)
        loss.backward()
        with torch.no_grad():
            theirs, of_source, of_target = by_the_paper(source, target)
        name = f"{n_s} and {n_t} rows of {d}"
        outputs[name] = (loss.detach(), theirs)
        gradients[f"{name}, source"] = (source.grad, of_source)
        gradients[f"{name}, target"] = (target.grad, of_target)
    evidence.equivalent(
        "coral",
        difference(outputs, gradients, shape=[9, 5], modes=["three pairs of sizes"]),
        reference="the paper's equations of the loss and of its gradients",
        settings="sums of products with columns of ones, no autograd",
    )


def test_the_covariance_is_numpys() -> None:
    x = features(30, 6)
    expected = torch.from_numpy(np.cov(x.numpy(), rowvar=False))
    torch.testing.assert_close(covariance(x), expected, rtol=1e-13, atol=1e-15)


def test_coral_does_not_see_the_means_and_is_nothing_for_equal_covariances() -> None:
    source, target = features(9, 5), features(4, 5, seed=1)
    plain = coral_loss(source, target)
    moved = coral_loss(source + 3, target - 2)
    torch.testing.assert_close(plain, moved, rtol=1e-12, atol=0)
    assert coral_loss(source, source + 1).item() < 1e-28 < 1e-4 < plain
    torch.testing.assert_close(coral_loss(3 * source, 3 * target), 81 * plain)
    torch.testing.assert_close(coral_loss(target, source), plain)


# ---------------------------------------------------------------- bad input


def adversarial(source: Tensor, target: Tensor) -> Tensor:
    return domain_adversarial_loss(source, target, nn.Linear(3, 1), 1.0)


@pytest.mark.parametrize("loss", [coral_loss, adversarial])
@pytest.mark.parametrize(
    ("source", "target"), [((4, 3), (4, 2)), ((4,), (4,)), ((0, 3), (4, 3))]
)
def test_other_shapes_are_refused(
    loss: Callable[[Tensor, Tensor], Tensor],
    source: tuple[int, ...],
    target: tuple[int, ...],
) -> None:
    told = r"expected features \(N, d\) of both domains, N at least \d, got \("
    with pytest.raises(ValueError, match=told):
        loss(torch.zeros(source), torch.zeros(target))


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(ValueError, match=r"N at least 2, got \(1, 3\) and \(4, 3\)"):
        coral_loss(torch.zeros(1, 3), torch.zeros(4, 3))


def test_values_out_of_range_are_refused() -> None:
    two = features(2, 3)
    with pytest.raises(ValueError, match="factor of 0 or above, got -1"):
        domain_adversarial_loss(two, two, nn.Linear(3, 1).double(), -1)
    with pytest.raises(ValueError, match=r"expected logits \(4, 1\).* got \(4, 2\)"):
        domain_adversarial_loss(two, two, nn.Linear(3, 2).double(), 1)
    with pytest.raises(ValueError, match=r"share p from 0 to 1, got 1\.5"):
        reversal_factor(1.5)
    with pytest.raises(ValueError, match="gamma above 0, got 0"):
        reversal_factor(0.5, 0)


# ---------------------------------------------------------------- from clean to moved images

SEEDS = bench.SEEDS[:5]
EPOCHS = 10
CACHE = ROOT / ".cache" / "record" / "domain.jsonl"
CORAL_WEIGHT = 1.0
NAMES = {
    "source": "Source alone",
    "norms": "Target images in the batch norms alone",
    "dann": "DANN",
    "coral": "Deep CORAL",
    "target": "Target with its labels",
}


class Adapted(nn.Module):
    """The bench's network, and a classifier of domains beside its own."""

    def __init__(self) -> None:
        super().__init__()
        self.network = bench.network()
        self.domains = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 1))

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.network.features(x)[-1]
        return maps.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores


class AdaptationLoss:
    """Of a batch of pairs (N, 2, 1, 28, 28), a source and a target image, and the source's labels."""

    def __init__(self, arm: str, total: int) -> None:
        self.arm, self.step, self.total = arm, 0, total

    def __call__(self, model: Adapted, pairs: Tensor, labels: Tensor) -> Tensor:
        source, target = model.features(torch.cat(pairs.unbind(1))).chunk(2)
        scores = model.network.fc(source)
        loss = F.cross_entropy(scores, labels)
        p, self.step = self.step / self.total, self.step + 1
        if self.arm == "dann":
            factor = reversal_factor(p)
            loss = loss + domain_adversarial_loss(source, target, model.domains, factor)
        if self.arm == "coral":
            loss = loss + CORAL_WEIGHT * coral_loss(scores, model.network.fc(target))
        return loss


def target_images(root: Path) -> tuple[Tensor, Tensor]:
    """The 600 images of each class after those of the bench, moved as its test images are."""
    from torchvision.datasets import FashionMNIST

    data_set = FashionMNIST(str(root), train=True)
    images, labels = data_set.data[:, None].float() / 255, data_set.targets.long()
    rows = [torch.where(labels == k)[0][600:1200] for k in range(10)]
    order = torch.cat(rows).sort().values
    return bench.shifted((images[order] - 0.2860) / 0.3530), labels[order]


def adapt(arm: str, seed: int) -> Json:
    root = ROOT / "data"
    images, labels = bench.garments("train", root)
    moved, answers = target_images(root)
    budget = {"epochs": EPOCHS, "batch_size": bench.BATCH_SIZE}
    total = steps(len(images), **budget)
    torch.manual_seed(seed)
    model = Adapted()
    optimizer = bench.sgd(model)
    alone = {"source": (images, labels), "target": (moved, answers)}
    data = alone.get(arm, (torch.stack([images, moved], dim=1), labels))
    loss = {} if arm in alone else {"loss": AdaptationLoss(arm, total)}
    try:
        fit(
            model,
            data,
            **budget,
            optimizer=optimizer,
            schedule=bench.cosine(optimizer, total),
            seed=seed,
            **loss,
        )
    except FloatingPointError:
        return {"diverged": True}
    tests, truth = bench.garments("test", root)
    return {
        "clean": accuracy(model, tests, truth),
        "moved": accuracy(model, bench.shifted(tests), truth),
    }


def from_clean_to_moved(arms: list[str], seeds: list[int]) -> Json:
    runs = repeat(adapt, {arm: {"arm": arm} for arm in arms}, seeds, CACHE)
    rows, differences = {}, {}
    for arm in arms:
        rows[arm] = {"name": NAMES[arm]}
        if any("diverged" in run for run in runs[arm]):
            rows[arm]["diverged"] = sum("diverged" in run for run in runs[arm])
            continue
        for quantity in ("clean", "moved"):
            values = [run[quantity] for run in runs[arm]]
            rows[arm][quantity] = {**interval(values), "values": values}
    for arm in arms[1:]:
        for other in ("source", "norms"):
            if arm != other and "diverged" not in rows[arm]:
                differences[f"{arm}_{other}"] = paired(
                    rows[arm]["moved"]["values"], rows[other]["moved"]["values"]
                )
    return {"seeds": len(seeds), "arms": rows, "paired": differences}


@pytest.mark.record
def test_record_what_it_is_worth_from_clean_to_moved_images(evidence) -> None:
    evidence.measured(
        "garments",
        arguments={"arms": list(NAMES), "seeds": list(SEEDS)},
        run=from_clean_to_moved,
    )
