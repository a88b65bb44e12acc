"""Calibration: is a network right as often as it says? A temperature, if it is not.

Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks",
ICML 2017 (arXiv:1706.04599), sections 2 and 4.2: bins (l, u] of equal width.
Legend: N images, K classes, M bins.
"""

# --8<-- [start:imports]
import math
from typing import NamedTuple

import torch
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:module]
class Reliability(NamedTuple):
    """What the images of each bin of confidence have in common; 0 in an empty bin."""

    images: Tensor  # (M,) int64, how many the bin has
    confidence: Tensor  # (M,) float64, their mean confidence
    accuracy: Tensor  # (M,) float64, the part of them that is right


def top_confidence(
    logits: Tensor, labels: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The probability of the predicted class, and whether that class is the label.

    Args:
        logits: (N, K) scores before the softmax.
        labels: (N,) true classes, integers from 0 to K - 1.
        temperature: T, which the logits are divided by; 1 leaves them as they are.

    Shape: (N, K), (N,) -> (N,) float64, (N,) bool.
    Raises: TypeError for other labels than integers; ValueError where a value is wrong.
    """
    z = _calibration_logits(logits, labels)
    if not 0 < temperature < math.inf:
        raise ValueError(f"expected a temperature above 0, got {temperature}")
    # --8<-- [start:scale]
    confidence = torch.softmax(z / temperature, dim=1).amax(dim=1)  # (N,)
    return confidence, z.argmax(dim=1) == labels  # the class does not depend on T
    # --8<-- [end:scale]


def reliability(confidence: Tensor, right: Tensor, bins: int = 15) -> Reliability:
    """Sort images into M bins of equal width: ((m - 1) / M, m / M], the first with 0.

    Args:
        confidence: (N,) probabilities of what was predicted.
        right: (N,) bool, whether the prediction is right.

    Shape: (N,), (N,) -> (M,), (M,), (M,).
    Raises: TypeError if `right` is not bool; ValueError where a value is wrong.
    """
    if confidence.shape != right.shape or right.ndim != 1 or not right.shape[0]:
        shapes = f"{tuple(confidence.shape)} and {tuple(right.shape)}"
        raise ValueError(f"expected confidence and right (N,), got {shapes}")
    if right.dtype != torch.bool:
        raise TypeError(f"expected right as torch.bool, got {right.dtype}")
    if bins < 1:
        raise ValueError(f"expected one bin or more, got bins={bins}")
    p = confidence.double()
    if not bool(((p >= 0) & (p <= 1)).all()):  # NaN is refused too
        low, high = float(p.min()), float(p.max())
        raise ValueError(f"expected confidences from 0 to 1, got {low} to {high}")
    # --8<-- [start:bins]
    edges = torch.arange(1, bins, dtype=p.dtype, device=p.device) / bins  # (M - 1,)
    bin_of = torch.bucketize(p, edges)  # (N,), on an edge: the bin below it
    count = bin_of.bincount(minlength=bins)  # (M,)
    confidence_in = bin_of.bincount(p, minlength=bins) / count.clamp(min=1)
    accuracy_in = bin_of.bincount(right.double(), minlength=bins) / count.clamp(min=1)
    # --8<-- [end:bins]
    return Reliability(count, confidence_in, accuracy_in)


def expected_calibration_error(bins: Reliability) -> Tensor:
    """Mean distance of accuracy and confidence, each bin weighted by its images."""
    # --8<-- [start:errors]
    gap = (bins.accuracy - bins.confidence).abs()  # (M,)
    return (bins.images * gap).sum() / bins.images.sum()
    # --8<-- [end:errors]


def maximum_calibration_error(bins: Reliability) -> Tensor:
    """The largest distance of accuracy and confidence that any bin has."""
    return (bins.accuracy - bins.confidence).abs().max()


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature with the least mean negative log-likelihood of the labels.

    It is convex in beta = 1 / T: its slope rises with beta, and is 0 at the best one.
    Newton's steps find that, at most tenfold; one that leaves the bracket halves it.

    Args:
        logits: (N, K) of images that the network was not trained on.
        labels: (N,) true classes, integers from 0 to K - 1.

    Shape: (N, K), (N,) -> a number.
    Raises: as `top_confidence`; ValueError too where no temperature is the best.
    """
    z = _calibration_logits(logits, labels)
    z = z - z.amax(dim=1, keepdim=True)  # changes no probability; the largest is 0
    true = z.gather(1, labels.long()[:, None])[:, 0]  # (N,)
    if float((z.mean(dim=1) - true).mean()) >= 0:
        raise ValueError("expected labels above the mean logit: else no T is best")
    if bool((true == 0).all()):
        raise ValueError("expected an image that is wrong: with none, T = 0 is best")
    beta, low, high = 1.0, 0.0, math.inf
    for _ in range(100):
        # --8<-- [start:slope]
        p = torch.softmax(beta * z, dim=1)  # (N, K)
        mean = (p * z).sum(dim=1)  # (N,), the logit that the network expects
        slope = float((mean - true).mean())
        curvature = float(((p * z.square()).sum(dim=1) - mean.square()).mean())
        # --8<-- [end:slope]
        low, high = (beta, high) if slope < 0 else (low, beta)
        last, beta = beta, beta - slope / max(curvature, 1e-300)
        beta = min(max(beta, last / 10), last * 10)
        beta = beta if low <= beta <= high else (low + high) / 2
        if abs(beta - last) <= 1e-13 * beta:
            break
    return 1 / beta


def _calibration_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits in float64, where they and the labels are such."""
    given = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.numel():
        raise ValueError(f"expected logits (N, K) and labels (N,), got {given}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"expected integer labels, got {labels.dtype}")
    low, high, classes = int(labels.min()), int(labels.max()), logits.shape[1]
    if low < 0 or high >= classes:
        raise ValueError(
            f"expected labels from 0 to {classes - 1}, got {low} to {high}"
        )
    if not bool(logits.isfinite().all()):
        raise ValueError("expected finite logits, got NaN or infinity among them")
    return logits.double()


# --8<-- [end:module]
