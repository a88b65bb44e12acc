"""Task-aligned assignment: the points that classify and locate an object best learn it.

Source: Feng et al., "TOOD: Task-aligned One-stage Object Detection", ICCV 2021,
arXiv:2108.07755, section 3.2; distribution focal loss, Li et al., "Generalized Focal
Loss", NeurIPS 2020, arXiv:2006.04388, section 3.
Legend: A points of all levels, K classes, M objects; boxes are (x1, y1, x2, y2).
"""

# --8<-- [start:imports]
from typing import NamedTuple

import torch
from torch import Tensor

# --8<-- [end:imports]
from cnn_techniques.detection.anchors_and_box_coding import box_iou


# --8<-- [start:module]
class TaskAlignedTargets(NamedTuple):
    """What each point is to learn."""

    objects: Tensor  # (A,), the index of its object, or -1 for background
    score: Tensor  # (A,), for the class of that object; 0 for background


@torch.no_grad()
def task_aligned_assignment(
    scores: Tensor,
    predicted: Tensor,
    points: Tensor,
    boxes: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 6.0,
    m: int = 13,
) -> TaskAlignedTargets:
    """Give each object the m points inside it that predict it best, class and box.

    Args:
        scores: (A, K), probabilities that the network gives now.
        predicted: (A, 4), its boxes now.
        points: (A, 2), x and y, where the outputs stand.
        boxes: (M, 4), of the objects of an image; M may be 0.
        labels: (M,), integers from 0 to K - 1.
        alpha: how much the score counts (YOLOv8: 0.5).
        beta: how much the overlap counts.
        m: points for an object, at most; one between the points has none.

    Raises: ValueError for other shapes, labels, scores, exponents or m.
    """
    _check_assignment(scores, predicted, points, boxes, labels)
    if min(alpha, beta) < 0 or m < 1:
        raise ValueError(
            f"expected alpha, beta >= 0, m >= 1, got {alpha=} {beta=} {m=}"
        )
    if len(boxes) == 0 or len(points) == 0:
        background = torch.full((len(points),), -1, device=points.device)
        return TaskAlignedTargets(background, scores.new_zeros(len(points)))
    # --8<-- [start:metric]
    s = scores[:, labels.long()].T  # (M, A), of each object's own class
    u = box_iou(boxes, predicted)  # (M, A)
    t = s**alpha * u**beta
    # --8<-- [end:metric]
    # --8<-- [start:choice]
    inside = (points > boxes[:, None, :2]) & (points < boxes[:, None, 2:])
    best = t.where(inside.all(dim=2), 0).topk(min(m, len(points)), dim=1)
    chosen = torch.zeros_like(t).scatter(1, best.indices, best.values) > 0
    # A point that several objects chose learns the one that it overlaps most.
    owner = u.where(chosen, -1).argmax(dim=0)  # (A,)
    chosen &= owner == torch.arange(len(boxes), device=owner.device)[:, None]
    # --8<-- [end:choice]
    # --8<-- [start:normalise]
    t, u = t.where(chosen, 0), u.where(chosen, 0)
    largest = t.amax(dim=1, keepdim=True).clamp(min=torch.finfo(t.dtype).tiny)
    t_hat = t / largest * u.amax(dim=1, keepdim=True)  # (M, A)
    # --8<-- [end:normalise]
    return TaskAlignedTargets(owner.where(chosen.any(dim=0), -1), t_hat.sum(dim=0))


def _check_assignment(
    scores: Tensor, predicted: Tensor, points: Tensor, boxes: Tensor, labels: Tensor
) -> None:
    a, m = len(scores), len(labels)
    wanted = ((a, 4), (a, 2), (m, 4), (m,))
    given = tuple(tuple(t.shape) for t in (predicted, points, boxes, labels))
    if scores.ndim != 2 or given != wanted or labels.is_floating_point():
        raise ValueError(
            "expected scores (A, K), boxes (A, 4), points (A, 2), objects (M, 4), "
            f"integer labels (M,), got {tuple(scores.shape)}, {given}, {labels.dtype}"
        )
    if m and not (labels.min() >= 0 and labels.max() < scores.shape[1]):
        span = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"expected labels from 0 to {scores.shape[1] - 1}, got {span}")
    if a and not (scores.min() >= 0 and scores.max() <= 1):
        span = f"{scores.min():g} to {scores.max():g}"
        raise ValueError(f"expected probabilities from 0 to 1, got {span}")


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy against the two whole numbers around each target: (...).

    Args:
        logits: (..., n + 1), of the whole numbers from 0 to n.
        target: (...), distances from 0 to n, in strides.

    Raises: ValueError for other shapes, and for a target outside of 0 to n.
    """
    n = logits.shape[-1] - 1
    if n < 1 or target.shape != logits.shape[:-1]:
        shapes = tuple(logits.shape), tuple(target.shape)
        raise ValueError(
            f"expected logits (..., n + 1) and targets (...), got {shapes}"
        )
    if target.numel() and not (target.min() >= 0 and target.max() <= n):
        span = f"{target.min():g} to {target.max():g}"
        raise ValueError(f"expected targets from 0 to {n}, got {span}")
    # --8<-- [start:dfl]
    left = target.floor().clamp(max=n - 1)  # y_i, and y_{i+1} is one more
    pair = torch.stack([left, left + 1], dim=-1)
    log_s = logits.log_softmax(dim=-1).gather(-1, pair.long())
    share = 1 - (target[..., None] - pair).abs()  # y_{i+1} - y, y - y_i
    return -(share * log_s).sum(dim=-1)
    # --8<-- [end:dfl]


def expected_distance(logits: Tensor) -> Tensor:
    """The mean of the distribution, in strides: (..., n + 1) -> (...)."""
    steps = torch.arange(logits.shape[-1], device=logits.device)
    return (logits.softmax(dim=-1) * steps).sum(dim=-1)


# --8<-- [end:module]
