"""Mixup: train on blends of two images, with the same blend of their labels.

Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018,
arXiv:1710.09412, section 2.
Legend: N images in the batch, K classes, ... whatever one image has, usually (C, H, W).
"""

# --8<-- [start:imports]
import torch
from torch import Tensor
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
def mixup_batch(
    images: Tensor, labels: Tensor, lam: Tensor, partner: Tensor
) -> tuple[Tensor, Tensor]:
    """Blend every image, and its label, with those of its partner.

    Args:
        images: (N, ...), floating point.
        labels: (N, K), floating point: a distribution over the classes for every
            image, such as a one-hot row.
        lam: () or (N,), from 0 to 1: the share of the image itself; 1 changes nothing.
        partner: (N,), for every image the index of the one it is blended with.

    Shape: (N, ...), (N, K) -> (N, ...), (N, K).
    Raises: TypeError for images or labels that are not floating point; ValueError for
        other shapes or a lam outside [0, 1].
    """
    if not (images.is_floating_point() and labels.is_floating_point()):
        raise TypeError(
            "expected floating-point images and labels, "
            f"got {images.dtype} and {labels.dtype}"
        )
    n = images.shape[0] if images.ndim else 0
    if (
        labels.ndim != 2
        or len(labels) != n
        or partner.shape != (n,)
        or lam.shape not in ((), (n,))
    ):
        raise ValueError(
            "expected images (N, ...), labels (N, K), lam () or (N,), partner (N,), "
            f"got {tuple(images.shape)}, {tuple(labels.shape)}, {tuple(lam.shape)}, "
            f"{tuple(partner.shape)}"
        )
    if not ((lam >= 0) & (lam <= 1)).all():
        raise ValueError(f"expected lam from 0 to 1, got {lam.tolist()}")
    # --8<-- [start:blend]
    ones = [1] * (images.ndim - 1)
    lam_x = lam.to(images).reshape(-1, *ones)  # (1, 1, ...) or (N, 1, ...)
    lam_y = lam.to(labels).reshape(-1, 1)  # (1, 1) or (N, 1)
    x = lam_x * images + (1 - lam_x) * images[partner]  # (N, ...)
    y = lam_y * labels + (1 - lam_y) * labels[partner]  # (N, K)
    # --8<-- [end:blend]
    return x, y


class Mixup:
    """Blend a batch with a shuffled copy of itself, by a share from Beta(alpha, alpha).

    Args:
        classes: K, number of classes.
        alpha: 0 blends nothing; below 1 most blends stay near one of the two images;
            above 1 they gather at half and half (paper: 0.2 for ImageNet, 1 for CIFAR).
        per_image: draw a share for every image instead of one for the batch (paper: one
            for the batch).

    Shape: (N, ...) with (N,) class indices or (N, K) distributions -> (N, ...), (N, K).
    Random numbers: torch's global generator on the CPU, on any device of the images.
    Raises: TypeError for images that are not floating point; ValueError for a value out
        of range, or labels that do not fit the images.
    """

    def __init__(
        self, classes: int, alpha: float = 0.2, per_image: bool = False
    ) -> None:
        if classes < 1:
            raise ValueError(f"expected at least 1 class, got {classes=}")
        # Below 0.01 torch's Beta underflows, and returns 0.5 instead of 0 or 1.
        if alpha != 0 and not 0.01 <= alpha < float("inf"):
            raise ValueError(f"expected alpha 0, or 0.01 or more, got {alpha=}")
        self.classes, self.alpha, self.per_image = classes, alpha, per_image

    # --8<-- [start:draw]
    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """The share of each image, () or (N,) in float64, and its partner, (N,)."""
        shape = (n,) if self.per_image else ()
        if self.alpha == 0:
            return torch.ones(shape, dtype=torch.float64), torch.arange(n)
        alpha = torch.tensor(self.alpha, dtype=torch.float64)
        lam = torch.distributions.Beta(alpha, alpha).sample(shape)
        return lam, torch.randperm(n)

    # --8<-- [end:draw]

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if not images.is_floating_point():
            raise TypeError(
                f"expected floating-point images, got {images.dtype}: scale them first"
            )
        if labels.ndim == 1 and not labels.is_floating_point():
            if ((labels.long() < 0) | (labels.long() >= self.classes)).any():
                span = f"{labels.long().min()} to {labels.long().max()}"
                raise ValueError(
                    f"expected labels from 0 to {self.classes - 1}, got {span}"
                )
            labels = F.one_hot(labels.long(), self.classes).to(images.dtype)  # (N, K)
        if labels.ndim != 2 or labels.shape[1] != self.classes:
            raise ValueError(
                f"expected labels (N,) of integers or (N, {self.classes}), "
                f"got {tuple(labels.shape)} of {labels.dtype}"
            )
        lam, partner = self.draw(len(labels))
        return mixup_batch(images, labels, lam, partner.to(images.device))


# --8<-- [end:module]
