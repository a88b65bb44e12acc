"""Mean average precision: found boxes matched to true ones, surest first, as COCO does.

Source: pycocotools 2.0.11, cocoeval.py: evaluateImg, accumulate, summarize; mask.iou.
Legend: N images, K classes; of an image and class D detections and G objects.
T IoU thresholds, R levels of recall, A ranges of area, L limits of detections.
Boxes are (x1, y1, x2, y2) in pixels.
"""

# --8<-- [start:imports]
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:module]
# With the roundings of numpy.linspace, which decide where recall is exactly a level.
THRESHOLDS = [0.5 + i * ((0.95 - 0.5) / 9) for i in range(10)]  # T: 0.5, 0.55 to 0.95
LEVELS = [i * 0.01 for i in range(101)]  # R
AREAS = [(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)]  # A: all, s, m, l
LIMITS = [1, 10, 100]  # L, of an image and class


def crowd_iou(boxes: Tensor, objects: Tensor, crowd: Tensor) -> Tensor:
    """Overlap of each detection with each object; of a crowd the part of the detection.

    Args:
        boxes: (D, 4).
        objects: (G, 4).
        crowd: (G,) bool, boxes around many objects of which none is marked by itself.

    Shape: (D, 4), (G, 4), (G,) -> (D, G).
    """
    # --8<-- [start:iou]
    corner = torch.maximum(boxes[:, None, :2], objects[:, :2])
    both = (torch.minimum(boxes[:, None, 2:], objects[:, 2:]) - corner).clamp(min=0)
    both = both.prod(dim=2)  # (D, G)
    area, area_o = ((b[:, 2:] - b[:, :2]).prod(dim=1) for b in (boxes, objects))
    either = area[:, None] + area_o - both
    union = torch.where(crowd, area[:, None], either)
    return torch.where(both > 0, both / union, 0)
    # --8<-- [end:iou]


def match_detections(
    iou: Tensor, crowd: Tensor, ignored: Tensor
) -> tuple[Tensor, Tensor]:
    """Which detections find an object, and which of them one that does not count.

    Args:
        iou: (D, G), a row for each detection, surest first.
        crowd: (G,) bool: it can be found any number of times.
        ignored: (A, G) bool: it neither counts as found nor as missed.

    Shape: (D, G), (G,), (A, G) -> (A, T, D) bool, (A, T, D) bool.
    """
    (count, objects), thresholds = iou.shape, iou.new_tensor(THRESHOLDS)[:, None]
    hits = ignored.new_zeros(ignored.shape[0], len(THRESHOLDS), count)  # (A, T, D)
    spared = hits.clone()
    free = ignored.new_ones(*hits.shape[:2], objects)  # (A, T, G)
    # --8<-- [start:match]
    for d in range(count if objects else 0):
        near = (free | crowd) & (iou[d] >= thresholds)  # (A, T, G)
        counted = near & ~ignored[:, None]
        near = torch.where(counted.any(-1, keepdim=True), counted, near)
        overlap = torch.where(near, iou[d], -1).flip(-1)
        best = objects - 1 - overlap.argmax(-1, keepdim=True)  # of equals the last
        taken = torch.zeros_like(near).scatter_(-1, best, True) & near
        hits[..., d] = taken.any(-1)
        spared[..., d] = (taken & ignored[:, None]).any(-1)
        free &= ~taken
    # --8<-- [end:match]
    return hits, spared


def precision_at_levels(true: Tensor, false: Tensor, objects: Tensor) -> Tensor:
    """The best precision at each of 101 levels of recall or beyond it.

    Args:
        true: (..., D) bool, detections from the largest score on that found an object.
        false: (..., D) bool, those that found none; in neither: does not count.
        objects: (...), how many there are to find, 1 or more.

    Shape: (..., D), (..., D), (...) -> (..., R) float64; 0 where recall does not come.
    """
    # --8<-- [start:precision]
    tp, fp = true.cumsum(-1).double(), false.cumsum(-1).double()
    recall = tp / objects[..., None]
    precision = tp / (tp + fp).clamp(min=1)
    precision = torch.nn.functional.pad(precision, (0, 1))  # 0 beyond the last recall
    best = precision.flip(-1).cummax(-1).values.flip(-1)  # from here on
    levels = recall.new_tensor(LEVELS).expand(*recall.shape[:-1], -1).contiguous()
    return best.gather(-1, torch.searchsorted(recall, levels))
    # --8<-- [end:precision]


def coco_curves(
    predictions: Sequence[Mapping[str, Tensor]],
    targets: Sequence[Mapping[str, Tensor]],
    num_classes: int,
) -> tuple[Tensor, Tensor]:
    """Precision at each level of recall, and recall; see `detection_map`.

    Shape: -> (T, R, K, A, L), (T, K, A, L) float64, NaN where there is no object.
    Raises: as `detection_map`.
    """
    if num_classes < 1:
        raise ValueError(f"expected num_classes of 1 or more, got {num_classes}")
    if len(predictions) != len(targets) or not len(targets):
        given = f"{len(predictions)} for {len(targets)}"
        raise ValueError(f"expected predictions for 1 target or more, got {given}")
    for n, (found, true) in enumerate(zip(predictions, targets, strict=True)):
        keys = ("boxes", "labels", "scores")
        _check_image(found, keys, f"prediction {n}", num_classes)
        _check_image(true, keys[:2], f"target {n}", num_classes)
    device = targets[0]["boxes"].device
    sizes = len(THRESHOLDS), num_classes, len(AREAS), len(LIMITS)
    recalls = torch.full(sizes, torch.nan, dtype=torch.float64, device=device)
    precisions = recalls[:, None].repeat(1, len(LEVELS), 1, 1, 1)
    for k in range(num_classes):
        pairs = zip(predictions, targets, strict=True)
        parts = [_match_image(found, true, k) for found, true in pairs]
        scores, ranks, hits, alarms, counts = zip(*parts, strict=True)
        order = torch.cat(scores).argsort(stable=True, descending=True)
        rank, total = torch.cat(ranks)[order], torch.stack(counts).sum(0)  # (A,)
        there, some = total > 0, total.clamp(min=1)[:, None].expand(-1, sizes[0])
        for m, limit in enumerate(LIMITS):
            kept = order[rank < limit]
            tp, fp = (torch.cat(part, dim=-1)[..., kept] for part in (hits, alarms))
            curve = precision_at_levels(tp, fp, some).permute(1, 2, 0)  # (T, R, A)
            precisions[:, :, k, :, m] = curve.where(there, torch.nan)
            recall = (tp.sum(-1).double() / some).T  # (T, A)
            recalls[:, k, :, m] = recall.where(there, torch.nan)
    return precisions, recalls


def detection_map(
    predictions: Sequence[Mapping[str, Tensor]],
    targets: Sequence[Mapping[str, Tensor]],
    num_classes: int,
) -> dict[str, Tensor]:
    """COCO's twelve numbers, AP to ARl, of all images together.

    Args:
        predictions: of each image "boxes" (D, 4), "scores" (D,), "labels" (D,).
        targets: of each image "boxes" (G, 4), "labels" (G,); if given, "iscrowd" (G,)
            and "area" (G,), which stands for that of the box in APs to APl.
        num_classes: K; labels are 0 to K - 1. A class without objects does not count.

    Returns: name -> () float64, NaN where there is no object at all.
    Raises: ValueError or TypeError for what is no box, score or label, naming it.
    """
    precision, recall = coco_curves(predictions, targets, num_classes)
    # --8<-- [start:summary]
    curves = precision[..., 2]  # (T, R, K, A) with 100 detections
    parts = {"AP": curves[..., 0], "AP50": curves[0, ..., 0], "AP75": curves[5, ..., 0]}
    parts |= {f"AP{name}": curves[..., a] for a, name in enumerate("sml", start=1)}
    parts |= {f"AR{limit}": recall[:, :, 0, m] for m, limit in enumerate(LIMITS)}
    parts |= {f"AR{name}": recall[:, :, a, 2] for a, name in enumerate("sml", start=1)}
    return {name: part.nanmean() for name, part in parts.items()}
    # --8<-- [end:summary]


def _match_image(
    found: Mapping[str, Tensor], truth: Mapping[str, Tensor], k: int
) -> tuple[Tensor, ...]:
    """Of an image and class: scores, ranks, true, false positives, objects to find."""
    mine, theirs = found["labels"] == k, truth["labels"] == k
    order = found["scores"][mine].argsort(stable=True, descending=True)[: LIMITS[-1]]
    boxes = found["boxes"][mine][order].double()
    objects = truth["boxes"][theirs].double()
    crowd = truth.get("iscrowd", torch.zeros_like(truth["labels"]))[theirs].bool()
    area, area_o = ((b[:, 2:] - b[:, :2]).prod(dim=1) for b in (boxes, objects))
    if "area" in truth:
        area_o = truth["area"][theirs].double()
    low, high = area.new_tensor(AREAS).T[..., None]  # (A, 1), (A, 1)
    ignored = crowd | (area_o < low) | (area_o > high)  # (A, G)
    hits, spared = match_detections(crowd_iou(boxes, objects, crowd), crowd, ignored)
    outside = ((area < low) | (area > high))[:, None]  # (A, 1, D)
    scores, ranks = found["scores"][mine][order], torch.arange(order.shape[0])
    true, false = hits & ~spared, ~hits & ~outside
    return scores, ranks.to(scores.device), true, false, (~ignored).sum(-1)


def _check_image(
    image: Mapping[str, Tensor], needed: Sequence[str], where: str, num_classes: int
) -> None:
    for name in needed:
        if not isinstance(image.get(name), Tensor):
            got = type(image.get(name)).__name__
            raise TypeError(f"expected a tensor {name!r} in {where}, got {got}")
    if image["labels"].is_floating_point():
        got = str(image["labels"].dtype)
        raise TypeError(f"expected integer labels in {where}, got {got}")
    count, classes = image["labels"].numel(), f"from 0 to {num_classes - 1}"
    rules: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
        "boxes": ("finite, x1 <= x2, y1 <= y2", _are_boxes),
        "scores": ("that are not NaN", lambda scores: ~scores.isnan()),
        "labels": (classes, lambda labels: (labels >= 0) & (labels < num_classes)),
        "iscrowd": ("0 or 1", lambda crowd: (crowd == 0) | (crowd == 1)),
        "area": ("of 0 or more", lambda area: area >= 0),
    }
    for name in (name for name in rules if name in image):
        value, (said, good) = image[name], rules[name]
        shape = (count, 4) if name == "boxes" else (count,)
        if value.shape != shape:
            got = f"{tuple(value.shape)}"
            raise ValueError(f"expected {name} {shape} in {where}, got {got}")
        wrong = value[~good(value)]
        if wrong.numel():
            got = f"{wrong[0].tolist()}"
            raise ValueError(f"expected {name} {said} in {where}, got {got}")


def _are_boxes(boxes: Tensor) -> Tensor:
    ordered = boxes[:, :2] <= boxes[:, 2:]  # (M, 2)
    return ordered.all(dim=1) & boxes.isfinite().all(dim=1)  # (M,)


# --8<-- [end:module]
