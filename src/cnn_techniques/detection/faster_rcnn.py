"""Faster R-CNN: one small network proposes boxes, a second one names and refines them.

Source: Ren et al., "Faster R-CNN", NeurIPS 2015, arXiv:1506.01497v3, section 3; both
stages on a pyramid, Lin et al., CVPR 2017, arXiv:1612.03144v2, section 4; RoIAlign,
He et al., "Mask R-CNN", ICCV 2017, arXiv:1703.06870v3, section 3.
Legend: N images, H x W pixels, D pyramid channels, K classes, A anchors of all levels,
P proposals of all images, M objects of an image; boxes are (x1, y1, x2, y2) in pixels.
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, roi_align

# --8<-- [end:imports]
from cnn_techniques.detection.anchors_and_box_coding import (
    anchor_shapes,
    centre_and_size,
    decode_boxes,
    encode_boxes,
    grid_anchors,
    match_anchors,
)
from cnn_techniques.detection.feature_pyramid_network import (
    FeaturePyramidNetwork,
    FeaturePyramidPool,
)
from cnn_techniques.modern.resnet import ResNet, resnet50

# --8<-- [start:module]
# ---- what both stages use


def clip_boxes(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The part of each box that lies in an image of that height and width."""
    height, width = image_size
    largest = boxes.new_tensor([width, height, width, height])
    return boxes.clamp(min=0).minimum(largest)


def sample_matches(match: Tensor, count: int, positive_fraction: float) -> Tensor:
    """Draw some of the boxes to learn from: indices in ascending order, at most count.

    Args:
        match: (A,), of match_anchors: an object, -1 background, -2 never drawn.
        count: how many are drawn, if there are as many.
        positive_fraction: of them at most this part has an object.
    """
    # --8<-- [start:sample]
    positive, negative = torch.where(match >= 0)[0], torch.where(match == -1)[0]
    most = min(len(positive), int(count * positive_fraction))
    positive = positive[torch.randperm(len(positive), device=match.device)[:most]]
    rest = torch.randperm(len(negative), device=match.device)[: count - most]
    return torch.cat([positive, negative[rest]]).sort().values
    # --8<-- [end:sample]


def box_regression_loss(offsets: Tensor, exact: Tensor, count: int) -> Tensor:
    """Smooth L1, quadratic below 1/9, of the boxes with an object, per drawn box."""
    total: Tensor = F.smooth_l1_loss(offsets, exact, beta=1 / 9, reduction="sum")
    return total / max(count, 1)


# ---- first stage: where could objects be?


class RPNHead(nn.Module):
    """For each anchor the logit of "an object", and four offsets.

    Args:
        channels: D, the width of the pyramid's levels.
        shapes: anchors in a cell.

    Shape: (N, D, H, W) -> (N, shapes * H * W), (N, shapes * H * W, 4), as the anchors.
    """

    def __init__(self, channels: int, shapes: int = 3) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels, 3, padding=1)
        # Two Sequentials: torchvision's key is conv.0.0.weight.
        self.conv = nn.Sequential(nn.Sequential(conv, nn.ReLU()))
        self.cls_logits = nn.Conv2d(channels, shapes, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * shapes, 1)
        for layer in (conv, self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(level)
        logits = self.cls_logits(x).permute(0, 2, 3, 1).flatten(1)  # cell after cell
        offsets = self.bbox_pred(x).permute(0, 2, 3, 1)  # (N, H, W, shapes * 4)
        return logits, offsets.reshape(*logits.shape, 4)


@torch.no_grad()
def region_proposals(
    objectness: Tensor,
    offsets: Tensor,
    anchors: Sequence[Tensor],
    image_size: tuple[int, int],
    count: int,
    iou_threshold: float = 0.7,
) -> list[Tensor]:
    """For each image the boxes (at most count, 4) most likely to hold an object.

    Args:
        objectness: (N, A), logits.
        offsets: (N, A, 4), of the anchors.
        anchors: (A_l, 4) of each level.
        image_size: height and width in pixels.
        count: considered of each level, and kept of all together.
        iou_threshold: of two of a level that overlap by more, the likelier one stays.
    """
    sizes, found = [len(a) for a in anchors], []
    for logits, shifts in zip(objectness, offsets, strict=True):
        parts = []
        per_level = zip(logits.split(sizes), shifts.split(sizes), anchors, strict=True)
        # --8<-- [start:proposals]
        for level, (score, t, anchor) in enumerate(per_level):
            score, best = score.topk(min(count, len(score)))
            boxes = clip_boxes(decode_boxes(t[best], anchor[best]), image_size)
            large = (centre_and_size(boxes)[1] >= 1e-3).all(dim=1)
            level_of = torch.full_like(best, level)
            parts.append((boxes[large], score[large].sigmoid(), level_of[large]))
        boxes, scores, levels = (torch.cat(part) for part in zip(*parts, strict=True))
        found.append(boxes[batched_nms(boxes, scores, levels, iou_threshold)[:count]])
        # --8<-- [end:proposals]
    return found


class RegionProposals(NamedTuple):
    """What the first stage says of every anchor, finest level first, and its choice."""

    objectness: Tensor  # (N, A)
    offsets: Tensor  # (N, A, 4)
    anchors: Tensor  # (A, 4)
    boxes: list[Tensor]  # of each image (at most count, 4)


class RegionProposalNetwork(nn.Module):
    """The same head reads every level; the best of what it finds are the proposals.

    Args:
        channels: D, the width of the levels.
        anchor_sizes: root of the area of each level's three anchors.
        strides: pixels of the image from one cell of each level to the next.
        count: proposals of an image, in training and in evaluation.

    Shape: levels (N, D, H_l, W_l) and the image's height and width -> RegionProposals.
    Raises: ValueError for other levels.
    """

    def __init__(
        self,
        channels: int,
        anchor_sizes: Sequence[float],
        strides: Sequence[int],
        count: tuple[int, int] = (2000, 1000),
    ) -> None:
        super().__init__()
        self.head = RPNHead(channels)
        self.anchor_sizes, self.strides = tuple(anchor_sizes), tuple(strides)
        self.count = count

    def forward(
        self, levels: Sequence[Tensor], image_size: tuple[int, int]
    ) -> RegionProposals:
        grids = [(level.shape[2], level.shape[3]) for level in levels]
        expected = [[-(-side // s) for side in image_size] for s in self.strides]
        if [list(grid) for grid in grids] != expected:
            raise ValueError(f"expected levels of {expected} cells, got {grids}")
        anchors = [
            grid_anchors(anchor_shapes([size], (0.5, 1.0, 2.0)), grid, stride)
            for size, grid, stride in zip(
                self.anchor_sizes, grids, self.strides, strict=True
            )
        ]
        anchors = [a.to(levels[0]) for a in anchors]
        outputs = zip(*(self.head(level) for level in levels), strict=True)
        objectness, offsets = (torch.cat(parts, dim=1) for parts in outputs)
        count = self.count[0] if self.training else self.count[1]
        boxes = region_proposals(objectness, offsets, anchors, image_size, count)
        return RegionProposals(objectness, offsets, torch.cat(anchors), boxes)


# ---- second stage: what is in each proposal, and where exactly?


@torch.no_grad()
def sample_proposals(
    proposals: Sequence[Tensor],
    boxes: Sequence[Tensor],
    count: int = 512,
    positive_fraction: float = 0.25,
) -> list[Tensor]:
    """Proposals to learn from, drawn for each image; its objects are proposals, too.

    Args:
        proposals: (P_i, 4) of each image.
        boxes: (M, 4) of the objects of each image; M may be 0.
        count: how many are drawn in each image.
        positive_fraction: at most this part overlaps an object by half or more.
    """
    drawn = []
    for found, true in zip(proposals, boxes, strict=True):
        found = torch.cat([found, true.to(found)])
        match = match_proposals(true.to(found), found)
        drawn.append(found[sample_matches(match, count, positive_fraction)])
    return drawn


def match_proposals(boxes: Tensor, proposals: Tensor) -> Tensor:
    """The object that each proposal overlaps by half or more, -1 background: (P_i,)."""
    return match_anchors(boxes, proposals, 0.5, 0.5, keep_best=False)


def pool_boxes(
    levels: Sequence[Tensor],
    boxes: Sequence[Tensor],
    strides: Sequence[int],
    size: int = 7,
    canonical_size: float = 224.0,
) -> Tensor:
    """RoIAlign of each box, on the level that suits its size: (P, D, size, size).

    Args:
        levels: (N, D, H_l, W_l), finest first, each of twice the stride of the last.
        boxes: (P_i, 4) of each image.
        strides: of the levels, powers of 2.
        size: rows and columns of the result; each averages 2 x 2 sampled points.
        canonical_size: boxes of this side are read from the level of stride 16.
    """
    images = [torch.full((len(b), 1), i).to(b) for i, b in enumerate(boxes)]
    rois = torch.cat([torch.cat(images), torch.cat(list(boxes))], dim=1)  # (P, 5)
    pooled = levels[0].new_zeros(len(rois), levels[0].shape[1], size, size)
    # --8<-- [start:level]
    side = centre_and_size(rois[:, 1:])[1].prod(dim=1).sqrt()  # (P,)
    k = torch.floor(4 + torch.log2(side / canonical_size) + 1e-6)
    k = k.clamp(math.log2(strides[0]), math.log2(strides[-1]))
    for level, stride in zip(levels, strides, strict=True):
        here = torch.where(k == math.log2(stride))[0]
        read = roi_align(level, rois[here], size, 1 / stride, sampling_ratio=2)
        pooled[here] = read.to(pooled)
    # --8<-- [end:level]
    return pooled


class TwoMLPHead(nn.Module):
    """Two linear layers with ReLU on what was pooled: (P, D, 7, 7) -> (P, width)."""

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(in_features, width)
        self.fc7 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.fc7(torch.relu(self.fc6(x.flatten(1)))))


class FastRCNNPredictor(nn.Module):
    """Logits of background and K classes, and a box for each.

    Shape: (P, in_features) -> (P, K + 1), (P, K + 1, 4); index 0 is the background.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_features, num_classes + 1)
        self.bbox_pred = nn.Linear(in_features, 4 * (num_classes + 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.cls_score(x)
        return logits, self.bbox_pred(x).view(*logits.shape, 4)


# ---- the network


class FasterRCNNBackbone(nn.Module):
    """A ResNet, taken over without its classifier, and a pyramid on all its maps."""

    def __init__(self, resnet: ResNet, fpn: FeaturePyramidNetwork) -> None:
        super().__init__()
        self.body = resnet
        self.body.fc = nn.Identity()  # type: ignore[assignment]
        self.fpn = fpn

    def forward(self, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.fpn(self.body.features(images))
        return levels


class FasterRCNNOutput(NamedTuple):
    """What both stages say; P counts the proposals of all images, image after image."""

    levels: list[Tensor]  # (N, D, H_l, W_l), which further heads may read
    rpn: RegionProposals
    proposals: list[Tensor]  # (P_i, 4): those of rpn; with targets, a sample of them
    logits: Tensor  # (P, K + 1)
    offsets: Tensor  # (P, K + 1, 4)
    image_size: tuple[int, int]  # H, W


class FasterRCNN(nn.Module):
    """Proposals from all levels of a pyramid, each then read from one of its levels.

    With targets the second stage reads a sample of the proposals: the output is for
    faster_rcnn_loss. Without them it reads all, for faster_rcnn_detections.

    Args:
        backbone: gives the levels of a batch of images, finest first, D channels each.
        channels: D, the width of the backbone's levels.
        num_classes: K, without background; torchvision's argument counts it.
        anchor_sizes: root of the area of each level's anchors.
        strides: of the levels; the last level gives proposals, but is not pooled from.
        width: of the second stage's hidden layers.
        proposals: kept of an image in training and in evaluation.
        samples: proposals of an image that the second stage learns from.
        canonical_size: as of pool_boxes.

    Shape: (N, C, H, W) -> FasterRCNNOutput.
    Raises: ValueError for sizes below 1, other images or targets, or other levels.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        anchor_sizes: Sequence[float] = (32, 64, 128, 256, 512),
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        width: int = 1024,
        proposals: tuple[int, int] = (2000, 1000),
        samples: int = 512,
        canonical_size: float = 224.0,
    ) -> None:
        super().__init__()
        given = f"{channels=}, {num_classes=}, {anchor_sizes=}, {strides=}, {width=}"
        if min(channels, num_classes, width, *anchor_sizes, *strides) < 1:
            raise ValueError(f"sizes must be at least 1, got {given}")
        if len(strides) != len(anchor_sizes) or len(strides) < 2:
            raise ValueError(f"expected a stride for each anchor size, got {given}")
        self.backbone = backbone
        self.rpn = RegionProposalNetwork(channels, anchor_sizes, strides, proposals)
        box_head = TwoMLPHead(channels * 7 * 7, width)
        box_predictor = FastRCNNPredictor(width, num_classes)
        self.roi_heads = nn.ModuleDict(
            {"box_head": box_head, "box_predictor": box_predictor}
        )
        self.num_classes, self.strides = num_classes, tuple(strides)
        self.samples, self.canonical_size = samples, canonical_size

    def pool(
        self, levels: Sequence[Tensor], boxes: Sequence[Tensor], size: int
    ) -> Tensor:
        """RoIAlign of boxes (P_i, 4) from levels but the last: (P, D, size, size)."""
        strides = self.strides[:-1]
        return pool_boxes(levels[:-1], boxes, strides, size, self.canonical_size)

    def forward(
        self, images: Tensor, targets: Sequence[dict[str, Tensor]] | None = None
    ) -> FasterRCNNOutput:
        if images.ndim != 4:
            raise ValueError(f"expected images (N, C, H, W), got {tuple(images.shape)}")
        levels, size = self.backbone(images), (images.shape[2], images.shape[3])
        if len(levels) != len(self.strides):
            raise ValueError(f"{len(levels)} levels, expected {self.strides=}")
        # --8<-- [start:forward]
        rpn = self.rpn(levels, size)
        proposals = rpn.boxes
        if targets is not None:
            _check_faster_rcnn_targets(targets, len(images), self.num_classes)
            true = [target["boxes"] for target in targets]
            proposals = sample_proposals(proposals, true, self.samples)
        x = self.roi_heads["box_head"](self.pool(levels, proposals, 7))
        logits, offsets = self.roi_heads["box_predictor"](x)
        # --8<-- [end:forward]
        return FasterRCNNOutput(levels, rpn, proposals, logits, offsets, size)


# ---- losses and detections


def _check_faster_rcnn_targets(
    targets: Sequence[dict[str, Tensor]], images: int, num_classes: int
) -> None:
    """Raises: ValueError for other boxes than (M, 4), or labels not in 0..K-1."""
    if len(targets) != images:
        raise ValueError(f"{len(targets)} targets for {images} images")
    for target in targets:
        boxes, labels = target["boxes"], target["labels"]
        if boxes.shape != (len(labels), 4) or labels.is_floating_point():
            given = f"{tuple(boxes.shape)}, {labels.dtype} {tuple(labels.shape)}"
            raise ValueError(f"expected boxes (M, 4), integer labels (M,), got {given}")
        if bool((boxes[:, 2:] <= boxes[:, :2]).any()):
            raise ValueError(f"expected x1 < x2 and y1 < y2, got {boxes.tolist()}")
        labels = labels.long()
        if bool(((labels < 0) | (labels >= num_classes)).any()):
            raise ValueError(f"labels must be in 0..{num_classes - 1}, got {labels}")


def rpn_loss(
    rpn: RegionProposals, boxes: Sequence[Tensor], samples: int = 256
) -> dict[str, Tensor]:
    """Is there an object, and where, of anchors drawn in each image, half with objects.

    Args:
        rpn: what the first stage said.
        boxes: (M, 4) of the objects of each image.
        samples: anchors drawn in each image.
    """
    logits, wanted, offsets, exact = [], [], [], []
    for objectness, shift, true in zip(rpn.objectness, rpn.offsets, boxes, strict=True):
        true = true.to(rpn.anchors)
        # --8<-- [start:rpn_loss]
        match = match_anchors(true, rpn.anchors, low=0.3, high=0.7)
        drawn = sample_matches(match, samples, 0.5)
        positive = drawn[match[drawn] >= 0]
        logits.append(objectness[drawn])
        wanted.append((match[drawn] >= 0).to(objectness))
        offsets.append(shift[positive])
        exact.append(encode_boxes(true[match[positive]], rpn.anchors[positive]))
        # --8<-- [end:rpn_loss]
    z, y = torch.cat(logits), torch.cat(wanted)
    regression = box_regression_loss(torch.cat(offsets), torch.cat(exact), len(z))
    bce = F.binary_cross_entropy_with_logits(z, y)
    return {"loss_objectness": bce, "loss_rpn_box_reg": regression}


BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the second stage's box code


def faster_rcnn_loss(
    output: FasterRCNNOutput, targets: Sequence[dict[str, Tensor]], samples: int = 256
) -> dict[str, Tensor]:
    """The two losses of each stage, under torchvision's names; train with their sum.

    Args:
        output: of FasterRCNN, which was given the same targets.
        targets: for each image boxes (M, 4), as x1 y1 x2 y2 in pixels, and labels (M,),
            integers in 0..K-1; M may be 0.
        samples: anchors drawn in each image.

    Raises: ValueError for other labels, or a box without height or width.
    """
    _check_faster_rcnn_targets(
        targets, len(output.proposals), output.logits.shape[1] - 1
    )
    first = rpn_loss(output.rpn, [target["boxes"] for target in targets], samples)
    classes, exact = [], []
    for found, target in zip(output.proposals, targets, strict=True):
        boxes = target["boxes"].to(found)
        # --8<-- [start:loss]
        match = match_proposals(boxes, found)  # (P_i,)
        classes.append(torch.zeros_like(match))  # 0: background
        classes[-1][match >= 0] = target["labels"].long()[match[match >= 0]] + 1
        code = encode_boxes(boxes[match[match >= 0]], found[match >= 0], BOX_WEIGHTS)
        exact.append(code)
        # --8<-- [end:loss]
    c = torch.cat(classes)  # (P,)
    of_its_class = output.offsets[c > 0, c[c > 0]]
    regression = box_regression_loss(of_its_class, torch.cat(exact), len(c))
    classification = F.cross_entropy(output.logits, c)
    return {**first, "loss_classifier": classification, "loss_box_reg": regression}


@torch.no_grad()
def faster_rcnn_detections(
    output: FasterRCNNOutput,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    limit: int = 100,
) -> list[dict[str, Tensor]]:
    """For each image the boxes (M, 4), scores (M,) and labels (M,) found, surest first.

    Args:
        output: of FasterRCNN, without targets.
        score_threshold: what is less probable is dropped.
        iou_threshold: of two boxes of a class that overlap by more, the surer stays.
        limit: how many of an image are given back.
    """
    counts, found = [len(boxes) for boxes in output.proposals], []
    probability = torch.split(output.logits.softmax(dim=1), counts)
    per_image = zip(
        output.proposals, probability, torch.split(output.offsets, counts), strict=True
    )
    # --8<-- [start:detections]
    for proposals, p, t in per_image:
        row, label = torch.where(p[:, 1:] > score_threshold)  # column 0 is background
        boxes = decode_boxes(t[row, label + 1], proposals[row], BOX_WEIGHTS)
        boxes = clip_boxes(boxes, output.image_size)
        large = (centre_and_size(boxes)[1] >= 1e-2).all(dim=1)
        boxes, row, label = boxes[large], row[large], label[large]
        scores = p[row, label + 1]
        keep = batched_nms(boxes, scores, label, iou_threshold)[:limit]
        kept = {"boxes": boxes[keep], "scores": scores[keep], "labels": label[keep]}
        found.append(kept)
    # --8<-- [end:detections]
    return found


def fasterrcnn_resnet50_fpn(num_classes: int = 90) -> FasterRCNN:
    """On ResNet-50, with P2 to P6; key names and shapes are torchvision's for K + 1."""
    fpn = FeaturePyramidNetwork([256, 512, 1024, 2048], 256, FeaturePyramidPool())
    return FasterRCNN(FasterRCNNBackbone(resnet50(), fpn), 256, num_classes)


# --8<-- [end:module]
