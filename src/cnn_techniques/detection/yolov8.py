"""YOLOv8: a one-stage detector without anchors, whose boxes are made of distributions.

Source: Jocher et al., "Ultralytics YOLOv8", software, 2023; there is no paper. Written
from published descriptions of its layers, not from its code. The box loss is that of
Zheng et al., "Distance-IoU Loss", AAAI 2020, arXiv:1911.08287, section 3.
Legend: N images, H x W pixels, K classes, A points of all levels, M objects of an
image, R bins of a distance; boxes are (x1, y1, x2, y2) in pixels.
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
from cnn_techniques.detection.task_aligned_assignment import (
    distribution_focal_loss,
    expected_distance,
    task_aligned_assignment,
)


# --8<-- [start:module]
class YOLOv8Conv(nn.Sequential):
    """Convolution without bias, batch norm and SiLU, of odd kernel, padded."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
            nn.SiLU(),
        )


class C2fBottleneck(nn.Module):
    """Two convolutions of 3 x 3, with or without a shortcut, of one width: c -> c."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = YOLOv8Conv(channels, channels, 3)
        self.conv2 = YOLOv8Conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x))
        return x + out if self.shortcut else out


class C2f(nn.Module):
    """Half the channels go through n bottlenecks; every step of the way is kept.

    Args:
        outputs: an even number of channels, of which a bottleneck has half.

    Shape: (N, inputs, H, W) -> (N, outputs, H, W).
    """

    def __init__(self, inputs: int, outputs: int, n: int, shortcut: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = YOLOv8Conv(inputs, 2 * half, 1)
        self.blocks = nn.ModuleList(C2fBottleneck(half, shortcut) for _ in range(n))
        self.conv2 = YOLOv8Conv((2 + n) * half, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        # --8<-- [start:c2f]
        parts = list(self.conv1(x).chunk(2, dim=1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        out: Tensor = self.conv2(torch.cat(parts, dim=1))
        # --8<-- [end:c2f]
        return out


class SPPF(nn.Module):
    """Maxima over windows of 1, 5, 9 and 13 cells, by pooling 5 x 5 up to three times.

    Shape: (N, C, H, W) -> (N, C, H, W), C even.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = YOLOv8Conv(channels, channels // 2, 1)
        self.conv2 = YOLOv8Conv(channels // 2 * 4, channels, 1)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        # --8<-- [start:sppf]
        parts = [self.conv1(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        out: Tensor = self.conv2(torch.cat(parts, dim=1))
        # --8<-- [end:sppf]
        return out


class YOLOv8Output(NamedTuple):
    """What the network says of every point, P3 first."""

    logits: Tensor  # (N, A, K)
    bins: Tensor  # (N, A, 4, R), logits of the distances left, top, right, bottom
    points: Tensor  # (A, 2), x and y of the cells' centres, pixels
    stride: Tensor  # (A,), pixels from a cell to the next
    image_size: tuple[int, int]  # H, W


def _yolov8_branch(
    inputs: int, hidden: int, outputs: int, bias: float = 0.0
) -> nn.Sequential:
    first, second = YOLOv8Conv(inputs, hidden, 3), YOLOv8Conv(hidden, hidden, 3)
    last = nn.Conv2d(hidden, outputs, 1)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(first, second, last)


class YOLOv8(nn.Module):
    """A backbone of C2f blocks, a path down and up its levels, and a head on each.

    Args:
        num_classes: K, without background.
        depth: factor of the number of bottlenecks, of which each C2f has at least one.
        width: factor of the channels, rounded up to multiples of 8.
        max_channels: of a level, before `width` is applied.
        in_channels: of the images.
        bins: R; a side lies at most R - 1 strides from its point.
        prior: probability of each class at first.

    Shape: (N, in_channels, H, W) -> YOLOv8Output, for yolov8_loss, yolov8_detections.
    Raises: ValueError for sizes below 1, another input, H or W no multiple of 32.
    """

    def __init__(
        self,
        num_classes: int = 80,
        depth: float = 0.33,
        width: float = 0.25,
        max_channels: int = 1024,
        in_channels: int = 3,
        bins: int = 16,
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        sizes = min(num_classes, max_channels, in_channels, bins - 1)
        if sizes < 1 or min(depth, width) <= 0 or not 0 < prior < 1:
            given = (
                f"{num_classes=}, {depth=}, {width=}, {max_channels=}, {in_channels=}"
            )
            told = "sizes of at least 1, 2 bins, factors above 0 and prior in 0..1"
            raise ValueError(f"expected {told}, got {given}, {bins=}, {prior=}")
        # --8<-- [start:scale]
        c1, c2, c3, c4, c5 = (
            math.ceil(min(c, max_channels) * width / 8) * 8
            for c in (64, 128, 256, 512, 1024)
        )
        short, long = (max(round(n * depth), 1) for n in (3, 6))
        # --8<-- [end:scale]
        self.stem = YOLOv8Conv(in_channels, c1, 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(YOLOv8Conv(i, o, 3, 2), C2f(o, o, n, shortcut=True))
            for i, o, n in [(c1, c2, short), (c2, c3, long), (c3, c4, long)]
        )
        last = YOLOv8Conv(c4, c5, 3, 2), C2f(c5, c5, short, shortcut=True), SPPF(c5)
        self.stages.append(nn.Sequential(*last))
        self.down4 = C2f(c5 + c4, c4, short, shortcut=False)
        self.down3 = C2f(c4 + c3, c3, short, shortcut=False)
        self.reduce3, self.reduce4 = YOLOv8Conv(c3, c3, 3, 2), YOLOv8Conv(c4, c4, 3, 2)
        self.up4 = C2f(c3 + c4, c4, short, shortcut=False)
        self.up5 = C2f(c4 + c5, c5, short, shortcut=False)
        box, classes = max(16, c3 // 4, 4 * bins), max(c3, min(num_classes, 100))
        self.box_head = nn.ModuleList(
            _yolov8_branch(c, box, 4 * bins) for c in (c3, c4, c5)
        )
        logit = math.log(prior / (1 - prior))
        self.class_head = nn.ModuleList(
            _yolov8_branch(c, classes, num_classes, logit) for c in (c3, c4, c5)
        )
        self.bins = bins

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The three levels that the heads read, of 1/8, 1/16 and 1/32 of the sides."""
        x, levels = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        # --8<-- [start:neck]
        _, c3, c4, c5 = levels
        p4 = self.down4(torch.cat([F.interpolate(c5, scale_factor=2), c4], dim=1))
        p3 = self.down3(torch.cat([F.interpolate(p4, scale_factor=2), c3], dim=1))
        n4 = self.up4(torch.cat([self.reduce3(p3), p4], dim=1))
        n5 = self.up5(torch.cat([self.reduce4(n4), c5], dim=1))
        # --8<-- [end:neck]
        return [p3, n4, n5]

    def forward(self, images: Tensor) -> YOLOv8Output:
        if images.ndim != 4 or images.shape[2] % 32 or images.shape[3] % 32:
            told = "expected images (N, C, H, W), sides multiples of 32"
            raise ValueError(f"{told}, got {tuple(images.shape)}")
        logits, bins, points, strides = [], [], [], []
        for k, level in enumerate(self.pyramid(images)):
            stride = 2 ** (k + 3)
            logits.append(self.class_head[k](level).flatten(2).transpose(1, 2))
            sides = self.box_head[k](level).flatten(2).transpose(1, 2)
            bins.append(sides.unflatten(2, (4, self.bins)))
            y, x = (
                (torch.arange(n).to(images) + 0.5) * stride for n in level.shape[2:]
            )
            points.append(torch.cartesian_prod(y, x).flip(1))  # row after row
            strides.append(torch.full_like(points[-1][:, 0], stride))
        merged = torch.cat(logits, dim=1), torch.cat(bins, dim=1)
        size = images.shape[2], images.shape[3]
        return YOLOv8Output(*merged, torch.cat(points), torch.cat(strides), size)


def yolov8_boxes(output: YOLOv8Output) -> Tensor:
    """The box of every point, from the means of its four distances: (N, A, 4)."""
    # --8<-- [start:boxes]
    ltrb = expected_distance(output.bins) * output.stride[:, None]  # (N, A, 4), pixels
    lt, rb = ltrb[..., :2], ltrb[..., 2:]
    boxes = torch.cat([output.points - lt, output.points + rb], dim=-1)
    # --8<-- [end:boxes]
    return boxes


def ciou_loss(boxes: Tensor, others: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - complete IoU of each pair of boxes with height and width: (..., 4) -> (...).

    Args:
        boxes: predicted.
        others: true, in the same order.
        eps: keeps the divisions finite.
    """
    # --8<-- [start:ciou]
    lt, rb, lt_g, rb_g = (b[..., i : i + 2] for b in (boxes, others) for i in (0, 2))
    size, size_g = rb - lt, rb_g - lt_g  # w, h
    common = (rb.minimum(rb_g) - lt.maximum(lt_g)).clamp(min=0).prod(dim=-1)
    iou = common / (size.prod(dim=-1) + size_g.prod(dim=-1) - common + eps)
    rho2 = ((lt + rb - lt_g - rb_g) / 2).square().sum(dim=-1)  # between the centres
    c2 = (rb.maximum(rb_g) - lt.minimum(lt_g)).square().sum(dim=-1)  # of the hull
    angle, angle_g = (torch.atan2(s[..., 0], s[..., 1]) for s in (size, size_g))
    v = 4 / math.pi**2 * (angle_g - angle).square()  # of aspect ratios w / h
    alpha = (v / (1 - iou + v + eps)).detach()
    return 1 - iou + rho2 / (c2 + eps) + alpha * v
    # --8<-- [end:ciou]


def yolov8_loss(
    output: YOLOv8Output,
    targets: Sequence[dict[str, Tensor]],
    gains: tuple[float, float, float] = (7.5, 0.5, 1.5),
    m: int = 10,
) -> dict[str, Tensor]:
    """CIoU and distribution focal loss of the chosen points, cross-entropy of all.

    Args:
        output: of YOLOv8.
        targets: for each image boxes (M, 4), as x1 y1 x2 y2 in pixels, and labels (M,),
            integers in 0..K-1; M may be 0.
        gains: factors of box, class and distribution focal loss.
        m: points that learn an object, at most.

    Raises: ValueError for targets of another form, or a box without height or width.
    """
    if len(targets) != len(output.logits):
        raise ValueError(f"{len(targets)} targets for {len(output.logits)} images")
    predicted, scores = yolov8_boxes(output), output.logits.sigmoid()
    wanted, exact, positive = torch.zeros_like(output.logits), [], []
    for n, target in enumerate(targets):
        boxes, labels = target["boxes"].to(output.points), target["labels"]
        objects, score = task_aligned_assignment(
            scores[n], predicted[n], output.points, boxes, labels, 0.5, 6.0, m
        )
        if bool((boxes[:, 2:] <= boxes[:, :2]).any()):
            raise ValueError(f"expected x1 < x2 and y1 < y2, got {boxes.tolist()}")
        at = (objects >= 0).nonzero()[:, 0]  # the chosen points
        wanted[n, at, labels.long()[objects[at]]] = score[at]
        exact.append(boxes[objects[at]])
        positive.append(torch.stack([torch.full_like(at, n), at]))
    image, at = torch.cat(positive, dim=1)
    # --8<-- [start:loss]
    truth, points = torch.cat(exact), output.points[at]
    total, weight = wanted.sum().clamp(min=1), wanted[image, at].sum(dim=1)
    ciou = ciou_loss(predicted[image, at], truth) * weight
    bce = F.binary_cross_entropy_with_logits(output.logits, wanted, reduction="sum")
    ltrb = torch.cat([points - truth[:, :2], truth[:, 2:] - points], dim=1)
    ltrb = (ltrb / output.stride[at, None]).clamp(max=output.bins.shape[-1] - 1)
    dfl = distribution_focal_loss(output.bins[image, at], ltrb).mean(dim=1) * weight
    # --8<-- [end:loss]
    return {
        "box": gains[0] * ciou.sum() / total,
        "class": gains[1] * bce / total,
        "dfl": gains[2] * dfl.sum() / total,
    }


@torch.no_grad()
def yolov8_detections(
    output: YOLOv8Output,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.7,
    candidates: int = 10_000,
    limit: int = 300,
) -> list[dict[str, Tensor]]:
    """For each image the boxes (M, 4), scores (M,) and labels (M,) found, surest first.

    Args:
        output: of YOLOv8.
        score_threshold: what has a lower score is dropped.
        iou_threshold: of two boxes of a class that overlap by more, the surer stays.
        candidates: how many pairs of point and class are considered.
        limit: how many of an image are given back.
    """
    height, width = output.image_size
    k, found = output.logits.shape[2], []
    boxes = yolov8_boxes(output).clamp(min=0)
    boxes = boxes.minimum(boxes.new_tensor([width, height, width, height]))
    for of_points, score in zip(boxes, output.logits.sigmoid(), strict=True):
        # --8<-- [start:detections]
        flat = score.flatten()  # (A * K,)
        above = (flat > score_threshold).nonzero()[:, 0]
        best, order = flat[above].topk(min(candidates, len(above)))
        kept, label = of_points[above[order] // k], above[order] % k
        keep = batched_nms(kept, best, label, iou_threshold)[:limit]
        # --8<-- [end:detections]
        found.append({"boxes": kept[keep], "scores": best[keep], "labels": label[keep]})
    return found


def yolov8n(num_classes: int = 80) -> YOLOv8:
    """YOLOv8 nano."""
    return YOLOv8(num_classes, depth=0.33, width=0.25)


def yolov8s(num_classes: int = 80) -> YOLOv8:
    """YOLOv8 small."""
    return YOLOv8(num_classes, depth=0.33, width=0.50)


def yolov8m(num_classes: int = 80) -> YOLOv8:
    """YOLOv8 medium."""
    return YOLOv8(num_classes, depth=0.67, width=0.75, max_channels=768)


def yolov8l(num_classes: int = 80) -> YOLOv8:
    """YOLOv8 large."""
    return YOLOv8(num_classes, depth=1.0, width=1.0, max_channels=512)


def yolov8x(num_classes: int = 80) -> YOLOv8:
    """YOLOv8 extra large."""
    return YOLOv8(num_classes, depth=1.0, width=1.25, max_channels=512)


# --8<-- [end:module]
