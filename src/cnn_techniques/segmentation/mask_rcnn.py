"""Mask R-CNN: a detector of boxes, and a small network that draws a mask in each box.

Source: He et al., "Mask R-CNN", ICCV 2017, arXiv:1703.06870v3, section 3 and figure 4
(right), on a feature pyramid; settings of torchvision where the paper gives none.
Legend: N images, H x W pixels, D pyramid channels, K classes, B boxes of all images
whose masks are drawn, M objects or detections of an image, m = 28 rows of a mask.
"""

# --8<-- [start:imports]
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

# --8<-- [end:imports]
from cnn_techniques.detection.faster_rcnn import (
    FasterRCNN,
    FasterRCNNBackbone,
    FasterRCNNOutput,
    faster_rcnn_detections,
    faster_rcnn_loss,
    match_proposals,
)
from cnn_techniques.detection.feature_pyramid_network import (
    FeaturePyramidNetwork,
    FeaturePyramidPool,
)
from cnn_techniques.modern.resnet import resnet50

# --8<-- [start:module]
# ---- the branch that draws masks


class MaskRCNNHead(nn.Sequential):
    """Four 3x3 convolutions with ReLU: (B, D, 14, 14) -> (B, width, 14, 14)."""

    def __init__(self, channels: int, width: int) -> None:
        convs = [nn.Conv2d(c, width, 3, padding=1) for c in (channels, *3 * [width])]
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        # Each in its own Sequential: torchvision's key is 0.0.weight.
        super().__init__(*(nn.Sequential(conv, nn.ReLU()) for conv in convs))


class MaskRCNNPredictor(nn.Module):
    """A mask of logits for each class, and one for the background that is never read.

    Args:
        in_channels: of the head's result.
        width: channels between the two layers.
        num_classes: K, without background.

    Shape: (B, in_channels, 14, 14) -> (B, K + 1, 28, 28); channel 0 is the background.
    """

    def __init__(self, in_channels: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(in_channels, width, 2, stride=2)
        self.mask_fcn_logits = nn.Conv2d(width, num_classes + 1, 1)
        for layer in (self.conv5_mask, self.mask_fcn_logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.mask_fcn_logits(torch.relu(self.conv5_mask(x)))
        return logits


# ---- the network


class MaskRCNNOutput(NamedTuple):
    """What the detector says, and the masks in some boxes, image after image."""

    detector: FasterRCNNOutput
    found: list[dict[str, Tensor]]  # boxes, labels, and scores or objects
    masks: Tensor  # (B, 28, 28), logits for the label of each box


@torch.no_grad()
def proposals_with_objects(
    proposals: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]
) -> list[dict[str, Tensor]]:
    """For each image the proposals that have an object, which one, and its label.

    Args:
        proposals: (P_i, 4) of each image.
        targets: for each image boxes (M, 4) and labels (M,).
    """
    found = []
    for boxes, target in zip(proposals, targets, strict=True):
        match = match_proposals(target["boxes"].to(boxes), boxes)  # (P_i,)
        objects = match[match >= 0]
        kept = {"boxes": boxes[match >= 0], "labels": target["labels"].long()[objects]}
        found.append({**kept, "objects": objects})
    return found


class MaskRCNN(FasterRCNN):
    """Faster R-CNN, whose boxes are read again, at 14 x 14 positions, for masks.

    With targets, masks of a sample's objects are drawn: the output is for
    mask_rcnn_loss. Without them it is for mask_rcnn_detections.

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
        mask_width: channels of the layers that draw the masks.
        detections: of an image, the surest, whose masks are drawn.

    Shape: (N, C, H, W) -> MaskRCNNOutput.
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
        mask_width: int = 256,
        detections: int = 100,
    ) -> None:
        if min(mask_width, detections) < 1:
            given = f"{mask_width=}, {detections=}"
            raise ValueError(f"sizes must be at least 1, got {given}")
        stages = width, proposals, samples, canonical_size
        super().__init__(
            backbone, channels, num_classes, anchor_sizes, strides, *stages
        )
        predictor = MaskRCNNPredictor(mask_width, mask_width, num_classes)
        self.roi_heads["mask_head"] = MaskRCNNHead(channels, mask_width)
        self.roi_heads["mask_predictor"] = predictor
        self.detections = detections

    def forward(  # type: ignore[override]
        self, images: Tensor, targets: Sequence[dict[str, Tensor]] | None = None
    ) -> MaskRCNNOutput:
        # --8<-- [start:forward]
        detector = super().forward(images, targets)
        if targets is None:
            found = faster_rcnn_detections(detector, limit=self.detections)
        else:
            found = proposals_with_objects(detector.proposals, targets)
        boxes = [one["boxes"] for one in found]
        x = self.roi_heads["mask_head"](self.pool(detector.levels, boxes, 14))
        every = self.roi_heads["mask_predictor"](x)  # (B, K + 1, 28, 28)
        labels = torch.cat([one["labels"] for one in found])
        masks = every[torch.arange(len(every), device=every.device), labels + 1]
        # --8<-- [end:forward]
        return MaskRCNNOutput(detector, found, masks)


# ---- loss


def mask_targets(
    masks: Tensor, objects: Tensor, boxes: Tensor, size: int = 28
) -> Tensor:
    """The part of an object's mask that each box holds, as (B, size, size) from 0 to 1.

    Args:
        masks: (M, H, W) of an image, 0 to 1 or bool.
        objects: (B,), which of the masks.
        boxes: (B, 4) in the image.
        size: rows and columns of the result.
    """
    # --8<-- [start:targets]
    rois = torch.cat([objects[:, None].to(boxes), boxes], dim=1)  # (B, 5)
    return roi_align(masks[:, None].to(boxes), rois, size, spatial_scale=1.0)[:, 0]
    # --8<-- [end:targets]


def _check_masks(target: dict[str, Tensor], image_size: tuple[int, int]) -> None:
    """Raises: ValueError for masks that are not (M, H, W), or not from 0 to 1."""
    masks, expected = target["masks"], (len(target["labels"]), *image_size)
    if masks.shape != expected:
        raise ValueError(f"expected masks {expected}, got {tuple(masks.shape)}")
    if masks.numel() and (masks.min() < 0 or masks.max() > 1):
        raise ValueError(f"masks must be from 0 to 1, got up to {masks.max()}")


def mask_rcnn_loss(
    output: MaskRCNNOutput, targets: Sequence[dict[str, Tensor]], samples: int = 256
) -> dict[str, Tensor]:
    """The four losses of Faster R-CNN and that of the masks, under torchvision's names.

    Args:
        output: of MaskRCNN, which was given the same targets.
        targets: for each image boxes (M, 4), as x1 y1 x2 y2 in pixels, labels (M,) in
            0..K-1, and masks (M, H, W) from 0 to 1 or bool; M may be 0.
        samples: anchors drawn in each image.

    Raises: ValueError for other targets, or an output made without them.
    """
    losses = faster_rcnn_loss(output.detector, targets, samples)
    exact = []
    for found, target in zip(output.found, targets, strict=True):
        if "objects" not in found:
            raise ValueError("the output was made without targets, expected with them")
        _check_masks(target, output.detector.image_size)
        exact.append(mask_targets(target["masks"], found["objects"], found["boxes"]))
    # --8<-- [start:loss]
    z, y = output.masks, torch.cat(exact).to(output.masks)  # both (B, 28, 28)
    total = F.binary_cross_entropy_with_logits(z, y, reduction="sum")
    return {**losses, "loss_mask": total / max(z.numel(), 1)}
    # --8<-- [end:loss]


# ---- detections


def paste_masks(masks: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Each mask at its box's place and size in an image of zeros: (M, H, W).

    Args:
        masks: (M, m, m), probabilities.
        boxes: (M, 4), may reach over the border.
        image_size: height and width in pixels.
    """
    height, width = image_size
    pasted = masks.new_zeros(len(masks), height, width)
    # --8<-- [start:paste]
    grown = (masks.shape[-1] + 2) / masks.shape[-1]  # by a border of zeros
    centre = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * grown
    corners = torch.cat([centre - half, centre + half], dim=1).long()  # whole pixels
    padded = F.pad(masks, (1, 1, 1, 1))
    for canvas, mask, (x1, y1, x2, y2) in zip(
        pasted, padded, corners.tolist(), strict=True
    ):
        size = (y2 - y1 + 1, x2 - x1 + 1)
        resized = F.interpolate(mask[None, None], size, mode="bilinear")[0, 0]
        top, left = max(y1, 0), max(x1, 0)
        part = resized[top - y1 : max(height - y1, 0), left - x1 : max(width - x1, 0)]
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    # --8<-- [end:paste]
    return pasted


@torch.no_grad()
def mask_rcnn_detections(
    output: MaskRCNNOutput, mask_threshold: float = 0.5
) -> list[dict[str, Tensor]]:
    """For each image boxes (M, 4), scores (M,), labels (M,) and masks (M, H, W), bool.

    Args:
        output: of MaskRCNN, without targets; its detections come surest first.
        mask_threshold: a pixel with a higher probability belongs to the object.

    Raises: ValueError for an output that was made with targets.
    """
    if any("scores" not in found for found in output.found):
        raise ValueError("the output was made with targets, expected without")
    counts, detections = [len(found["boxes"]) for found in output.found], []
    # --8<-- [start:detections]
    drawn = torch.split(output.masks.sigmoid(), counts)
    for found, masks in zip(output.found, drawn, strict=True):
        pasted = paste_masks(masks, found["boxes"], output.detector.image_size)
        detections.append({**found, "masks": pasted > mask_threshold})
    # --8<-- [end:detections]
    return detections


def maskrcnn_resnet50_fpn(num_classes: int = 90) -> MaskRCNN:
    """On ResNet-50, with P2 to P6; key names and shapes are torchvision's for K + 1."""
    fpn = FeaturePyramidNetwork([256, 512, 1024, 2048], 256, FeaturePyramidPool())
    return MaskRCNN(FasterRCNNBackbone(resnet50(), fpn), 256, num_classes)


# --8<-- [end:module]
