"""ROC and AUC: what a score separates, without choosing a threshold.

Source: Hanley and McNeil, "The meaning and use of the area under a receiver operating
characteristic (ROC) curve", Radiology 143, 1982: the area is the probability that a
positive is scored above a negative, equal scores counted by half.
Legend: N samples, K classes, T different scores.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:module]
def roc_curve(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shares of negatives and of positives that are at or above each threshold.

    Args:
        scores: (N,), any numbers; the larger, the more positive.
        positive: (N,) bool.

    Shape: (N,), (N,) -> (T + 1,) three times: negatives, positives, thresholds.
    Raises: ValueError for NaN, other shapes, or a class without samples.
    """
    if (
        scores.ndim != 1
        or positive.shape != scores.shape
        or positive.dtype != torch.bool
    ):
        given = f"{tuple(scores.shape)}, {positive.dtype} {tuple(positive.shape)}"
        raise ValueError(f"expected scores (N,) and positive, bool (N,), got {given}")
    if scores.isnan().any():
        raise ValueError(
            f"expected scores without NaN, got {int(scores.isnan().sum())}"
        )
    count = int(positive.sum())
    if not 0 < count < scores.shape[0]:
        given = f"{count} positives of {scores.shape[0]}"
        raise ValueError(f"expected positives and negatives, got {given}")
    # --8<-- [start:curve]
    order = scores.argsort(descending=True)
    ordered, hits = scores[order], positive[order].double()
    last = torch.ones_like(positive)  # the last of equal scores: they come together
    last[:-1] = ordered[1:] != ordered[:-1]
    zero = hits.new_zeros(1)
    tpr = torch.cat([zero, hits.cumsum(0)[last]]) / count
    fpr = torch.cat([zero, (1 - hits).cumsum(0)[last]]) / (scores.shape[0] - count)
    # --8<-- [end:curve]
    return fpr, tpr, torch.cat([zero + torch.inf, ordered[last].double()])


def roc_auc(scores: Tensor, positive: Tensor) -> Tensor:
    """The area under the ROC curve, from 0 to 1; 0.5 is what chance gives.

    Shape: (N,), (N,) -> (), float64.
    Raises: ValueError as `roc_curve` does.
    """
    fpr, tpr, _ = roc_curve(scores, positive)
    # --8<-- [start:area]
    return torch.trapezoid(tpr, fpr)  # ()
    # --8<-- [end:area]


def one_vs_rest_auc(scores: Tensor, labels: Tensor) -> Tensor:
    """For each class the area of its own score, its samples against all others.

    Args:
        scores: (N, K).
        labels: (N,), integers from 0 to K - 1.

    Shape: (N, K), (N,) -> (K,), float64; NaN for a class with no samples, or with all.
    Raises: TypeError for labels that are no integers, ValueError for other input.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"expected integer labels, got {labels.dtype}")
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not labels.numel():
        given = f"{tuple(scores.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected scores (N, K) and labels (N,), got {given}")
    if scores.isnan().any():  # in a class without samples too
        raise ValueError(
            f"expected scores without NaN, got {int(scores.isnan().sum())}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= scores.shape[1]:
        expected = f"labels from 0 to {scores.shape[1] - 1}"
        raise ValueError(f"expected {expected}, got {low} to {high}")
    areas = scores.new_full((scores.shape[1],), torch.nan, dtype=torch.float64)
    for k in range(scores.shape[1]):
        positive = labels == k
        if 0 < positive.sum() < labels.shape[0]:
            areas[k] = roc_auc(scores[:, k], positive)
    return areas


# --8<-- [end:module]
