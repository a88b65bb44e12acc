"""Why the classification metrics are right: scikit-learn, torchmetrics, and identities between the scores."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cnn_site.equivalence import difference
from cnn_techniques.evaluation import (
    accuracy,
    balanced_accuracy,
    confusion_matrix,
    f1_score,
    macro_average,
    precision,
    recall,
    weighted_average,
)

SCORES = {"precision": precision, "recall": recall, "f1": f1_score}


def labels(classes: list[int], samples: int = 200, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.tensor(classes)[
        torch.randint(len(classes), (samples,), generator=generator)
    ]


CASES = {  # predictions and targets among four classes
    "every class": (labels([0, 1, 2, 3]), labels([0, 0, 0, 1, 2, 3], seed=1)),
    "a class without samples": (labels([0, 1, 2, 3]), labels([0, 1, 3], seed=1)),
    "a class never predicted": (labels([0, 1, 3]), labels([0, 1, 2, 3], seed=1)),
    "a class that occurs nowhere": (labels([0, 1, 3]), labels([0, 1, 3], seed=1)),
    "one class guessed": (labels([2]), labels([0, 1, 2, 3], seed=1)),
    "one class, all right": (labels([2]), labels([2])),
    "one class, all wrong": (labels([1]), labels([2])),
    "one sample": (torch.tensor([3]), torch.tensor([3])),
}


def all_scores(predictions: Tensor, targets: Tensor) -> Tensor:
    matrix = confusion_matrix(predictions, targets, 7)
    per_class = torch.stack([score(matrix) for score in SCORES.values()])
    means = [macro_average(row, matrix) for row in per_class] + [
        weighted_average(row, matrix) for row in per_class
    ]
    return torch.cat(
        [
            per_class.flatten(),
            torch.stack([*means, accuracy(matrix), balanced_accuracy(matrix)]),
        ]
    )


DEVICE_CASES = {
    "confusion_matrix": lambda: (
        lambda predictions, targets: confusion_matrix(predictions, targets, 7),
        (torch.randint(7, (500,)), torch.randint(7, (500,))),
    ),
    "scores": lambda: (
        all_scores,
        (torch.randint(7, (500,)), torch.randint(7, (500,))),
    ),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    return CASES[request.param]


def ours(predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
    matrix = confusion_matrix(predictions, targets, 4)
    found = {
        "matrix": matrix,
        "accuracy": accuracy(matrix),
        "balanced": balanced_accuracy(matrix),
    }
    for name, score in SCORES.items():
        found[f"{name} a class"] = score(matrix)
        found[f"{name} macro"] = macro_average(score(matrix), matrix)
        found[f"{name} weighted"] = weighted_average(score(matrix), matrix)
    return found


def sklearns(predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
    metrics = pytest.importorskip("sklearn.metrics")
    true, guessed, every = targets.numpy(), predictions.numpy(), [0, 1, 2, 3]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # a class predicted that is not among the targets
        found = {
            "matrix": metrics.confusion_matrix(true, guessed, labels=every),
            "accuracy": metrics.accuracy_score(true, guessed),
            "balanced": metrics.balanced_accuracy_score(true, guessed),
        }
        for name in SCORES:
            score, options = getattr(metrics, f"{name}_score"), {"zero_division": 0}
            found[f"{name} a class"] = score(
                true, guessed, labels=every, average=None, **options
            )
            found[f"{name} macro"] = score(true, guessed, average="macro", **options)
            found[f"{name} weighted"] = score(
                true, guessed, average="weighted", **options
            )
    return {name: torch.from_numpy(np.asarray(value)) for name, value in found.items()}


def torchmetricss(predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    arguments = (predictions, targets, 4)
    found = {
        "matrix": metrics.multiclass_confusion_matrix(*arguments),
        "accuracy": metrics.multiclass_accuracy(*arguments, average="micro"),
    }
    for name, short in (
        ("precision", "precision"),
        ("recall", "recall"),
        ("f1", "f1_score"),
    ):
        score = getattr(metrics, f"multiclass_{short}")
        found[f"{name} a class"] = score(*arguments, average="none")
        found[f"{name} macro"] = score(*arguments, average="macro")
        found[f"{name} weighted"] = score(*arguments, average="weighted")
    return found


def test_every_score_is_scikit_learns(evidence: Any) -> None:
    pairs = {}
    for name, case in CASES.items():
        mine, theirs = ours(*case), sklearns(*case)
        pairs |= {f"{name}: {key}": (mine[key], theirs[key]) for key in mine}
    evidence.equivalent(
        "sklearn",
        difference(pairs, shape=[200], modes=list(CASES)),
        reference="sklearn.metrics",
        settings="zero_division=0",
    )


def test_every_score_is_torchmetrics_own(evidence: Any) -> None:
    pairs = {}
    for name, case in CASES.items():
        mine, theirs = ours(*case), torchmetricss(*case)
        pairs |= {
            f"{name}: {key}": (mine[key].to(theirs[key].dtype), theirs[key])
            for key in theirs
        }
    evidence.equivalent(
        "torchmetrics",
        difference(
            pairs, bound=1e-6, shape=[200], modes=list(CASES)
        ),  # it computes in float32
        reference="torchmetrics.functional.classification",
        settings="multiclass, defaults",
    )


def test_of_equal_scores_the_first_counts() -> None:
    tied = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [0.5, 0.5, 0.5]])
    matrix = confusion_matrix(tied, torch.tensor([0, 1, 2]), 3)
    assert matrix.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_scores_and_their_largest_entry_count_alike() -> None:
    logits, targets = (
        torch.randn(50, 4, generator=torch.Generator().manual_seed(0)),
        CASES["every class"][1][:50],
    )
    assert confusion_matrix(logits, targets, 4).equal(
        confusion_matrix(logits.argmax(1), targets, 4)
    )


def test_a_row_is_a_true_class_and_a_column_a_predicted_one() -> None:
    matrix = confusion_matrix(torch.tensor([1, 1, 1]), torch.tensor([0, 0, 1]), 2)
    assert matrix.tolist() == [[0, 2], [0, 1]]
    assert precision(matrix).tolist() == [0, 1 / 3]
    assert recall(matrix).tolist() == [0, 1]
    assert f1_score(matrix).tolist() == [0, 1 / 2]


def test_micro_precision_recall_and_f1_are_all_accuracy(
    case: tuple[Tensor, Tensor],
) -> None:
    matrix = confusion_matrix(*case, 4)
    hits = (
        matrix.diag().sum().double()
    )  # a sample in the wrong class is one false positive and one false negative
    wrong = matrix.sum() - hits
    assert accuracy(matrix) == hits / (hits + wrong)
    assert accuracy(matrix) == 2 * hits / (2 * hits + wrong + wrong)
    torch.testing.assert_close(
        weighted_average(recall(matrix), matrix), accuracy(matrix)
    )


def test_other_names_for_the_classes_only_move_the_cells(
    case: tuple[Tensor, Tensor],
) -> None:
    order = torch.tensor([2, 0, 3, 1])  # class c is now called order[c]
    matrix, renamed = (
        confusion_matrix(*case, 4),
        confusion_matrix(order[case[0]], order[case[1]], 4),
    )
    assert renamed[order][:, order].equal(matrix)
    for score in SCORES.values():
        torch.testing.assert_close(score(renamed)[order], score(matrix))
        torch.testing.assert_close(
            macro_average(score(renamed), renamed), macro_average(score(matrix), matrix)
        )


def test_scores_lie_between_0_and_1_and_f1_between_precision_and_recall(
    case: tuple[Tensor, Tensor],
) -> None:
    matrix = confusion_matrix(*case, 4)
    low, high = (
        torch.minimum(precision(matrix), recall(matrix)),
        torch.maximum(precision(matrix), recall(matrix)),
    )
    assert ((low >= 0) & (high <= 1)).all()
    f1 = f1_score(matrix)
    both = (
        low > 0
    )  # where one of them is 0, F1 is 0 or, of a class that is only missed, too
    assert ((f1 >= low - 1e-12) & (f1 <= high + 1e-12))[both].all()
    assert (f1[~both] == 0).all()


def test_swapping_predictions_and_targets_swaps_precision_and_recall(
    case: tuple[Tensor, Tensor],
) -> None:
    matrix, swapped = confusion_matrix(*case, 4), confusion_matrix(*case[::-1], 4)
    assert swapped.equal(matrix.T)
    assert precision(swapped).equal(recall(matrix))
    assert f1_score(swapped).equal(f1_score(matrix))


def test_matrices_of_batches_add_up_to_the_matrix_of_all() -> None:
    predictions, targets = CASES["every class"]
    batches = zip(predictions.split(48), targets.split(48), strict=True)
    assert sum(confusion_matrix(*batch, 4) for batch in batches).equal(
        confusion_matrix(predictions, targets, 4)
    )


def test_guessing_one_class_is_worth_a_kth_however_common_it_is() -> None:
    targets = torch.tensor([0] * 97 + [1, 2, 3])
    matrix = confusion_matrix(torch.zeros_like(targets), targets, 4)
    assert accuracy(matrix) == 0.97
    assert balanced_accuracy(matrix) == 0.25


def test_one_class_alone_is_no_special_case() -> None:
    matrix = confusion_matrix(
        torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64), 1
    )
    assert matrix.tolist() == [[5]]
    assert (
        accuracy(matrix) == precision(matrix) == recall(matrix) == f1_score(matrix) == 1
    )


def test_small_integers_do_not_overflow() -> None:
    targets = torch.arange(200, dtype=torch.uint8)
    assert confusion_matrix(targets, targets, 200).equal(
        torch.eye(200, dtype=torch.int64)
    )


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16]
)
def test_labels_are_integers_of_any_width(dtype: torch.dtype) -> None:
    predictions, targets = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2])
    expected = confusion_matrix(predictions, targets, 3)
    given = predictions.to(dtype), targets.to(dtype)
    assert confusion_matrix(*given, 3).equal(expected)
    with pytest.raises(ValueError, match="from 0 to 1, got 0 to 2"):
        confusion_matrix(*given, 2)


ONES = torch.ones(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (
            lambda: confusion_matrix(ONES, 4 * ONES, 4),
            ValueError,
            "targets from 0 to 3, got 4 to 4",
        ),
        (
            lambda: confusion_matrix(-ONES, ONES, 4),
            ValueError,
            "predictions from 0 to 3, got -1 to -1",
        ),
        (lambda: confusion_matrix(ONES, ONES[:2], 4), ValueError, r"\(3,\) and \(2,\)"),
        (
            lambda: confusion_matrix(ONES[:0], ONES[:0], 4),
            ValueError,
            r"\(N,\), got \(0,\)",
        ),
        (
            lambda: confusion_matrix(ONES.float(), ONES, 4),
            TypeError,
            "integer predictions, got torch.float32",
        ),
        (
            lambda: confusion_matrix(ONES, ONES.bool(), 4),
            TypeError,
            "integer targets, got torch.bool",
        ),
        (
            lambda: confusion_matrix(torch.rand(3, 5), ONES, 4),
            ValueError,
            r"\(N, 4\), got .* \(3, 5\)",
        ),
        (
            lambda: confusion_matrix(torch.full((3, 4), torch.nan), ONES, 4),
            ValueError,
            "without NaN",
        ),
        (
            lambda: precision(torch.rand(4, 4)),
            ValueError,
            "integer counts, none negative, got torch.float32",
        ),
        (lambda: recall(torch.ones(4, 3, dtype=torch.int64)), ValueError, r"\(4, 3\)"),
        (
            lambda: f1_score(torch.zeros(2, 2, dtype=torch.int64)),
            ValueError,
            "at least one sample",
        ),
        (
            lambda: accuracy(-torch.eye(2, dtype=torch.int64)),
            ValueError,
            "none negative",
        ),
        (
            lambda: macro_average(torch.ones(3), torch.eye(2, dtype=torch.int64)),
            ValueError,
            r"\(2,\), got \(3,\)",
        ),
        (
            lambda: weighted_average(torch.ones(3), torch.eye(2, dtype=torch.int64)),
            ValueError,
            r"scores \(2,\), got \(3,\)",
        ),
    ],
)
def test_refuses_what_is_no_labelling(
    call: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        call()


# ---------------------------------------------------------------- the record


def classify(eights: float, epochs: int, seed: int) -> dict[str, Any]:
    """A linear classifier of the digits, of whose eights only this part is kept, to train and to test."""
    from cnn_lab.data import digits
    from cnn_lab.fit import fit, generator, predict

    parts = []
    for images, digit in (digits("train"), digits("test")):
        rows = (digit == 8).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator(seed, len(rows)))]
        keep = torch.ones(len(digit), dtype=torch.bool)
        keep[rows[round(eights * len(rows)) :]] = False
        parts.append((images[keep], digit[keep]))
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    fit(model, parts[0], epochs=epochs, batch_size=32, optimizer=optimizer, seed=seed)
    matrix = confusion_matrix(predict(model, parts[1][0]), parts[1][1], 10)
    return {
        "matrix": matrix.tolist(),
        "accuracy": accuracy(matrix).item(),
        "balanced": balanced_accuracy(matrix).item(),
        "macro_f1": macro_average(f1_score(matrix), matrix).item(),
        "recall_8": recall(matrix)[8].item(),
    }


def classify_both(epochs: int, rare: float, seeds: list[int]) -> dict[str, Any]:
    from cnn_lab.record import interval, paired, repeat

    arms = {
        "all": {"eights": 1.0, "epochs": epochs},
        "rare": {"eights": rare, "epochs": epochs},
    }
    names = {"all": "all digits", "rare": "one eight in ten"}
    cache = (
        Path(__file__).parents[2] / ".cache" / "record" / "classification_metrics.jsonl"
    )
    results = repeat(classify, arms, seeds, cache)
    scores = ("accuracy", "balanced", "macro_f1", "recall_8")
    values = {
        arm: {key: [run[key] for run in runs] for key in scores}
        for arm, runs in results.items()
    }
    rows = {
        arm: {
            "name": names[arm],
            **{key: {"values": found[key], **interval(found[key])} for key in scores},
            "matrix": sum(torch.tensor(run["matrix"]) for run in results[arm]).tolist(),
        }
        for arm, found in values.items()
    }
    pairs = {
        key: {
            "name": f"{key}, rare - all",
            **paired(values["rare"][key], values["all"][key]),
        }
        for key in scores
    }
    return {"seeds": len(seeds), "arms": rows, "paired": pairs}


@pytest.mark.record
def test_record_what_accuracy_does_not_tell_of_a_rare_class(evidence: Any) -> None:
    arguments = {"epochs": 20, "rare": 0.1, "seeds": [0, 1, 2, 3, 4]}
    arms = evidence.measured("digits", arguments=arguments, run=classify_both)["arms"]
    assert (
        abs(arms["rare"]["accuracy"]["mean"] - arms["all"]["accuracy"]["mean"]) < 0.02
    )
    assert arms["rare"]["recall_8"]["mean"] < arms["all"]["recall_8"]["mean"]
