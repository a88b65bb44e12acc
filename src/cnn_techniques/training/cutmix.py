"""CutMix: paste a rectangle of another image, and share the label by its area.

Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
Localizable Features", ICCV 2019, arXiv:1905.04899.
Legend: N images in the batch, C channels, H x W pixels, K classes.
"""

# --8<-- [start:imports]
import math

import torch
from torch import Tensor
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
def cutmix_box(
    lam: float, row: int, column: int, height: int, width: int
) -> tuple[int, int, int, int]:
    """The rectangle to be pasted, cut at the edges of the image.

    Args:
        lam: from 0 to 1, the share that the image would keep if nothing were cut.
        row: of the centre, a pixel of the image.
        column: likewise.
        height: of the image.
        width: of the image.

    Returns: the first row and column inside, the first row and column behind.
    Raises: ValueError for a lam outside [0, 1] or a centre outside the image.
    """
    if not 0 <= lam <= 1:
        raise ValueError(f"expected lam from 0 to 1, got {lam=}")
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(
            f"expected a centre in {height} x {width} pixels, got {row=}, {column=}"
        )
    # --8<-- [start:box]
    half = 0.5 * math.sqrt(1 - lam)  # of a side, as a share of the image's side
    h, w = int(half * height), int(half * width)  # r_h / 2 and r_w / 2, in pixels
    top, bottom = max(row - h, 0), min(row + h, height)
    left, right = max(column - w, 0), min(column + w, width)
    # --8<-- [end:box]
    return top, left, bottom, right


def cutmix_batch(
    images: Tensor,
    labels: Tensor,
    box: tuple[int, int, int, int],
    partner: Tensor,
) -> tuple[Tensor, Tensor]:
    """Paste the box of each image's partner into it, and blend the labels by area.

    Args:
        images: (N, C, H, W), of any type.
        labels: (N, K), floating point: a distribution over the classes for every image.
        box: the same for all images, as `cutmix_box` gives it.
        partner: (N,), for every image the index of the one that is pasted.

    Shape: (N, C, H, W), (N, K) -> (N, C, H, W), (N, K).
    Raises: TypeError for labels that are not floating point; ValueError for other
        shapes or a box that is not inside the image.
    """
    if not labels.is_floating_point():
        raise TypeError(f"expected floating-point labels, got {labels.dtype}")
    n = len(images)
    if (
        images.ndim != 4
        or labels.ndim != 2
        or len(labels) != n
        or partner.shape != (n,)
    ):
        raise ValueError(
            "expected images (N, C, H, W), labels (N, K), partner (N,), "
            f"got {tuple(images.shape)}, {tuple(labels.shape)}, {tuple(partner.shape)}"
        )
    height, width = images.shape[-2:]
    top, left, bottom, right = box
    if not (0 <= top <= bottom <= height and 0 <= left <= right <= width):
        raise ValueError(f"expected a box in {height} x {width} pixels, got {box=}")
    # --8<-- [start:paste]
    x = images.clone()  # (N, C, H, W)
    x[..., top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    # --8<-- [end:paste]
    # --8<-- [start:labels]
    lam = 1 - (bottom - top) * (right - left) / (height * width)  # of what is kept
    y = lam * labels + (1 - lam) * labels[partner]  # (N, K)
    # --8<-- [end:labels]
    return x, y


class CutMix:
    """Paste a rectangle of a shuffled copy of the batch into it.

    One rectangle is drawn for the batch, and one partner for each image.

    Args:
        classes: K, number of classes.
        alpha: the share is drawn from Beta(alpha, alpha); 1: all shares alike.
        p: probability that a batch is changed at all.

    Shape: (N, C, H, W) with (N,) class indices or (N, K) distributions
    -> (N, C, H, W), (N, K).
    Random numbers: torch's global generator on the CPU, on any device of the images.
    Raises: ValueError for a value out of range, or labels that do not fit the images.
    """

    def __init__(self, classes: int, alpha: float = 1.0, p: float = 1.0) -> None:
        if classes < 1:
            raise ValueError(f"expected at least 1 class, got {classes=}")
        # Below 0.01 torch's Beta underflows, and returns 0.5 instead of 0 or 1.
        if not 0.01 <= alpha < math.inf:
            raise ValueError(f"expected alpha of 0.01 or more, got {alpha=}")
        if not 0 <= p <= 1:
            raise ValueError(f"expected p from 0 to 1, got {p=}")
        self.classes, self.alpha, self.p = classes, alpha, p

    # --8<-- [start:draw]
    def draw(
        self, n: int, height: int, width: int
    ) -> tuple[tuple[int, int, int, int], Tensor]:
        """The rectangle of the batch, and the partner of each image, (N,)."""
        if torch.rand(()) >= self.p:
            return (0, 0, 0, 0), torch.arange(n)
        alpha = torch.tensor(self.alpha, dtype=torch.float64)
        lam = torch.distributions.Beta(alpha, alpha).sample().item()
        row, column = int(torch.randint(height, ())), int(torch.randint(width, ()))
        return cutmix_box(lam, row, column, height, width), torch.randperm(n)

    # --8<-- [end:draw]

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if images.ndim != 4:
            raise ValueError(
                f"expected a batch of images (N, C, H, W), got {tuple(images.shape)}"
            )
        if labels.ndim == 1 and not labels.is_floating_point():
            if ((labels.long() < 0) | (labels.long() >= self.classes)).any():
                span = f"{labels.long().min()} to {labels.long().max()}"
                raise ValueError(
                    f"expected labels from 0 to {self.classes - 1}, got {span}"
                )
            labels = F.one_hot(labels.long(), self.classes)  # (N, K)
            kept = images.dtype if images.is_floating_point() else torch.float32
            labels = labels.to(kept)
        if labels.ndim != 2 or labels.shape[1] != self.classes:
            raise ValueError(
                f"expected labels (N,) of integers or (N, {self.classes}), "
                f"got {tuple(labels.shape)} of {labels.dtype}"
            )
        box, partner = self.draw(images.shape[0], *images.shape[-2:])
        return cutmix_batch(images, labels, box, partner.to(images.device))


# --8<-- [end:module]
