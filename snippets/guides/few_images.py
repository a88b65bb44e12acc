# --8<-- [start:usage]
import math

import torch
from torch import Tensor


def wilson(right: int, images: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of an accuracy, from counts (Wilson's)."""
    if not 0 <= right <= images or not images:
        raise ValueError(f"expected 0 to {images} right of 1 or more, got {right}")
    share, more = right / images, z**2 / images
    middle = (share + more / 2) / (1 + more)
    half = z * math.sqrt(share * (1 - share) / images + more / images / 4) / (1 + more)
    return middle - half, middle + half


def folds(labels: Tensor, parts: int, seed: int = 0) -> Tensor:
    """The part, 0 to parts - 1, that each image is tested in; classes evenly."""
    if not 2 <= parts <= len(labels):
        raise ValueError(f"expected 2 to {len(labels)} parts, got {parts}")
    draw = torch.Generator().manual_seed(seed)
    found, dealt = torch.empty_like(labels), 0
    for name in labels.unique():
        rows = (labels == name).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=draw)]
        found[rows] = (torch.arange(len(rows)) + dealt) % parts
        dealt += len(rows)
    return found


# --8<-- [end:usage]
