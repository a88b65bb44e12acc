"""Anchors: boxes on a grid, the object each answers for, and that box relative to it.

Source: anchors and matching, Ren et al., "Faster R-CNN", NeurIPS 2015,
arXiv:1506.01497v3, sections 3.1.1 and 3.1.2; the code of a box, Girshick et al.,
"Rich Feature Hierarchies", CVPR 2014, arXiv:1311.2524v5, appendix C.
Legend: A anchors, k of them in a cell, M objects; boxes are (x1, y1, x2, y2) in pixels.
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence

import torch
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:module]
def anchor_shapes(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """The k boxes of a cell around its origin, rounded as torchvision does: (k, 4).

    Args:
        sizes: roots of their areas, in pixels.
        ratios: height / width. All sizes of the first ratio come first.

    Raises: ValueError for none, and for one that is not above 0.
    """
    if not sizes or not ratios or min(*sizes, *ratios) <= 0:
        raise ValueError(f"expected sizes and ratios above 0, got {sizes=}, {ratios=}")
    # --8<-- [start:shapes]
    size, ratio = torch.tensor(sizes).float(), torch.tensor(ratios).float()[:, None]
    w, h = size / ratio.sqrt(), size * ratio.sqrt()  # (ratios, sizes)
    return torch.stack([-w, -h, w, h], dim=-1).view(-1, 4).div(2).round()
    # --8<-- [end:shapes]


def grid_anchors(shapes: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """Those shapes at every cell of a grid, cell after cell: (height * width * k, 4).

    Args:
        shapes: (k, 4), around the origin.
        grid: height and width of a feature map, in cells.
        stride: pixels of the image from one cell to the next.
    """
    y, x = torch.arange(grid[0]) * stride, torch.arange(grid[1]) * stride
    y, x = torch.meshgrid(y, x, indexing="ij")
    cells = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
    return (cells.to(shapes.device) + shapes).view(-1, 4)


def centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (..., 4) as centres (..., 2), x and y, and sizes (..., 2), w and h."""
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size


def encode_boxes(
    boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1, 1, 1, 1)
) -> Tensor:
    """What takes each anchor to its box, in anchor sizes and log scales: (..., 4).

    Args:
        boxes: (..., 4), with height and width above 0.
        anchors: (..., 4), one for each.
        weights: of the four numbers. Faster R-CNN's second stage has (10, 10, 5, 5),
            about 1 through their standard deviations, so that all count alike.
    """
    # --8<-- [start:encode]
    (c, size), (c_a, size_a) = centre_and_size(boxes), centre_and_size(anchors)
    t = torch.cat([(c - c_a) / size_a, (size / size_a).log()], dim=-1)
    return t * t.new_tensor(weights)
    # --8<-- [end:encode]


def decode_boxes(
    offsets: Tensor, anchors: Tensor, weights: Sequence[float] = (1, 1, 1, 1)
) -> Tensor:
    """The inverse of encode_boxes; no box grows beyond 1000 / 16 of its anchor."""
    c_a, size_a = centre_and_size(anchors)
    t = offsets / offsets.new_tensor(weights)
    c = t[..., :2] * size_a + c_a
    size = t[..., 2:].clamp(max=math.log(1000 / 16)).exp() * size_a
    return torch.cat([c - size / 2, c + size / 2], dim=-1)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Area that both cover over area that either covers: (M, 4), (A, 4) -> (M, A)."""
    # --8<-- [start:iou]
    top_left = torch.maximum(boxes[:, None, :2], others[:, :2])
    overlap = torch.minimum(boxes[:, None, 2:], others[:, 2:]) - top_left
    both = overlap.clamp(min=0).prod(dim=2)  # (M, A)
    area, area_a = (centre_and_size(b)[1].prod(dim=1) for b in (boxes, others))
    return both / (area[:, None] + area_a - both)
    # --8<-- [end:iou]


def match_anchors(
    boxes: Tensor,
    anchors: Tensor,
    low: float = 0.4,
    high: float = 0.5,
    keep_best: bool = True,
) -> Tensor:
    """The object of each anchor: its index, -1 background, -2 neither: (A,).

    Args:
        boxes: (M, 4), of the objects of an image; M may be 0.
        anchors: (A, 4).
        low: below this overlap (IoU) with every object an anchor is background.
        high: from this overlap on it answers for the object it overlaps most.
        keep_best: the anchors that overlap an object most, if any touches it, are never
            background: each answers for the object that it overlaps most itself.

    Raises: ValueError for low above high.
    """
    if low > high:
        raise ValueError(f"expected low <= high, got {low=}, {high=}")
    if len(boxes) == 0:
        return torch.full((len(anchors),), -1, device=anchors.device)
    iou = box_iou(boxes, anchors)  # (M, A)
    # --8<-- [start:match]
    best, index = iou.max(dim=0)  # (A,), (A,)
    matched = index.where(best >= high, torch.where(best < low, -1, -2))
    if keep_best:
        favourite = (iou > 0) & (iou == iou.max(dim=1, keepdim=True).values)
        matched = index.where(favourite.any(dim=0), matched)
    # --8<-- [end:match]
    return matched


# --8<-- [end:module]
