"""RetinaNet: classify and refine a dense grid of anchor boxes; the loss keeps quiet about the easy ones.

Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002, sections 3 and 4.
Legend: N images, H x W pixels, D pyramid channels, K classes, A anchors of all levels, M objects of an image;
boxes are (x1, y1, x2, y2) in pixels.
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
from cnn_techniques.detection.feature_pyramid_network import FeaturePyramidNetwork, FeaturePyramidP6P7
from cnn_techniques.modern.resnet import ResNet, resnet50


# --8<-- [start:module]
# --8<-- [start:focal]
def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Binary cross-entropy, each term scaled down by (1 - p_t)^gamma; as many values as logits."""
    if logits.shape != targets.shape:
        raise ValueError(f"shapes must be equal, got {tuple(logits.shape)} and {tuple(targets.shape)}")
    if not 0 <= alpha <= 1 or gamma < 0:
        raise ValueError(f"need alpha in [0, 1] and gamma >= 0, got {alpha=}, {gamma=}")
    p = torch.sigmoid(logits)
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")  # -log(p_t)
    return alpha_t * (1 - p_t) ** gamma * cross_entropy


# --8<-- [end:focal]


def retinanet_anchors(grid: tuple[int, int], image: tuple[int, int], size: float) -> Tensor:
    """The nine anchors of every cell of one level: 3 shapes x 3 scales, (9 * grid height * grid width, 4)."""
    scales = torch.tensor([float(int(size * 2 ** (i / 3))) for i in range(3)])  # whole, as torchvision's
    ratios = torch.tensor([0.5, 1.0, 2.0])[:, None]  # height / width
    half_w, half_h = (scales / ratios.sqrt() / 2).flatten(), (scales * ratios.sqrt() / 2).flatten()
    shapes = torch.stack([-half_w, -half_h, half_w, half_h], dim=1).round()  # (9, 4)
    y = torch.arange(grid[0]) * (image[0] // grid[0])
    x = torch.arange(grid[1]) * (image[1] // grid[1])
    y, x = torch.meshgrid(y, x, indexing="ij")
    corners = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)  # (grid height * grid width, 1, 4)
    return (corners + shapes).view(-1, 4)


def _retinanet_centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + size / 2, size


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Shift in anchor sizes and logarithm of the scale that lead from each anchor to its box: (M, 4)."""
    (centre, size), (anchor_centre, anchor_size) = _retinanet_centres(boxes), _retinanet_centres(anchors)
    return torch.cat([(centre - anchor_centre) / anchor_size, (size / anchor_size).log()], dim=1)


def decode_boxes(offsets: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of encode_boxes; a box grows at most to 1000 / 16 of its anchor."""
    anchor_centre, anchor_size = _retinanet_centres(anchors)
    centre = offsets[:, :2] * anchor_size + anchor_centre
    size = offsets[:, 2:].clamp(max=math.log(1000 / 16)).exp() * anchor_size
    return torch.cat([centre - size / 2, centre + size / 2], dim=1)


# --8<-- [start:match]
def match_anchors(boxes: Tensor, anchors: Tensor, low: float = 0.4, high: float = 0.5) -> Tensor:
    """The object of each anchor: its index, -1 for background, -2 for neither: (A,)."""
    if len(boxes) == 0:
        return torch.full((len(anchors),), -1, device=anchors.device)
    corner = torch.maximum(boxes[:, None, :2], anchors[:, :2])
    inside = (torch.minimum(boxes[:, None, 2:], anchors[:, 2:]) - corner).clamp(min=0).prod(dim=2)  # (M, A)
    area, anchor_area = _retinanet_centres(boxes)[1].prod(dim=1), _retinanet_centres(anchors)[1].prod(dim=1)
    iou = inside / (area[:, None] + anchor_area - inside)  # (M, A)
    best, index = iou.max(dim=0)  # (A,), (A,)
    matched = index.where(best >= high, torch.where(best < low, -1, -2))
    most = iou.max(dim=1, keepdim=True).values  # (M, 1)
    favourite = ((iou == most) & (iou > 0)).any(dim=0)  # no object goes without an anchor
    return index.where(favourite, matched)


# --8<-- [end:match]


def _retinanet_tower(channels: int) -> nn.Sequential:
    # Convolution and ReLU stand in a Sequential of their own: torchvision's keys are conv.0.0.weight.
    return nn.Sequential(
        *(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()) for _ in range(4))
    )


def _retinanet_rows(x: Tensor, width: int) -> Tensor:
    """(N, 9 * width, H, W) -> (N, H * W * 9, width), in the order of the anchors."""
    n, _, h, w = x.shape
    return x.view(n, 9, width, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, width)


class RetinaNetClassificationHead(nn.Module):
    """K logits for each anchor: (N, D, H, W) -> (N, 9 * H * W, K)."""

    def __init__(self, channels: int, num_classes: int, prior: float = 0.01) -> None:
        super().__init__()
        self.conv = _retinanet_tower(channels)
        self.cls_logits = nn.Conv2d(channels, 9 * num_classes, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]
        self.num_classes = num_classes

    def forward(self, level: Tensor) -> Tensor:
        return _retinanet_rows(self.cls_logits(self.conv(level)), self.num_classes)


class RetinaNetRegressionHead(nn.Module):
    """Four offsets for each anchor, whatever the class: (N, D, H, W) -> (N, 9 * H * W, 4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _retinanet_tower(channels)
        self.bbox_reg = nn.Conv2d(channels, 9 * 4, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, level: Tensor) -> Tensor:
        return _retinanet_rows(self.bbox_reg(self.conv(level)), 4)


class RetinaNetBackbone(nn.Module):
    """A ResNet, taken over without its classifier, and a pyramid on the maps of its last three stages."""

    def __init__(self, resnet: ResNet, fpn: FeaturePyramidNetwork) -> None:
        super().__init__()
        self.body = resnet
        self.body.fc = nn.Identity()  # type: ignore[assignment]
        self.fpn = fpn

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.body.features(images)[1:]  # C3, C4, C5: 1/8, 1/16 and 1/32 of the image
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
    """A backbone's pyramid, read by one classification and one regression head.

    Args:
        backbone: gives the pyramid levels of a batch of images, finest first, all D channels wide.
        channels: D.
        num_classes: K; there is no background class (torchvision's weights count one, class 0).
        anchor_sizes: side of the smallest square anchor of each level (paper: 32 to 512 for P3 to P7).

    Shape: (N, 3, H, W) -> RetinaNetOutput, which retinanet_loss and retinanet_detections read.
    Raises: ValueError for sizes below 1, an input of another shape, or another number of levels.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        anchor_sizes: Sequence[float] = (32, 64, 128, 256, 512),
    ) -> None:
        super().__init__()
        if min(channels, num_classes, *anchor_sizes) < 1:
            raise ValueError(f"sizes must be >= 1, got {channels=}, {num_classes=}, {anchor_sizes=}")
        self.backbone = backbone
        self.head = nn.ModuleDict(
            {
                "classification_head": RetinaNetClassificationHead(channels, num_classes),
                "regression_head": RetinaNetRegressionHead(channels),
            }
        )
        self.anchor_sizes = tuple(anchor_sizes)

    def forward(self, images: Tensor) -> RetinaNetOutput:
        if images.ndim != 4:
            raise ValueError(f"expected a batch (N, channels, H, W), got {tuple(images.shape)}")
        levels, image_size = self.backbone(images), (images.shape[2], images.shape[3])
        if len(levels) != len(self.anchor_sizes):
            raise ValueError(f"{len(levels)} levels, but {len(self.anchor_sizes)} sizes: {self.anchor_sizes}")
        anchors = [
            retinanet_anchors((level.shape[2], level.shape[3]), image_size, size).to(level)
            for level, size in zip(levels, self.anchor_sizes, strict=True)
        ]
        return RetinaNetOutput(
            torch.cat([self.head["classification_head"](level) for level in levels], dim=1),
            torch.cat([self.head["regression_head"](level) for level in levels], dim=1),
            torch.cat(anchors),
            [len(a) for a in anchors],
            image_size,
        )


# --8<-- [start:loss]
def retinanet_loss(
    output: RetinaNetOutput, targets: Sequence[dict[str, Tensor]], gamma: float = 2.0
) -> dict[str, Tensor]:
    """Focal loss of all anchors but the undecided, L1 of the matched; each divided by their number.

    Args:
        output: of RetinaNet.
        targets: for each image its boxes (M, 4) and labels (M,), from 0 to K - 1; M may be 0.
        gamma: how fast the loss of an anchor falls as its class is got right (paper: 2).
    """
    if len(targets) != len(output.logits):
        raise ValueError(f"{len(targets)} targets for {len(output.logits)} images")
    classification, regression = output.logits.new_zeros(()), output.offsets.new_zeros(())
    for logits, offsets, target in zip(output.logits, output.offsets, targets, strict=True):
        boxes, labels = target["boxes"], target["labels"]
        if boxes.shape != (len(labels), 4) or bool((boxes[:, 2:] <= boxes[:, :2]).any()):
            raise ValueError(f"expected {len(labels)} boxes x1 < x2, y1 < y2, got {boxes.tolist()}")
        if bool(((labels < 0) | (labels >= logits.shape[1])).any()):
            raise ValueError(f"expected labels from 0 to {logits.shape[1] - 1}, got {labels.tolist()}")
        match = match_anchors(boxes, output.anchors)  # (A,)
        positive = match >= 0
        wanted = torch.zeros_like(logits)  # (A, K)
        wanted[positive, labels[match[positive]]] = 1
        count = positive.sum().clamp(min=1)
        decided = match != -2
        classification = (
            classification + sigmoid_focal_loss(logits, wanted, gamma=gamma)[decided].sum() / count
        )
        exact = encode_boxes(boxes[match[positive]], output.anchors[positive])
        regression = regression + (offsets[positive] - exact).abs().sum() / count
    return {"classification": classification / len(targets), "bbox_regression": regression / len(targets)}


# --8<-- [end:loss]


@torch.no_grad()
def retinanet_detections(
    output: RetinaNetOutput,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    candidates: int = 1000,
    limit: int = 300,
) -> list[dict[str, Tensor]]:
    """The boxes (M, 4), scores (M,) and labels (M,) found in each image, the surest first.

    Args:
        output: of RetinaNet.
        score_threshold: what is less probable is dropped.
        iou_threshold: of two boxes of a class that overlap by more, the surer stays.
        candidates: how many of each level are considered.
        limit: how many of an image are given back (paper: 100).
    """
    found = []
    for logits, offsets in zip(output.logits, output.offsets, strict=True):
        parts = []
        levels = (t.split(output.level_sizes) for t in (logits.sigmoid(), offsets, output.anchors))
        for probability, shift, anchors in zip(*levels, strict=True):
            scores = probability.flatten()  # (anchors * K,)
            above = torch.where(scores > score_threshold)[0]
            scores, order = scores[above].topk(min(candidates, len(above)))
            row, label = above[order] // logits.shape[1], above[order] % logits.shape[1]
            parts.append((decode_boxes(shift[row], anchors[row]), scores, label))
        boxes, scores, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        height, width = output.image_size
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        keep = batched_nms(boxes, scores, labels, iou_threshold)[:limit]
        found.append({"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]})
    return found


def retinanet_resnet50_fpn(num_classes: int = 91) -> RetinaNet:
    """ResNet-50, levels P3 to P7 of 256 channels; key names and shapes are torchvision's."""
    fpn = FeaturePyramidNetwork([512, 1024, 2048], 256, FeaturePyramidP6P7(256, 256))
    return RetinaNet(RetinaNetBackbone(resnet50(), fpn), 256, num_classes)


# --8<-- [end:module]
