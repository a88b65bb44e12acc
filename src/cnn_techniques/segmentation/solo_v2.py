"""SOLOv2: a cell of a grid names an object and writes the kernel of its mask.

Source: Wang et al., "SOLOv2: Dynamic and Fast Instance Segmentation", NeurIPS 2020,
arXiv:2003.10152, section 2; cells and ranges as in SOLO, ECCV 2020, arXiv:1912.04488;
details of the authors' code, WXinlong/SOLO, commit f4cd03b.
Legend: N images, H x W pixels, D pyramid channels, K classes, S x S cells of a level,
E channels of the mask features, h x w their size (a quarter), M objects of an image.
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.detection.feature_pyramid_network import (
    FeaturePyramidNetwork,
    FeaturePyramidPool,
)
from cnn_techniques.detection.retinanet import sigmoid_focal_loss
from cnn_techniques.modern.resnet import ResNet

# --8<-- [start:module]
# ---- the network


def with_coordinates(x: Tensor) -> Tensor:
    """Two more channels, where a cell lies: x and y from -1 to 1 (CoordConv)."""
    n, _, height, width = x.shape
    across = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device)
    down = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device)[:, None]
    across, down = (side.expand(n, 1, height, width) for side in (across, down))
    return torch.cat([x, across, down], dim=1)


class SOLOv2Conv(nn.Sequential):
    """Convolution without bias, group norm, ReLU: (N, C, H, W) -> (N, D, H, W)."""

    def __init__(self, channels: int, width: int, groups: int, kernel: int = 3) -> None:
        conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
        nn.init.normal_(conv.weight, std=0.01)
        super().__init__(conv, nn.GroupNorm(groups, width), nn.ReLU())


class SOLOv2Head(nn.Module):
    """For each cell of a level's grid the logits of the classes, and a kernel.

    Args:
        channels: D, of the levels.
        width: of the convolutions before the two answers.
        num_classes: K.
        kernel_channels: E.
        convs: how many of them each answer has.
        groups: of their group norms.

    Shape: level (N, D, H, W) and S -> (N, K, S, S), (N, E, S, S).
    """

    def __init__(
        self,
        channels: int,
        width: int,
        num_classes: int,
        kernel_channels: int,
        convs: int,
        groups: int,
    ) -> None:
        super().__init__()
        widths = [channels + 2] + convs * [width]
        kernel = [SOLOv2Conv(c, width, groups) for c in widths[:-1]]
        widths[0] = channels
        category = [SOLOv2Conv(c, width, groups) for c in widths[:-1]]
        self.kernel_convs = nn.Sequential(*kernel)
        self.category_convs = nn.Sequential(*category)
        self.kernel = nn.Conv2d(width, kernel_channels, 3, padding=1)
        self.category = nn.Conv2d(width, num_classes, 3, padding=1)
        for conv in (self.kernel, self.category):
            nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(self.kernel.bias)  # type: ignore[arg-type]
        # A probability of 0.01 at the start, as the focal loss wants it.
        nn.init.constant_(self.category.bias, -math.log(99))  # type: ignore[arg-type]

    def forward(self, level: Tensor, grid: int) -> tuple[Tensor, Tensor]:
        # --8<-- [start:head]
        cells = F.interpolate(with_coordinates(level), (grid, grid), mode="bilinear")
        kernels = self.kernel(self.kernel_convs(cells))  # (N, E, S, S)
        logits = self.category(self.category_convs(cells[:, :-2]))  # no coordinates
        return logits, kernels
        # --8<-- [end:head]


class SOLOv2MaskBranch(nn.Module):
    """One map for all objects: the levels, enlarged step by step to the finest, added.

    Args:
        channels: D, of the levels.
        width: of the convolutions.
        out_channels: E.
        levels: how many are read, finest first.
        groups: of the group norms.

    Shape: levels (N, D, H_l, W_l) -> (N, E, H_0, W_0).
    """

    def __init__(
        self, channels: int, width: int, out_channels: int, levels: int, groups: int
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for level in range(levels):  # coordinates go in at the coarsest alone
            first = channels + 2 * (level == levels - 1)
            widths = [first] + max(level, 1) * [width]
            convs = [SOLOv2Conv(c, width, groups) for c in widths[:-1]]
            self.branches.append(nn.ModuleList(convs))
        self.last = SOLOv2Conv(width, out_channels, groups, kernel=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        # --8<-- [start:features]
        maps = [*levels[: len(self.branches) - 1]]
        maps.append(with_coordinates(levels[len(self.branches) - 1]))
        total: Tensor | None = None
        for number, (x, convs) in enumerate(zip(maps, self.branches, strict=True)):
            for conv in convs:  # type: ignore[attr-defined]
                x = conv(x)
                if number:  # level l is enlarged l times
                    x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
            total = x if total is None else total + x
        features: Tensor = self.last(total)
        return features
        # --8<-- [end:features]


class SOLOv2Backbone(nn.Module):
    """A ResNet, taken over without its classifier, and a pyramid on all its maps."""

    def __init__(self, resnet: ResNet, fpn: FeaturePyramidNetwork) -> None:
        super().__init__()
        self.body = resnet
        self.body.fc = nn.Identity()  # type: ignore[assignment]
        self.fpn = fpn

    def forward(self, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.fpn(self.body.features(images))
        return levels


class SOLOv2Output(NamedTuple):
    """What the cells of all grids say, and the features that their kernels are for."""

    logits: list[Tensor]  # of each level (N, K, S, S)
    kernels: list[Tensor]  # of each level (N, E, S, S)
    features: Tensor  # (N, E, h, w)
    image_size: tuple[int, int]  # H, W


class SOLOv2(nn.Module):
    """A pyramid, a head that all its levels share, and one map of mask features.

    Args:
        backbone: gives levels of a quarter, an eighth, ... of the image, D channels.
        channels: D.
        num_classes: K, without background.
        grids: S of each level.
        width: of the head.
        mask_width: of the mask branch.
        kernel_channels: E.
        convs: of the head, before each answer.
        mask_levels: how many levels the mask branch reads.
        groups: of the group norms.

    Shape: (N, C, H, W) -> SOLOv2Output; sides are multiples of the coarsest stride.
    Raises: ValueError for sizes below 1, other images, or another number of levels.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        grids: Sequence[int] = (40, 36, 24, 16, 12),
        width: int = 512,
        mask_width: int = 128,
        kernel_channels: int = 256,
        convs: int = 4,
        mask_levels: int = 4,
        groups: int = 32,
    ) -> None:
        super().__init__()
        given = f"{channels=}, {num_classes=}, {grids=}, {width=}, {kernel_channels=}"
        if min(channels, num_classes, width, kernel_channels, convs, *grids) < 1:
            raise ValueError(f"sizes must be at least 1, got {given}")
        if not 1 <= mask_levels <= len(grids):
            raise ValueError(f"expected 1 to {len(grids)} levels, got {mask_levels=}")
        self.backbone, self.grids = backbone, tuple(grids)
        self.head = SOLOv2Head(
            channels, width, num_classes, kernel_channels, convs, groups
        )
        self.mask_branch = SOLOv2MaskBranch(
            channels, mask_width, kernel_channels, mask_levels, groups
        )
        self.coarsest = 4 * 2 ** (mask_levels - 1)

    def forward(self, images: Tensor) -> SOLOv2Output:
        if images.ndim != 4 or any(s % self.coarsest for s in images.shape[2:]):
            expected = f"(N, C, H, W), sides multiples of {self.coarsest}"
            raise ValueError(f"expected images {expected}, got {tuple(images.shape)}")
        levels = list(self.backbone(images))
        if len(levels) != len(self.grids):
            raise ValueError(f"{len(levels)} levels, expected {self.grids=}")
        features = self.mask_branch(levels)
        # The finest is read at half its size, the coarsest at that of the one before.
        levels[0] = F.interpolate(levels[0], scale_factor=0.5, mode="bilinear")
        levels[-1] = F.interpolate(levels[-1], levels[-2].shape[2:], mode="bilinear")
        answers = [self.head(x, s) for x, s in zip(levels, self.grids, strict=True)]
        logits, kernels = ([*part] for part in zip(*answers, strict=True))
        size = (images.shape[2], images.shape[3])
        return SOLOv2Output(logits, kernels, features, size)


# ---- loss


def dice_loss(p: Tensor, q: Tensor) -> Tensor:
    """One less twice the overlap over the sum of squares, of each mask: (M,).

    Shape: probabilities (M, h, w), true masks (M, h, w) -> (M,), from 0 to 1.
    """
    # --8<-- [start:dice]
    both = (p * q).sum(dim=(1, 2))
    squares = p.square().sum(dim=(1, 2)) + q.square().sum(dim=(1, 2))
    return 1 - 2 * both / (squares + 0.002)
    # --8<-- [end:dice]


def solo_v2_assign(
    boxes: Tensor,
    masks: Tensor,
    grids: Sequence[int],
    ranges: Sequence[tuple[float, float]],
    sigma: float = 0.2,
) -> list[Tensor]:
    """Which object each cell learns, (S, S) of each level; -1 for none.

    Args:
        boxes: (M, 4), as x1 y1 x2 y2 in pixels.
        masks: (M, H, W), bool.
        grids: S of each level.
        ranges: smallest and largest root of the box's area that a level learns.
        sigma: part of the box, around the mask's centre of mass, whose cells learn it.
    """
    height, width = masks.shape[1:]
    mass = masks.sum(dim=(1, 2)).clamp(min=1)
    rows = torch.arange(height, device=masks.device)
    columns = torch.arange(width, device=masks.device)
    centre = [
        (masks.sum(dim=1) * columns).sum(dim=1) / mass / width,
        (masks.sum(dim=2) * rows).sum(dim=1) / mass / height,
    ]  # x and y in parts of the image
    sides = (boxes[:, 2:] - boxes[:, :2]).to(torch.get_default_dtype())
    half = sides * sigma / 2 / torch.tensor([width, height]).to(sides)
    size = sides.prod(dim=1).sqrt()
    result = []
    # --8<-- [start:assign]
    for s, (low, high) in zip(grids, ranges, strict=True):
        learns = torch.full((s, s), -1, device=masks.device)
        for i in torch.where((size >= low) & (size <= high) & masks.any(2).any(1))[0]:
            span = []
            for axis in (1, 0):  # rows, then columns; at most one cell to each side
                middle = int(centre[axis][i] * s)
                first = int((centre[axis][i] - half[i, axis]).clamp(min=0) * s)
                last = int((centre[axis][i] + half[i, axis]) * s)
                last = min(last, middle + 1, s - 1)
                span.append(slice(max(first, middle - 1), last + 1))
            learns[tuple(span)] = i
        result.append(learns)
    # --8<-- [end:assign]
    return result


SOLO_RANGES = ((1.0, 96.0), (48.0, 192.0), (96.0, 384.0), (192.0, 768.0), (384.0, 2048))


def solo_v2_loss(
    output: SOLOv2Output,
    targets: Sequence[dict[str, Tensor]],
    ranges: Sequence[tuple[float, float]] = SOLO_RANGES,
) -> dict[str, Tensor]:
    """Focal loss of all cells, and three times the Dice loss of those that learn.

    Args:
        output: of SOLOv2.
        targets: for each image boxes (M, 4), labels (M,) in 0..K-1 and masks (M, H, W),
            bool; M may be 0.
        ranges: of each level, as of solo_v2_assign.

    Raises: ValueError for targets of another form.
    """
    _check_solo_v2_targets(targets, output)
    grids = [z.shape[-1] for z in output.logits]
    wanted = [torch.zeros_like(z) for z in output.logits]
    dice = []
    for n, target in enumerate(targets):
        found = solo_v2_assign(target["boxes"], target["masks"], grids, ranges)
        small = F.interpolate(
            target["masks"][:, None].to(output.features),
            output.features.shape[2:],
            mode="bilinear",
        )[:, 0].round()
        for level, learns in enumerate(found):
            # --8<-- [start:masks]
            row, column = torch.where(learns >= 0)
            i = learns[row, column]
            wanted[level][n, target["labels"].long()[i], row, column] = 1
            kernels = output.kernels[level][n, :, row, column]  # (E, cells)
            logits = torch.einsum("ec,ehw->chw", kernels, output.features[n])
            dice.append(dice_loss(logits.sigmoid(), small[i]))
            # --8<-- [end:masks]
    parts = torch.cat(dice)
    pairs = zip(output.logits, wanted, strict=True)
    focal = torch.stack([sigmoid_focal_loss(z, y).sum() for z, y in pairs]).sum()
    return {
        "loss_category": focal / (len(parts) + 1),
        "loss_mask": 3 * parts.sum() / max(len(parts), 1),
    }


def _check_solo_v2_targets(
    targets: Sequence[dict[str, Tensor]], output: SOLOv2Output
) -> None:
    """Raises: ValueError for masks of another size or type, or labels not in 0..K-1."""
    if len(targets) != len(output.features):
        raise ValueError(f"{len(targets)} targets for {len(output.features)} images")
    k = output.logits[0].shape[1]
    for target in targets:
        boxes, labels, masks = target["boxes"], target["labels"], target["masks"]
        count, size = len(labels), output.image_size
        if masks.shape != (count, *size) or masks.dtype != torch.bool:
            given = f"{masks.dtype} {tuple(masks.shape)}"
            raise ValueError(f"expected masks, bool {(count, *size)}, got {given}")
        if boxes.shape != (count, 4) or labels.is_floating_point():
            given = f"{tuple(boxes.shape)}, {labels.dtype}"
            raise ValueError(
                f"expected boxes ({count}, 4), integer labels, got {given}"
            )
        if bool(((labels < 0) | (labels >= k)).any()):
            raise ValueError(f"labels must be in 0..{k - 1}, got {labels}")


# ---- detections


def matrix_nms(
    masks: Tensor, labels: Tensor, scores: Tensor, sigma: float = 2.0
) -> Tensor:
    """Scores, lowered by how much each mask overlaps surer ones of its class.

    Args:
        masks: (M, h, w), bool, the surest first.
        labels: (M,).
        scores: (M,), descending.
        sigma: how fast a score falls with the overlap; the paper divides by its own.

    Shape: -> (M,).
    """
    if len(scores) == 0:
        return scores
    flat = masks.flatten(1).to(scores)
    both, area = flat @ flat.T, flat.sum(dim=1)
    # --8<-- [start:matrix]
    iou = both / (area[:, None] + area - both).clamp(min=1)
    iou = (iou * (labels[:, None] == labels)).triu(diagonal=1)  # (surer, less sure)
    most = iou.amax(dim=0)[:, None]  # how much the surer one is itself suppressed
    decay = torch.exp(-sigma * (iou.square() - most.square())).amin(dim=0)
    return scores * decay
    # --8<-- [end:matrix]


@torch.no_grad()
def solo_v2_detections(
    output: SOLOv2Output,
    score_threshold: float = 0.1,
    update_threshold: float = 0.05,
    limit: int = 100,
    before: int = 500,
    strides: Sequence[int] = (8, 8, 16, 32, 32),
) -> list[dict[str, Tensor]]:
    """For each image masks (M, H, W), scores, labels and boxes (M, 4), surest first.

    Args:
        output: of SOLOv2.
        score_threshold: cells less probable are dropped.
        update_threshold: masks less sure after Matrix NMS are dropped.
        limit: how many of an image are given back.
        before: how many go into Matrix NMS.
        strides: of each level; a mask has to have more pixels, at a quarter, than that.
    """
    found = []
    for n, features in enumerate(output.features):
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for z, kernel, stride in zip(
            output.logits, output.kernels, strides, strict=True
        ):
            # --8<-- [start:cells]
            p = z[n].sigmoid()  # (K, S, S)
            near = F.max_pool2d(p, 2, stride=1, padding=1)[:, :-1, :-1]
            p = torch.where(near == p, p, 0)  # of a cell and those above and left
            label, row, column = torch.where(p > score_threshold)
            # --8<-- [end:cells]
            least = torch.full_like(label, stride)
            parts.append(
                (p[label, row, column], label, kernel[n, :, row, column].T, least)
            )
        score, label, kernels, least = (torch.cat(x) for x in zip(*parts, strict=True))
        # --8<-- [start:detections]
        soft = torch.einsum("ce,ehw->chw", kernels, features).sigmoid()
        area = (soft > 0.5).sum(dim=(1, 2))
        keep = area > least
        score, label, soft, area = score[keep], label[keep], soft[keep], area[keep]
        score = score * (soft * (soft > 0.5)).sum(dim=(1, 2)) / area  # maskness
        order = score.argsort(descending=True, stable=True)[:before]
        score, label, soft = score[order], label[order], soft[order]
        score = matrix_nms(soft > 0.5, label, score)
        order = score.argsort(descending=True, stable=True)
        order = order[score[order] >= update_threshold][:limit]
        large = F.interpolate(soft[order, None], output.image_size, mode="bilinear")
        masks = large[:, 0] > 0.5
        # --8<-- [end:detections]
        kept = {"scores": score[order], "labels": label[order], "masks": masks}
        found.append({"boxes": _solo_v2_boxes(masks).to(score), **kept})
    return found


def _solo_v2_boxes(masks: Tensor) -> Tensor:
    """The smallest box around each mask, (M, 4); zeros around none."""
    sides = []
    for line in (masks.any(dim=1), masks.any(dim=2)):  # columns, rows
        first = line.int().argmax(dim=1)
        last = line.shape[1] - line.flip(1).int().argmax(dim=1)
        sides.append(torch.stack([first, last * line.any(dim=1)], dim=1))
    (x1, x2), (y1, y2) = (side.unbind(1) for side in sides)
    return torch.stack([x1, y1, x2, y2], dim=1)


def solo_v2(resnet: ResNet, num_classes: int = 80) -> SOLOv2:
    """On a ResNet with P2 to P6, in the paper's sizes."""
    width = resnet.fc.in_features
    maps = [width // 8, width // 4, width // 2, width]
    fpn = FeaturePyramidNetwork(maps, 256, FeaturePyramidPool())
    return SOLOv2(SOLOv2Backbone(resnet, fpn), 256, num_classes)


# --8<-- [end:module]
