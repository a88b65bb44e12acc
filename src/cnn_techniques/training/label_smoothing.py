"""Label smoothing: a little of the target probability is spread over all classes.

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
CVPR 2016, arXiv:1512.00567, section 7.
Legend: N images, K classes, ... further dimensions such as H, W of a segmentation;
epsilon the share that is spread, q a target, u the uniform distribution.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
def smooth_labels(labels: Tensor, classes: int, epsilon: float = 0.1) -> Tensor:
    """Targets that give every class epsilon / K, and the right one the rest besides.

    Args:
        labels: (N, ...), integers from 0 to K - 1.
        classes: K.
        epsilon: the share that is spread, from 0 (one-hot rows) to 1 (uniform rows).

    Shape: (N, ...) -> (N, K, ...), of the default dtype.
    Raises: TypeError for labels that are no integers; ValueError for labels or an
        epsilon out of range.
    """
    _check_label_smoothing(labels, classes, epsilon)
    # --8<-- [start:labels]
    delta = F.one_hot(labels.long(), classes).movedim(-1, 1)  # (N, K, ...)
    return (1 - epsilon) * delta + epsilon / classes
    # --8<-- [end:labels]


def smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, epsilon: float = 0.1
) -> Tensor:
    """Cross-entropy against smoothed labels, the mean over the batch.

    Args:
        logits: (N, K, ...).
        labels: (N, ...), integers from 0 to K - 1; or the shape of the logits and
            floating point, a distribution over the classes, such as Mixup's.
        epsilon: the share that is spread, from 0 (plain cross-entropy) to 1.

    Shape: (N, K, ...), (N, ...) or (N, K, ...) -> ().
    Raises: TypeError for labels that are neither; ValueError for other shapes, or for
        labels or an epsilon out of range.
    """
    soft = labels.is_floating_point()
    expected = logits.shape if soft else logits.shape[:1] + logits.shape[2:]
    if logits.ndim < 2 or labels.shape != expected:
        raise ValueError(
            "expected logits (N, K, ...) and labels (N, ...) of integers or "
            f"(N, K, ...), got {tuple(logits.shape)} and {tuple(labels.shape)} "
            f"of {labels.dtype}"
        )
    _check_label_smoothing(None if soft else labels, logits.shape[1], epsilon)
    # --8<-- [start:loss]
    hard = F.cross_entropy(logits, labels if soft else labels.long())  # H(q, p)
    if epsilon == 0:
        return hard  # finite where the probability of another class is zero
    even = -logits.log_softmax(dim=1).mean()  # H(u, p): the mean over classes too
    return (1 - epsilon) * hard + epsilon * even
    # --8<-- [end:loss]


def _check_label_smoothing(labels: Tensor | None, classes: int, epsilon: float) -> None:
    if not 0 <= epsilon <= 1:
        raise ValueError(f"expected 0 <= epsilon <= 1, got {epsilon=}")
    if labels is None:
        return
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"expected labels of integers, got {labels.dtype}")
    if labels.numel() and not (labels.min() >= 0 and labels.max() < classes):
        span = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {span}")


# --8<-- [end:module]
