import inspect
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import (
    BackboneWithFPN,
    _resnet_fpn_extractor,
)
from torchvision.models.detection.faster_rcnn import (
    FastRCNNPredictor as TorchvisionPredictor,
)
from torchvision.models.detection.faster_rcnn import TwoMLPHead as TorchvisionHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.resnet import BasicBlock as TorchvisionBlock
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from cnn_site.equivalence import compare, difference
from cnn_techniques.detection import (
    FasterRCNN,
    FasterRCNNBackbone,
    FasterRCNNOutput,
    FastRCNNPredictor,
    FeaturePyramidNetwork,
    FeaturePyramidPool,
    RegionProposals,
    TwoMLPHead,
    anchor_shapes,
    box_iou,
    clip_boxes,
    encode_boxes,
    faster_rcnn_detections,
    faster_rcnn_loss,
    fasterrcnn_resnet50_fpn,
    grid_anchors,
    match_anchors,
    match_proposals,
    pool_boxes,
    region_proposals,
    rpn_loss,
    sample_matches,
    sample_proposals,
)
from cnn_techniques.evaluation.model_cost import model_cost
from cnn_techniques.modern import BasicBlock, ResNet, resnet50, resnet101

STRIDES = (4, 8, 16, 32, 64)  # of P2 to P6
SIZE = (64, 96)
CLASSES = 5  # without background


def narrow() -> FasterRCNN:
    """ResNet-10 of width 16, P2 to P6 of 32 channels: what the recorded run trains."""
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=16)
    pyramid = FeaturePyramidNetwork([16, 32, 64, 128], 32, FeaturePyramidPool())
    return FasterRCNN(
        FasterRCNNBackbone(body, pyramid),
        32,
        10,
        anchor_sizes=(12, 20, 28, 36, 48),
        width=128,
        proposals=(100, 50),
        samples=32,
        canonical_size=112,
    )


def boxes(count: int, size: float = 96.0) -> Tensor:
    corner = torch.rand(count, 2, dtype=torch.float64) * size * 0.7
    side = 6 + torch.rand(count, 2, dtype=torch.float64) * size * 0.3
    return torch.cat([corner, corner + side], dim=1)


def targets(*counts: int) -> list[dict[str, Tensor]]:
    return [
        {"boxes": boxes(m, 64), "labels": torch.arange(m) % CLASSES} for m in counts
    ]


def plus_one(given: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """As torchvision counts: 0 is the background."""
    return [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in given]


def anchors_of(height: int, width: int) -> list[Tensor]:
    return [
        grid_anchors(
            anchor_shapes([8 * s], (0.5, 1.0, 2.0)),
            (-(-height // s), -(-width // s)),
            s,
        )
        for s in STRIDES
    ]


def first_stage(images: int = 2) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits and offsets drawn at random for the anchors of an image of 64 x 96."""
    anchors = [a.double() for a in anchors_of(*SIZE)]
    total = sum(len(a) for a in anchors)
    logits = torch.randn(images, total, dtype=torch.float64)
    return logits, torch.randn(images, total, 4, dtype=torch.float64) / 2, anchors


def answer(images: int = 2, proposals: int = 200) -> FasterRCNNOutput:
    """An output drawn at random, as from a network whose scores reach from 0 to 1."""
    logits, offsets, anchors = first_stage(images)
    found = [boxes(proposals + n) for n in range(images)]  # as many as each image has
    total = sum(len(b) for b in found)
    return FasterRCNNOutput(
        [],
        RegionProposals(logits, offsets, torch.cat(anchors), found),
        found,
        2 * torch.randn(total, CLASSES + 1, dtype=torch.float64),
        torch.randn(total, CLASSES + 1, 4, dtype=torch.float64),
        SIZE,
    )


@pytest.fixture
def draws_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A permutation that depends on its length alone: the order of the draws differs."""
    draw = torch.randperm

    def fixed(n: int, device: torch.device | None = None) -> Tensor:
        return draw(n, generator=torch.Generator().manual_seed(n)).to(device)

    monkeypatch.setattr(torch, "randperm", fixed)


def stand_in(
    num_classes: int = CLASSES + 1, **options: object
) -> TorchvisionFasterRCNN:
    """torchvision's parts around a backbone that is not used."""
    body = nn.Conv2d(3, 8, 1)
    body.out_channels = 8
    return TorchvisionFasterRCNN(body, num_classes, **options)


def in_float64(detector: TorchvisionFasterRCNN) -> TorchvisionFasterRCNN:
    """Its labels of anchors are float32, which would make that of the loss, too."""
    assign = detector.rpn.assign_targets_to_anchors

    def doubled(*args: object) -> tuple[list[Tensor], list[Tensor]]:
        labels, matched = assign(*args)
        return [one.double() for one in labels], [one.double() for one in matched]

    detector.rpn.assign_targets_to_anchors = doubled
    return detector


def loss_of(logits: Tensor, offsets: Tensor, rpn: Tensor, shift: Tensor, *rest: Tensor):
    anchors, found, box, label = rest
    output = FasterRCNNOutput(
        [],
        RegionProposals(rpn, shift, anchors, [found]),
        [found],
        logits,
        offsets,
        SIZE,
    )
    return faster_rcnn_loss(output, [{"boxes": box, "labels": label}], 10**6)


def loss_case():
    output, wanted = answer(images=1), targets(3)[0]
    stage = output.rpn
    inputs = output.logits, output.offsets, stage.objectness, stage.offsets
    drawn = stage.anchors, output.proposals[0], wanted["boxes"], wanted["labels"]
    return loss_of, (*inputs, *drawn)


def pooling_case():
    levels = [torch.randn(2, 8, 64 // s, 96 // s) for s in STRIDES[:4]]
    found = [boxes(9).float(), boxes(4).float()]
    return lambda *x: pool_boxes(x[:4], x[4:], STRIDES[:4], 7, 32.0), (*levels, *found)


DEVICE_CASES = {
    "faster_rcnn_loss": loss_case,
    "pool_boxes": pooling_case,
    "sample_matches": lambda: (
        lambda match: sample_matches(match, 50, 0.5),  # all of them
        (torch.tensor([0, -1, 2, -2, -1]),),
    ),
}


# ---------------------------------------------------------------- against torchvision


def test_anchors_equal_torchvisions(evidence) -> None:
    height, width = 256, 384  # multiples of all strides
    levels = [torch.zeros(1, 4, height // s, width // s) for s in STRIDES]
    generator = AnchorGenerator(
        tuple((8 * s,) for s in STRIDES), ((0.5, 1.0, 2.0),) * len(STRIDES)
    )
    image = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    expected = generator(image, levels)[0]
    comparison = difference(
        {"anchors": (torch.cat(anchors_of(height, width)), expected)},
        shape=[height, width],
        modes=["P2 to P6"],
    )
    evidence.equivalent(
        "anchors",
        comparison,
        reference="torchvision.models.detection.anchor_utils.AnchorGenerator",
    )


@pytest.mark.parametrize("count", [5, 60, 2000])
def test_proposals_equal_torchvisions(count: int, evidence) -> None:
    """What each level gives to the suppression, and what is left of it."""
    logits, offsets, anchors = first_stage()
    offsets[0, :40, 2:] = -40  # no width: dropped
    reference = stand_in().rpn.eval()
    reference._pre_nms_top_n = reference._post_nms_top_n = {"testing": count}
    together = reference.box_coder.decode(
        offsets.flatten(0, 1), [torch.cat(anchors)] * 2
    ).view(2, -1, 4)
    sizes, image_sizes = [len(a) for a in anchors], [SIZE] * 2
    pairs = {}
    for name, threshold in (("before", 1.0), ("after", 0.7)):
        reference.nms_thresh = threshold  # 1: nothing is suppressed
        expected, _ = reference.filter_proposals(together, logits, image_sizes, sizes)
        found = region_proposals(logits, offsets, anchors, SIZE, count, threshold)
        for n in (0, 1):
            pairs[f"{name} suppression, image {n}"] = found[n], expected[n]
    assert len(found[0]) <= count
    comparison = difference(pairs, shape=list(logits.shape), modes=list(pairs))
    if count == 60:
        evidence.equivalent(
            "proposals",
            comparison,
            reference="torchvision.models.detection.rpn.RegionProposalNetwork.filter_proposals",
            settings="60 of each level, 60 of each image",
        )


def test_loss_of_the_first_stage_equals_torchvisions(evidence, draws_by_length) -> None:
    """Of objects that anchors overlap by every part, just below and above the limits."""
    logits, offsets, anchors = first_stage()
    leaves = logits.requires_grad_(), offsets.requires_grad_()
    merged = torch.cat(anchors)
    near = merged[700::151] + torch.rand(len(merged[700::151]), 4).double() * 6
    wanted = [{"boxes": near, "labels": torch.arange(len(near)) % 5}, *targets(0)]
    match = match_anchors(near, merged, 0.3, 0.7)
    best = box_iou(near, merged).max(dim=0).values
    assert ((best > 0.6) & (best < 0.7)).any()
    assert ((best > 0.25) & (best < 0.3)).any()
    stage = RegionProposals(logits, offsets, merged, [])
    pairs, slopes = {}, {}
    for count in (40, 10**6):  # a sample, and all that are decided
        ours = rpn_loss(stage, [t["boxes"] for t in wanted], count)
        reference = in_float64(stand_in(rpn_batch_size_per_image=count)).rpn
        labels, matched = reference.assign_targets_to_anchors([merged] * 2, wanted)
        exact = reference.box_coder.encode(matched, [merged] * 2)
        expected = reference.compute_loss(logits, offsets.flatten(0, 1), labels, exact)
        for whole, part in zip(
            (pairs, slopes), pairs_of(ours.items(), expected, leaves), strict=True
        ):
            whole |= {f"{name}, {count} drawn": pair for name, pair in part.items()}
    assert torch.equal((match >= 0).double() - (match == -2).double(), labels[0])
    comparison = difference(
        pairs, slopes, shape=list(logits.shape), modes=["objects", "no object"]
    )
    evidence.equivalent(
        "loss of the first stage",
        comparison,
        reference="torchvision.models.detection.rpn.RegionProposalNetwork.compute_loss",
        settings="the same 40 anchors of each image drawn, and all anchors",
    )


def pairs_of(ours, expected, leaves):
    pairs, slopes = {}, {}
    for (name, value), other, leaf in zip(ours, expected, leaves, strict=True):
        pairs[name] = value.detach(), other.detach()
        slopes[name] = tuple(
            torch.autograd.grad(loss, leaf)[0] for loss in (value, other)
        )
    return pairs, slopes


def test_loss_of_the_second_stage_equals_torchvisions(
    evidence, draws_by_length
) -> None:
    """The same proposals drawn, the objects among them; matched, coded and counted."""
    wanted = targets(3, 0)
    near = [wanted[0]["boxes"].repeat(40, 1) + 3 * torch.randn(120, 4).double()]
    found = [torch.cat([boxes(100), *near]), boxes(90)]
    reference = stand_in(box_batch_size_per_image=64).roi_heads
    drawn, _, labels, exact = reference.select_training_samples(
        list(found), plus_one(wanted)
    )
    ours = sample_proposals(found, [t["boxes"] for t in wanted], 64)
    assert (labels[0] > 0).sum() == 16  # a quarter
    assert len(ours[0]) == len(ours[1]) == 64
    output = answer()._replace(proposals=ours)
    logits, offsets = output.logits[:128], output.offsets[:128]
    leaves = logits.requires_grad_(), offsets.requires_grad_()
    losses = faster_rcnn_loss(
        output._replace(logits=logits, offsets=offsets), wanted
    ).items()
    expected = torchvision.models.detection.roi_heads.fastrcnn_loss(
        logits, offsets.flatten(1), labels, list(exact)
    )
    pairs, slopes = pairs_of(list(losses)[2:], expected, leaves)
    for n in (0, 1):
        pairs[f"proposals {n}"] = ours[n], drawn[n]
    comparison = difference(
        pairs, slopes, shape=[128, CLASSES + 1], modes=["3 objects", "no object"]
    )
    evidence.equivalent(
        "loss of the second stage",
        comparison,
        reference="torchvision.models.detection.roi_heads.RoIHeads, fastrcnn_loss",
        settings="the same 64 proposals of each image drawn",
    )


def test_pooled_boxes_equal_torchvisions(evidence) -> None:
    levels = [
        torch.randn(2, 8, 256 // s, 384 // s, dtype=torch.float64) for s in STRIDES[:4]
    ]
    side = torch.tensor([3.0, 20, 111.9, 112, 223.9, 224, 250, 600]).double()
    corner = torch.rand(8, 2).double() * 200
    planted = torch.cat([corner, corner + side[:, None]], dim=1)
    found = [
        torch.cat([planted, boxes(30, 300)]),
        boxes(12, 900),
    ]  # some beyond the edge
    maps = {str(n): level for n, level in enumerate(levels)}
    reference = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    leaves = [level.requires_grad_() for level in levels]
    sums = (
        pool_boxes(levels, found, STRIDES[:4]),
        reference(maps, found, [(256, 384)] * 2),
    )
    weights = torch.randn(sums[0].shape, dtype=torch.float64)
    slopes = [torch.autograd.grad((s * weights).sum(), leaves) for s in sums]
    assert all(g.any() for g in slopes[0])  # every level is read
    pooled, expected = (s.detach() for s in sums)
    comparison = difference(
        {"pooled": (pooled, expected)},
        {f"P{k}": pair for k, pair in enumerate(zip(*slopes, strict=True), 2)},
        shape=list(pooled.shape),
        modes=["P2 to P5"],
    )
    evidence.equivalent(
        "pooling", comparison, reference="torchvision.ops.MultiScaleRoIAlign"
    )


def test_postprocessing_equals_torchvisions_on_the_same_output(evidence) -> None:
    """Boxes, scores, labels and their order, planted ones and an empty image included."""
    output = answer()
    output.logits[:9, 3] = 9.0  # sure of class 2, some boxes twice
    output.proposals[0][3:6] = output.proposals[0][:3]
    output.logits[-9:, 1] = 20.0
    output.offsets[-9:, 1, 2] = -200.0  # without width: dropped
    output.logits[200:300, 0] = 30.0  # background
    first = faster_rcnn_detections(output, limit=50)
    nothing = output._replace(logits=output.logits.clone())
    nothing.logits[:200, 0] = 60.0
    cases = {"random": output, "an image without detections": nothing}
    reference = stand_in(box_detections_per_img=50).roi_heads
    pairs = {}
    for name, case in cases.items():
        found = faster_rcnn_detections(case, limit=50)
        expected = reference.postprocess_detections(
            case.logits, case.offsets.flatten(1), case.proposals, [SIZE] * 2
        )
        for n in (0, 1):
            for key, value in zip(("boxes", "scores", "labels"), expected, strict=True):
                theirs = value[n] - int(key == "labels")
                assert found[n][key].shape == theirs.shape
                if theirs.numel():
                    pairs[f"{name}, {key} {n}"] = found[n][key], theirs
    assert len(first[0]["boxes"]) == 50
    assert found[0]["boxes"].shape == (0, 4)
    assert len(found[1]["boxes"]) > 0
    comparison = difference(pairs, shape=list(output.logits.shape), modes=list(cases))
    evidence.equivalent(
        "post-processing",
        comparison,
        reference="torchvision.models.detection.roi_heads.RoIHeads.postprocess_detections",
        settings="50 an image; labels one less than torchvision's",
    )


def test_heads_of_the_second_stage_equal_torchvisions() -> None:
    ours = nn.Sequential(TwoMLPHead(3 * 49, 16), FastRCNNPredictor(16, 4))
    theirs = nn.Sequential(TorchvisionHead(3 * 49, 16), TorchvisionPredictor(16, 5))
    theirs.load_state_dict(ours.state_dict())
    pooled = torch.randn(6, 3, 7, 7)
    (logits, offsets), expected = ours(pooled), theirs(pooled)
    assert torch.equal(logits, expected[0])
    assert torch.equal(offsets.flatten(1), expected[1])


def parts(
    detector: TorchvisionFasterRCNN, given: list[dict[str, Tensor]]
) -> TorchvisionFasterRCNN:
    """Called, torchvision's detector gives what its parts say, without its transform."""

    def forward(images: Tensor) -> object:
        sizes = [(images.shape[2], images.shape[3])] * len(images)
        batch, levels = ImageList(images, sizes), detector.backbone(images)
        if detector.roi_heads.training:
            wanted = plus_one(given)
            found, first = detector.rpn(batch, levels, wanted)
            _, second = detector.roi_heads(levels, found, sizes, wanted)
            return {**first, **second}
        logits, offsets = concat_box_prediction_layers(
            *detector.rpn.head(list(levels.values()))
        )
        found, _ = detector.rpn(batch, levels)
        x = detector.roi_heads.box_roi_pool(levels, found, sizes)
        scores, shifts = detector.roi_heads.box_predictor(
            detector.roi_heads.box_head(x)
        )
        rows = logits.view(len(images), -1), offsets.view(len(images), -1, 4)
        return *rows, found, scores, shifts

    detector.forward = forward
    return in_float64(detector)


def said(given: list[dict[str, Tensor]]) -> tuple[Callable, Callable]:
    def ours(output: FasterRCNNOutput) -> object:
        rpn, shifts = output.rpn, output.offsets.flatten(1)
        return rpn.objectness, rpn.offsets, output.proposals, output.logits, shifts

    return lambda o: o if isinstance(o, dict) else ours(o), lambda o: o


class Learning(nn.Module):
    """In training mode the losses, in evaluation mode what the network says."""

    def __init__(self, network: FasterRCNN, given: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.given = given
        for name, child in network.named_children():
            self.add_module(name, child)
        self.run = [network]  # a list: its parameters have the names of torchvision's

    def forward(self, images: Tensor) -> object:
        if not self.training:
            return self.run[0](images)
        return faster_rcnn_loss(self.run[0](images, self.given), self.given)


def resnet10(num_classes: int) -> TorchvisionFasterRCNN:
    layers = {f"layer{n}": str(n - 1) for n in (1, 2, 3, 4)}
    body = torchvision.models.ResNet(TorchvisionBlock, [1, 1, 1, 1])
    maps = [64, 128, 256, 512]
    pyramid = BackboneWithFPN(body, layers, maps, 32, extra_blocks=LastLevelMaxPool())
    return TorchvisionFasterRCNN(
        pyramid,
        box_head=TorchvisionHead(32 * 49, 64),
        box_predictor=TorchvisionPredictor(64, num_classes),
    )


def test_network_on_resnet10_equals_torchvisions(evidence, draws_by_length) -> None:
    fpn = FeaturePyramidNetwork([64, 128, 256, 512], 32, FeaturePyramidPool())
    backbone = FasterRCNNBackbone(ResNet(BasicBlock, (1, 1, 1, 1)), fpn)
    given = targets(3, 0)
    comparison = compare(
        Learning(FasterRCNN(backbone, 32, CLASSES, width=64), given),
        parts(resnet10(CLASSES + 1), given),
        torch.randn(2, 3, 128, 192),
        outputs=said(given),
    )
    evidence.equivalent(
        "network on ResNet-10",
        comparison,
        reference="torchvision.models.detection.FasterRCNN",
        settings="ResNet-10, 32 channels, hidden width 64; in training the four losses, of the same samples",
    )


@pytest.mark.slow
def test_fasterrcnn_resnet50_fpn_equals_torchvisions(evidence, draws_by_length) -> None:
    given = targets(3, 0)
    reference = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1
    )
    comparison = compare(
        Learning(fasterrcnn_resnet50_fpn(CLASSES), given),
        parts(reference, given),
        torch.randn(2, 3, 64, 128),
        outputs=said(given),
    )
    evidence.equivalent(
        "fasterrcnn_resnet50_fpn",
        comparison,
        reference="torchvision.models.detection.fasterrcnn_resnet50_fpn",
        settings="weights=None, weights_backbone=None, num_classes=6; in training the four losses, of the same samples",
    )


@pytest.mark.slow
def test_fasterrcnn_resnet50_fpn_finds_the_same_boxes_as_torchvision_in_the_same_images() -> (
    None
):
    reference = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + 1,
        image_mean=[0] * 3,
        image_std=[1] * 3,
    ).eval()
    reference.transform.train()._skip_resize = True  # in training mode it may
    ours = fasterrcnn_resnet50_fpn(CLASSES).eval()
    ours.load_state_dict(reference.state_dict())
    images = torch.rand(2, 3, 128, 192)  # on multiples of 64 all anchors are equal
    with torch.no_grad():
        expected = reference(list(images))
        found = faster_rcnn_detections(ours(images))
    for one, other in zip(found, expected, strict=True):
        assert len(one["boxes"]) > 20
        other["labels"] = other["labels"] - 1
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_names_and_shapes_are_those_of_torchvisions_weights_with_frozen_batch_norm() -> (
    None
):
    with torch.device("meta"):
        body = torchvision.models.resnet50(norm_layer=FrozenBatchNorm2d)
        published = TorchvisionFasterRCNN(_resnet_fpn_extractor(body, 5), 91)
        ours = fasterrcnn_resnet50_fpn()
    ours.load_state_dict(published.state_dict(), assign=True)  # strict
    norms = [m for m in ours.modules() if isinstance(m, nn.BatchNorm2d)]
    affine = sum(p.numel() for m in norms for p in m.parameters())
    count = sum(p.numel() for p in ours.parameters())
    weights = torchvision.models.detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    assert count - affine == weights.meta["num_params"] == 41_755_286


def test_numbers_of_samples_and_limits_are_torchvisions() -> None:
    def default(function: Callable, name: str) -> object:
        return inspect.signature(function).parameters[name].default

    with torch.device("meta"):
        ours, theirs = narrow_by_default(), stand_in()
    rpn, heads = theirs.rpn, theirs.roi_heads
    for counts in (rpn._pre_nms_top_n, rpn._post_nms_top_n):
        assert ours.rpn.count == (counts["training"], counts["testing"])
    assert ours.samples == heads.fg_bg_sampler.batch_size_per_image
    assert default(sample_proposals, "positive_fraction") == 0.25
    assert heads.fg_bg_sampler.positive_fraction == 0.25
    for function in (faster_rcnn_loss, rpn_loss):
        assert default(function, "samples") == rpn.fg_bg_sampler.batch_size_per_image
    assert default(region_proposals, "iou_threshold") == rpn.nms_thresh
    given = {"score_threshold": heads.score_thresh, "iou_threshold": heads.nms_thresh}
    for name, value in {**given, "limit": heads.detections_per_img}.items():
        assert default(faster_rcnn_detections, name) == value


def narrow_by_default() -> FasterRCNN:
    return FasterRCNN(narrow().backbone, 32, CLASSES)


class Pooled(nn.Module):
    """The second stage on what is pooled of a number of proposals."""

    def __init__(self, network: FasterRCNN) -> None:
        super().__init__()
        self.roi_heads = network.roi_heads

    def forward(self, x: Tensor) -> Tensor:
        return self.roi_heads["box_predictor"](self.roi_heads["box_head"](x))


class Each(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [self.head(level) for level in levels]


class BodyMaps(nn.Module):
    def __init__(self, body: ResNet) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.body.features(x)


def parts_cost(body: ResNet, height: int, width: int) -> dict[str, dict]:
    fpn = FeaturePyramidNetwork([256, 512, 1024, 2048], 256, FeaturePyramidPool())
    network = FasterRCNN(FasterRCNNBackbone(body, fpn), 256, 90)
    image = torch.empty(1, 3, height, width)
    maps = body.features(image)
    levels, pooled = fpn(maps), torch.empty(1000, 256, 7, 7)
    given = {
        "body": ("ResNet without its classifier", BodyMaps(body), image),
        "fpn": ("Pyramid, P2 to P6", fpn, maps),
        "rpn": ("Region proposals, all levels", Each(network.rpn.head), levels),
        "box": ("Second stage, 1,000 proposals", Pooled(network), pooled),
    }
    rows = {}
    for key, (name, part, x) in given.items():
        cost = model_cost(part.eval(), x)
        rows[key] = {"name": name, "params": cost.params, "macs": cost.macs}
    total = sum(row["params"] for row in rows.values())
    assert total == sum(p.numel() for p in network.parameters())
    macs = sum(row["macs"] for row in rows.values())
    return {**rows, "all": {"name": "", "params": total, "macs": macs}}


def test_cost_of_the_networks_and_of_their_parts(evidence) -> None:
    """The parts are counted on the meta device, where nothing can be suppressed."""
    with torch.device("meta"):
        rows = parts_cost(resnet50(), 800, 800)
        deep = parts_cost(resnet101(), 800, 800)["all"]
        wide = parts_cost(resnet50(), 800, 1088)["all"]
    first = {**rows.pop("all"), "name": "Faster R-CNN, ResNet-50"}
    weights = torchvision.models.detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    assert round(first["macs"] / 1e9, 2) == weights.meta["_ops"]  # of 800 x 800, too
    first["frozen"] = weights.meta["num_params"]
    rows["body"]["name"] = "ResNet-50 without its classifier"
    rows["fasterrcnn_resnet50_fpn"] = first
    rows["fasterrcnn_resnet101_fpn"] = {**deep, "name": "Faster R-CNN, ResNet-101"}
    rows["wide"] = {**wide, "name": "Faster R-CNN, ResNet-50, 800 x 1,088"}
    params = sum(p.numel() for p in narrow().parameters())
    rows["narrow"] = {"name": "Faster R-CNN, ResNet-10 of width 16", "params": params}
    evidence.computed("cost", rows)
    cells = {f"p{k}": (-(-800 // s)) ** 2 for k, s in enumerate(STRIDES, 2)}
    counts = {key: {"name": key.upper(), "anchors": 3 * n} for key, n in cells.items()}
    total = sum(row["anchors"] for row in counts.values())
    evidence.computed("anchors", {**counts, "all": {"name": "All", "anchors": total}})


# ---------------------------------------------------------------- laws


def test_level_of_a_box_is_that_of_the_formula() -> None:
    """Equation 1 of the pyramid's paper: k = floor(4 + log2(sqrt(wh) / 224))."""
    levels = [torch.full((1, 1, 512 // s, 512 // s), float(s)) for s in STRIDES[:4]]
    sides = [10, 56, 111, 112, 223, 224, 300, 447, 448, 500]
    found = [torch.tensor([[0.0, 0, side, side] for side in sides])]
    pooled = pool_boxes(levels, found, STRIDES[:4], 1).flatten()
    k = [min(max(math.floor(4 + math.log2(s / 224)), 2), 5) for s in sides]
    assert pooled.tolist() == [2.0**level for level in k]


def test_pooling_a_linear_map_gives_the_centres_of_the_bins() -> None:
    """RoIAlign interpolates and rounds nothing (Mask R-CNN, section 3)."""
    x = torch.arange(64, dtype=torch.float64).expand(1, 1, 64, 64)
    found = [torch.tensor([[8.0, 8, 36, 36], [9.6, 10.4, 37.6, 38.4]]).double()]
    pooled = pool_boxes([x], found, (1,), size=7)[:, 0, 0]
    centres = found[0][:, :1] + (torch.arange(7) + 0.5) * 28 / 7
    torch.testing.assert_close(pooled, centres)


def test_a_sample_has_at_most_its_part_of_objects_and_is_filled_with_background() -> (
    None
):
    match = torch.tensor([0] * 10 + [-1] * 50 + [-2] * 40)
    for count, expected in ((8, (4, 4)), (40, (10, 30)), (90, (10, 50))):
        drawn = match[sample_matches(match, count, 0.5)]
        assert ((drawn == 0).sum(), (drawn == -1).sum()) == expected
        assert (drawn != -2).all()
    assert len(sample_matches(match[60:], 8, 0.5)) == 0


def test_every_object_is_drawn_sooner_or_later() -> None:
    match = torch.tensor([0] * 10 + [-1] * 10)
    drawn = {i for _ in range(200) for i in sample_matches(match, 4, 0.5).tolist()}
    assert drawn == set(range(20))


def test_objects_are_proposals_in_training() -> None:
    true = boxes(2)
    nothing = torch.zeros(0, 4, dtype=torch.float64)
    drawn = sample_proposals([nothing, nothing], [true, nothing], 8)
    assert torch.equal(drawn[0], true)
    assert drawn[1].shape == (0, 4)


def test_second_stage_matches_no_object_below_half() -> None:
    true = torch.tensor([[0.0, 0, 10, 10]])
    found = torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 4.9], [50, 50, 60, 60]])
    assert match_proposals(true, found).tolist() == [0, -1, -1]
    assert match_proposals(true, found[1:]).tolist() == [
        -1,
        -1,
    ]  # the best is no object


def test_proposals_of_a_level_do_not_suppress_those_of_another() -> None:
    one = torch.tensor([[0.0, 0, 16, 16]])
    logits, offsets = torch.tensor([[2.0, 1.0]]), torch.zeros(1, 2, 4)
    apart = region_proposals(logits, offsets, [one, one], (32, 32), 10)
    same = region_proposals(logits, offsets, [one.repeat(2, 1)], (32, 32), 10)
    assert (len(apart[0]), len(same[0])) == (2, 1)


def test_loss_of_a_right_answer_is_almost_zero() -> None:
    """Computed by hand: logits and offsets as the targets would have them."""
    output, wanted = answer(images=1), targets(3)
    found = wanted[0]["boxes"].repeat(4, 1) + 1
    match = match_proposals(wanted[0]["boxes"], found)
    logits = torch.zeros(12, CLASSES + 1, dtype=torch.float64)
    classes = (wanted[0]["labels"][match.clamp(min=0)] + 1).where(match >= 0, 0)
    logits[torch.arange(12), classes] = 30.0
    offsets = torch.zeros(12, CLASSES + 1, 4, dtype=torch.float64)
    code = encode_boxes(wanted[0]["boxes"][match], found, (10, 10, 5, 5))
    offsets[torch.arange(12), classes] = code
    stage = output.rpn
    of = match_anchors(wanted[0]["boxes"], stage.anchors, 0.3, 0.7)
    shifts = encode_boxes(wanted[0]["boxes"][of.clamp(min=0)], stage.anchors)
    right = output._replace(
        rpn=stage._replace(
            objectness=(60 * (of >= 0) - 30.0)[None], offsets=shifts[None]
        ),
        proposals=[found],
        logits=logits,
        offsets=offsets,
    )
    losses = faster_rcnn_loss(right, wanted)
    assert all(value < 1e-9 for value in losses.values())
    assert all(value > 0.01 for value in faster_rcnn_loss(output, wanted).values())
    (again,) = faster_rcnn_detections(right)
    iou = box_iou(wanted[0]["boxes"], again["boxes"])
    assert (iou.max(dim=1).values > 0.999).all()
    best = again["labels"][iou.argmax(dim=1)]
    assert torch.equal(best, wanted[0]["labels"])


def test_only_the_offsets_of_its_class_are_learned() -> None:
    output, wanted = answer(images=1), targets(1)
    output = output._replace(offsets=output.offsets.requires_grad_())
    near = wanted[0]["boxes"].repeat(200, 1)
    loss = faster_rcnn_loss(output._replace(proposals=[near]), wanted)["loss_box_reg"]
    (slope,) = torch.autograd.grad(loss, output.offsets)
    assert slope[:, 1].any()  # class 0 stands at 1
    assert not slope[:, [0, 2, 3, 4, 5]].any()


def test_no_two_boxes_of_a_class_overlap_by_more_than_the_threshold() -> None:
    found = faster_rcnn_detections(answer(), iou_threshold=0.3)[0]
    overlap = box_iou(found["boxes"], found["boxes"]).fill_diagonal_(0).nan_to_num()
    same = found["labels"][:, None] == found["labels"]
    assert len(found["boxes"]) > 20
    assert overlap[same].max() <= 0.3
    assert overlap[~same].max() > 0.3


def test_detections_are_sorted_and_inside_the_image() -> None:
    for found in faster_rcnn_detections(answer()):
        assert (found["scores"].diff() <= 0).all()
        assert found["scores"].min() > 0.05
        assert found["boxes"].min() >= 0
        assert (found["boxes"].amax(dim=0) <= torch.tensor([96, 64, 96, 64])).all()
        assert set(found["labels"].tolist()) <= set(range(CLASSES))


def test_clipped_boxes_lie_in_the_image() -> None:
    given = torch.tensor([[-5.0, -5, 500, 20], [3, 4, 5, 6]])
    expected = [[0.0, 0, 96, 20], [3, 4, 5, 6]]
    assert clip_boxes(given, SIZE).tolist() == expected


def test_image_without_objects_has_a_finite_loss_and_gradient() -> None:
    network, none = narrow(), targets(0, 0)
    loss = faster_rcnn_loss(network(torch.randn(2, 3, 64, 96), none), none)
    assert loss["loss_rpn_box_reg"] == loss["loss_box_reg"] == 0
    sum(loss.values()).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert 0 < sum(loss.values()) < 10
    assert all(g.isfinite().all() for g in gradients)


def test_gradients_reach_every_parameter() -> None:
    network = narrow()
    wanted = [{"boxes": boxes(4, 64).float(), "labels": torch.arange(4)}] * 2
    output = network(torch.randn(2, 3, 64, 96), wanted)
    sum(faster_rcnn_loss(output, wanted).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_proposals_are_given_back_without_a_gradient() -> None:
    network = narrow()
    output = network(torch.randn(2, 3, 64, 96), targets(2, 0))
    assert not any(b.requires_grad for b in [*output.proposals, *output.rpn.boxes])
    assert [len(b) for b in network(torch.randn(2, 3, 64, 96)).proposals] == [100] * 2
    assert all(
        len(b) <= 50 for b in network.eval()(torch.randn(2, 3, 64, 96)).proposals
    )


def test_of_narrow_networks_targets_of_any_integer_width_are_learned(
    draws_by_length,
) -> None:
    output, wanted = answer(images=1), targets(3)
    expected = faster_rcnn_loss(output, wanted)
    for dtype in (torch.uint8, torch.int8, torch.int32):
        narrower = [{**t, "labels": t["labels"].to(dtype)} for t in wanted]
        assert faster_rcnn_loss(output, narrower) == expected


@pytest.mark.parametrize(
    "target",
    [
        {"boxes": torch.tensor([]), "labels": torch.tensor([])},
        {"boxes": torch.zeros(1, 5), "labels": torch.zeros(1, dtype=torch.int64)},
        {"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.tensor([0.0])},
    ],
    ids=["empty without columns", "five columns", "float labels"],
)
def test_targets_of_another_form_are_refused(target: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"expected boxes \(M, 4\), integer labels"):
        faster_rcnn_loss(answer(), [target] * 2)


def test_refuses_what_does_not_fit() -> None:
    network, image = narrow(), torch.randn(1, 3, 64, 96)
    with pytest.raises(ValueError, match="num_classes=0"):
        FasterRCNN(network.backbone, 32, 0)
    with pytest.raises(ValueError, match="expected a stride for each anchor size"):
        FasterRCNN(network.backbone, 32, 2, (8, 16))
    with pytest.raises(ValueError, match=r"\(N, C, H, W\), got \(3, 64, 96\)"):
        network(image[0])
    with pytest.raises(ValueError, match=r"5 levels, expected self\.strides=\(4, 8\)"):
        FasterRCNN(network.backbone, 32, 2, (8, 16), (4, 8))(image)
    with pytest.raises(ValueError, match=r"expected levels of \[\[8, 12\], \[4, 6\]"):
        FasterRCNN(network.backbone, 32, 2, strides=(8, 16, 32, 64, 128))(image)
    with pytest.raises(ValueError, match="2 targets for 1 images"):
        network(image, targets(1, 1))
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        faster_rcnn_loss(answer(), targets(1))
    flat = {"boxes": torch.tensor([[5.0, 5, 5, 9]]), "labels": torch.tensor([0])}
    with pytest.raises(ValueError, match="x1 < x2 and y1 < y2"):
        faster_rcnn_loss(answer(), [flat] * 2)
    counted = [{"boxes": boxes(1), "labels": torch.tensor([CLASSES])}] * 2
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.4, got tensor"):
        faster_rcnn_loss(answer(), counted)


# ---------------------------------------------------------------- the record


def learn_trial(learning_rate: float, seed: int) -> dict[str, object]:
    from cnn_lab.scene_trial import learn_boxes

    torch.manual_seed(seed)
    return learn_boxes(
        narrow(),
        lambda net, x, y: sum(faster_rcnn_loss(net(x, y), y, samples=64).values()),
        faster_rcnn_detections,
        learning_rate=learning_rate,
        seed=seed,
    )


def trial(seeds: list[int], learning_rate: float) -> dict[str, object]:
    from cnn_lab.scene_trial import scene_trials

    cache = Path(__file__).parents[2] / ".cache/record/faster_rcnn.jsonl"
    name = "Faster R-CNN, ResNet-10 of width 16"
    arms = {"faster_rcnn": (name, {"learning_rate": learning_rate})}
    return scene_trials(learn_trial, seeds, cache, arms)


@pytest.mark.record
def test_record_it_learns_the_scenes_of_all_detectors(evidence) -> None:
    # Chosen by tries with 400 other scenes (seed 1000), before this run.
    evidence.measured(
        "trial", arguments={"seeds": [0, 1, 2], "learning_rate": 4e-3}, run=trial
    )
