"""Mean IoU and Dice: the classes of pixels, counted once, and two quotients of counts.

Source: Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
Segmentation", CVPR 2015 (arXiv:1411.4038), section 5: the counts n_ij and mean IU.
Legend: N images of H x W pixels, K classes; rows are true classes, columns predicted.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor

# --8<-- [end:imports]
from .classification_metrics import confusion_matrix


# --8<-- [start:module]
def pixel_matrices(
    predictions: Tensor, targets: Tensor, num_classes: int, ignored: int | None = None
) -> Tensor:
    """Count in each image how often pixels of a class are predicted as each class.

    Args:
        predictions: (N, H, W) predicted classes, or (N, K, H, W) scores.
        targets: (N, H, W) true classes, integers from 0 to K - 1, and `ignored`.
        num_classes: K, also where some class occurs nowhere.
        ignored: label of pixels that do not count, 255 in PASCAL VOC; whatever is
            predicted there. No class: that would leave out its pixels, not its score.

    Shape: (N, H, W) or (N, K, H, W), and (N, H, W) -> (N, K, K) int64.
    Raises: as `confusion_matrix`; ValueError too if `ignored` is one of the K classes.
    """
    if ignored is not None and 0 <= ignored < num_classes:
        raise ValueError(
            f"expected an ignored label that is no class 0 to {num_classes - 1}, "
            f"got {ignored}"
        )
    given = f"{tuple(predictions.shape)} and {tuple(targets.shape)}"
    if predictions.ndim == 4 and predictions.shape[1] == num_classes:
        if not predictions.is_floating_point() or predictions.isnan().any():
            kind = predictions.dtype
            raise ValueError(
                f"expected floating scores without NaN, got {kind} {given}"
            )
        predictions = predictions.argmax(dim=1)  # (N, H, W)
    if targets.ndim != 3 or predictions.shape != targets.shape or not targets.numel():
        raise ValueError(
            f"expected predictions (N, H, W) or (N, {num_classes}, H, W) and "
            f"targets (N, H, W), got {given}"
        )
    # --8<-- [start:count]
    matrices = []
    for predicted, true in zip(predictions, targets, strict=True):
        kept = torch.ones_like(true, dtype=torch.bool)  # (H, W)
        if ignored is not None:
            kept = true != ignored
        if kept.any():
            matrix = confusion_matrix(predicted[kept], true[kept], num_classes)
        else:  # an image of ignored pixels alone
            matrix = torch.zeros(num_classes, num_classes).to(
                targets.device, torch.int64
            )
        matrices.append(matrix)
    return torch.stack(matrices)  # (N, K, K)
    # --8<-- [end:count]


def iou(matrix: Tensor) -> Tensor:
    """Of the pixels that are of a class or predicted as it, the part that is both.

    Shape: (..., K, K) counts -> (..., K) float64, NaN for a class that occurs nowhere.
    Raises: TypeError for other than integers; ValueError for other shapes or below 0.
    """
    hits, predicted, true = _pixel_counts(matrix)
    return hits / (predicted + true - hits)  # 0 / 0 is NaN


def dice(matrix: Tensor) -> Tensor:
    """Twice the pixels that are both, by those that are one plus those of the other.

    Shape: (..., K, K) counts -> (..., K) float64, NaN for a class that occurs nowhere.
    Raises: TypeError for other than integers; ValueError for other shapes or below 0.
    """
    hits, predicted, true = _pixel_counts(matrix)
    return 2 * hits / (predicted + true)


def mean_iou(matrix: Tensor) -> Tensor:
    """Mean IoU of the classes that occur: of each matrix, so sum those of the images.

    Shape: (..., K, K) counts -> (...,) float64, NaN for a matrix of zeros.
    Raises: TypeError for other than integers; ValueError for other shapes or below 0.
    """
    return iou(matrix).nanmean(dim=-1)


def mean_dice(matrix: Tensor) -> Tensor:
    """Mean Dice of the classes that occur: of each matrix, so sum those of the images.

    Shape: (..., K, K) counts -> (...,) float64, NaN for a matrix of zeros.
    Raises: TypeError for other than integers; ValueError for other shapes or below 0.
    """
    return dice(matrix).nanmean(dim=-1)


def _pixel_counts(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The diagonal, the sums of the columns and those of the rows, (..., K) each."""
    given = f"{matrix.dtype} {tuple(matrix.shape)}"
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or not matrix.numel():
        raise ValueError(f"expected counts (..., K, K), got {given}")
    if matrix.is_floating_point() or matrix.is_complex() or matrix.dtype == torch.bool:
        raise TypeError(f"expected integer counts, got {given}")
    if int(matrix.min()) < 0:
        raise ValueError(f"expected counts of 0 or more, got {int(matrix.min())}")
    counts = matrix.double()
    return counts.diagonal(dim1=-2, dim2=-1), counts.sum(dim=-2), counts.sum(dim=-1)


# --8<-- [end:module]
