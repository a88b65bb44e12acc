"""ROC and AUC are those of scikit-learn, ties included, and the area is the probability it is said to be."""

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_auroc

from cnn_site.parity import compare_metric
from cnn_techniques.evaluation import one_vs_rest_auc, roc_auc, roc_curve

DEVICE_CASES = {
    "roc_auc": lambda: (roc_auc, (torch.randn(20), torch.arange(20) % 3 == 0)),
    "one_vs_rest_auc": lambda: (
        one_vs_rest_auc,
        (torch.randn(20, 4), torch.arange(20) % 4),
    ),
}


def case(seed: int, samples: int = 60, levels: int = 0) -> tuple[Tensor, Tensor]:
    """Scores and which are positive: one at least, and one not; of few levels there are ties."""
    draw = torch.Generator().manual_seed(seed)
    positive = torch.rand(samples, generator=draw) < 0.4
    positive[0], positive[1] = True, False
    scores = torch.randn(samples, generator=draw, dtype=torch.float64) + positive
    return (scores * levels).round() if levels else scores, positive


def curve_by_sklearn(scores: Tensor, positive: Tensor) -> dict[str, Tensor]:
    curve = sklearn.metrics.roc_curve(
        positive.numpy(), scores.numpy(), drop_intermediate=False
    )
    area = sklearn.metrics.roc_auc_score(positive.numpy(), scores.numpy())
    fpr, tpr, thresholds = (torch.from_numpy(np.float64(part)) for part in curve)
    finite = thresholds.nan_to_num(posinf=1e6, neginf=-1e6)
    return {
        "fpr": fpr,
        "tpr": tpr,
        "thresholds": finite,
        "area": torch.tensor(area, dtype=torch.float64),
    }


def curve(scores: Tensor, positive: Tensor) -> dict[str, Tensor]:
    fpr, tpr, thresholds = roc_curve(scores, positive)
    finite = thresholds.nan_to_num(posinf=1e6, neginf=-1e6)
    area = roc_auc(scores, positive)
    return {"fpr": fpr, "tpr": tpr, "thresholds": finite, "area": area}


CASES = {
    "ordinary": case(0),
    "ties": case(1, levels=1),
    "all scores equal": (torch.zeros(9), torch.arange(9) % 3 == 0),
    "one positive": (torch.randn(9, dtype=torch.float64), torch.arange(9) == 4),
    "one negative": (torch.randn(9, dtype=torch.float64), torch.arange(9) != 4),
    "two samples": (torch.tensor([0.3, 0.7]), torch.tensor([True, False])),
    "separated": (torch.arange(9.0), torch.arange(9) > 4),
    "the wrong way round": (-torch.arange(9.0), torch.arange(9) > 4),
    "whole numbers": (torch.arange(9) // 2, torch.arange(9) % 2 == 0),
    "nearly equal": (1 + torch.arange(9).double() * 1e-12, torch.arange(9) % 2 == 0),
}


def test_curve_and_area_equal_those_of_scikit_learn(evidence) -> None:
    comparison = compare_metric(curve, curve_by_sklearn, CASES)
    evidence.equivalent(
        "sklearn",
        comparison,
        reference="sklearn.metrics.roc_curve and roc_auc_score",
        settings="drop_intermediate=False",
    )


@pytest.mark.parametrize("cases", [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_many_random_cases_equal_scikit_learn(cases: int) -> None:
    worst, tied = 0.0, 0
    for seed in range(cases):
        scores, positive = case(seed, samples=2 + seed % 30, levels=seed % 4)
        tied += scores.unique().shape[0] < scores.shape[0]
        ours, theirs = curve(scores, positive), curve_by_sklearn(scores, positive)
        for name, value in theirs.items():
            assert ours[name].shape == value.shape, (seed, name)
            worst = max(worst, float((ours[name] - value).abs().max()))
    assert worst < 1e-14
    assert tied > cases / 2


def class_case(seed: int, classes: int, samples: int = 60) -> tuple[Tensor, Tensor]:
    """Probabilities of K classes, in which few different rows occur, and labels: each class has one at least."""
    draw = torch.Generator().manual_seed(seed)
    kinds = torch.randn(8, classes, generator=draw, dtype=torch.float64).softmax(1)
    rows = kinds[torch.randint(8, (samples,), generator=draw)]
    if seed % 3 == 0:  # without ties
        noise = torch.randn(samples, classes, generator=draw, dtype=torch.float64)
        rows = (rows.log() + noise).softmax(1)
    rare = torch.rand(classes, generator=draw) ** 2 + 0.01
    labels = rare.multinomial(samples, replacement=True, generator=draw)
    labels[:classes] = torch.arange(classes)
    return rows, labels


def class_areas(scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
    areas = one_vs_rest_auc(scores, labels)
    classes = scores.shape[1]
    share = labels.bincount(minlength=classes).double() / labels.shape[0]
    is_true = torch.eye(classes)[labels].flatten() > 0
    return {
        "areas": areas,
        "macro": areas.mean(),
        "weighted": (areas * share).sum(),
        "micro": roc_auc(scores.flatten(), is_true),
    }


def class_areas_by_sklearn(scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
    averages = {"areas": None, "macro": "macro", "weighted": "weighted", "micro": "micro"}  # fmt: skip
    return {
        name: torch.as_tensor(
            sklearn.metrics.roc_auc_score(
                labels.numpy(), scores.numpy(), multi_class="ovr", average=average
            ),
            dtype=torch.float64,
        )
        for name, average in averages.items()
    }


def test_classes_and_their_three_averages_equal_those_of_scikit_learn(evidence) -> None:
    cases = {
        "ordinary": class_case(0, 5),
        "ties": class_case(1, 5),
        "a class with one sample": class_case(3, 5, samples=6),
        "one sample per class": class_case(4, 4, samples=4),
        "all scores equal": (torch.full((9, 3), 1 / 3).double(), torch.arange(9) % 3),
    }
    comparison = compare_metric(class_areas, class_areas_by_sklearn, cases)
    evidence.equivalent(
        "classes",
        comparison,
        reference="sklearn.metrics.roc_auc_score",
        settings='multi_class="ovr", average None, "macro", "weighted" and "micro"',
    )


@pytest.mark.parametrize("cases", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_classes_and_averages_of_many_random_cases_equal_scikit_learn(
    cases: int,
) -> None:
    worst = 0.0
    for seed in range(cases):
        classes = 3 + seed % 4
        scores, labels = class_case(seed, classes, samples=classes + 1 + seed % 40)
        ours, theirs = class_areas(scores, labels), class_areas_by_sklearn(scores, labels)  # fmt: skip
        for name, value in theirs.items():
            worst = max(worst, float((ours[name] - value).abs().max()))
    assert worst < 1e-14


def test_a_class_without_samples_is_nan_to_scikit_learn_and_0_to_torchmetrics() -> None:
    """What the page says of the mean over classes where one has no samples."""
    scores, labels = class_case(0, 4)
    labels = labels % 3
    options = {"multi_class": "ovr", "labels": range(4)}
    with pytest.warns(sklearn.exceptions.UndefinedMetricWarning):
        mean = sklearn.metrics.roc_auc_score(
            labels.numpy(), scores.numpy(), average="macro", **options
        )
    areas = one_vs_rest_auc(scores, labels)
    assert np.isnan(mean) and areas.isnan().tolist() == [False, False, False, True]
    with pytest.warns(UserWarning, match="No positive samples"):
        counted = multiclass_auroc(scores, labels, 4)
    assert counted.item() == pytest.approx(areas.nan_to_num(0).mean().item(), abs=1e-6)
    assert areas.nanmean() > counted


def test_the_area_is_the_probability_that_a_positive_is_above_a_negative() -> None:
    for levels in (0, 1, 3):
        scores, positive = case(7, levels=levels)
        high, low = scores[positive][:, None], scores[~positive][None]
        pairs = (high > low).double() + (high == low).double() / 2
        torch.testing.assert_close(roc_auc(scores, positive), pairs.mean())


def test_a_growing_function_changes_nothing_and_a_falling_one_gives_the_rest() -> None:
    scores, positive = case(8)
    area = roc_auc(scores, positive)
    assert roc_auc(scores.sigmoid(), positive) == area
    assert roc_auc(3 * scores - 5, positive) == area
    torch.testing.assert_close(roc_auc(-scores, positive), 1 - area)


def test_how_many_negatives_there_are_changes_nothing() -> None:
    scores, positive = case(9)
    more = torch.cat([scores, scores[~positive].repeat(9)])
    known = torch.cat([positive, torch.zeros(9 * int((~positive).sum())).bool()])
    torch.testing.assert_close(roc_auc(more, known), roc_auc(scores, positive))


def test_the_curve_goes_from_nothing_to_everything_without_falling() -> None:
    fpr, tpr, thresholds = roc_curve(*case(10, levels=2))
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert fpr.diff().min() >= 0 and tpr.diff().min() >= 0
    assert thresholds[0] == torch.inf and thresholds.diff().max() < 0


def test_infinite_scores_are_ranked_and_are_equal_to_each_other() -> None:
    scores = torch.tensor([torch.inf, torch.inf, 0.0, -torch.inf])
    positive = torch.tensor([True, False, True, False])
    assert roc_auc(scores, positive) == (0.5 + 1 + 0 + 1) / 4


def test_one_against_the_rest_equals_torchmetrics_and_is_nan_without_samples() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (200,), generator=draw)
    scores = torch.randn(200, 5, generator=draw).softmax(1)
    expected = multiclass_auroc(scores, labels, 5, average=None)
    torch.testing.assert_close(one_vs_rest_auc(scores, labels).float(), expected)
    weighted = sklearn.metrics.roc_auc_score(
        labels.numpy(), scores.numpy(), multi_class="ovr", average="weighted"
    )
    share = labels.bincount(minlength=5) / 200
    assert (one_vs_rest_auc(scores, labels) * share).sum().item() == pytest.approx(weighted, abs=1e-7)  # fmt: skip
    one = labels.clamp(max=3).index_fill(0, torch.tensor([7]), 4)
    assert not one_vs_rest_auc(scores, one).isnan().any()
    few = one_vs_rest_auc(scores, labels.clamp(max=3))
    assert few.isnan().tolist() == [False, False, False, False, True]
    assert one_vs_rest_auc(scores[:1], labels[:1]).isnan().all()


@pytest.mark.parametrize(
    ("scores", "positive", "said"),
    [
        (torch.zeros(3), torch.ones(3).bool(), "got 3 positives of 3"),
        (torch.zeros(3), torch.zeros(3).bool(), "got 0 positives of 3"),
        (torch.zeros(0), torch.zeros(0).bool(), "got 0 positives of 0"),
        (torch.tensor([0.0, torch.nan]), torch.tensor([True, False]), "NaN, got 1"),
        (torch.zeros(3), torch.zeros(3), r"torch\.float32"),
        (torch.zeros(3, 2), torch.zeros(3).bool(), r"\(3, 2\)"),
        (torch.zeros(3), torch.zeros(2).bool(), r"\(3,\), torch\.bool \(2,\)"),
    ],
)
def test_wrong_input_is_refused(scores: Tensor, positive: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        roc_auc(scores, positive)


def test_wrong_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="labels from 0 to 2, got 0 to 3"):
        one_vs_rest_auc(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="labels from 0 to 2, got -1 to 1"):
        one_vs_rest_auc(torch.zeros(2, 3), torch.tensor([-1, 1]))
    for kind in (torch.float32, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=f"integer labels, got {kind}"):
            one_vs_rest_auc(torch.zeros(2, 3), torch.zeros(2, dtype=kind))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3,\)"):
        one_vs_rest_auc(torch.zeros(2, 3), torch.zeros(3).long())


def test_nan_is_refused_in_the_scores_of_a_class_without_samples_too() -> None:
    scores = torch.zeros(4, 3)
    scores[:, 2] = torch.nan
    for labels in (torch.arange(4) % 2, torch.zeros(4).long()):
        with pytest.raises(ValueError, match="without NaN, got 4"):
            one_vs_rest_auc(scores, labels)
