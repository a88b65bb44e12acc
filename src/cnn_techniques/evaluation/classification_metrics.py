"""Classification metrics: count who was taken for whom; every score is read off that.

Source: Sokolova and Lapalme, "A systematic analysis of performance measures for
classification tasks", Information Processing and Management 45, 2009, tables 2 and 3.
Macro F1 is the mean of the classes' F1, as in Opitz and Burst, "Macro F1 and Macro F1",
arXiv:1911.03347, equation 2; not the F1 of mean precision and mean recall.
Legend: N samples, K classes; a row per true class, a column per predicted class.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:module]
def confusion_matrix(predictions: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Count how often each true class (row) was predicted as each class (column).

    Args:
        predictions: (N,) predicted classes, or (N, K) scores, of which the largest
            counts: the first of equal ones.
        targets: (N,) true classes, integers from 0 to K - 1.
        num_classes: K, also where some class occurs nowhere.

    Shape: (N,) or (N, K), and (N,) -> (K, K) int64. Matrices of batches add up.
    Raises: TypeError for labels that are no integers; ValueError for labels outside
        0 to K - 1, different lengths, no samples, or scores that hold NaN.
    """
    if predictions.ndim == 2:
        given = f"{predictions.dtype} {tuple(predictions.shape)}"
        if predictions.shape[1] != num_classes or not predictions.is_floating_point():
            raise ValueError(
                f"expected floating scores (N, {num_classes}), got {given}"
            )
        if predictions.isnan().any():
            raise ValueError(f"expected scores without NaN, got {given} with NaN")
        predictions = predictions.argmax(dim=1)  # (N,)
    if predictions.shape != targets.shape or targets.ndim != 1 or not len(targets):
        shapes = f"{tuple(predictions.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"expected as many predictions as targets (N,), got {shapes}")
    for name, labels in (("predictions", predictions), ("targets", targets)):
        if (
            labels.is_floating_point()
            or labels.is_complex()
            or labels.dtype == torch.bool
        ):
            raise TypeError(f"expected integer {name}, got {labels.dtype}")
        low, high = int(labels.long().min()), int(labels.long().max())
        if low < 0 or high >= num_classes:
            expected = f"{name} from 0 to {num_classes - 1}"
            raise ValueError(f"expected {expected}, got {low} to {high}")
    cells = targets.long() * num_classes + predictions.long()  # (N,), in row order
    counts = cells.bincount(minlength=num_classes**2)  # (K * K,)
    return counts.reshape(num_classes, num_classes)  # (K, K)


def _classification_counts(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    given = f"{matrix.dtype} {tuple(matrix.shape)}"
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"expected counts (K, K), got {given}")
    if matrix.is_floating_point() or not matrix.numel() or matrix.min() < 0:
        raise ValueError(f"expected integer counts, none negative, got {given}")
    if matrix.sum() == 0:
        raise ValueError("expected counts of at least one sample, got zeros only")
    counts = matrix.double()
    return counts.diag(), counts.sum(dim=0), counts.sum(dim=1)  # (K,) each


def precision(matrix: Tensor) -> Tensor:
    """Of what was predicted as a class, the part that is of it; 0 if nothing was.

    Shape: (K, K) counts -> (K,) float64, like `recall` and `f1_score`.
    """
    hits, predicted, _ = _classification_counts(matrix)
    return hits / predicted.clamp(min=1)  # 0 / 1 where nothing was predicted


def recall(matrix: Tensor) -> Tensor:
    """Of the samples of a class, the part predicted as it; 0 if it has none."""
    hits, _, true = _classification_counts(matrix)
    return hits / true.clamp(min=1)


def f1_score(matrix: Tensor) -> Tensor:
    """Harmonic mean of a class's precision and recall; 0 if it occurs nowhere."""
    hits, predicted, true = _classification_counts(matrix)
    return 2 * hits / (predicted + true).clamp(min=1)


def accuracy(matrix: Tensor) -> Tensor:
    """Part of all samples predicted rightly: micro precision, recall and F1 in one."""
    hits, _, true = _classification_counts(matrix)
    return hits.sum() / true.sum()


def balanced_accuracy(matrix: Tensor) -> Tensor:
    """Mean recall of the classes that have samples."""
    _, _, true = _classification_counts(matrix)
    return recall(matrix)[true > 0].mean()


def macro_average(scores: Tensor, matrix: Tensor) -> Tensor:
    """Mean of scores (K,), each class alike, without classes that occur nowhere."""
    _, predicted, true = _classification_counts(matrix)
    if scores.shape != true.shape:
        raise ValueError(f"expected scores ({len(true)},), got {tuple(scores.shape)}")
    return scores[(predicted + true) > 0].mean()


def weighted_average(scores: Tensor, matrix: Tensor) -> Tensor:
    """Mean of scores (K,), each class weighted by its number of samples."""
    _, _, true = _classification_counts(matrix)
    if scores.shape != true.shape:
        raise ValueError(f"expected scores ({len(true)},), got {tuple(scores.shape)}")
    return (scores * true).sum() / true.sum()


# --8<-- [end:module]
