"""FCOS: every cell says what it lies on, and how far it is to that object's four sides.

Source: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019,
arXiv:1904.01355, section 3.
Legend: N images, H x W pixels, D pyramid channels, K classes, P points of all levels,
M objects of an image; boxes are (x1, y1, x2, y2) in pixels.
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

# --8<-- [end:imports]
from cnn_techniques.detection.feature_pyramid_network import (
    FeaturePyramidNetwork,
    FeaturePyramidP6P7,
)
from cnn_techniques.detection.retinanet import RetinaNetBackbone, sigmoid_focal_loss
from cnn_techniques.modern.resnet import resnet50


# --8<-- [start:module]
class FCOSPoints(NamedTuple):
    """Where the cells of all levels lie, and how large the objects are they learn."""

    xy: Tensor  # (P, 2), pixels
    stride: Tensor  # (P,), pixels from a cell to the next
    reach: Tensor  # (P, 2): between these two lies its farthest side, in pixels


def fcos_distances(boxes: Tensor, points: FCOSPoints) -> Tensor:
    """How many strides the left, top, right and bottom side are from the point."""
    # --8<-- [start:distances]
    lt, rb = points.xy - boxes[..., :2], boxes[..., 2:] - points.xy
    ltrb = torch.cat([lt, rb], dim=-1) / points.stride[:, None]  # negative: outside
    # --8<-- [end:distances]
    return ltrb


def fcos_boxes(ltrb: Tensor, points: FCOSPoints) -> Tensor:
    """The boxes whose sides lie that many strides from their points: (..., P, 4)."""
    ltrb = ltrb * points.stride[:, None]
    return torch.cat([points.xy - ltrb[..., :2], points.xy + ltrb[..., 2:]], dim=-1)


def fcos_match(boxes: Tensor, points: FCOSPoints, radius: float = 1.5) -> Tensor:
    """For each point the object that it learns, or -1 for the background.

    Args:
        boxes: (M, 4); M may be 0.
        points: of all levels.
        radius: of centre sampling, in strides: the half side of the square around an
            object's centre whose points learn it; infinite for all in its box (paper).

    Shape: (P,), integers in -1..M-1.
    """
    if len(boxes) == 0:
        return torch.full_like(points.stride, -1, dtype=torch.int64)
    # --8<-- [start:match]
    ltrb = fcos_distances(boxes[:, None], points)  # (M, P, 4)
    farthest = ltrb.amax(dim=2) * points.stride
    inside = ltrb.amin(dim=2) > 0
    in_reach = (farthest > points.reach[:, 0]) & (farthest < points.reach[:, 1])
    centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    central = (points.xy - centres).abs().amax(dim=2) < radius * points.stride
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)  # (M,)
    candidates = area[:, None].where(inside & in_reach & central, math.inf)
    smallest, index = candidates.min(dim=0)  # (P,)
    match = index.where(smallest.isfinite(), -1)
    # --8<-- [end:match]
    return match


def fcos_centerness(ltrb: Tensor) -> Tensor:
    """1 in the middle of a box, towards 0 at its sides: (..., 4) -> (...)."""
    # --8<-- [start:centerness]
    lt, rb = ltrb[..., :2], ltrb[..., 2:]
    ratios = lt.minimum(rb) / lt.maximum(rb)  # of l and r, of t and b
    centerness = ratios.prod(dim=-1).sqrt()
    # --8<-- [end:centerness]
    return centerness


def giou_loss(boxes: Tensor, others: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - generalised IoU of each pair of boxes, from 0 to 2: (..., 4) -> (...)."""
    # --8<-- [start:giou]
    lt, rb, lt_g, rb_g = (b[..., i : i + 2] for b in (boxes, others) for i in (0, 2))
    common = (rb.minimum(rb_g) - lt.maximum(lt_g)).clamp(min=0).prod(dim=-1)
    union = (rb - lt).prod(dim=-1) + (rb_g - lt_g).prod(dim=-1) - common
    hull = (rb.maximum(rb_g) - lt.minimum(lt_g)).prod(dim=-1)
    return 1 - common / (union + eps) + (hull - union) / (hull + eps)
    # --8<-- [end:giou]


def _fcos_conv(d: int, outputs: int, bias: float = 0.0) -> nn.Conv2d:
    conv = nn.Conv2d(d, outputs, 3, padding=1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.bias, bias)  # type: ignore[arg-type]
    return conv


def _fcos_tower(d: int, groups: int) -> nn.Sequential:
    layers = [(_fcos_conv(d, d), nn.GroupNorm(groups, d), nn.ReLU()) for _ in range(4)]
    return nn.Sequential(*(layer for three in layers for layer in three))


def _fcos_rows(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # (N, width, H, W) -> (N, H * W, width)


class FCOSClassificationHead(nn.Module):
    """K logits a point, at first of probability 0.01: (N, D, H, W) -> (N, H * W, K)."""

    def __init__(self, channels: int, num_classes: int, groups: int) -> None:
        super().__init__()
        self.conv = _fcos_tower(channels, groups)
        prior = -math.log((1 - 0.01) / 0.01)
        self.cls_logits = _fcos_conv(channels, num_classes, prior)

    def forward(self, level: Tensor) -> Tensor:
        return _fcos_rows(self.cls_logits(self.conv(level)))


class FCOSRegressionHead(nn.Module):
    """Distances in strides, and a logit of centre-ness: (N, H * W, 4), (N, H * W)."""

    def __init__(self, channels: int, groups: int, first_side: float) -> None:
        super().__init__()
        self.conv = _fcos_tower(channels, groups)
        self.bbox_reg = _fcos_conv(channels, 4, first_side)
        self.bbox_ctrness = _fcos_conv(channels, 1)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        # --8<-- [start:regression]
        x = self.conv(level)
        ltrb, centerness = torch.relu(self.bbox_reg(x)), self.bbox_ctrness(x)
        # --8<-- [end:regression]
        return _fcos_rows(ltrb), _fcos_rows(centerness)[..., 0]


class FCOSOutput(NamedTuple):
    """What the network says of every point, finest level first."""

    logits: Tensor  # (N, P, K)
    ltrb: Tensor  # (N, P, 4), in strides, >= 0
    centerness: Tensor  # (N, P), logits
    points: FCOSPoints
    level_sizes: list[int]  # how many of the P points each level has
    image_size: tuple[int, int]  # H, W


class FCOS(nn.Module):
    """A backbone's pyramid, every level of which is read by the same two heads.

    Args:
        backbone: gives the levels of a batch of images, finest first, D channels each.
        channels: D, the width of the backbone's levels (paper: 256).
        num_classes: K, without background; torchvision's weights count it, as class 0.
        strides: pixels of the image from one cell of each level to the next.
        bounds: pixels between the levels: an object belongs to the level in whose range
            the farthest side lies, as seen from the point (paper: 64, 128, 256, 512).
        groups: of the heads' group norms.
        first_side: about how many strides away every side is at first. At 0, as in
            torchvision, many boxes have no area, and what has none cannot learn one.

    Shape: (N, C, H, W) -> FCOSOutput, for fcos_loss and fcos_detections.
    Raises: ValueError for sizes below 1, another input, or other levels.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        bounds: Sequence[float] = (64, 128, 256, 512),
        groups: int = 32,
        first_side: float = 0.0,
    ) -> None:
        super().__init__()
        given = f"{channels=}, {num_classes=}, {strides=}, {bounds=}, {groups=}"
        if min(channels, num_classes, groups, *strides) < 1 or channels % groups:
            raise ValueError(f"need sizes >= 1, and groups of equal size, got {given}")
        ends = (0.0, *bounds, math.inf)  # level l reaches from ends[l] to ends[l + 1]
        if len(ends) != len(strides) + 1 or list(ends) != sorted(set(ends)):
            raise ValueError(f"need a rising bound between levels, got {given}")
        self.backbone = backbone
        classes = FCOSClassificationHead(channels, num_classes, groups)
        boxes = FCOSRegressionHead(channels, groups, first_side)
        self.head = nn.ModuleDict(
            {"classification_head": classes, "regression_head": boxes}
        )
        self.strides, self.ends = tuple(strides), ends

    def forward(self, images: Tensor) -> FCOSOutput:
        if images.ndim != 4:
            raise ValueError(f"expected images (N, C, H, W), got {tuple(images.shape)}")
        levels, size = self.backbone(images), (images.shape[2], images.shape[3])
        if len(levels) != len(self.strides):
            raise ValueError(f"expected {self.strides=}, got {len(levels)} levels")
        logits = [self.head["classification_head"](level) for level in levels]
        boxes = [self.head["regression_head"](level) for level in levels]
        places = []
        for k, (level, stride) in enumerate(zip(levels, self.strides, strict=True)):
            grid = level.shape[2], level.shape[3]
            if any(abs(grid[i] * stride - size[i]) >= stride for i in (0, 1)):
                told = f"a cell every {stride} of {size} pixels, got a level of {grid}"
                raise ValueError(f"expected {told} cells")
            y, x = (torch.arange(n).to(images) * stride for n in grid)
            xy = torch.cartesian_prod(y, x).flip(1)  # row after row
            reach = xy.new_tensor(self.ends[k : k + 2]).expand(len(xy), 2)
            places.append(FCOSPoints(xy, xy.new_full((len(xy),), stride), reach))
        points = FCOSPoints(*(torch.cat(part) for part in zip(*places, strict=True)))
        ltrb, ctr = (torch.cat(part, dim=1) for part in zip(*boxes, strict=True))
        merged = torch.cat(logits, dim=1), ltrb, ctr, points
        return FCOSOutput(*merged, [len(part.xy) for part in places], size)


def fcos_loss(
    output: FCOSOutput, targets: Sequence[dict[str, Tensor]], radius: float = 1.5
) -> dict[str, Tensor]:
    """Focal loss of all points; GIoU and centre-ness of the matched; each per matched.

    Args:
        output: of FCOS.
        targets: for each image boxes (M, 4), as x1 y1 x2 y2 in pixels, and labels (M,),
            integers in 0..K-1; M may be 0.
        radius: of centre sampling, in strides.

    Raises: ValueError for other labels, or a box without height or width.
    """
    if len(targets) != len(output.logits):
        raise ValueError(f"{len(targets)} targets for {len(output.logits)} images")
    k = output.logits.shape[2]
    wanted, exact, positive = torch.zeros_like(output.logits), [], []
    for n, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        if boxes.shape != (len(labels), 4) or labels.is_floating_point():
            given = f"{tuple(boxes.shape)}, {labels.dtype} {tuple(labels.shape)}"
            raise ValueError(f"expected boxes (M, 4), integer labels (M,), got {given}")
        if bool((boxes[:, 2:] <= boxes[:, :2]).any()):
            raise ValueError(f"expected x1 < x2 and y1 < y2, got {boxes.tolist()}")
        labels = labels.long()  # uint8 would be taken for a mask
        if bool(((labels < 0) | (labels >= k)).any()):
            raise ValueError(f"labels must be in 0..{k - 1}, got {labels}")
        match = fcos_match(boxes, output.points, radius)
        at = (match >= 0).nonzero()[:, 0]  # the matched points
        wanted[n, at, labels[match[at]]] = 1
        exact.append(boxes[match[at]].to(output.points.xy))
        positive.append(torch.stack([torch.full_like(at, n), at]))
    image, at = torch.cat(positive, dim=1)
    # --8<-- [start:loss]
    points = FCOSPoints(*(part[at] for part in output.points))  # the matched
    truth, ltrb = torch.cat(exact), output.ltrb[image, at]
    logits = output.centerness[image, at]
    middle = fcos_centerness(fcos_distances(truth, points))
    focal = sigmoid_focal_loss(output.logits, wanted)
    giou = giou_loss(fcos_boxes(ltrb, points), truth)
    ctr = F.binary_cross_entropy_with_logits(logits, middle, reduction="sum")
    count = max(1, len(at))
    # --8<-- [end:loss]
    return {
        "classification": focal.sum() / count,
        "bbox_regression": giou.sum() / count,
        "bbox_ctrness": ctr / count,
    }


@torch.no_grad()
def fcos_detections(
    output: FCOSOutput,
    score_threshold: float = 0.2,
    iou_threshold: float = 0.6,
    candidates: int = 1000,
    limit: int = 100,
) -> list[dict[str, Tensor]]:
    """For each image the boxes (M, 4), scores (M,) and labels (M,) found, surest first.

    Args:
        output: of FCOS.
        score_threshold: what has a lower score is dropped.
        iou_threshold: of two boxes of a class that overlap by more, the surer stays.
        candidates: how many of each level are considered.
        limit: how many of an image are given back.
    """
    height, width = output.image_size
    k, found = output.logits.shape[2], []
    # --8<-- [start:score]
    centerness = output.centerness.sigmoid()[..., None]
    scores = (output.logits.sigmoid() * centerness).sqrt()  # (N, P, K)
    # --8<-- [end:score]
    boxes = fcos_boxes(output.ltrb, output.points).clamp(min=0)
    boxes = boxes.minimum(boxes.new_tensor([width, height, width, height]))
    for per_point in zip(boxes, scores, strict=True):
        parts = []
        for of_level, score in zip(
            *(t.split(output.level_sizes) for t in per_point), strict=True
        ):
            flat = score.flatten()  # (points of the level * K,)
            above = torch.where(flat > score_threshold)[0]
            best, order = flat[above].topk(min(candidates, len(above)))
            row, label = above[order] // k, above[order] % k
            parts.append((of_level[row], best, label))
        kept, best, label = (torch.cat(part) for part in zip(*parts, strict=True))
        keep = batched_nms(kept, best, label, iou_threshold)[:limit]
        found.append({"boxes": kept[keep], "scores": best[keep], "labels": label[keep]})
    return found


def fcos_resnet50_fpn(num_classes: int = 91) -> FCOS:
    """On ResNet-50, with P3 to P7; key names and shapes are torchvision's."""
    fpn = FeaturePyramidNetwork([512, 1024, 2048], 256, FeaturePyramidP6P7(256, 256))
    return FCOS(RetinaNetBackbone(resnet50(), fpn), 256, num_classes)


# --8<-- [end:module]
