"""Classification metrics: count who was taken for whom, then read every score off that one table.

Source: Sokolova and Lapalme, "A systematic analysis of performance measures for classification tasks",
Information Processing and Management 45, 2009, tables 2 and 3. Macro F1 is the mean of the classes' F1 as in
Opitz and Burst, "Macro F1 and Macro F1", arXiv:1911.03347, equation 2, not the F1 of the means.
Legend: N samples, K classes; the matrix has a row per true class and a column per predicted class.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:module]
# --8<-- [start:matrix]
def confusion_matrix(predictions: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Count how often each true class (row) was predicted as each class (column).

    Args:
        predictions: (N,) predicted classes, or (N, K) scores, of which the largest counts: the first of
            equal ones.
        targets: (N,) true classes, integers from 0 to K - 1.
        num_classes: K, also where some class occurs nowhere.

    Shape: (N,) or (N, K), and (N,) -> (K, K) int64. Matrices of parts of the data add up to that of the whole.
    Raises: TypeError for labels that are no integers; ValueError for labels outside 0 to K - 1, different
        lengths, no samples, or scores that hold NaN.
    """
    if predictions.ndim == 2:
        if predictions.shape[1] != num_classes or not predictions.is_floating_point():
            raise ValueError(
                f"expected floating scores (N, {num_classes}), got {predictions.dtype} {tuple(predictions.shape)}"
            )
        if predictions.isnan().any():
            raise ValueError(f"expected scores without NaN, got {int(predictions.isnan().sum())} of them")
        predictions = predictions.argmax(dim=1)  # (N, K) -> (N,)
    if predictions.shape != targets.shape or targets.ndim != 1 or targets.numel() == 0:
        raise ValueError(
            f"expected as many predictions as targets and at least one, got "
            f"{tuple(predictions.shape)} and {tuple(targets.shape)}"
        )
    for name, labels in (("predictions", predictions), ("targets", targets)):
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"expected integer {name}, got {labels.dtype}")
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(
                f"expected {name} from 0 to {num_classes - 1}, got {int(labels.min())} to {int(labels.max())}"
            )
    cells = targets.long() * num_classes + predictions.long()  # (N,), the cell's place in row order
    return cells.bincount(minlength=num_classes**2).reshape(num_classes, num_classes)  # (K, K)


# --8<-- [end:matrix]


def _classification_counts(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.is_floating_point():
        raise ValueError(f"expected integer counts (K, K), got {matrix.dtype} {tuple(matrix.shape)}")
    if matrix.numel() == 0 or matrix.min() < 0 or matrix.sum() == 0:
        raise ValueError(f"expected counts of at least one sample and none negative, got {matrix.tolist()}")
    counts = matrix.double()
    return counts.diag(), counts.sum(dim=0), counts.sum(dim=1)  # (K,) each: hits, predicted, true


# --8<-- [start:scores]
def precision(matrix: Tensor) -> Tensor:
    """Of the samples predicted as a class, the part that is of it; 0 for a class never predicted.

    Shape: (K, K) counts -> (K,) float64, like `recall` and `f1_score`.
    """
    hits, predicted, _ = _classification_counts(matrix)
    return hits / predicted.clamp(min=1)  # a count below 1 is 0, and so are its hits


def recall(matrix: Tensor) -> Tensor:
    """Of the samples of a class, the part that was predicted as it; 0 for a class without samples."""
    hits, _, true = _classification_counts(matrix)
    return hits / true.clamp(min=1)


def f1_score(matrix: Tensor) -> Tensor:
    """Harmonic mean of a class's precision and recall; 0 for a class that occurs nowhere."""
    hits, predicted, true = _classification_counts(matrix)
    return 2 * hits / (predicted + true).clamp(min=1)


def accuracy(matrix: Tensor) -> Tensor:
    """Part of all samples that were predicted rightly: micro precision, micro recall and micro F1 in one."""
    hits, _, true = _classification_counts(matrix)
    return hits.sum() / true.sum()


def balanced_accuracy(matrix: Tensor) -> Tensor:
    """Mean recall of the classes that have samples: what guessing one class scores is 1 / K."""
    _, _, true = _classification_counts(matrix)
    return recall(matrix)[true > 0].mean()


# --8<-- [end:scores]


# --8<-- [start:averages]
def macro_average(scores: Tensor, matrix: Tensor) -> Tensor:
    """Mean of the classes' scores (K,), each class alike; classes that occur nowhere are left out."""
    _, predicted, true = _classification_counts(matrix)
    if scores.shape != true.shape:
        raise ValueError(f"expected one score a class ({len(true)},), got {tuple(scores.shape)}")
    return scores[(predicted + true) > 0].mean()


def weighted_average(scores: Tensor, matrix: Tensor) -> Tensor:
    """Mean of the classes' scores (K,), each weighted by its number of samples."""
    _, _, true = _classification_counts(matrix)
    if scores.shape != true.shape:
        raise ValueError(f"expected one score a class ({len(true)},), got {tuple(scores.shape)}")
    return (scores * true).sum() / true.sum()


# --8<-- [end:averages]


# --8<-- [end:module]
