import math
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection import _utils as theirs
from torchvision.models.detection.backbone_utils import (
    BackboneWithFPN,
    _resnet_fpn_extractor,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead, _default_anchorgen
from torchvision.models.resnet import BasicBlock as TorchvisionBlock
from torchvision.ops import FrozenBatchNorm2d, box_iou
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from cnn_site.equivalence import compare, difference
from cnn_techniques.detection import (
    FeaturePyramidNetwork,
    FeaturePyramidP6P7,
    RetinaNet,
    RetinaNetBackbone,
    RetinaNetOutput,
    match_anchors,
    retinanet_anchors,
    retinanet_detections,
    retinanet_loss,
    retinanet_resnet50_fpn,
    sigmoid_focal_loss,
)
from cnn_techniques.evaluation.model_cost import model_cost
from cnn_techniques.modern import BasicBlock, ResNet, resnet50, resnet101

STRIDES = (8, 16, 32, 64, 128)  # of P3 to P7


def narrow(num_classes: int = 10) -> RetinaNet:
    """ResNet-10 of width 16, P3 to P5 of 32 channels: what the recorded run trains."""
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=16, in_channels=1)
    pyramid = FeaturePyramidNetwork([32, 64, 128], 32)
    backbone = RetinaNetBackbone(body, pyramid)
    sizes, strides, std = (14, 22, 34), (8, 16, 32), (2 / (9 * 32)) ** 0.5
    return RetinaNet(backbone, 32, num_classes, sizes, strides, std)


def boxes(count: int, size: float = 96.0, dtype: torch.dtype = torch.float64) -> Tensor:
    corner = torch.rand(count, 2, dtype=dtype) * size * 0.7
    return torch.cat(
        [corner, corner + 4 + torch.rand(count, 2, dtype=dtype) * size * 0.3], dim=1
    )


def answer(num_classes: int = 5, images: int = 2) -> RetinaNetOutput:
    """An output drawn at random, as from a network whose scores reach from 0.01 to 0.9."""
    grids = {(8, 12): 8, (4, 6): 16, (2, 3): 32}
    anchors = [
        retinanet_anchors(grid, stride, 4 * stride).double()
        for grid, stride in grids.items()
    ]
    total = sum(len(a) for a in anchors)
    return RetinaNetOutput(
        torch.randn(images, total, num_classes, dtype=torch.float64) - 2,
        torch.randn(images, total, 4, dtype=torch.float64) / 2,
        torch.cat(anchors),
        [len(a) for a in anchors],
        (64, 96),
    )


def targets(*counts: int) -> list[dict[str, Tensor]]:
    return [{"boxes": boxes(m, 64), "labels": torch.arange(m) % 5} for m in counts]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def loss_of(
    logits: Tensor, offsets: Tensor, anchors: Tensor, box: Tensor, label: Tensor
):
    output = RetinaNetOutput(logits, offsets, anchors, [len(anchors)], (64, 96))
    return retinanet_loss(output, [{"boxes": box, "labels": label}])


def loss_case():
    output, wanted = answer(images=1), targets(3)[0]
    inputs = *output[:3], wanted["boxes"], wanted["labels"]
    return loss_of, inputs


DEVICE_CASES = {
    "retinanet_loss": loss_case,
    "sigmoid_focal_loss": lambda: (
        sigmoid_focal_loss,
        (torch.randn(7, 5), (torch.rand(7, 5) > 0.5).double()),
    ),
    "RetinaNet, narrow": lambda: (narrow().eval(), (torch.randn(2, 1, 64, 96),)),
}


# ---------------------------------------------------------------- against torchvision


def test_focal_loss_equals_torchvisions(evidence) -> None:
    logits = torch.randn(64, 9, dtype=torch.float64, requires_grad=True)
    wanted = (torch.rand(64, 9) > 0.7).double()
    pairs, slopes = {}, {}
    for alpha, gamma in [(0.25, 2.0), (0.5, 0.0), (0.75, 5.0), (0.25, 0.5)]:
        ours = sigmoid_focal_loss(logits, wanted, alpha, gamma)
        reference = torchvision_focal_loss(logits, wanted, alpha, gamma)
        name = f"alpha {alpha}, gamma {gamma}"
        pairs[name] = ours.detach(), reference.detach()
        slopes[name] = tuple(
            torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, reference)
        )
    comparison = difference(pairs, slopes, shape=[64, 9], modes=list(pairs))
    evidence.equivalent(
        "focal loss", comparison, reference="torchvision.ops.sigmoid_focal_loss"
    )


def levels_of(height: int, width: int) -> list[Tensor]:
    """P3 to P7 of an image, with sizes rounded up."""
    return [torch.zeros(1, 4, -(-height // s), -(-width // s)) for s in STRIDES]


def torchvision_anchors(height: int, width: int) -> list[Tensor]:
    levels = levels_of(height, width)
    image = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    anchors = _default_anchorgen()(image, levels)[0]
    return list(anchors.split([9 * level[0, 0].numel() for level in levels]))


def test_anchors_equal_torchvisions(evidence) -> None:
    height, width = 256, 384  # multiples of all strides
    anchors = torch.cat(anchors_of(levels_of(height, width)))
    comparison = difference(
        {"anchors": (anchors, torch.cat(torchvision_anchors(height, width)))},
        shape=[height, width],
        modes=["P3 to P7"],
    )
    evidence.equivalent(
        "anchors",
        comparison,
        reference="torchvision.models.detection.anchor_utils.AnchorGenerator",
    )


@pytest.mark.parametrize("side", [320, 448, 800, 1344])
def test_on_sides_as_torchvision_pads_them_its_steps_on_p6_and_p7_are_not_the_stride(
    side: int,
) -> None:
    """Padded to multiples of 32: from P3 to P5 all is equal; beyond, its step is rounded down."""
    assert side % 32 == 0
    levels = levels_of(side, side)
    ours, expected = anchors_of(levels), torchvision_anchors(side, side)
    for stride, level, a, b in zip(STRIDES, levels, ours, expected, strict=True):
        step = side // level.shape[2]  # as torchvision divides
        assert torch.equal(a, b) == (step == stride)
        assert step == stride or stride > 32


@pytest.mark.parametrize(
    ("height", "width"), [(64, 96), (65, 127), (57, 248), (63, 257), (31, 333), (9, 5)]
)
def test_cells_lie_a_stride_apart_on_any_image(height: int, width: int) -> None:
    """Whatever is left over at the edges (keras-retinanet, issue 342)."""
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=2)
    fpn = FeaturePyramidNetwork([4, 8, 16], 4, FeaturePyramidP6P7(4, 4))
    network = RetinaNet(RetinaNetBackbone(body, fpn), 4, 2).eval()
    with torch.no_grad():
        output = network(torch.zeros(1, 3, height, width))
    for stride, anchors in zip(
        STRIDES, output.anchors.split(output.level_sizes), strict=True
    ):
        rows, columns = -(-height // stride), -(-width // stride)
        grid = anchors.view(rows, columns, 9, 4)
        centres = (grid[..., :2] + grid[..., 2:]) / 2
        middle = centres.mean(dim=2)  # of the nine of a cell
        torch.testing.assert_close(middle[0, 0], centres[0, 0].mean(dim=0))
        x, y = torch.arange(columns) * stride, torch.arange(rows) * stride
        expected = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        torch.testing.assert_close(middle - middle[0, 0], expected.float())


def test_a_box_at_the_far_edge_gets_as_many_anchors_as_on_the_padded_image() -> None:
    box = torch.tensor([[1290.0, 16.0, 1322.0, 48.0]])
    found = [
        int(
            (match_anchors(box, torch.cat(anchors_of(levels_of(64, width)))) >= 0).sum()
        )
        for width in (1333, 1344)
    ]
    assert found[0] == found[1] > 10


@pytest.mark.parametrize("small_images", [False, True])
def test_levels_of_other_strides_are_refused(small_images: bool) -> None:
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=2, small_images=small_images)
    backbone = RetinaNetBackbone(body, FeaturePyramidNetwork([4, 8, 16], 4))
    right, wrong = ((2, 4, 8), (8, 16, 32))[:: 1 if small_images else -1]
    sizes = (12, 20, 32)
    RetinaNet(backbone, 4, 2, sizes, right)(torch.randn(2, 3, 37, 50))
    with pytest.raises(ValueError, match=f"a cell every {wrong[0]} of"):
        RetinaNet(backbone, 4, 2, sizes, wrong)(torch.randn(2, 3, 37, 50))
    with pytest.raises(ValueError, match="expected a stride for each anchor size"):
        RetinaNet(backbone, 4, 2, sizes)


def test_loss_equals_torchvisions(evidence) -> None:
    output, wanted = answer(), targets(3, 0)
    head = RetinaNetHead(8, 9, 5)
    matched = [
        theirs.Matcher(0.5, 0.4, True)(box_iou(t["boxes"], output.anchors))
        if len(t["boxes"])
        else torch.full((len(output.anchors),), -1)
        for t in wanted
    ]
    pairs, slopes = {}, {}
    leaves = output.logits.requires_grad_(), output.offsets.requires_grad_()
    ours = retinanet_loss(output, wanted)
    expected = head.compute_loss(
        wanted,
        {"cls_logits": output.logits, "bbox_regression": output.offsets},
        [output.anchors] * 2,
        matched,
    )
    for (name, value), leaf in zip(ours.items(), leaves, strict=True):
        pairs[name] = value.detach(), expected[name].detach()
        slopes[name] = tuple(
            torch.autograd.grad(loss, leaf)[0] for loss in (value, expected[name])
        )
    comparison = difference(
        pairs, slopes, shape=list(output.logits.shape), modes=["3 objects", "no object"]
    )
    evidence.equivalent(
        "loss",
        comparison,
        reference="torchvision.models.detection.retinanet.RetinaNetHead.compute_loss",
    )


def test_postprocessing_equals_torchvisions_on_the_same_output(evidence) -> None:
    output = answer()
    reference = torchvision_detector(5)
    ours = retinanet_detections(output, candidates=100, limit=50)
    reference.topk_candidates, reference.detections_per_img = 100, 50
    split = {
        "cls_logits": list(output.logits.split(output.level_sizes, dim=1)),
        "bbox_regression": list(output.offsets.split(output.level_sizes, dim=1)),
    }
    anchors = [list(output.anchors.split(output.level_sizes))] * 2
    expected = reference.postprocess_detections(split, anchors, [(64, 96)] * 2)
    pairs = {
        f"{key} {n}": (ours[n][key], expected[n][key])
        for n in (0, 1)
        for key in expected[n]
    }
    assert len(ours[0]["boxes"]) == 50
    comparison = difference(
        pairs, shape=list(output.logits.shape), modes=["top 100 a level", "50 an image"]
    )
    evidence.equivalent(
        "post-processing",
        comparison,
        reference="torchvision.models.detection.RetinaNet.postprocess_detections",
    )


def torchvision_detector(num_classes: int) -> TorchvisionRetinaNet:
    """On a ResNet-10, P3 to P7 of 32 channels; called, it gives what its heads say."""
    body = torchvision.models.ResNet(TorchvisionBlock, [1, 1, 1, 1])
    pyramid = BackboneWithFPN(
        body,
        {"layer2": "0", "layer3": "1", "layer4": "2"},
        [128, 256, 512],
        32,
        extra_blocks=LastLevelP6P7(32, 32),
    )
    return heads_only(TorchvisionRetinaNet(pyramid, num_classes))


def heads_only(detector: TorchvisionRetinaNet) -> TorchvisionRetinaNet:
    detector.forward = lambda images: detector.head(
        list(detector.backbone(images).values())
    )
    return detector


def ours_and_theirs():
    return lambda o: (o.logits, o.offsets), lambda o: (
        o["cls_logits"],
        o["bbox_regression"],
    )


def test_network_on_resnet10_equals_torchvisions(evidence) -> None:
    fpn = FeaturePyramidNetwork([128, 256, 512], 32, FeaturePyramidP6P7(32, 32))
    ours = RetinaNet(RetinaNetBackbone(ResNet(BasicBlock, (1, 1, 1, 1)), fpn), 32, 4)
    comparison = compare(
        ours,
        torchvision_detector(4),
        torch.randn(2, 3, 64, 96),
        outputs=ours_and_theirs(),
    )
    evidence.equivalent(
        "network on ResNet-10",
        comparison,
        reference="torchvision.models.detection.RetinaNet",
        settings="ResNet-10, LastLevelP6P7(32, 32), out_channels=32",
    )


@pytest.mark.slow
def test_retinanet_resnet50_fpn_equals_torchvisions(evidence) -> None:
    reference = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None
    )
    comparison = compare(
        retinanet_resnet50_fpn(),
        heads_only(reference),
        torch.randn(2, 3, 64, 96),
        outputs=ours_and_theirs(),
    )
    evidence.equivalent(
        "retinanet_resnet50_fpn",
        comparison,
        reference="torchvision.models.detection.retinanet_resnet50_fpn",
        settings="weights=None, weights_backbone=None",
    )


@pytest.mark.slow
def test_retinanet_resnet50_fpn_finds_the_same_boxes_as_torchvision_in_the_same_images() -> (
    None
):
    reference = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        score_thresh=0.0105,
        image_mean=[0] * 3,
        image_std=[1] * 3,
    ).eval()
    reference.transform.train()._skip_resize = True  # in training mode it may
    ours = retinanet_resnet50_fpn().eval()
    ours.load_state_dict(reference.state_dict())
    images = torch.rand(2, 3, 128, 256)  # on multiples of 128 all anchors are equal
    with torch.no_grad():
        expected = reference(list(images))
        found = retinanet_detections(ours(images), score_threshold=0.0105)
    for one, other in zip(found, expected, strict=True):
        assert len(one["boxes"]) > 50
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_names_and_shapes_are_those_of_torchvisions_weights_with_frozen_batch_norm() -> (
    None
):
    with torch.device("meta"):
        body = torchvision.models.resnet50(norm_layer=FrozenBatchNorm2d)
        pyramid = _resnet_fpn_extractor(
            body, 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
        )
        published = TorchvisionRetinaNet(pyramid, 91)
        ours = retinanet_resnet50_fpn()
    ours.load_state_dict(
        published.state_dict(), assign=True
    )  # strict; on the meta device
    norms = sum(
        p.numel()
        for m in ours.modules()
        if isinstance(m, nn.BatchNorm2d)
        for p in m.parameters()
    )
    count = sum(p.numel() for p in ours.parameters())
    weights = torchvision.models.detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1
    assert (
        count - norms
        == weights.meta["num_params"]
        == sum(p.numel() for p in published.parameters())
    )
    assert count == 34_068_119


def test_cost_of_the_networks_and_of_their_parts(evidence) -> None:
    def on(body: ResNet) -> RetinaNet:
        fpn = FeaturePyramidNetwork(
            [512, 1024, 2048], 256, FeaturePyramidP6P7(256, 256)
        )
        return RetinaNet(RetinaNetBackbone(body, fpn), 256, 91)

    with torch.device("meta"):
        image = torch.empty(1, 3, 800, 800)
        networks = {
            "retinanet_resnet50_fpn": ("RetinaNet, ResNet-50", on(resnet50())),
            "retinanet_resnet101_fpn": ("RetinaNet, ResNet-101", on(resnet101())),
        }
        rows = {}
        for key, (name, network) in networks.items():
            cost = model_cost(network.eval(), image)
            rows[key] = {"name": name, "params": cost.params, "macs": cost.macs}
        detector = networks["retinanet_resnet50_fpn"][1]
        backbone, heads = detector.backbone, detector.head
        maps = backbone.body.features(image)[1:]
        levels = backbone.fpn(maps)
        total = sum(len(a) for a in anchors_of(levels))
    assert rows["retinanet_resnet50_fpn"]["params"] == 34_068_119
    assert total == len(detector(image).anchors)
    parts = {
        "body": ("ResNet-50 without its classifier", BodyMaps(backbone.body), image),
        "fpn": ("Pyramid, P3 to P7", backbone.fpn, maps),
        "classes": ("Classification head", Each(heads["classification_head"]), levels),
        "boxes": ("Regression head", Each(heads["regression_head"]), levels),
    }
    for key, (name, part, given) in parts.items():
        cost = model_cost(part.eval(), given)
        rows[key] = {"name": name, "params": cost.params, "macs": cost.macs}
    for key in ("params", "macs"):  # the parts are the whole
        assert (
            sum(rows[part][key] for part in parts)
            == rows["retinanet_resnet50_fpn"][key]
        )
    weights = torchvision.models.detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1
    rows["retinanet_resnet50_fpn"]["frozen"] = weights.meta["num_params"]
    evidence.computed("cost", rows)
    counts = {
        f"p{k}": {"name": f"P{k}", "cells": level.shape[2] * level.shape[3]}
        for k, level in enumerate(levels, start=3)
    }
    for row in counts.values():
        row["anchors"] = 9 * row["cells"]
    evidence.computed("anchors", {**counts, "all": {"name": "All", "anchors": total}})


class BodyMaps(nn.Module):
    def __init__(self, body: ResNet) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.body.features(x)


class Each(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [self.head(level) for level in levels]


def anchors_of(levels: list[Tensor]) -> list[Tensor]:
    return [
        retinanet_anchors((p.shape[2], p.shape[3]), stride, 4 * stride)
        for p, stride in zip(levels, STRIDES, strict=True)
    ]


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 5.0])
def test_focal_loss_of_sure_logits_has_the_slope_of_the_formula(gamma: float) -> None:
    """(1 - p)^gamma has an infinite slope where p rounds to 1 (kornia 918, optax 1267)."""
    z = torch.tensor([0.0, 3.0, 12.0, 20.0, 40.0, 100.0, 500.0])
    z = torch.cat([z, -z]).requires_grad_()
    wanted = torch.ones_like(z)
    for logits, targets in ((z, wanted), (-z, 1 - wanted)):
        loss = sigmoid_focal_loss(logits, targets, 0.5, gamma)
        (slope,) = torch.autograd.grad(loss.sum(), z)
        exact = z.detach().double().requires_grad_()
        log_p, log_rest = F.logsigmoid(exact), F.logsigmoid(-exact)
        expected = -0.5 * (gamma * log_rest).exp() * log_p  # no difference is taken
        (right,) = torch.autograd.grad(expected.sum(), exact)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(slope.double(), right, rtol=1e-5, atol=1e-6)


def test_focal_loss_of_soft_targets_is_finite_too() -> None:
    z = torch.linspace(-200, 200, 41).requires_grad_()
    for target in (1e-9, 1e-8, 0.3, 1 - 1e-7):
        loss = sigmoid_focal_loss(z, torch.full_like(z, target), gamma=0.5)
        (slope,) = torch.autograd.grad(loss.sum(), z)
        assert loss.isfinite().all()
        assert slope.isfinite().all()


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16]
)
def test_labels_are_integers_of_any_width(dtype: torch.dtype) -> None:
    output, wanted = answer(images=1), targets(3)
    narrower = [{**t, "labels": t["labels"].to(dtype)} for t in wanted]
    expected, found = retinanet_loss(output, wanted), retinanet_loss(output, narrower)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_focal_loss_is_weighted_cross_entropy_when_gamma_is_zero() -> None:
    logits, wanted = (
        torch.randn(50, dtype=torch.float64),
        (torch.rand(50) > 0.5).double(),
    )
    weight = 0.25 * wanted + 0.75 * (1 - wanted)
    expected = F.binary_cross_entropy_with_logits(
        logits, wanted, weight, reduction="none"
    )
    torch.testing.assert_close(sigmoid_focal_loss(logits, wanted, gamma=0.0), expected)


def test_focal_loss_of_an_example_at_probability_0_9_is_a_hundredth_of_cross_entropy() -> (
    None
):
    logit = torch.tensor(
        [math.log(0.9 / 0.1)], dtype=torch.float64
    )  # section 3.2 of the paper
    ratio = sigmoid_focal_loss(logit, torch.ones(1), 1.0, 2.0) / sigmoid_focal_loss(
        logit, torch.ones(1), 1.0, 0.0
    )
    torch.testing.assert_close(ratio, torch.tensor([0.01], dtype=torch.float64))


def test_first_scores_are_the_prior_probability() -> None:
    network = narrow()
    scores = network(torch.randn(2, 1, 64, 96)).logits.sigmoid()
    assert abs(scores.mean().item() - 0.01) < 1e-3


def test_no_two_boxes_of_a_class_overlap_by_more_than_the_threshold() -> None:
    found = retinanet_detections(answer(), iou_threshold=0.3)[0]
    overlap = (
        box_iou(found["boxes"], found["boxes"]).fill_diagonal_(0).nan_to_num()
    )  # 0 / 0: empty boxes
    same = found["labels"][:, None] == found["labels"]
    assert len(found["boxes"]) > 20
    assert overlap[same].max() <= 0.3
    assert overlap[~same].max() > 0.3


def test_detections_are_sorted_and_inside_the_image() -> None:
    for found in retinanet_detections(answer()):
        assert (found["scores"].diff() <= 0).all()
        assert found["scores"].min() > 0.05
        assert found["boxes"].min() >= 0
        assert (found["boxes"].amax(dim=0) <= torch.tensor([96, 64, 96, 64])).all()


def test_image_without_objects_has_a_finite_loss_and_gradient() -> None:
    network = narrow()
    loss = retinanet_loss(network(torch.randn(2, 1, 64, 96)), targets(0, 0))
    assert loss["bbox_regression"] == 0
    sum(loss.values()).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert 0 < loss["classification"] < 10
    assert all(g.isfinite().all() for g in gradients)


def test_gradients_reach_every_parameter() -> None:
    network = narrow()
    wanted = [
        {"boxes": boxes(4, 64).float(), "labels": torch.arange(4)} for _ in range(2)
    ]
    sum(retinanet_loss(network(torch.randn(2, 1, 64, 96)), wanted).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_undecided_anchors_do_not_count() -> None:
    output, wanted = answer(images=1), targets(3)
    wanted[0]["boxes"] = output.anchors[[20, 300, 700]] * 1.3
    undecided = match_anchors(wanted[0]["boxes"], output.anchors) == -2
    assert undecided.any()
    moved = output._replace(logits=output.logits.where(~undecided[:, None], 9.0))
    torch.testing.assert_close(
        retinanet_loss(moved, wanted), retinanet_loss(output, wanted)
    )


def test_moving_the_image_by_a_stride_moves_the_anchors_scores_with_it() -> None:
    network = narrow().eval()
    image = torch.zeros(1, 1, 256, 256)
    image[:, :, 112:144, 112:144] = torch.rand(32, 32)
    with torch.no_grad():
        here, there = (network(x) for x in (image, image.roll(32, dims=3)))
    grids = [o.logits[0, : o.level_sizes[0]].view(32, 32, 90) for o in (here, there)]
    inside = slice(12, 20)
    torch.testing.assert_close(
        grids[0][inside, 12:20], grids[1][inside, 16:24], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    "target",
    [
        {"boxes": torch.tensor([]), "labels": torch.tensor([])},
        {"boxes": torch.zeros(1, 5), "labels": torch.zeros(1, dtype=torch.int64)},
        {"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.tensor([0.0])},
    ],
    ids=["empty without columns", "five columns", "float labels"],
)
def test_targets_of_another_form_are_refused(target: dict[str, torch.Tensor]) -> None:
    output = answer()
    with pytest.raises(ValueError, match=r"expected boxes \(M, 4\), integer labels"):
        retinanet_loss(output, [target] * 2)


def test_refuses_what_does_not_fit() -> None:
    network = narrow()
    with pytest.raises(ValueError, match="num_classes=0"):
        RetinaNet(network.backbone, 32, 0)
    with pytest.raises(
        ValueError, match=r"expected images \(N, C, H, W\), got \(3, 64, 96\)"
    ):
        network(torch.randn(3, 64, 96))
    with pytest.raises(ValueError, match=r"3 levels and self\.anchor_sizes"):
        RetinaNet(network.backbone, 32, 10)(torch.randn(1, 1, 64, 96))
    output = answer()
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        retinanet_loss(output, targets(1))
    flat = [
        {"boxes": torch.tensor([[5.0, 5.0, 5.0, 9.0]]), "labels": torch.tensor([0])}
    ] * 2
    with pytest.raises(
        ValueError, match=r"x1 < x2 and y1 < y2, got \[\[5.0, 5.0, 5.0, 9.0\]\]"
    ):
        retinanet_loss(output, flat)
    beyond = [{"boxes": boxes(1), "labels": torch.tensor([5])}] * 2
    with pytest.raises(
        ValueError, match=r"labels must be in 0..4, got tensor\(\[5\]\)"
    ):
        retinanet_loss(output, beyond)
    with pytest.raises(ValueError, match=r"got \(\(3,\), \(2,\)\)"):
        sigmoid_focal_loss(torch.zeros(3), torch.zeros(2))
    with pytest.raises(
        ValueError, match=r"alpha in \[0, 1\] and gamma >= 0, got alpha=2"
    ):
        sigmoid_focal_loss(torch.zeros(3), torch.zeros(3), alpha=2)


# ---------------------------------------------------------------- the record


OBJECTS, SIDE = (1, 3), (0.3, 0.55)  # digits a scene; their height in parts of it


def train_one(
    size: int,
    count: int,
    epochs: int,
    batch_size: int,
    lr: float,
    test_count: int,
    seed: int,
) -> dict[str, object]:
    """Learn scenes of training digits; find the digits in scenes of test digits."""
    from torchmetrics.detection import MeanAveragePrecision

    from cnn_lab.data import scenes
    from cnn_lab.fit import fit, predict, steps

    torch.manual_seed(seed)
    model = narrow()
    train = scenes(count, size, seed=seed, objects=OBJECTS, side=SIDE)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.01)
    total = steps(count, epochs=epochs, batch_size=batch_size)
    history = fit(
        model,
        (train.images, train.targets),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        schedule=OneCycleLR(optimizer, lr, total, pct_start=0.1),
        loss=lambda net, x, y: sum(retinanet_loss(net(x), y).values()),
        seed=seed,
    )
    test = scenes(test_count, size, 0, "test", OBJECTS, SIDE)
    found = predict(Detector(model), test.images, 50)
    metric = MeanAveragePrecision(backend="pycocotools")
    metric.update(found, test.targets)
    scores = metric.compute()
    return {
        "curve": [epoch["loss"] for epoch in history],
        **{key: scores[key].item() for key in ("map", "map_50", "map_75")},
        "predictions": [sure(image) for image in found[:9]],
    }


class Detector(nn.Module):
    """Network and post-processing, at most 100 boxes an image as the COCO metric asks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        return retinanet_detections(self.network(images), limit=100)


def sure(found: dict[str, Tensor]) -> dict[str, list]:
    """What was found with a score above one half, in numbers short enough to keep."""
    keep = found["scores"] > 0.5
    return {
        "boxes": [[round(v, 1) for v in b] for b in found["boxes"][keep].tolist()],
        "labels": found["labels"][keep].tolist(),
        "scores": [round(s, 3) for s in found["scores"][keep].tolist()],
    }


def train_all(seeds: list[int], **settings) -> dict[str, object]:
    from cnn_lab.record import interval, repeat

    cache = Path(__file__).parents[2] / ".cache" / "record" / "retinanet.jsonl"
    runs = repeat(train_one, {"retinanet": settings}, seeds, cache)["retinanet"]
    row: dict[str, object] = {"name": "RetinaNet, ResNet-10 of width 16"}
    for key in ("map", "map_50", "map_75"):
        values = [run[key] for run in runs]
        row[key] = {**interval(values), "values": values}
    row["loss"] = interval([run["curve"][-1] for run in runs])
    row["curve"] = [run["curve"] for run in runs]
    return {
        "seeds": len(seeds),
        "size": settings["size"],
        "objects": OBJECTS,
        "side": SIDE,
        "scenes": settings["count"],
        "epochs": settings["epochs"],
        "test_scenes": settings["test_count"],
        "params": sum(p.numel() for p in narrow().parameters()),
        "arms": {"retinanet": row},
        "predictions": runs[0]["predictions"],
    }


@pytest.mark.record
def test_record_a_narrow_retinanet_finds_digits_in_scenes_it_has_not_seen(
    evidence,
) -> None:
    pytest.importorskip("torchmetrics")
    # Chosen with other scenes of training digits (seeds 1000 and 999), before this run.
    arguments = {
        "size": 64,
        "count": 3000,
        "epochs": 8,
        "batch_size": 8,
        "lr": 0.002,
        "test_count": 300,
        "seeds": [0, 1, 2, 3, 4],
    }
    result = evidence.measured("scenes", arguments=arguments, run=train_all)
    assert result["arms"]["retinanet"]["map_50"]["mean"] > 0.7


def learn_trial(learning_rate: float, seed: int) -> dict[str, object]:
    from cnn_lab.scene_trial import learn_boxes

    torch.manual_seed(seed)
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=16)
    backbone = RetinaNetBackbone(body, FeaturePyramidNetwork([32, 64, 128], 32))
    sizes, std = (20, 28, 36), (2 / (9 * 32)) ** 0.5
    return learn_boxes(
        RetinaNet(backbone, 32, 10, sizes, (8, 16, 32), std),
        lambda net, x, y: sum(retinanet_loss(net(x), y).values()),
        lambda out: retinanet_detections(out, limit=100),
        learning_rate=learning_rate,
        seed=seed,
    )


def trial(seeds: list[int], learning_rate: float) -> dict[str, object]:
    from cnn_lab.scene_trial import scene_trials

    cache = Path(__file__).parents[2] / ".cache/record/retinanet_trial.jsonl"
    name = "RetinaNet, ResNet-10 of width 16"
    arms = {"retinanet": (name, {"learning_rate": learning_rate})}
    return scene_trials(learn_trial, seeds, cache, arms)


@pytest.mark.record
def test_record_it_learns_the_scenes_of_all_detectors(evidence) -> None:
    evidence.measured(
        "trial", arguments={"seeds": [0, 1, 2], "learning_rate": 2e-3}, run=trial
    )
