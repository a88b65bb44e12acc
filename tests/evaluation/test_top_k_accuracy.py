"""Top-k accuracy is that of torchmetrics and scikit-learn, and ties are counted in one way."""

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from cnn_site.parity import compare_metric
from cnn_techniques.evaluation import accuracy, confusion_matrix, top_k_accuracy

DEVICE_CASES = {
    "top_k_accuracy": lambda: (
        lambda scores, labels: top_k_accuracy(scores, labels, 2),
        (torch.randn(9, 4), torch.arange(9) % 4),
    )
}


def case(
    seed: int, samples: int, classes: int, levels: int = 0
) -> tuple[Tensor, Tensor]:
    """Random scores, of few levels where there are to be ties."""
    draw = torch.Generator().manual_seed(seed)
    shape = (samples, classes)
    if levels:
        scores = torch.randint(levels, shape, generator=draw).double()
    else:
        scores = torch.randn(shape, generator=draw, dtype=torch.float64)
    return scores, torch.randint(classes, (samples,), generator=draw)


def by_torchmetrics(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    classes, samples = scores.shape[1], len(labels)
    single = multiclass_accuracy(
        scores, labels, num_classes=classes, top_k=k, average="micro"
    )
    return (single.double() * samples).round() / samples  # it counts in float32


def test_equals_torchmetrics_where_no_scores_are_equal(evidence) -> None:
    ordinary = case(0, 200, 7)
    cases = {f"top-{k}": (*ordinary, k) for k in range(1, 8)}
    cases |= {
        "one sample": (*case(1, 1, 5), 2),
        "all right": (torch.eye(4, dtype=torch.float64), torch.arange(4), 1),
        "nothing right": (torch.eye(4, dtype=torch.float64), torch.arange(4).roll(1), 1),
        "a class without samples": (ordinary[0][:, :3], torch.zeros(200).long(), 2),
        "infinite scores": (torch.tensor([[torch.inf, 0.0, -torch.inf]]), torch.tensor([2]), 2),
    }  # fmt: skip
    comparison = compare_metric(top_k_accuracy, by_torchmetrics, cases)
    evidence.equivalent(
        "torchmetrics",
        comparison,
        reference="torchmetrics.functional.classification.multiclass_accuracy",
        settings='average="micro", top_k from 1 to K',
    )


@pytest.mark.parametrize("cases", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_equals_scikit_learn_in_many_cases_with_ties(cases: int) -> None:
    """scikit-learn sorts, and turns the order round: of equal scores the larger class comes first there."""
    tied, decided = 0, 0
    for seed in range(cases):
        samples, classes = 1 + seed % 13, 3 + seed % 5
        scores, labels = case(seed, samples, classes, levels=1 + seed % 4)
        k = 1 + seed % (classes - 1)
        turned = scores.flip(1).numpy(), (classes - 1 - labels).numpy()
        expected = top_k_accuracy_score(
            turned[1], turned[0], k=k, labels=np.arange(classes)
        )
        actual = top_k_accuracy(scores, labels, k).item()
        assert actual == pytest.approx(expected, abs=1e-15)
        tied += any(row.unique().shape[0] < classes for row in scores)
        other = top_k_accuracy_score(
            labels.numpy(), scores.numpy(), k=k, labels=np.arange(classes)
        )
        decided += abs(actual - other) > 1e-9
    assert tied > cases / 2  # most cases have ties
    assert decided > cases / 3  # and in many the order of equal scores decides


@pytest.mark.parametrize("cases", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_equals_both_libraries_in_many_cases_without_ties(cases: int) -> None:
    for seed in range(cases):
        samples, classes = 1 + seed % 13, 3 + seed % 5
        scores, labels = case(seed, samples, classes)
        k = 1 + seed % (classes - 1)
        actual = top_k_accuracy(scores, labels, k).item()
        theirs = top_k_accuracy_score(
            labels.numpy(), scores.numpy(), k=k, labels=np.arange(classes)
        )
        assert actual == pytest.approx(theirs, abs=1e-15)
        assert actual == pytest.approx(by_torchmetrics(scores, labels, k).item(), abs=1e-15)  # fmt: skip


def test_of_equal_scores_the_smaller_class_comes_first() -> None:
    scores = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).expand(4, 4)
    each = [
        [
            top_k_accuracy(scores[:1], torch.tensor([label]), k).item()
            for k in (1, 2, 3, 4)
        ]
        for label in range(4)
    ]
    assert each == [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]


def test_top_1_is_the_accuracy_and_top_all_is_1() -> None:
    scores, labels = case(3, 300, 6)
    matrix = confusion_matrix(scores, labels, 6)
    assert top_k_accuracy(scores, labels, 1) == accuracy(matrix)
    assert top_k_accuracy(scores, labels, 6) == 1


def test_it_never_falls_with_k_and_is_k_of_classes_by_chance() -> None:
    scores, labels = case(4, 20_000, 10)
    values = [top_k_accuracy(scores, labels, k).item() for k in range(1, 11)]
    assert values == sorted(values)
    np.testing.assert_allclose(values, np.arange(1, 11) / 10, atol=0.02)


def test_a_growing_function_of_the_scores_changes_nothing() -> None:
    scores, labels = case(5, 100, 6)
    for k in (1, 3):
        expected = top_k_accuracy(scores, labels, k)
        assert top_k_accuracy(scores.softmax(1), labels, k) == expected
        assert top_k_accuracy(scores * 7 - 3, labels, k) == expected


@pytest.mark.parametrize(
    ("scores", "labels", "k", "error", "said"),
    [
        (torch.zeros(2, 3), torch.zeros(2), 1, TypeError, r"got torch\.float32"),
        (torch.zeros(2, 3), torch.zeros(3).long(), 1, ValueError, r"\(2, 3\) and \(3,\)"),
        (torch.zeros(0, 3), torch.zeros(0).long(), 1, ValueError, r"\(0, 3\)"),
        (torch.full((2, 3), torch.nan), torch.zeros(2).long(), 1, ValueError, "NaN, got 6"),
        (torch.zeros(2, 3), torch.zeros(2).long(), 0, ValueError, r"from 1 to 3, got 0"),
        (torch.zeros(2, 3), torch.zeros(2).long(), 4, ValueError, r"from 1 to 3, got 4"),
        (torch.zeros(2, 3), torch.zeros(2).long(), 1.5, ValueError, r"an integer k from 1 to 3, got 1\.5"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.complex64), 1, TypeError, r"got torch\.complex64"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), 1, ValueError, "0 to 2, got 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([-1, 1]), 1, ValueError, "0 to 2, got -1 to 1"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused(
    scores: Tensor, labels: Tensor, k: int, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        top_k_accuracy(scores, labels, k)
