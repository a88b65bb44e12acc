"""Label smoothing is torch's, its gradient is p - q', and its least value is the entropy of the target."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab import bench
from cnn_site.bench import arguments, beside_the_baseline, cost_beside_the_baseline
from cnn_site.equivalence import difference
from cnn_techniques.training import smooth_labels, smoothed_cross_entropy

DEVICE_CASES = {
    "smoothed_cross_entropy": lambda: (
        smoothed_cross_entropy,
        (torch.randn(8, 10), torch.arange(8)),
    )
}


def drawn(*shape: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Logits (N, K, ...) and labels (N, ...) for a shape (N, ...)."""
    generator = torch.Generator().manual_seed(0)
    n, *rest = shape
    logits = torch.randn(n, classes, *rest, generator=generator, dtype=torch.float64)
    return 3 * logits, torch.randint(classes, shape, generator=generator)


def value_and_gradient(loss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


def test_value_and_gradient_are_those_of_torch(evidence) -> None:
    outputs, gradients = {}, {}
    for shape in ((8,), (3, 5, 4)):
        logits, labels = drawn(*shape)
        soft = (logits.roll(1, 0) / 2).softmax(dim=1)  # a distribution for each image
        for kind, target in (("classes", labels), ("distributions", soft)):
            for epsilon in (0.0, 0.1, 1.0):
                ours = value_and_gradient(
                    partial(smoothed_cross_entropy, epsilon=epsilon), logits, target
                )
                theirs = value_and_gradient(
                    nn.CrossEntropyLoss(label_smoothing=epsilon), logits, target
                )
                name = f"{kind} {shape}, epsilon {epsilon}"
                outputs[name] = (ours[0], theirs[0])
                gradients[name] = (ours[1], theirs[1])
    comparison = difference(
        outputs, gradients, shape=[8, 10], modes=["epsilon 0, 0.1 and 1"]
    )
    evidence.equivalent(
        "loss",
        comparison,
        reference="torch.nn.CrossEntropyLoss",
        settings="label_smoothing=epsilon; labels as classes and as distributions, "
        "of images and of pixels",
    )


def test_it_is_the_cross_entropy_against_the_smoothed_labels() -> None:
    # section 7 a second way: H(q', p) written out, with q' as a tensor
    for shape in ((8,), (3, 5, 4)):
        logits, labels = drawn(*shape)
        q = smooth_labels(labels, 10, 0.3)
        written_out = -(q * logits.log_softmax(dim=1)).sum(dim=1).mean()
        torch.testing.assert_close(
            smoothed_cross_entropy(logits, labels, 0.3), written_out, rtol=1e-6, atol=0
        )


def test_a_class_without_probability_costs_nothing_plain_and_everything_smoothed() -> (
    None
):
    logits, labels = drawn(8, classes=9)
    logits = F.pad(logits, (0, 1), value=-math.inf)
    assert torch.isfinite(smoothed_cross_entropy(logits, labels, 0))
    assert smoothed_cross_entropy(logits, labels) == math.inf


def test_smoothed_labels_are_distributions_with_a_floor_under_every_class() -> None:
    labels = torch.tensor([[0, 3], [2, 2]])
    q = smooth_labels(labels, 4, 0.2)
    assert q.shape == (2, 4, 2)
    torch.testing.assert_close(q.sum(dim=1), torch.ones(2, 2))
    assert q[0, :, 1].tolist() == pytest.approx([0.05, 0.05, 0.05, 0.85])


def test_an_epsilon_of_0_is_plain_and_of_1_forgets_the_label() -> None:
    logits, labels = drawn(8)
    assert torch.equal(
        smoothed_cross_entropy(logits, labels, 0), F.cross_entropy(logits, labels)
    )
    assert torch.equal(
        smoothed_cross_entropy(logits, labels, 1),
        smoothed_cross_entropy(logits, labels.roll(1), 1),
    )


def test_the_gradient_is_the_probability_less_the_smoothed_label() -> None:
    logits, labels = drawn(8)
    _, gradient = value_and_gradient(smoothed_cross_entropy, logits, labels)
    expected = (logits.softmax(dim=1) - smooth_labels(labels, 10).double()) / 8
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("classes", "epsilon"), [(10, 0.1), (1000, 0.1), (2, 0.3)])
def test_the_best_lead_of_the_right_class_is_finite_and_costs_the_entropy(
    classes: int, epsilon: float
) -> None:
    lead = math.log(classes * (1 - epsilon) / epsilon + 1)
    logits = torch.zeros(1, classes, dtype=torch.float64)
    logits[0, 0] = lead
    value, gradient = value_and_gradient(
        partial(smoothed_cross_entropy, epsilon=epsilon),
        logits,
        torch.zeros(1, dtype=torch.long),
    )
    right, other = 1 - epsilon + epsilon / classes, epsilon / classes
    entropy = -right * math.log(right) - (classes - 1) * other * math.log(other)
    assert gradient.abs().max() < 1e-12
    assert value.item() == pytest.approx(entropy)


def test_the_same_number_added_to_all_logits_changes_nothing() -> None:
    logits, labels = drawn(8)
    torch.testing.assert_close(
        smoothed_cross_entropy(logits + 100, labels),
        smoothed_cross_entropy(logits, labels),
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_are_integers_of_any_width(dtype: torch.dtype) -> None:
    logits, labels = drawn(8)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(
        smoothed_cross_entropy(logits, labels.to(dtype)), expected
    )
    assert torch.equal(smooth_labels(labels.to(dtype), 10), smooth_labels(labels, 10))


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, math.nan])
def test_an_epsilon_that_is_no_share_is_refused(epsilon: float) -> None:
    logits, labels = drawn(8)
    with pytest.raises(ValueError, match=f"epsilon={epsilon}"):
        smoothed_cross_entropy(logits, labels, epsilon)
    with pytest.raises(ValueError, match=f"epsilon={epsilon}"):
        smooth_labels(labels, 10, epsilon)


def test_labels_out_of_range_are_refused_and_not_ignored() -> None:
    logits, labels = drawn(8)
    for wrong in (-100, 10):  # torch's default for labels to ignore; one class too many
        labels[3] = wrong
        for call in (
            lambda: smoothed_cross_entropy(logits, labels),
            lambda: smooth_labels(labels, 10),
        ):
            with pytest.raises(ValueError, match=f"from 0 to 9, got .*{wrong}"):
                call()


def test_other_shapes_and_kinds_are_refused() -> None:
    logits, labels = drawn(8)
    for wrong in (labels[:5], labels[:, None], logits[:, :5], logits[0]):
        with pytest.raises(ValueError, match=r"got \(8, 10\) and"):
            smoothed_cross_entropy(logits, wrong)
    with pytest.raises(ValueError, match=r"got \(8,\) and \(8,\)"):
        smoothed_cross_entropy(logits[:, 0], labels)
    with pytest.raises(TypeError, match=r"torch\.bool"):
        smoothed_cross_entropy(logits, labels > 3)
    with pytest.raises(TypeError, match=r"torch\.float64"):
        smooth_labels(logits[:, 0], 10)


# ---------------------------------------------------------------- the bench


ARMS = ["smoothed", "wrong"]


def bench_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return smoothed_cross_entropy(model(x), y, epsilon=0.1)


def bench_arm(key: str) -> bench.Arm:
    handicap = {"smoothed": "none", "wrong": "wrong labels"}[key]
    return bench.Arm("Label smoothing, ε = 0.1", loss=bench_loss, handicap=handicap)


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ARMS[:1]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)
