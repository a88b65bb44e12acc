"""Top-k accuracy: how often the true class is among the k classes of largest score.

Source: Russakovsky et al., "ImageNet large scale visual recognition challenge", IJCV
2015, arXiv:1409.0575: five guesses for an image, which may show several things.
Legend: N samples, K classes.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:module]
def top_k_accuracy(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """The share of samples with fewer than k classes above the true one.

    Of classes with equal scores the one of the smaller number comes first, so that the
    answer does not depend on how a sort treats them.

    Args:
        scores: (N, K), any numbers.
        labels: (N,), integers from 0 to K - 1.
        k: from 1 to K.

    Shape: (N, K), (N,) -> (), float64.
    Raises: TypeError for labels that are no integers, ValueError for other input.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"expected integer labels, got {labels.dtype}")
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not labels.numel():
        given = f"{tuple(scores.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected scores (N, K) and labels (N,), got {given}")
    if scores.isnan().any():
        raise ValueError(
            f"expected scores without NaN, got {int(scores.isnan().sum())}"
        )
    classes = scores.shape[1]
    if not 1 <= k <= classes or k != int(k):
        raise ValueError(f"expected an integer k from 1 to {classes}, got {k}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"expected labels from 0 to {classes - 1}, got {low} to {high}"
        )
    # --8<-- [start:step]
    true = scores.gather(1, labels.long()[:, None])  # (N, 1)
    before = torch.arange(classes, device=labels.device) < labels[:, None]  # (N, K)
    above = (scores > true) | ((scores == true) & before)
    return (above.sum(dim=1) < k).double().mean()  # ()
    # --8<-- [end:step]


# --8<-- [end:module]
