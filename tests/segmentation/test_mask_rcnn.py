from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection import maskrcnn_resnet50_fpn as torchvisions
from torchvision.models.detection.backbone_utils import (
    BackboneWithFPN,
    _resnet_fpn_extractor,
)
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.mask_rcnn import (
    MaskRCNNPredictor as TorchvisionPredictor,
)
from torchvision.models.detection.roi_heads import (
    maskrcnn_inference,
    maskrcnn_loss,
    paste_masks_in_image,
    project_masks_on_boxes,
)
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.resnet import BasicBlock as TorchvisionBlock
from torchvision.ops import FrozenBatchNorm2d, roi_pool
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from cnn_site.equivalence import compare, difference
from cnn_techniques.detection import (
    FasterRCNNBackbone,
    FasterRCNNOutput,
    FeaturePyramidNetwork,
    FeaturePyramidPool,
    RegionProposals,
    box_iou,
    faster_rcnn_detections,
    pool_boxes,
)
from cnn_techniques.evaluation.model_cost import model_cost
from cnn_techniques.modern import BasicBlock, ResNet, resnet101
from cnn_techniques.segmentation import (
    MaskRCNN,
    MaskRCNNHead,
    MaskRCNNOutput,
    MaskRCNNPredictor,
    mask_rcnn_detections,
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
        box_batch_size_per_image=16,
        rpn_post_nms_top_n_train=50,
        rpn_post_nms_top_n_test=20,
        rpn_pre_nms_top_n_train=50,
        rpn_pre_nms_top_n_test=20,
    )
    ours = maskrcnn_resnet50_fpn(CLASSES)
    ours.detections, ours.samples, ours.rpn.count = 3, 16, (50, 20)
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
        settings="weights=None, weights_backbone=None, num_classes=6, 20 proposals, 3 detections and 16 samples per image; in training the five losses, of the same samples",
    )


@pytest.mark.slow
def test_it_draws_the_same_masks_as_torchvision_in_the_same_images() -> None:
    """From image to masks, by torchvision's own forward pass and thresholds."""
    reference = torchvisions(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + 1,
        image_mean=[0] * 3,
        image_std=[1] * 3,
        box_detections_per_img=30,
        rpn_post_nms_top_n_test=200,
        rpn_pre_nms_top_n_test=200,
    ).eval()
    reference.transform.train()._skip_resize = True  # in training mode it may
    ours = maskrcnn_resnet50_fpn(CLASSES).eval()
    ours.load_state_dict(reference.state_dict())
    ours.detections, ours.rpn.count = 30, (200, 200)
    images = torch.rand(2, 3, 64, 128)  # on multiples of 64 all anchors are equal
    with torch.no_grad():
        expected = reference(list(images))
        output = ours(images)
    found = mask_rcnn_detections(output)
    drawn = output.masks.sigmoid().split([len(f["boxes"]) for f in found])
    for one, other, masks in zip(found, expected, drawn, strict=True):
        assert len(one["boxes"]) > 20
        assert torch.equal(one["labels"], other["labels"] - 1)
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=0, atol=1e-3)
        theirs = other["masks"]  # (M, 1, 28, 28): in training mode it pastes nothing
        torch.testing.assert_close(masks, theirs[:, 0], rtol=0, atol=1e-4)
        pasted = paste_masks_in_image(theirs, other["boxes"], (64, 128))[:, 0]
        sure = (pasted - 0.5).abs() > 1e-3
        assert (pasted > 0.5).any()
        assert (one["masks"] == (pasted > 0.5))[sure].double().mean() > 0.999


def test_masks_of_the_classes_found_equal_torchvisions_in_their_order(evidence) -> None:
    """Of each box the channel of its label, a sigmoid, pasted; one image without any."""
    output = answer()
    output.detector.logits[-41:, 0] = 60.0  # the second image holds background only
    found = faster_rcnn_detections(output.detector)
    assert len(found[0]["boxes"]) > 20
    assert found[1]["boxes"].shape == (0, 4)
    every = 3 * torch.randn(len(found[0]["boxes"]), CLASSES + 1, 28, 28).double()
    labels = [one["labels"] + 1 for one in found]
    theirs = maskrcnn_inference(every, labels)
    expected = [
        paste_masks_in_image(m, one["boxes"], SIZE)[:, 0] > 0.5
        for m, one in zip(theirs, found, strict=True)
    ]
    chosen = every[torch.arange(len(every)), torch.cat(labels)]
    ours = mask_rcnn_detections(output._replace(found=found, masks=chosen))
    assert ours[1]["masks"].shape == expected[1].shape == (0, *SIZE)
    assert ours[0]["masks"].dtype == torch.bool
    comparison = difference(
        {"masks": (ours[0]["masks"], expected[0])},
        shape=list(every.shape),
        modes=["random", "an image without detections"],
    )
    evidence.equivalent(
        "detections",
        comparison,
        reference="torchvision.models.detection.roi_heads.maskrcnn_inference, paste_masks_in_image",
        settings="threshold 0.5",
    )


def test_names_and_shapes_are_those_of_torchvisions_weights_with_frozen_batch_norm() -> (
    None
):
    with torch.device("meta"):
        body = torchvision.models.resnet50(norm_layer=FrozenBatchNorm2d)
        published = TorchvisionMaskRCNN(_resnet_fpn_extractor(body, 5), 91)
        ours = maskrcnn_resnet50_fpn()
    ours.load_state_dict(published.state_dict(), assign=True)  # strict
    norms = [m for m in ours.modules() if isinstance(m, nn.BatchNorm2d)]
    affine = sum(p.numel() for m in norms for p in m.parameters())
    count = sum(p.numel() for p in ours.parameters())
    weights = torchvision.models.detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1
    assert count - affine == weights.meta["num_params"] == 44_401_393
    assert ours.detections == published.roi_heads.detections_per_img
    pool = published.roi_heads.mask_roi_pool
    assert pool.output_size == (14, 14)
    assert (pool.canonical_scale, pool.sampling_ratio) == (224, 2)


class MaskBranch(nn.Module):
    def __init__(self, network: MaskRCNN) -> None:
        super().__init__()
        self.roi_heads = nn.Sequential(
            network.roi_heads["mask_head"], network.roi_heads["mask_predictor"]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.roi_heads(x)


class Detector(nn.Module):
    """All but the masks, on 1,000 boxes: on the meta device nothing can be suppressed."""

    def __init__(self, network: MaskRCNN) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.rpn.head
        self.box = nn.Sequential(
            network.roi_heads["box_head"], network.roi_heads["box_predictor"]
        )

    def forward(self, images: Tensor) -> object:
        levels = self.backbone(images)
        return [self.head(x) for x in levels], self.box(torch.empty(1000, 256, 7, 7))


def test_cost_of_the_networks_and_of_the_masks(evidence) -> None:
    image, hundred = (1, 3, 800, 800), (100, 256, 14, 14)
    rows = {}
    with torch.device("meta"):
        fpn = FeaturePyramidNetwork([256, 512, 1024, 2048], 256, FeaturePyramidPool())
        deep = MaskRCNN(FasterRCNNBackbone(resnet101(), fpn), 256, 90)
        for key, name, network in (
            ("maskrcnn_resnet50_fpn", "ResNet-50", maskrcnn_resnet50_fpn()),
            ("maskrcnn_resnet101_fpn", "ResNet-101", deep),
        ):
            boxes_only = model_cost(Detector(network).eval(), torch.empty(image))
            masks = model_cost(MaskBranch(network).eval(), torch.empty(hundred))
            total = boxes_only.params + masks.params
            assert total == sum(p.numel() for p in network.parameters())
            macs = boxes_only.macs + masks.macs
            row = {"name": f"Mask R-CNN, {name}", "params": total, "macs": macs}
            rows[key] = {**row, "without_masks": boxes_only.macs}
        head = MaskBranch(network).roi_heads[0]
        layers = model_cost(head, torch.empty(hundred))
    rows["masks"] = {
        "name": "Branch of the masks, 100 boxes",
        "params": masks.params,
        "macs": masks.macs,
    }
    rows["convolutions"] = {
        "name": "of which the four 3×3 convolutions",
        "params": layers.params,
        "macs": layers.macs,
    }
    weights = torchvision.models.detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1
    first = rows["maskrcnn_resnet50_fpn"]
    # torchvision counts what random weights do: they find nothing, and draw no mask.
    assert round(first["without_masks"] / 1e9, 2) == weights.meta["_ops"]
    first["frozen"] = weights.meta["num_params"]
    by_hand = 196 * 4 * 9 * 256**2 + 784 * 256**2 + 784 * 256 * 91
    assert masks.macs == 100 * by_hand
    params = sum(p.numel() for p in narrow().parameters())
    rows["narrow"] = {"name": "Mask R-CNN, ResNet-10 of width 16", "params": params}
    evidence.computed("cost", rows)


# ---------------------------------------------------------------- laws


def test_pooling_a_ramp_gives_its_value_at_the_centres_where_rounding_gives_steps() -> (
    None
):
    """RoIAlign reads a linear map exactly; RoIPool's reading moves by whole cells."""
    ramp = 16 * torch.arange(16, dtype=torch.float64).expand(1, 1, 16, 16)
    for shift in torch.arange(0, 16, 3).tolist():
        box = torch.tensor([[50.0, 50, 162, 162]]).double() + shift
        aligned = pool_boxes([ramp], [box], (16,), 7)[0, 0, 0]
        centres = 50 + shift + 16 * (torch.arange(7).double() + 0.5)
        torch.testing.assert_close(aligned, centres)
        rois = torch.cat([torch.zeros(1, 1).double(), box], dim=1)
        rounded = roi_pool(ramp, rois, 7, 1 / 16)[0, 0, 0]
        assert torch.equal(rounded % 16, torch.zeros(7).double())


def test_target_of_a_mask_is_the_mean_of_its_pixels_where_cells_are_pixels_wide() -> (
    None
):
    """A second way: 4 x 4 samples in a cell of 4 pixels, each bilinear, averaged."""
    mask = torch.rand(1, 64, 96, dtype=torch.float64)
    box = torch.tensor([[8.0, 4, 36, 60]]).double()  # cells of 1 x 2 pixels
    found = mask_targets(mask, torch.zeros(1), box)[0]
    y = 4 + torch.arange(56).double() + 0.5  # two samples in each cell
    x = 8 + torch.arange(28).double() + 0.5
    low, left = y.long(), x.long()
    rows = (mask[0, low] + mask[0, low + 1]) / 2  # halfway between two pixels
    both = (rows[:, left] + rows[:, left + 1]) / 2
    torch.testing.assert_close(found, both.view(28, 2, 28).mean(dim=1))


def test_a_mask_cut_out_and_pasted_again_is_the_mask() -> None:
    given = torch.tensor([[10.0, 8, 66, 50], [40.3, 20.7, 90.2, 60.1]]).double()
    true = ellipses(given)
    again = paste_masks(mask_targets(true, torch.arange(2), given), given, SIZE) > 0.5
    iou = (true & again).sum((1, 2)) / (true | again).sum((1, 2))
    assert (iou > 0.93).all()


def test_boxes_outside_the_image_leave_it_empty() -> None:
    outside = torch.tensor([[-50.0, 5, -20, 30], [120, 5, 150, 30], [9, 70, 30, 99]])
    pasted = paste_masks(torch.ones(3, 28, 28), outside, SIZE)
    assert pasted.shape == (3, *SIZE)
    assert not pasted.any()


def test_loss_is_binary_cross_entropy_of_pixels_of_proposals_with_objects() -> None:
    given = targets(3, 2)
    output = answer(given)
    total, count, n = 0.0, 0, 0
    for found, target in zip(output.found, given, strict=True):
        assert (box_iou(target["boxes"], found["boxes"]).amax(dim=0) >= 0.5).all()
        for box, which in zip(found["boxes"], found["objects"], strict=True):
            y = mask_targets(target["masks"][which][None], torch.zeros(1), box[None])[0]
            p = output.masks[n].sigmoid()
            total -= (y * p.log() + (1 - y) * (1 - p).log()).sum()
            count, n = count + 784, n + 1
    assert n == len(output.masks) < sum(len(b) for b in output.detector.proposals)
    loss = mask_rcnn_loss(output, given)["loss_mask"]
    torch.testing.assert_close(loss, total / count)


def test_only_the_mask_of_its_class_is_learned() -> None:
    network = narrow()
    given = [{**targets(1)[0], "labels": torch.tensor([4])}]
    given[0]["boxes"] = given[0]["boxes"].float()
    mask_rcnn_loss(network(torch.randn(1, 3, *SIZE), given), given)[
        "loss_mask"
    ].backward()
    slope = network.roi_heads["mask_predictor"].mask_fcn_logits.weight.grad
    rows = slope.flatten(1).any(dim=1)
    assert rows.nonzero().flatten().tolist() == [5]  # class 4 stands at 5


def test_masks_do_not_change_what_the_detector_finds() -> None:
    network = narrow().eval()
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        output = network(images)
        alone = super(MaskRCNN, network).forward(images)
    for one, other in zip(faster_rcnn_detections(alone), output.found, strict=True):
        assert torch.equal(one["boxes"], other["boxes"])
        assert torch.equal(one["scores"], other["scores"])


def test_image_without_objects_has_a_finite_loss_and_gradient() -> None:
    network, none = narrow(), targets(0, 0)
    losses = mask_rcnn_loss(network(torch.randn(2, 3, *SIZE), none), none)
    assert losses["loss_mask"] == 0
    sum(losses.values()).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients)
    head = network.roi_heads["mask_head"]
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_gradients_reach_every_parameter() -> None:
    network, given = narrow(), targets(3, 2)
    given = [{**t, "boxes": t["boxes"].float()} for t in given]
    output = network(torch.randn(2, 3, *SIZE), given)
    sum(mask_rcnn_loss(output, given).values()).backward()
    dead = [n for n, p in network.named_parameters() if not p.grad.any()]
    assert not dead


def test_in_training_mode_without_targets_it_detects() -> None:
    output = narrow()(torch.randn(2, 3, *SIZE))
    for found, one in zip(mask_rcnn_detections(output), output.found, strict=True):
        assert found["masks"].shape == (len(one["boxes"]), *SIZE)
        assert len(found["masks"]) <= 100


def test_detections_are_limited_to_the_surest() -> None:
    network = narrow().eval()
    images = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        every = network(images).found[0]["scores"]
        network.detections = 3
        few = network(images)
    assert len(every) > 3
    assert torch.equal(few.found[0]["scores"], every[:3])
    assert few.masks.shape == (3, 28, 28)


def test_refuses_what_does_not_fit() -> None:
    backbone, given = narrow().backbone, targets(2, 1)
    for name in ("mask_width", "detections"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            MaskRCNN(backbone, 32, 2, **{name: 0})
    with pytest.raises(ValueError, match="made without targets, expected with them"):
        mask_rcnn_loss(answer(), given)
    with pytest.raises(ValueError, match="made with targets, expected without"):
        mask_rcnn_detections(answer(given))
    output = answer(given)
    bright = [{**t, "masks": t["masks"] * 255} for t in given]
    with pytest.raises(ValueError, match="must be from 0 to 1, got up to 255"):
        mask_rcnn_loss(output, bright)
    small = [{**t, "masks": t["masks"][:, ::2, ::2]} for t in given]
    with pytest.raises(ValueError, match=r"masks \(2, 64, 96\), got \(2, 32, 48\)"):
        mask_rcnn_loss(output, small)
    labelled = [{**t, "labels": t["labels"] + 5} for t in given]
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.4"):
        mask_rcnn_loss(output, labelled)


# ---------------------------------------------------------------- the record


def learn_trial(learning_rate: float, seed: int) -> dict[str, object]:
    from cnn_lab.scene_trial import learn_boxes

    torch.manual_seed(seed)
    return learn_boxes(
        narrow(),
        lambda net, x, y: sum(mask_rcnn_loss(net(x, y), y, samples=64).values()),
        mask_rcnn_detections,
        masks=True,
        learning_rate=learning_rate,
        seed=seed,
    )


def trial(seeds: list[int], learning_rate: float) -> dict[str, object]:
    from cnn_lab.scene_trial import scene_trials

    cache = Path(__file__).parents[2] / ".cache/record/mask_rcnn.jsonl"
    name = "Mask R-CNN, ResNet-10 of width 16"
    arms = {"mask_rcnn": (name, {"learning_rate": learning_rate})}
    return scene_trials(learn_trial, seeds, cache, arms)


@pytest.mark.record
def test_record_it_learns_the_scenes_of_all_instance_segmenters(evidence) -> None:
    # The rate of Faster R-CNN, which was chosen on other scenes.
    evidence.measured(
        "trial", arguments={"seeds": [0, 1, 2], "learning_rate": 4e-3}, run=trial
    )
