"""YOLACT: masks of the whole image, and for each object how much of each to take.

Source: Bolya et al., "YOLACT: Real-time Instance Segmentation", ICCV 2019,
arXiv:1904.02689v2, sections 3 and 4; settings of the authors' code (dbolya/yolact,
commit 902073d) where the paper gives none.
Legend: N images, H x W pixels, D pyramid channels, K classes, A anchors of all levels,
M objects or detections of an image, k prototypes of h x w; boxes are (x1, y1, x2, y2).
"""

# --8<-- [start:imports]
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.detection.anchors_and_box_coding import (
    box_iou,
    decode_boxes,
    encode_boxes,
    match_anchors,
)
from cnn_techniques.detection.feature_pyramid_network import FeaturePyramidNetwork
from cnn_techniques.modern.resnet import ResNet, resnet50, resnet101


# --8<-- [start:module]
# ---- masks from prototypes
def crop_masks(masks: Tensor, boxes: Tensor, padding: float = 1) -> Tensor:
    """Zero outside of the boxes: (M, h, w), (M, 4) in the masks' pixels -> (M, h, w).

    Args:
        masks: any numbers.
        boxes: one for each mask.
        padding: pixels that are kept around a box.
    """
    # --8<-- [start:crop]
    h, w = masks.shape[1:]
    y, x = torch.arange(h).to(boxes)[:, None], torch.arange(w).to(boxes)
    x1, y1, x2, y2 = boxes[:, :, None, None].unbind(dim=1)  # (M, 1, 1) each
    inside = (x >= x1 - padding) & (x < x2 + padding)
    inside = inside & (y >= y1 - padding) & (y < y2 + padding)
    return masks * inside
    # --8<-- [end:crop]


def prototype_logits(prototypes: Tensor, coefficients: Tensor) -> Tensor:
    """Masks before the sigmoid: (k, h, w), (M, k) -> (M, h, w)."""
    if len(prototypes) != coefficients.shape[1]:
        shapes = f"{tuple(prototypes.shape)} and {tuple(coefficients.shape)}"
        raise ValueError(f"expected (k, h, w) and (M, k), got {shapes}")
    # --8<-- [start:masks]
    logits = torch.einsum("khw,mk->mhw", prototypes, coefficients)
    # --8<-- [end:masks]
    return logits


@torch.no_grad()
def fast_nms(boxes: Tensor, iou_threshold: float = 0.5) -> Tensor:
    """Which of each class's boxes stay: (K, n, 4), surest first -> (K, n), true or not.

    A box goes if a surer one of its class overlaps it by more than the threshold,
    whether or not that one stays itself.
    """
    # --8<-- [start:nms]
    iou = torch.vmap(box_iou)(boxes, boxes)  # (K, n, n)
    surer = iou.triu(diagonal=1)  # row i, column j: only i < j
    return ~(surer > iou_threshold).any(dim=1)
    # --8<-- [end:nms]


# ---- the network
class YOLACTPyramid(FeaturePyramidNetwork):
    """A feature pyramid, upsampled bilinearly, with ReLU, and coarser levels by stride.

    Args:
        in_channels: of each map, from the finest to the coarsest.
        channels: D, the width of every level.
        extra: coarser levels, each made from the one before.

    Shape: maps (N, C_l, H_l, W_l), finest first -> levels (N, D, H_l, W_l), and extra.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int = 256, extra: int = 2
    ) -> None:
        super().__init__(in_channels, channels)
        self.downsample = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(extra)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        x, levels = maps[-1].new_zeros(()), []  # type: ignore[var-annotated]
        for i in reversed(range(len(maps))):
            if levels:
                x = F.interpolate(x, maps[i].shape[-2:], mode="bilinear")
            x = x + self.inner_blocks[i](maps[i])
            levels.insert(0, torch.relu(self.layer_blocks[i](x)))
        for conv in self.downsample:
            levels.append(conv(levels[-1]))
        return levels


class YOLACTProtonet(nn.Sequential):
    """k masks of the whole image, none below 0: (N, D, h, w) -> (N, k, 2 h, 2 w)."""

    def __init__(self, channels: int, prototypes: int) -> None:
        def conv() -> list[nn.Module]:
            return [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]

        up = nn.Upsample(scale_factor=2, mode="bilinear")
        last = nn.Conv2d(channels, prototypes, 1)
        super().__init__(*conv(), *conv(), *conv(), up, *conv(), last, nn.ReLU())


class YOLACTHead(nn.Module):
    """K + 1 logits, four offsets and k coefficients for each of a cell's anchors.

    Shape: (N, D, H, W) -> (N, A, K + 1), (N, A, 4), (N, A, k), cell after cell.
    """

    def __init__(self, channels: int, widths: Sequence[int], anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        classes, boxes, masks = (
            nn.Conv2d(channels, anchors * width, 3, padding=1) for width in widths
        )
        self.classes, self.boxes, self.masks, self.widths = (
            classes,
            boxes,
            masks,
            widths,
        )

    def forward(self, level: Tensor) -> tuple[Tensor, ...]:
        # --8<-- [start:head]
        x = torch.relu(self.conv(level))
        parts = self.classes(x), self.boxes(x), torch.tanh(self.masks(x))
        # --8<-- [end:head]
        return tuple(
            part.permute(0, 2, 3, 1).reshape(part.shape[0], -1, width)
            for part, width in zip(parts, self.widths, strict=True)
        )


class YOLACTOutput(NamedTuple):
    """What the network says of every anchor, finest level first, and of the image."""

    logits: Tensor  # (N, A, K + 1), class 0 the background
    offsets: Tensor  # (N, A, 4)
    coefficients: Tensor  # (N, A, k)
    prototypes: Tensor  # (N, k, h, w)
    semantic: Tensor  # (N, K, H / 8, W / 8), logits; only the training uses them
    anchors: Tensor  # (A, 4)
    image_size: tuple[int, int]  # H, W


class YOLACT(nn.Module):
    """A detector whose anchors have mask coefficients, beside prototypes of the image.

    Args:
        resnet: is taken over, without its classifier; its last three stages are read.
        channels: D, of the pyramid, the heads and the protonet (paper: 256).
        num_classes: K, without background.
        prototypes: k (paper: 32).
        anchor_sizes: of each level from P3 on, root of the area in pixels; P6 and
            further ones are made for what exceeds three.
        ratios: width / height of a cell's anchors.
        square: give each ratio's anchor its height too, as in the authors' weights.

    Shape: (N, C, H, W) -> YOLACTOutput, for yolact_loss and yolact_detections.
    Raises: ValueError for sizes below 1, fewer than three levels, or another input.
    """

    def __init__(
        self,
        resnet: ResNet,
        channels: int = 256,
        num_classes: int = 80,
        prototypes: int = 32,
        anchor_sizes: Sequence[float] = (24, 48, 96, 192, 384),
        ratios: Sequence[float] = (1, 0.5, 2),
        square: bool = False,
    ) -> None:
        super().__init__()
        given = f"{channels=}, {num_classes=}, {prototypes=}, {anchor_sizes=}"
        if min(channels, num_classes, prototypes, *anchor_sizes) < 1 or not ratios:
            raise ValueError(f"sizes must be at least 1, got {given}, {ratios=}")
        if len(anchor_sizes) < 3 or len(resnet.stages) < 4:
            stages = f"{len(resnet.stages)} stages"
            raise ValueError(f"expected 3 levels and 4 stages, got {given}, {stages}")
        last = resnet.fc.in_features
        self.anchor_sizes, self.ratios = tuple(anchor_sizes), tuple(ratios)
        self.square = square
        self.fpn = YOLACTPyramid(
            [last // 4, last // 2, last], channels, len(anchor_sizes) - 3
        )
        self.proto_net = YOLACTProtonet(channels, prototypes)
        self.head = YOLACTHead(channels, (num_classes + 1, 4, prototypes), len(ratios))
        self.semantic = nn.Conv2d(channels, num_classes, 1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.xavier_uniform_(conv.weight)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.backbone = resnet  # after the loop: its own first weights stay
        self.backbone.fc = nn.Identity()  # type: ignore[assignment]

    def anchors(
        self, level: int, grid: tuple[int, int], size: tuple[int, int]
    ) -> Tensor:
        """Of one level, centred in its cells, which share the image evenly."""
        root = torch.tensor(self.ratios).sqrt()
        w, h = self.anchor_sizes[level] * root, self.anchor_sizes[level] / root
        h = w if self.square else h
        rows, columns = ((torch.arange(n) + 0.5) / n for n in grid)
        y, x = torch.meshgrid(rows * size[0], columns * size[1], indexing="ij")
        y, x = y.reshape(-1, 1), x.reshape(-1, 1)
        corners = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        return torch.stack(corners, dim=-1).view(-1, 4)

    def forward(self, images: Tensor) -> YOLACTOutput:
        size = (images.shape[-2], images.shape[-1])
        levels = self.fpn(self.backbone.features(images)[-3:])
        parts = zip(*(self.head(level) for level in levels), strict=True)
        logits, offsets, coefficients = (torch.cat(part, dim=1) for part in parts)
        grids = [(level.shape[2], level.shape[3]) for level in levels]
        anchors = [self.anchors(i, grid, size) for i, grid in enumerate(grids)]
        return YOLACTOutput(
            logits,
            offsets,
            coefficients,
            self.proto_net(levels[0]),
            self.semantic(levels[0]),
            torch.cat(anchors).to(images),
            size,
        )


# ---- training
CODE = (10.0, 10.0, 5.0, 5.0)  # weights of the box code, SSD's variances 0.1 and 0.2


def hard_negatives(logits: Tensor, match: Tensor, ratio: int = 3) -> Tensor:
    """The background anchors with the largest losses: (A, K + 1), (A,) -> (A,) bool.

    Args:
        logits: class 0 is the background.
        match: of match_anchors: an object's index, -1 background, -2 neither.
        ratio: negatives for each matched anchor.
    """
    # --8<-- [start:ohem]
    loss = -logits.detach().log_softmax(dim=1)[:, 0]  # of being background
    loss = loss.masked_fill(match != -1, -torch.inf)
    count = min(ratio * int((match >= 0).sum()), int((match == -1).sum()))
    chosen = torch.zeros_like(match, dtype=torch.bool)
    chosen[loss.sort(descending=True, stable=True).indices[:count]] = True
    # --8<-- [end:ohem]
    return chosen


def shrunken_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (M, H, W) of whole objects, true or not, at another size: (M, h, w)."""
    small = F.interpolate(masks[:, None].float(), size, mode="bilinear")  # (M, 1, h, w)
    return small[:, 0] > 0.5


def yolact_loss(
    output: YOLACTOutput, targets: Sequence[dict[str, Tensor]], limit: int = 100
) -> dict[str, Tensor]:
    """Classes, boxes and masks per matched anchor of the batch; semantic per image.

    Args:
        output: of YOLACT.
        targets: for each image boxes (M, 4), as x1 y1 x2 y2 in pixels, labels (M,),
            integers in 0..K-1, and masks (M, H, W), true or not; M may be 0.
        limit: masks of an image that are learnt from; of more this many are drawn.

    Raises: ValueError for other shapes or labels, or a box without height or width.
    """
    if len(targets) != len(output.logits):
        raise ValueError(f"{len(targets)} targets for {len(output.logits)} images")
    (height, width), (h, w) = output.image_size, output.prototypes.shape[2:]
    shrink = output.anchors.new_tensor([w / width, h / height]).repeat(2)
    matched = 0
    sums = [output.logits.new_zeros(()) for _ in range(4)]
    for n, target in enumerate(targets):
        boxes, labels, masks = _yolact_target(target, output)
        match = match_anchors(boxes, output.anchors)  # (A,)
        positive = match >= 0
        objects, count = match[positive], int(positive.sum())
        matched += count
        # --8<-- [start:classes]
        logits = output.logits[n]
        wanted = torch.zeros_like(match)
        wanted[positive] = labels[objects] + 1  # class 0 is the background
        learnt = positive | hard_negatives(logits, match)
        sums[0] += F.cross_entropy(logits[learnt], wanted[learnt], reduction="sum")
        # --8<-- [end:classes]
        exact = encode_boxes(boxes[objects], output.anchors[positive], CODE)
        box_loss = F.smooth_l1_loss(output.offsets[n][positive], exact, reduction="sum")
        sums[1] += box_loss
        drawn = torch.randperm(count, device=match.device)[:limit]
        drawn = drawn.sort().values
        small = boxes[objects[drawn]] * shrink  # in the prototypes' pixels
        # --8<-- [start:mask-loss]
        coefficients = output.coefficients[n][positive][drawn]
        mask_logits = prototype_logits(output.prototypes[n], coefficients)
        truth = shrunken_masks(masks, (h, w))[objects[drawn]].to(mask_logits)
        loss = F.binary_cross_entropy_with_logits(mask_logits, truth, reduction="none")
        area = (small[:, 2:] - small[:, :2]).prod(dim=1)
        per_mask = crop_masks(loss, small).sum(dim=(1, 2)) / area  # (M,)
        # --8<-- [end:mask-loss]
        sums[2] += per_mask.sum() * (count / max(len(drawn), 1))
        semantic = output.semantic[n]
        shape = (semantic.shape[1], semantic.shape[2])
        present = torch.zeros_like(semantic)
        for label, mask in zip(labels, shrunken_masks(masks, shape), strict=True):
            present[label] = present[label].maximum(mask.to(present))
        per_pixel = F.binary_cross_entropy_with_logits(semantic, present) * len(present)
        sums[3] += per_pixel / len(targets)
    count = max(matched, 1)
    # --8<-- [start:sum]
    return {
        "classification": sums[0] / count,
        "bbox_regression": 1.5 * sums[1] / count,
        "mask": 6.125 * sums[2] / count,
        "semantic": sums[3],
    }
    # --8<-- [end:sum]


def _yolact_target(
    target: dict[str, Tensor], output: YOLACTOutput
) -> tuple[Tensor, ...]:
    boxes, labels, masks = target["boxes"], target["labels"], target["masks"]
    m, classes = len(labels), output.logits.shape[2] - 1
    if boxes.shape != (m, 4) or masks.shape != (m, *output.image_size):
        given = f"{tuple(boxes.shape)}, {tuple(masks.shape)}"
        wanted = f"({m}, 4), ({m}, {output.image_size[0]}, {output.image_size[1]})"
        raise ValueError(f"expected boxes and masks {wanted}, got {given}")
    if labels.is_floating_point() or bool(((labels < 0) | (labels >= classes)).any()):
        raise ValueError(f"labels must be integers in 0..{classes - 1}, got {labels}")
    if bool((boxes[:, 2:] <= boxes[:, :2]).any()):
        raise ValueError(f"expected x1 < x2 and y1 < y2, got {boxes.tolist()}")
    return boxes.to(output.anchors), labels.long(), masks


# ---- detecting
@torch.no_grad()
def yolact_detections(
    output: YOLACTOutput,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    candidates: int = 200,
    limit: int = 100,
    crop: bool = True,
) -> list[dict[str, Tensor]]:
    """For each image boxes (M, 4), scores, labels (M,), masks (M, H, W), surest first.

    Args:
        output: of YOLACT.
        score_threshold: what is less probable is dropped.
        iou_threshold: a box that overlaps a surer one of its class by more is dropped.
        candidates: how many of each class are considered.
        limit: how many of an image are given back.
        crop: set masks to false outside of their boxes.
    """
    (height, width), (h, w) = output.image_size, output.prototypes.shape[2:]
    largest = output.anchors.new_tensor([width, height]).repeat(2)
    shrink = output.anchors.new_tensor([w / width, h / height]).repeat(2)
    found = []
    for n, logits in enumerate(output.logits):
        boxes = decode_boxes(output.offsets[n], output.anchors, CODE)  # (A, 4)
        probability = logits.softmax(dim=1)[:, 1:].T  # (K, A)
        scores, rows = probability.sort(dim=1, descending=True, stable=True)
        scores, rows = scores[:, :candidates], rows[:, :candidates]
        keep = fast_nms(boxes[rows], iou_threshold) & (scores > score_threshold)
        labels = torch.where(keep)[0]  # (M,)
        rows, scores = rows[keep], scores[keep]
        order = scores.sort(descending=True, stable=True).indices[:limit]
        rows, scores, labels = rows[order], scores[order], labels[order]
        masks = prototype_logits(output.prototypes[n], output.coefficients[n][rows])
        masks = masks.sigmoid()
        boxes = boxes[rows].clamp(min=0).minimum(largest)
        if crop:
            masks = crop_masks(masks, boxes * shrink)
        masks = F.interpolate(masks[:, None], (height, width), mode="bilinear")[:, 0]
        masks = masks > 0.5
        kept = {"boxes": boxes, "scores": scores, "labels": labels, "masks": masks}
        found.append(kept)
    return found


def _yolact_sizes(size: int) -> list[int]:
    return [int(side / 550 * size) for side in (24, 48, 96, 192, 384)]


def yolact_resnet50(num_classes: int = 80, size: int = 550) -> YOLACT:
    return YOLACT(resnet50(), num_classes=num_classes, anchor_sizes=_yolact_sizes(size))


def yolact_resnet101(num_classes: int = 80, size: int = 550) -> YOLACT:
    """For square images of this size in pixels: 550, 400 or 700 in the paper."""
    return YOLACT(
        resnet101(), num_classes=num_classes, anchor_sizes=_yolact_sizes(size)
    )


# --8<-- [end:module]
