"""RetinaNet: classify and refine a dense grid of boxes, learning from the hard ones.

Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017,
arXiv:1708.02002, sections 3 and 4.
Legend: N images, H x W pixels, D pyramid channels, K classes, A anchors of all levels,
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
from cnn_techniques.detection.anchors_and_box_coding import (
    anchor_shapes,
    decode_boxes,
    encode_boxes,
    grid_anchors,
    match_anchors,
)
from cnn_techniques.detection.feature_pyramid_network import (
    FeaturePyramidNetwork,
    FeaturePyramidP6P7,
)
from cnn_techniques.modern.resnet import ResNet, resnet50


# --8<-- [start:module]
def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Binary cross-entropy, each term times (1 - p_t)^gamma: a loss for each logit."""
    if logits.shape != targets.shape:
        shapes = tuple(logits.shape), tuple(targets.shape)
        raise ValueError(f"logits and targets must have one shape, got {shapes}")
    if not 0 <= alpha <= 1 or gamma < 0:
        raise ValueError(f"need alpha in [0, 1] and gamma >= 0, got {alpha=}, {gamma=}")
    # --8<-- [start:focal]
    p = torch.sigmoid(logits)
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    log_p_t = -F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    wrong = (1 - p_t).clamp(min=torch.finfo(p.dtype).tiny)  # the slope at 0 is infinite
    return -alpha_t * wrong**gamma * log_p_t
    # --8<-- [end:focal]


def retinanet_anchors(grid: tuple[int, int], stride: int, size: float) -> Tensor:
    """The nine anchors, 3 shapes x 3 scales, of every cell of a level's grid.

    Args:
        grid: height and width of the level.
        stride: pixels of the image from one cell to the next.
        size: side of the smallest square anchor; in whole pixels, as torchvision's.

    Shape: (9 * grid height * grid width, 4), cell after cell.
    """
    scales = [float(int(size * 2 ** (i / 3))) for i in range(3)]
    return grid_anchors(anchor_shapes(scales, (0.5, 1.0, 2.0)), grid, stride)


def _retinanet_conv(d: int, outputs: int, std: float, bias: float = 0.0) -> nn.Conv2d:
    conv = nn.Conv2d(d, outputs, 3, padding=1)
    nn.init.normal_(conv.weight, std=std)
    nn.init.constant_(conv.bias, bias)  # type: ignore[arg-type]
    return conv


def _retinanet_tower(d: int, std: float) -> nn.Sequential:
    # Each pair in a Sequential of its own: torchvision's keys are conv.0.0.weight.
    pairs = (nn.Sequential(_retinanet_conv(d, d, std), nn.ReLU()) for _ in range(4))
    return nn.Sequential(*pairs)


def _retinanet_rows(x: Tensor, width: int) -> Tensor:
    """(N, 9 * width, H, W) -> (N, H * W * 9, width), in the order of the anchors."""
    n, _, h, w = x.shape
    return x.view(n, 9, width, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, width)


class RetinaNetClassificationHead(nn.Module):
    """K logits an anchor, at first of probability 0.01: (N, D, H, W) -> (N, A, K)."""

    def __init__(self, channels: int, num_classes: int, std: float = 0.01) -> None:
        super().__init__()
        self.conv = _retinanet_tower(channels, std)
        prior = -math.log((1 - 0.01) / 0.01)
        self.cls_logits = _retinanet_conv(channels, 9 * num_classes, 0.01, prior)
        self.num_classes = num_classes

    def forward(self, level: Tensor) -> Tensor:
        return _retinanet_rows(self.cls_logits(self.conv(level)), self.num_classes)


class RetinaNetRegressionHead(nn.Module):
    """Four offsets an anchor, whatever its class: (N, D, H, W) -> (N, A, 4)."""

    def __init__(self, channels: int, std: float = 0.01) -> None:
        super().__init__()
        self.conv = _retinanet_tower(channels, std)
        self.bbox_reg = _retinanet_conv(channels, 9 * 4, 0.01)

    def forward(self, level: Tensor) -> Tensor:
        return _retinanet_rows(self.bbox_reg(self.conv(level)), 4)


class RetinaNetBackbone(nn.Module):
    """A ResNet, taken over without its classifier, and a pyramid on its last maps."""

    def __init__(self, resnet: ResNet, fpn: FeaturePyramidNetwork) -> None:
        super().__init__()
        self.body = resnet
        self.body.fc = nn.Identity()  # type: ignore[assignment]
        self.fpn = fpn

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.body.features(images)[1:]  # C3, C4, C5: 1/8, 1/16, 1/32
        levels: list[Tensor] = self.fpn(maps)
        return levels


class RetinaNetOutput(NamedTuple):
    """What the network says of every anchor, finest level first."""

    logits: Tensor  # (N, A, K)
    offsets: Tensor  # (N, A, 4)
    anchors: Tensor  # (A, 4)
    level_sizes: list[int]  # how many of the A anchors each level has
    image_size: tuple[int, int]  # H, W


class RetinaNet(nn.Module):
    """A backbone's pyramid, every level of which is read by the same two heads.

    Args:
        backbone: gives the levels of a batch of images, finest first, D channels each.
        channels: D, the width of the backbone's levels (paper: 256).
        num_classes: K, without background; torchvision's weights count it, as class 0.
        anchor_sizes: side of each level's smallest square anchor (paper: 32 to 512).
        strides: pixels of the image from one cell of each level to the next.
        tower_std: spread of the heads' first weights. The paper's 0.01 suits its D;
            narrow heads start to learn late with it, and soon with (2 / (9 D))^0.5.

    Shape: (N, C, H, W) -> RetinaNetOutput, for retinanet_loss and retinanet_detections.
    Raises: ValueError for sizes below 1, another input, or other levels.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        anchor_sizes: Sequence[float] = (32, 64, 128, 256, 512),
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        tower_std: float = 0.01,
    ) -> None:
        super().__init__()
        given = f"{channels=}, {num_classes=}, {anchor_sizes=}, {strides=}"
        if min(channels, num_classes, *anchor_sizes, *strides) < 1:
            raise ValueError(f"sizes must be at least 1, got {given}")
        if len(strides) != len(anchor_sizes):
            raise ValueError(f"expected a stride for each anchor size, got {given}")
        self.backbone = backbone
        classes = RetinaNetClassificationHead(channels, num_classes, tower_std)
        boxes = RetinaNetRegressionHead(channels, tower_std)
        self.head = nn.ModuleDict(
            {"classification_head": classes, "regression_head": boxes}
        )
        self.anchor_sizes, self.strides = tuple(anchor_sizes), tuple(strides)

    def forward(self, images: Tensor) -> RetinaNetOutput:
        if images.ndim != 4:
            raise ValueError(f"expected images (N, C, H, W), got {tuple(images.shape)}")
        levels, size = self.backbone(images), (images.shape[2], images.shape[3])
        if len(levels) != len(self.anchor_sizes):
            told = f"one anchor size a level, got {len(levels)} levels"
            raise ValueError(f"expected {told} and {self.anchor_sizes=}")
        logits = [self.head["classification_head"](level) for level in levels]
        offsets = [self.head["regression_head"](level) for level in levels]
        anchors = []
        for level, side, stride in zip(
            levels, self.anchor_sizes, self.strides, strict=True
        ):
            grid = level.shape[2], level.shape[3]
            if any(abs(grid[i] * stride - size[i]) >= stride for i in (0, 1)):
                told = f"a cell every {stride} of {size} pixels, got a level of {grid}"
                raise ValueError(f"expected {told} cells")
            anchors.append(retinanet_anchors(grid, stride, side).to(images))
        sizes = [len(a) for a in anchors]
        merged = torch.cat(logits, dim=1), torch.cat(offsets, dim=1), torch.cat(anchors)
        return RetinaNetOutput(*merged, sizes, size)


def retinanet_loss(
    output: RetinaNetOutput, targets: Sequence[dict[str, Tensor]], gamma: float = 2.0
) -> dict[str, Tensor]:
    """Focal loss of the decided anchors, L1 of the matched; both per matched anchor.

    Args:
        output: of RetinaNet.
        targets: for each image boxes (M, 4), as x1 y1 x2 y2 in pixels, and labels (M,),
            integers in 0..K-1; M may be 0.
        gamma: how fast a loss falls as its class is got right (paper: 2).

    Raises: ValueError for other labels, or a box without height or width.
    """
    if len(targets) != len(output.logits):
        raise ValueError(f"{len(targets)} targets for {len(output.logits)} images")
    classification, regression = [], []
    for logits, offsets, target in zip(
        output.logits, output.offsets, targets, strict=True
    ):
        boxes, labels = target["boxes"], target["labels"]
        if boxes.shape != (len(labels), 4) or labels.is_floating_point():
            given = f"{tuple(boxes.shape)}, {labels.dtype} {tuple(labels.shape)}"
            raise ValueError(f"expected boxes (M, 4), integer labels (M,), got {given}")
        labels = labels.long()  # uint8 would be taken for a mask
        if bool((boxes[:, 2:] <= boxes[:, :2]).any()):
            raise ValueError(f"expected x1 < x2 and y1 < y2, got {boxes.tolist()}")
        if bool(((labels < 0) | (labels >= logits.shape[1])).any()):
            raise ValueError(
                f"labels must be in 0..{logits.shape[1] - 1}, got {labels}"
            )
        # --8<-- [start:loss]
        match = match_anchors(boxes, output.anchors)  # (A,)
        positive, decided = match >= 0, match != -2
        count = positive.sum().clamp(min=1)
        wanted = torch.zeros_like(logits)  # (A, K)
        wanted[positive, labels[match[positive]]] = 1
        focal = sigmoid_focal_loss(logits, wanted, gamma=gamma)
        classification.append(focal[decided].sum() / count)
        exact = encode_boxes(boxes[match[positive]], output.anchors[positive])
        regression.append((offsets[positive] - exact).abs().sum() / count)
        # --8<-- [end:loss]
    return {
        "classification": torch.stack(classification).mean(),
        "bbox_regression": torch.stack(regression).mean(),
    }


@torch.no_grad()
def retinanet_detections(
    output: RetinaNetOutput,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    candidates: int = 1000,
    limit: int = 300,
) -> list[dict[str, Tensor]]:
    """For each image the boxes (M, 4), scores (M,) and labels (M,) found, surest first.

    Args:
        output: of RetinaNet.
        score_threshold: what is less probable is dropped.
        iou_threshold: of two boxes of a class that overlap by more, the surer stays.
        candidates: how many of each level are considered.
        limit: how many of an image are given back. COCO's measure counts 100 of them
            (maxDets); torchvision gives back 300.
    """
    height, width = output.image_size
    found = []
    for logits, offsets in zip(output.logits, output.offsets, strict=True):
        parts = []
        per_anchor = logits.sigmoid(), offsets, output.anchors
        levels = zip(*(t.split(output.level_sizes) for t in per_anchor), strict=True)
        for probability, shift, anchors in levels:
            scores = probability.flatten()  # (anchors of the level * K,)
            above = torch.where(scores > score_threshold)[0]
            scores, order = scores[above].topk(min(candidates, len(above)))
            row, label = above[order] // logits.shape[1], above[order] % logits.shape[1]
            parts.append((decode_boxes(shift[row], anchors[row]), scores, label))
        boxes, scores, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        largest = boxes.new_tensor([width, height, width, height])
        boxes = boxes.clamp(min=0).minimum(largest)
        keep = batched_nms(boxes, scores, labels, iou_threshold)[:limit]
        kept = {"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]}
        found.append(kept)
    return found


def retinanet_resnet50_fpn(num_classes: int = 91) -> RetinaNet:
    """On ResNet-50, with P3 to P7; key names and shapes are torchvision's."""
    fpn = FeaturePyramidNetwork([512, 1024, 2048], 256, FeaturePyramidP6P7(256, 256))
    return RetinaNet(RetinaNetBackbone(resnet50(), fpn), 256, num_classes)


# --8<-- [end:module]
