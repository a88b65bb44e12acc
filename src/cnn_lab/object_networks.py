"""The networks that find objects or label pixels: how each is trained, read and built.

A further network of floor 1 is one entry of `DETECTORS` or `SEGMENTERS`, and one function
for a narrow variant of it.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert

from cnn_techniques import detection, segmentation
from cnn_techniques.detection import (
    DETR,
    FCOS,
    BiFPN,
    DETRBackbone,
    EfficientDet,
    EfficientNetMaps,
    FasterRCNN,
    FasterRCNNBackbone,
    FeaturePyramidNetwork,
    FeaturePyramidPool,
    RetinaNet,
    RetinaNetBackbone,
    YOLOv8,
    detr_detections,
    detr_loss,
    faster_rcnn_detections,
    faster_rcnn_loss,
    fcos_detections,
    fcos_loss,
    retinanet_detections,
    retinanet_loss,
    yolov8_detections,
    yolov8_loss,
)
from cnn_techniques.modern import (
    BasicBlock,
    EfficientNet,
    ResNet,
    efficientnet_stages,
)
from cnn_techniques.segmentation import (
    FCN,
    DeepLabV3Plus,
    PSPNet,
    SegFormer,
    UNet,
    enlarged,
    fcn_loss,
    pspnet_loss,
)

from . import networks
from .coco import IGNORED
from .fit import Loss

Answer = Callable[[Any, Tensor], Any]


@dataclass(frozen=True)
class Kind:
    """How the networks of one class are trained and read.

    Args:
        loss: `loss(model, images, targets)`.
        answer: of the output and the images. A detector's: per image "boxes",
            "labels", "scores". A segmenter's: scores (N, K, H, W).
        exported: those of the output's fields that say all, each a tensor with the
            batch first; empty where the network cannot be exported.
        shared: those that are the same for all images.
    """

    loss: Loss
    answer: Answer
    exported: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


def _sum(loss: Callable[[Any, Any], dict[str, Tensor]]) -> Loss:
    """Of the parts of a detector's loss."""
    return lambda model, x, y: torch.stack(list(loss(model(x), y).values())).sum()


def _faster_rcnn_loss(model: nn.Module, x: Tensor, y: Any) -> Tensor:
    return torch.stack(list(faster_rcnn_loss(model(x, y), y).values())).sum()


def _detr_loss(model: nn.Module, x: Tensor, y: Any) -> Tensor:
    pixels = x.new_tensor([x.shape[3], x.shape[2]]).repeat(2)
    parts = [
        {**t, "boxes": box_convert(t["boxes"] / pixels, "xyxy", "cxcywh")} for t in y
    ]
    return torch.stack(list(detr_loss(model(x), parts).values())).sum()


def _pixel_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return _mean_loss(model(x), y)


def _segformer_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return _mean_loss(enlarged(model(x), y.shape[-2:]), y)


def _mean_loss(scores: Tensor, y: Tensor) -> Tensor:
    total = F.cross_entropy(scores, y, ignore_index=IGNORED, reduction="sum")
    return total / (y != IGNORED).sum().clamp(min=1)


def _found(detections: Callable[..., Any], **limits: Any) -> Answer:
    return lambda out, _: detections(out, **limits)


DETECTORS: dict[type[nn.Module], Kind] = {
    RetinaNet: Kind(
        _sum(retinanet_loss),
        _found(retinanet_detections, limit=100),
        ("logits", "offsets"),
        ("anchors",),
    ),
    EfficientDet: Kind(
        _sum(partial(retinanet_loss, gamma=1.5)),
        _found(retinanet_detections, limit=100),
        ("logits", "offsets"),
        ("anchors",),
    ),
    FCOS: Kind(
        _sum(fcos_loss),
        _found(fcos_detections, limit=100),
        ("logits", "ltrb", "centerness"),
        ("points.xy", "points.stride"),
    ),
    YOLOv8: Kind(
        _sum(yolov8_loss),
        _found(yolov8_detections, score_threshold=0.05, limit=100),
        ("logits", "bins"),
        ("points", "stride"),
    ),
    DETR: Kind(
        _detr_loss,
        lambda out, x: detr_detections(out, [(x.shape[2], x.shape[3])] * x.shape[0]),
        ("logits.-1", "boxes.-1"),  # the last layer's
    ),
    FasterRCNN: Kind(_faster_rcnn_loss, _found(faster_rcnn_detections)),
}
SEGMENTERS: dict[type[nn.Module], Kind] = {
    UNet: Kind(_pixel_loss, lambda out, _: out, ("scores",)),
    FCN: Kind(
        lambda model, x, y: fcn_loss(model(x), y, ignored=IGNORED),
        lambda out, _: out.out,
        ("out",),
    ),
    PSPNet: Kind(
        lambda model, x, y: pspnet_loss(model(x), y, ignored=IGNORED),
        lambda out, _: out.out,
        ("out",),
    ),
    DeepLabV3Plus: Kind(_pixel_loss, lambda out, _: out, ("scores",)),
    SegFormer: Kind(
        _segformer_loss, lambda out, x: enlarged(out, x.shape[2:]), ("scores",)
    ),
}


def _resnet(width: int) -> tuple[ResNet, list[int]]:
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=width)
    return body, [width, 2 * width, 4 * width, 8 * width]


def small_retinanet(
    num_classes: int, width: int = 16, smallest: float = 20
) -> RetinaNet:
    """On a ResNet-10, three levels; objects of about `smallest` to twice that."""
    body, maps = _resnet(width)
    backbone = RetinaNetBackbone(body, FeaturePyramidNetwork(maps[1:], 2 * width))
    sides = [smallest * factor for factor in (1, 1.4, 1.8)]
    std = (2 / (18 * width)) ** 0.5
    return RetinaNet(backbone, 2 * width, num_classes, sides, (8, 16, 32), std)


def small_fcos(num_classes: int, width: int = 16, smallest: float = 20) -> FCOS:
    body, maps = _resnet(width)
    backbone = RetinaNetBackbone(body, FeaturePyramidNetwork(maps[1:], 2 * width))
    bounds = (1.4 * smallest, 2 * smallest)
    strides = (8, 16, 32)
    return FCOS(
        backbone, 2 * width, num_classes, strides, bounds, groups=4, first_side=1.0
    )


def small_faster_rcnn(
    num_classes: int, width: int = 16, smallest: float = 20
) -> FasterRCNN:
    body, maps = _resnet(width)
    pyramid = FeaturePyramidNetwork(maps, 2 * width, FeaturePyramidPool())
    return FasterRCNN(
        FasterRCNNBackbone(body, pyramid),
        2 * width,
        num_classes,
        anchor_sizes=[smallest * factor for factor in (0.6, 1, 1.4, 1.8, 2.4)],
        width=8 * width,
        proposals=(100, 50),
        samples=32,
        canonical_size=112,
    )


def small_efficientdet(
    num_classes: int, width: int = 16, smallest: float = 20
) -> EfficientDet:
    """On half of B0's width at 16, three levels."""
    stages = efficientnet_stages(width=width / 32, depth=0.3)
    body = EfficientNet(stages, stem=width, head=8, drop_path=0.0)
    bifpn = BiFPN([stages[k].channels for k in (2, 4, 6)], 2 * width, 2, levels=3)
    sides = [smallest * factor for factor in (1, 1.4, 1.8)]
    maps = EfficientNetMaps(body)
    return EfficientDet(maps, bifpn, 2 * width, num_classes, 2, sides)


def small_yolov8(num_classes: int, width: int = 16) -> YOLOv8:
    """An eighth of YOLOv8's width at 16."""
    return YOLOv8(num_classes, depth=0.33, width=width / 128)


def small_detr(num_classes: int, width: int = 16, queries: int = 16) -> DETR:
    """On a ResNet of three stages; it learns slowly. No image has more objects than
    `queries` are found in."""
    backbone = DETRBackbone(ResNet(BasicBlock, (1, 1, 1), width=width))
    sizes = (queries, 4 * width, 4, (2, 2), 8 * width)
    return DETR(backbone, 4 * width, num_classes, *sizes, dropout=0.0)


def small_unet(num_classes: int, width: int = 8) -> UNet:
    return UNet(3, num_classes, width, padding=1)


def small_fcn(num_classes: int, width: int = 16) -> FCN:
    return FCN(_resnet(width)[0], num_classes)


def small_pspnet(num_classes: int, width: int = 16) -> PSPNet:
    return PSPNet(_resnet(width)[0], num_classes)


def small_deeplab(num_classes: int, width: int = 16) -> DeepLabV3Plus:
    """Its rates are for small images: 2, 4, 6 at an eighth of their side."""
    resnet = _resnet(width)[0]
    return DeepLabV3Plus(resnet, num_classes, 8, (2, 4, 6), 3 * width, dropout=0.1)


def small_segformer(num_classes: int, width: int = 16) -> SegFormer:
    widths, heads = [width * 2**k for k in range(4)], (1, 2, 4, 8)
    return SegFormer(widths, (1, 1, 1, 1), 4 * width, num_classes, heads)


SMALL = {
    "detect": (
        small_retinanet,
        small_efficientdet,
        small_fcos,
        small_yolov8,
        small_detr,
        small_faster_rcnn,
    ),
    "segment": (small_unet, small_fcn, small_pspnet, small_deeplab, small_segformer),
}
PLACES = {"detect": detection, "segment": segmentation}


@cache
def parts(command: str) -> Mapping[str, Any]:
    """What an expression for a network may be made of."""
    found = {
        n: v
        for n, v in vars(PLACES[command]).items()
        if n[0] != "_" and not inspect.ismodule(v)
    }
    return {
        **networks.parts(),
        **found,
        **{make.__name__: make for make in SMALL[command]},
    }


def names(command: str) -> list[str]:
    """The networks that need a number of classes alone: narrow ones, published ones."""
    kinds = tuple(DETECTORS if command == "detect" else SEGMENTERS)
    made = []
    for name, thing in parts(command).items():
        if not inspect.isfunction(thing):
            continue
        returned = inspect.signature(thing).return_annotation
        if returned in kinds or returned in {k.__name__ for k in kinds}:
            made.append(name)
    return made


def command_of(spec: str) -> str:
    """The command that trains what `spec` names: detect, segment or, of all else, train."""
    head = spec.partition("(")[0].strip()
    for command, place in PLACES.items():
        small = [make.__name__ for make in SMALL[command]]
        if head in small or (head[:1] != "_" and callable(vars(place).get(head))):
            return command
    return "train"


def build(spec: str, num_classes: int) -> nn.Module:
    """The detector or segmenter that `spec` names; see `networks.build`.

    Raises: ValueError for a spec that names none.
    """
    command = command_of(spec)
    kinds = DETECTORS if command == "detect" else SEGMENTERS
    if command not in PLACES:
        every = ", ".join(n for c in PLACES for n in names(c))
        raise ValueError(
            f"{spec!r} finds no objects and labels no pixels: expected {every}"
        )
    model = networks.build(spec, num_classes, parts(command))
    if type(model) not in kinds:
        raise ValueError(
            f"{spec!r} is a {type(model).__name__}, which `cnn-lab {command}` cannot "
            f"train; expected {', '.join(k.__name__ for k in kinds)}"
        )
    return model


def kind_of(model: nn.Module) -> Kind:
    return {**DETECTORS, **SEGMENTERS}[type(model)]
