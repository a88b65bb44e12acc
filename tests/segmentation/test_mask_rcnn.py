
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection import maskrcnn_resnet50_fpn as torchvisions
from torchvision.models.detection.backbone_utils import (
    BackboneWithFPN,
)
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.mask_rcnn import (
    MaskRCNNPredictor as TorchvisionPredictor,
)
from torchvision.models.detection.roi_heads import (
    maskrcnn_loss,
    paste_masks_in_image,
    project_masks_on_boxes,
)
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.resnet import BasicBlock as TorchvisionBlock
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from cnn_site.equivalence import compare, difference
from cnn_techniques.detection import (
    FasterRCNNBackbone,
    FasterRCNNOutput,
    FeaturePyramidNetwork,
    FeaturePyramidPool,
    RegionProposals,
    faster_rcnn_detections,
)
from cnn_techniques.modern import BasicBlock, ResNet
from cnn_techniques.segmentation import (
    MaskRCNN,
    MaskRCNNHead,
    MaskRCNNOutput,
    MaskRCNNPredictor,
    mask_rcnn_loss,
    mask_targets,
    maskrcnn_resnet50_fpn,
    paste_masks,
    proposals_with_objects,
)

SIZE = (64, 96)
CLASSES = 5  # without background
Targets = list[dict[str, Tensor]]


def narrow() -> MaskRCNN:
    """ResNet-10 of width 16, P2 to P6 of 32 channels: what the recorded run trains."""
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=16)
    pyramid = FeaturePyramidNetwork([16, 32, 64, 128], 32, FeaturePyramidPool())
    return MaskRCNN(
        FasterRCNNBackbone(body, pyramid),
        32,
        10,
        anchor_sizes=(12, 20, 28, 36, 48),
        width=128,
        proposals=(100, 50),
        samples=32,
        canonical_size=112,
        mask_width=32,
    )


def boxes(count: int, size: float = 96.0) -> Tensor:
    corner = torch.rand(count, 2, dtype=torch.float64) * size * 0.7
    side = 6 + torch.rand(count, 2, dtype=torch.float64) * size * 0.3
    return torch.cat([corner, corner + side], dim=1)


def ellipses(given: Tensor, size: tuple[int, int] = SIZE) -> Tensor:
    """In each box (M, 4) the largest ellipse: bool (M, H, W)."""
    y, x = torch.meshgrid(*(torch.arange(s) + 0.5 for s in size), indexing="ij")
    x1, y1, x2, y2 = given[..., None, None].unbind(1)
    across = (2 * x - x1 - x2) / (x2 - x1)
    down = (2 * y - y1 - y2) / (y2 - y1)
    return across**2 + down**2 <= 1


def targets(*counts: int, size: tuple[int, int] = SIZE) -> Targets:
    found = [boxes(m, 64) for m in counts]
    return [
        {
            "boxes": b,
            "labels": torch.arange(len(b)) % CLASSES,
            "masks": ellipses(b, size),
        }
        for b in found
    ]


def plus_one(given: Targets) -> Targets:
    """As torchvision counts: 0 is the background; its masks are numbers."""
    return [{**t, "labels": t["labels"] + 1, "masks": t["masks"].byte()} for t in given]


def answer(given: Targets | None = None, near: int = 60) -> MaskRCNNOutput:
    """An output drawn at random of two images, with targets of the boxes near them."""
    found = [boxes(40 + n) for n in range(2)]
    if given is not None:
        for n, target in enumerate(given):
            close = target["boxes"].repeat(near, 1)
            found[n] = torch.cat([found[n], close + 2 * torch.randn_like(close)])
    total = sum(len(b) for b in found)
    stage = RegionProposals(
        torch.randn(2, 200).double(), torch.randn(2, 200, 4).double(), boxes(200), found
    )
    logits = 2 * torch.randn(total, CLASSES + 1, dtype=torch.float64)
    offsets = torch.randn(total, CLASSES + 1, 4, dtype=torch.float64)
    detector = FasterRCNNOutput([], stage, found, logits, offsets, SIZE)
    if given is None:
        read = faster_rcnn_detections(detector)
    else:
        read = proposals_with_objects(found, given)
    count = sum(len(one["boxes"]) for one in read)
    return MaskRCNNOutput(detector, read, torch.randn(count, 28, 28).double())


@pytest.fixture
def draws_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A permutation that depends on its length alone: the order of the draws differs."""
    draw = torch.randperm

    def fixed(n: int, device: torch.device | None = None) -> Tensor:
        return draw(n, generator=torch.Generator().manual_seed(n)).to(device)

    monkeypatch.setattr(torch, "randperm", fixed)


def pasting_case():
    given = boxes(9).float() - 10
    return lambda m, b: paste_masks(m, b, SIZE), (torch.rand(9, 28, 28), given)


def target_case():
    given = boxes(9).float()
    inputs = ellipses(given[:4]), torch.arange(9) % 4, given
    return mask_targets, inputs


DEVICE_CASES = {
    "MaskRCNNHead": lambda: (MaskRCNNHead(8, 16), (torch.randn(3, 8, 14, 14),)),
    "paste_masks": pasting_case,
    "mask_targets": target_case,
}


# ---------------------------------------------------------------- against torchvision


def test_mask_targets_equal_torchvisions(evidence) -> None:
    """Boxes of every size, beyond the border too, of masks as bool and of any grey."""
    found = torch.cat([boxes(40), boxes(10, 300) - 60, torch.tensor([[3.0, 4, 3, 4]])])
    grey = torch.rand(6, *SIZE, dtype=torch.float64)
    ink = ellipses(boxes(6))
    which = torch.arange(len(found)) % 6
    comparison = difference(
        {
            name: (
                mask_targets(masks, which, found),
                project_masks_on_boxes(masks, found, which, 28),
            )
            for name, masks in {"true and false": ink, "greys": grey}.items()
        },
        shape=list(found.shape),
        modes=["true and false", "greys"],
    )
    evidence.equivalent(
        "targets",
        comparison,
        reference="torchvision.models.detection.roi_heads.project_masks_on_boxes",
    )


def test_mask_loss_equals_torchvisions(evidence) -> None:
    pairs, slopes = {}, {}
    for name, counts in {"objects": (3, 2), "one image empty": (3, 0)}.items():
        given = targets(*counts)
        output = answer(given)
        every = torch.randn(len(output.masks), CLASSES + 1, 28, 28).double()
        every.requires_grad_()
        labels = torch.cat([one["labels"] for one in output.found])
        chosen = every[torch.arange(len(every)), labels + 1]
        ours = mask_rcnn_loss(output._replace(masks=chosen), given)["loss_mask"]
        of_theirs = plus_one(given)
        expected = maskrcnn_loss(
            every,
            [one["boxes"] for one in output.found],
            [t["masks"] for t in of_theirs],
            [t["labels"] for t in of_theirs],
            [one["objects"] for one in output.found],
        )
        pairs[name] = ours.detach(), expected.detach()
        slopes[name] = tuple(
            torch.autograd.grad(loss, every, retain_graph=True)[0]
            for loss in (ours, expected)
        )
        assert len(output.found[0]["boxes"]) > 50
    comparison = difference(pairs, slopes, shape=list(every.shape), modes=list(pairs))
    evidence.equivalent(
        "loss of the masks",
        comparison,
        reference="torchvision.models.detection.roi_heads.maskrcnn_loss",
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pasted_masks_equal_torchvisions(dtype: torch.dtype, evidence) -> None:
    """Boxes inside, over each border, over all of them, narrow, and of no width."""
    planted = torch.tensor(
        [
            [10, 12, 38, 40],  # 28 pixels: almost copied
            [-20, -30, 15, 20],  # over the upper left corner
            [80.4, 50.2, 130, 90.9],  # over the lower right corner
            [-9, -9, 120, 99],  # larger than the image
            [0, 0, 96, 64],  # the image
            [95.99, 10, 96, 63.99],  # a hundredth of a pixel wide
            [30.5, 20.5, 30.5, 20.5],  # a point
            [30.49, 3, 33.51, 60],
        ]
    )
    given = torch.cat([planted, boxes(300, 150).to(planted) - 30]).to(dtype)
    # torchvision fails where nothing of a box is in the image.
    inside = (given[:, 2:] > 1).all(dim=1) & (
        given[:, :2] < torch.tensor([95, 63])
    ).all(1)
    given = given[inside | (torch.arange(len(given)) < 8)]
    masks = torch.rand(len(given), 28, 28, dtype=dtype)
    ours = paste_masks(masks, given, SIZE)
    theirs = paste_masks_in_image(masks[:, None], given, SIZE)[:, 0]
    pairs = {"masks": (ours, theirs), "ink": (ours > 0.5, theirs > 0.5)}
    nothing = torch.zeros(0, 28, 28), torch.zeros(0, 4)
    assert paste_masks(*nothing, SIZE).shape == (0, *SIZE)
    empty = paste_masks_in_image(nothing[0][:, None], nothing[1], SIZE)
    assert empty.shape == (0, 1, *SIZE)
    comparison = difference(pairs, shape=list(given.shape), modes=["planted", "random"])
    if dtype == torch.float64:
        evidence.equivalent(
            "pasting",
            comparison,
            reference="torchvision.models.detection.roi_heads.paste_masks_in_image",
            settings="8 planted boxes and random ones, over all borders",
        )


def test_layers_of_the_masks_equal_torchvisions() -> None:
    ours = nn.Sequential(MaskRCNNHead(8, 16), MaskRCNNPredictor(16, 16, 4))
    theirs = nn.Sequential(
        MaskRCNNHeads(8, [16] * 4, 1), TorchvisionPredictor(16, 16, 5)
    )
    theirs.load_state_dict(ours.state_dict())
    pooled = torch.randn(6, 8, 14, 14)
    assert torch.equal(ours(pooled), theirs(pooled))


def test_weights_are_drawn_as_torchvisions() -> None:
    ours = nn.Sequential(MaskRCNNHead(64, 64), MaskRCNNPredictor(64, 64, 4))
    theirs = nn.Sequential(
        MaskRCNNHeads(64, [64] * 4, 1), TorchvisionPredictor(64, 64, 5)
    )
    for (name, one), other in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        if name.endswith("weight"):
            torch.testing.assert_close(one.std(), other.std(), rtol=0.2, atol=0)
        elif name.startswith("0"):
            assert not one.any()
            assert not other.any()


def parts(detector: TorchvisionMaskRCNN, given: Targets) -> TorchvisionMaskRCNN:
    """Called, torchvision's network gives what its parts say, without its transform."""
    heads = detector.roi_heads
    assign = detector.rpn.assign_targets_to_anchors

    def doubled(*args: object) -> tuple[list[Tensor], list[Tensor]]:
        labels, matched = assign(*args)  # float32, which would make that of the loss
        return [one.double() for one in labels], [one.double() for one in matched]

    def forward(images: Tensor) -> object:
        sizes = [(images.shape[2], images.shape[3])] * len(images)
        batch, levels = ImageList(images, sizes), detector.backbone(images)
        if heads.training:
            wanted = plus_one(given)
            found, first = detector.rpn(batch, levels, wanted)
            _, second = heads(levels, found, sizes, wanted)
            return {**first, **second}
        stage = detector.rpn.head(list(levels.values()))
        logits, offsets = concat_box_prediction_layers(*stage)
        found, _ = detector.rpn(batch, levels)
        scores, shifts = heads.box_predictor(
            heads.box_head(heads.box_roi_pool(levels, found, sizes))
        )
        results, _ = heads(levels, found, sizes)
        rows = logits.view(len(images), -1), offsets.view(len(images), -1, 4)
        rest = [
            (r["boxes"].detach(), r["scores"].detach(), r["labels"] - 1)
            for r in results
        ]
        masks = torch.cat([r["masks"][:, 0] for r in results])
        return *rows, found, scores, shifts, masks, rest

    detector.forward = forward
    detector.rpn.assign_targets_to_anchors = doubled
    return detector


def said(output: MaskRCNNOutput | dict) -> object:
    if isinstance(output, dict):
        return output
    first, rpn = output.detector, output.detector.rpn
    rest = [(f["boxes"], f["scores"], f["labels"]) for f in output.found]
    stages = rpn.objectness, rpn.offsets, first.proposals, first.logits
    return *stages, first.offsets.flatten(1), output.masks.sigmoid(), rest


class Learning(nn.Module):
    """In training mode the losses, in evaluation mode what the network says."""

    def __init__(self, network: MaskRCNN, given: Targets) -> None:
        super().__init__()
        self.given = given
        for name, child in network.named_children():
            self.add_module(name, child)
        self.run = [network]  # a list: its parameters have the names of torchvision's

    def forward(self, images: Tensor) -> object:
        if not self.training:
            return self.run[0](images)
        return mask_rcnn_loss(self.run[0](images, self.given), self.given)


def resnet10(num_classes: int, limit: int) -> TorchvisionMaskRCNN:
    layers = {f"layer{n}": str(n - 1) for n in (1, 2, 3, 4)}
    body = torchvision.models.ResNet(TorchvisionBlock, [1, 1, 1, 1])
    maps = [64, 128, 256, 512]
    pyramid = BackboneWithFPN(body, layers, maps, 32, extra_blocks=LastLevelMaxPool())
    return TorchvisionMaskRCNN(
        pyramid,
        box_head=TwoMLPHead(32 * 49, 64),
        box_predictor=FastRCNNPredictor(64, num_classes),
        mask_head=MaskRCNNHeads(32, [24] * 4, 1),
        mask_predictor=TorchvisionPredictor(24, 24, num_classes),
        box_detections_per_img=limit,
    )


def test_network_on_resnet10_equals_torchvisions(evidence, draws_by_length) -> None:
    fpn = FeaturePyramidNetwork([64, 128, 256, 512], 32, FeaturePyramidPool())
    backbone = FasterRCNNBackbone(ResNet(BasicBlock, (1, 1, 1, 1)), fpn)
    given = targets(3, 0, size=(64, 128))
    ours = MaskRCNN(backbone, 32, CLASSES, width=64, mask_width=24, detections=10)
    comparison = compare(
        Learning(ours, given),
        parts(resnet10(CLASSES + 1, 10), given),
        torch.randn(2, 3, 64, 128),
        outputs=(said, lambda o: o),
    )
    evidence.equivalent(
        "network on ResNet-10",
        comparison,
        reference="torchvision.models.detection.MaskRCNN",
        settings="ResNet-10, 32 channels, hidden width 64, masks of width 24, at most 10 detections per image; in training the five losses, of the same samples",
    )


@pytest.mark.slow
def test_maskrcnn_resnet50_fpn_equals_torchvisions(evidence, draws_by_length) -> None:
    given = targets(3, 0, size=(64, 128))
    reference = torchvisions(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + 1,
        box_detections_per_img=3,
    )
    ours = maskrcnn_resnet50_fpn(CLASSES)
    ours.detections = 3
    comparison = compare(
        Learning(ours, given),
        parts(reference, given),
        torch.randn(2, 3, 64, 128),
        outputs=(said, lambda o: o),
    )
    evidence.equivalent(
        "maskrcnn_resnet50_fpn",
        comparison,
        reference="torchvision.models.detection.maskrcnn_resnet50_fpn",
        settings="weights=None, weights_backbone=None, num_classes=6, box_detections_per_img=3; in training the five losses, of the same samples",
    )
