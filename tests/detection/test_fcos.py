"""FCOS is torchvision's in names, outputs, matching, losses, gradients and detections."""

import math
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FCOS as TorchvisionFCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import (
    BackboneWithFPN,
    _resnet_fpn_extractor,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.models.resnet import BasicBlock as TorchvisionBlock
from torchvision.ops import FrozenBatchNorm2d, box_iou, generalized_box_iou_loss
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from cnn_site.equivalence import compare, difference
from cnn_techniques.detection import (
    FCOS,
    FCOSOutput,
    FCOSPoints,
    FeaturePyramidNetwork,
    FeaturePyramidP6P7,
    RetinaNetBackbone,
    fcos_boxes,
    fcos_centerness,
    fcos_detections,
    fcos_distances,
    fcos_loss,
    fcos_match,
    fcos_resnet50_fpn,
    giou_loss,
)
from cnn_techniques.evaluation.model_cost import model_cost
from cnn_techniques.modern import BasicBlock, ResNet

STRIDES, BOUNDS = (8, 16, 32, 64, 128), (64.0, 128.0, 256.0, 512.0)


def narrow(channels: int = 1) -> FCOS:
    """ResNet-10 of width 16, P3 to P5 of 32 channels: what the recorded run trains."""
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=16, in_channels=channels)
    backbone = RetinaNetBackbone(body, FeaturePyramidNetwork([32, 64, 128], 32))
    return FCOS(backbone, 32, 10, (8, 16, 32), (28, 40), groups=4, first_side=1.0)


def some_points(
    height: int, width: int, strides=STRIDES, bounds=BOUNDS
) -> tuple[FCOSPoints, list[int]]:
    """The points of an image, written a second way: one by one."""
    rows, sizes = [], []
    ends = [0.0, *bounds, math.inf]
    for level, stride in enumerate(strides):
        grid = -(-height // stride), -(-width // stride)
        sizes.append(grid[0] * grid[1])
        for y in range(grid[0]):
            for x in range(grid[1]):
                rows.append((x * stride, y * stride, stride, *ends[level : level + 2]))
    table = torch.tensor(rows, dtype=torch.float64)
    return FCOSPoints(table[:, :2], table[:, 2], table[:, 3:]), sizes


def anchors_of(points: FCOSPoints) -> Tensor:
    """torchvision's form of a point: a square of one stride around it."""
    half = points.stride[:, None] / 2
    return torch.cat([points.xy - half, points.xy + half], dim=1)


def boxes(count: int, height: int, width: int, smallest: float = 4.0) -> Tensor:
    """Of all sizes and shapes, sizes drawn on a logarithmic scale, inside the image."""
    size = torch.tensor([width, height], dtype=torch.float64)
    share = torch.rand(count, 2, dtype=torch.float64)
    sides = smallest * (size / smallest) ** share
    corner = torch.rand(count, 2, dtype=torch.float64) * (size - sides)
    return torch.cat([corner, corner + sides], dim=1)


def answer(
    images: int = 2, num_classes: int = 5, height: int = 512, width: int = 768
) -> FCOSOutput:
    """An output drawn at random, as from a network whose scores reach from 0 to 0.9."""
    points, sizes = some_points(height, width)
    total = len(points.xy)
    return FCOSOutput(
        torch.randn(images, total, num_classes, dtype=torch.float64) * 2 - 4,
        torch.randn(images, total, 4, dtype=torch.float64).abs() * 3,
        torch.randn(images, total, dtype=torch.float64),
        points,
        sizes,
        (height, width),
    )


def targets(*counts: int, height: int = 512, width: int = 768):
    return [
        {"boxes": boxes(m, height, width), "labels": torch.randint(5, (m,))}
        for m in counts
    ]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def loss_case():
    output, wanted = answer(images=1, height=128, width=192), targets(3)[0]

    def loss_of(logits, ltrb, centerness, xy, stride, reach, box, label):
        points = FCOSPoints(xy, stride, reach)
        out = FCOSOutput(logits, ltrb, centerness, points, [len(xy)], (128, 192))
        return fcos_loss(out, [{"boxes": box, "labels": label}])

    inputs = *output[:3], *output.points, wanted["boxes"], wanted["labels"]
    return loss_of, inputs


def giou_case():
    return giou_loss, (boxes(9, 64, 96), boxes(9, 64, 96))


DEVICE_CASES = {
    "fcos_loss": loss_case,
    "giou_loss": giou_case,
    "FCOS, narrow": lambda: (narrow().eval(), (torch.randn(2, 1, 64, 96),)),
}


# ---------------------------------------------------------------- against torchvision


def torchvision_fcos(num_classes: int) -> TorchvisionFCOS:
    """On a ResNet-10, P3 to P7 of 64 channels; called, it gives what its heads say."""
    body = torchvision.models.ResNet(TorchvisionBlock, [1, 1, 1, 1])
    pyramid = BackboneWithFPN(
        body,
        {"layer2": "0", "layer3": "1", "layer4": "2"},
        [128, 256, 512],
        64,
        extra_blocks=LastLevelP6P7(64, 64),
    )
    return heads_only(TorchvisionFCOS(pyramid, num_classes))


def heads_only(detector: TorchvisionFCOS) -> TorchvisionFCOS:
    detector.forward = lambda images: detector.head(
        list(detector.backbone(images).values())
    )
    return detector


def ours_and_theirs():
    return lambda o: (o.logits, o.ltrb, o.centerness[..., None]), lambda o: (
        o["cls_logits"],
        o["bbox_regression"],
        o["bbox_ctrness"],
    )


def test_network_on_resnet10_equals_torchvisions(evidence) -> None:
    fpn = FeaturePyramidNetwork([128, 256, 512], 64, FeaturePyramidP6P7(64, 64))
    ours = FCOS(RetinaNetBackbone(ResNet(BasicBlock, (1, 1, 1, 1)), fpn), 64, 4)
    comparison = compare(
        ours, torchvision_fcos(4), torch.randn(2, 3, 64, 96), outputs=ours_and_theirs()
    )
    evidence.equivalent(
        "network on ResNet-10",
        comparison,
        reference="torchvision.models.detection.FCOS",
        settings="ResNet-10, LastLevelP6P7(64, 64), out_channels=64",
    )


@pytest.mark.slow
def test_fcos_resnet50_fpn_equals_torchvisions(evidence) -> None:
    reference = torchvision.models.detection.fcos_resnet50_fpn(
        weights=None, weights_backbone=None
    )
    comparison = compare(
        fcos_resnet50_fpn(),
        heads_only(reference),
        torch.randn(2, 3, 64, 96),
        outputs=ours_and_theirs(),
    )
    evidence.equivalent(
        "fcos_resnet50_fpn",
        comparison,
        reference="torchvision.models.detection.fcos_resnet50_fpn",
        settings="weights=None, weights_backbone=None",
    )


@pytest.mark.slow
def test_fcos_resnet50_fpn_finds_the_same_boxes_as_torchvision_in_the_same_images() -> (
    None
):
    reference = torchvision.models.detection.fcos_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        score_thresh=0.07,
        image_mean=[0] * 3,
        image_std=[1] * 3,
    ).eval()
    nn.init.normal_(reference.head.classification_head.cls_logits.bias, -5.0, 0.1)
    nn.init.ones_(reference.head.regression_head.bbox_reg.bias)
    reference.transform.train()._skip_resize = True  # in training mode it may
    ours = fcos_resnet50_fpn().eval()
    ours.load_state_dict(reference.state_dict())
    images = torch.rand(2, 3, 128, 256)  # on multiples of 128 all points are equal
    with torch.no_grad():
        expected = reference(list(images))
        found = fcos_detections(ours(images), score_threshold=0.07)
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
        published = TorchvisionFCOS(pyramid, 91)
        ours = fcos_resnet50_fpn()
    # strict, on the meta device; FCOS's weights have no num_batches_tracked
    ours.load_state_dict(published.state_dict(), assign=True)
    norms = sum(
        p.numel()
        for m in ours.modules()
        if isinstance(m, nn.BatchNorm2d)
        for p in m.parameters()
    )
    count = sum(p.numel() for p in ours.parameters())
    weights = torchvision.models.detection.FCOS_ResNet50_FPN_Weights.COCO_V1
    assert count - norms == weights.meta["num_params"] == 32_269_600


@pytest.mark.parametrize(
    ("height", "width"), [(128, 256), (64, 96), (65, 127), (31, 333)]
)
def test_points_lie_a_stride_apart_from_the_upper_left_corner_on(
    height: int, width: int
) -> None:
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=2)
    fpn = FeaturePyramidNetwork([4, 8, 16], 4, FeaturePyramidP6P7(4, 4))
    network = FCOS(RetinaNetBackbone(body, fpn), 4, 2, groups=2).eval()
    with torch.no_grad():
        output = network(torch.zeros(1, 3, height, width))
    expected, sizes = some_points(height, width)
    assert output.level_sizes == sizes
    for ours, second_way in zip(output.points, expected, strict=True):
        assert torch.equal(ours.double(), second_way)
    if (height, width) == (128, 256):  # torchvision pads to 32 and rounds its steps
        levels = [torch.zeros(1, 4, -(-height // s), -(-width // s)) for s in STRIDES]
        generator = AnchorGenerator(tuple((s,) for s in STRIDES), ((1.0,),) * 5)
        images = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
        assert torch.equal(generator(images, levels)[0], anchors_of(output.points))


class Matched(Exception):
    pass


def torchvision_match(
    reference: TorchvisionFCOS, wanted, points, sizes
) -> list[Tensor]:
    """What torchvision hands to its head's loss."""

    def stop(targets, outputs, anchors, matched):
        raise Matched(matched)

    reference.head.compute_loss, kept = stop, reference.head.compute_loss
    try:
        reference.compute_loss(wanted, {}, [anchors_of(points)] * len(wanted), sizes)
    except Matched as matched:
        return list(matched.args[0])
    finally:
        reference.head.compute_loss = kept
    raise AssertionError("torchvision computed no loss")


def test_every_point_learns_the_object_that_it_learns_in_torchvision(evidence) -> None:
    """Crowded, so that points lie in several."""
    points, sizes = some_points(320, 1152)
    wanted = targets(*[25] * 100, height=320, width=1152)
    expected = torchvision_match(torchvision_fcos(5), wanted, points, sizes)
    ours = [fcos_match(target["boxes"], points) for target in wanted]
    assert sum((m >= 0).sum() for m in ours) > 10_000
    for level in torch.stack(ours).split(sizes, dim=1):
        assert (level >= 0).any()  # all levels take part
    contested = sum(
        int(
            ((fcos_distances(t["boxes"][:, None], points).amin(2) > 0).sum(0) > 1).sum()
        )
        for t in wanted[:10]
    )
    assert contested > 1000
    wrong = sum(int((a != b).sum()) for a, b in zip(ours, expected, strict=True))
    evidence.computed(
        "matching",
        {
            "all": {
                "name": "Random boxes",
                "boxes": 2500,
                "images": 100,
                "points": len(points.xy) * 100,
                "matched": sum(int((m >= 0).sum()) for m in ours),
                "different": wrong,
            }
        },
    )
    assert wrong == 0


def test_of_areas_that_differ_by_little_the_smaller_wins_unlike_torchvision_in_float32() -> (
    None
):
    """1e8 - area is a multiple of 8 in float32."""
    points, sizes = some_points(64, 64)
    crowd = torch.tensor([[0.5, 0.5, 40.5, 40.5], [0.5, 0.5, 40.5, 40.4]])
    ours = fcos_match(crowd, points)
    wanted = [{"boxes": crowd, "labels": torch.zeros(2, dtype=torch.int64)}]
    single = FCOSPoints(*(part.float() for part in points))
    theirs = torchvision_match(torchvision_fcos(5), wanted, single, sizes)[0]
    assert set(ours.unique().tolist()) == {-1, 1}
    assert set(theirs.unique().tolist()) == {-1, 0}


def test_loss_and_gradients_equal_torchvisions(evidence) -> None:
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    slopes: dict[str, tuple[Tensor, Tensor]] = {}
    reference = torchvision_fcos(5)
    for name, counts in {"objects": (9, 0, 30), "no object": (0, 0)}.items():
        output, wanted = answer(images=len(counts)), targets(*counts)
        leaves = [t.requires_grad_() for t in output[:3]]
        ours = fcos_loss(output, wanted)
        theirs = reference.compute_loss(
            wanted,
            {
                "cls_logits": output.logits,
                "bbox_regression": output.ltrb,
                "bbox_ctrness": output.centerness[..., None],
            },
            [anchors_of(output.points)] * len(counts),
            output.level_sizes,
        )
        assert list(ours) == list(theirs)
        for key, leaf in zip(ours, leaves, strict=True):
            both = ours[key], theirs[key]
            pairs[f"{key}, {name}"] = both[0].detach(), both[1].detach()
            if name == "objects":
                slopes[key] = tuple(torch.autograd.grad(v, leaf)[0] for v in both)
                assert slopes[key][1].any()
            elif key != "classification":
                assert both[0] == 0
                assert not torch.autograd.grad(both[0], leaf)[0].any()
    comparison = difference(
        pairs, slopes, shape=[3, 8184, 5], modes=["39 objects", "no object"]
    )
    evidence.equivalent(
        "loss",
        comparison,
        reference="torchvision.models.detection.FCOS.compute_loss",
    )


def test_giou_loss_equals_torchvisions(evidence) -> None:
    a = boxes(2000, 64, 96).requires_grad_()
    b = boxes(2000, 64, 96)
    losses = giou_loss(a, b), generalized_box_iou_loss(a, b)
    slopes = tuple(torch.autograd.grad(loss.sum(), a)[0] for loss in losses)
    comparison = difference(
        {"loss": (losses[0].detach(), losses[1].detach())},
        {"boxes": slopes},
        shape=[2000, 4],
        modes=["random pairs"],
    )
    evidence.equivalent(
        "GIoU loss", comparison, reference="torchvision.ops.generalized_box_iou_loss"
    )


def torchvision_detections(output: FCOSOutput, images: int, **settings):
    reference = torchvision_fcos(output.logits.shape[2])
    for name, value in settings.items():
        setattr(reference, name, value)
    parts = {
        "cls_logits": output.logits,
        "bbox_regression": output.ltrb,
        "bbox_ctrness": output.centerness[..., None],
    }
    split = {k: list(v.split(output.level_sizes, dim=1)) for k, v in parts.items()}
    anchors = [list(anchors_of(output.points).split(output.level_sizes))] * images
    return reference.postprocess_detections(
        split, anchors, [output.image_size] * images
    )


def test_detections_equal_torchvisions_on_the_same_output(evidence) -> None:
    output = answer()
    pairs = {}
    for name, ours, theirs in [
        ("as published", {}, {}),
        (
            "other settings",
            {"candidates": 200, "limit": 300, "iou_threshold": 0.3},
            {"topk_candidates": 200, "detections_per_img": 300, "nms_thresh": 0.3},
        ),
    ]:
        found = fcos_detections(output, **ours)
        expected = torchvision_detections(output, 2, **theirs)
        assert len(found[0]["boxes"]) == ours.get("limit", 100)
        for n in (0, 1):
            for key in expected[n]:
                pairs[f"{key} {n}, {name}"] = found[n][key], expected[n][key]
    comparison = difference(
        pairs, shape=list(output.logits.shape), modes=["as published", "other settings"]
    )
    evidence.equivalent(
        "detections",
        comparison,
        reference="torchvision.models.detection.FCOS.postprocess_detections",
    )


def test_where_no_score_is_high_enough_nothing_is_found_as_in_torchvision() -> None:
    output = answer()
    output = output._replace(logits=output.logits - 30)
    for one, other in zip(
        fcos_detections(output), torchvision_detections(output, 2), strict=True
    ):
        assert {k: v.shape for k, v in one.items()} == {
            k: v.shape for k, v in other.items()
        }
        assert one["boxes"].shape == (0, 4)


def test_objects_that_are_planted_are_found() -> None:
    points, _ = some_points(512, 768)
    wanted = boxes(12, 512, 768, smallest=16)
    labels = torch.arange(12) % 5
    match = fcos_match(wanted, points)
    at = match >= 0
    output = answer(images=1)
    logits = torch.full_like(output.logits, -20.0)
    logits[0, at, labels[match[at]]] = 6.0
    exact = fcos_distances(wanted[match.clamp(min=0)], points)
    middle = fcos_centerness(exact.clamp(min=1e-6)).clamp(max=0.999)
    output = output._replace(
        logits=logits, ltrb=exact.clamp(min=0)[None], centerness=middle.logit()[None]
    )
    found = fcos_detections(output)[0]
    overlap = box_iou(found["boxes"], wanted)
    learnt = match[at].unique()
    assert len(learnt) > 8
    assert (overlap[:, learnt].amax(0) > 0.999).all()
    assert torch.equal(found["labels"], labels[overlap.argmax(1)])


# ---------------------------------------------------------------- the paper a second way


def paper_match(box: list[list[float]], x, y, stride, low, high, radius) -> int:
    """Section 3.1 and 3.2 read aloud, for one point."""
    best, area = -1, math.inf
    for m, (x0, y0, x1, y1) in enumerate(box):
        sides = x - x0, y - y0, x1 - x, y1 - y
        middle = abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2)
        if min(sides) <= 0 or not low < max(sides) < high:
            continue
        if max(middle) < radius * stride and (x1 - x0) * (y1 - y0) < area:
            best, area = m, (x1 - x0) * (y1 - y0)
    return best


@pytest.mark.parametrize("radius", [1.5, 0.7, math.inf])
def test_matching_is_the_papers_rule_point_by_point(radius: float) -> None:
    points, _ = some_points(96, 128, (8, 16, 32), (20, 40))
    for count in (1, 7):
        crowd = boxes(count, 96, 128, smallest=8)
        table = torch.cat(
            [points.xy, points.stride[:, None], points.reach], dim=1
        ).tolist()
        expected = [paper_match(crowd.tolist(), *row, radius) for row in table]
        assert fcos_match(crowd, points, radius).tolist() == expected
        assert max(expected) >= 0


def test_centerness_is_equation_3() -> None:
    ltrb = torch.rand(50, 4, dtype=torch.float64) + 0.01
    for (left, top, right, bottom), value in zip(
        ltrb.tolist(), fcos_centerness(ltrb).tolist(), strict=True
    ):
        ratio = min(left, right) / max(left, right)
        ratio *= min(top, bottom) / max(top, bottom)
        assert math.isclose(value, math.sqrt(ratio))
    assert fcos_centerness(torch.tensor([2.0, 3.0, 2.0, 3.0])) == 1


def test_giou_of_simple_pairs() -> None:
    one = torch.tensor([0.0, 0.0, 2.0, 2.0], dtype=torch.float64)
    cases = {
        (0, 0, 2, 2): 0.0,  # the same box
        (1, 0, 3, 2): 1 - 2 / 6,  # half covered; the hull holds nothing else
        (2, 0, 4, 2): 1.0,  # side by side
        (4, 0, 6, 2): 1 + 4 / 12,  # a gap as wide as a box
    }
    for other, expected in cases.items():
        loss = giou_loss(one, torch.tensor(other, dtype=torch.float64))
        assert abs(loss.item() - expected) < 1e-6


# ---------------------------------------------------------------- laws


def test_decoding_inverts_the_distances() -> None:
    points, _ = some_points(96, 128)
    box = boxes(len(points.xy), 96, 128)
    torch.testing.assert_close(fcos_boxes(fcos_distances(box, points), points), box)


def test_no_point_learns_an_object_that_it_lies_outside() -> None:
    points, _ = some_points(512, 768)
    for _ in range(20):
        box = boxes(20, 512, 768)
        match = fcos_match(box, points)
        learnt = box[match[match >= 0]]
        xy = points.xy[match >= 0]
        assert ((xy > learnt[:, :2]) & (xy < learnt[:, 2:])).all()


def test_a_point_learns_at_most_one_object_and_every_level_its_own_sizes() -> None:
    points, sizes = some_points(512, 768)
    box = torch.tensor([[10.0, 10, 50, 40], [100.0, 20, 700, 480]]).double()
    of_level = [set(m.tolist()) - {-1} for m in fcos_match(box, points).split(sizes)]
    assert of_level[0] == {0}
    assert of_level[1:3] == [set(), set()]
    assert of_level[3] == {1}


def test_images_of_a_batch_share_one_divisor() -> None:
    """The loss is per matched point of the batch, not of the image."""
    output, wanted = answer(), targets(9, 0)
    both = fcos_loss(output, wanted)
    first = output._replace(
        logits=output.logits[:1], ltrb=output.ltrb[:1], centerness=output.centerness[:1]
    )
    alone = fcos_loss(first, wanted[:1])
    torch.testing.assert_close(both["bbox_regression"], alone["bbox_regression"])
    assert both["classification"] > alone["classification"]


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16]
)
def test_labels_are_integers_of_any_width(dtype: torch.dtype) -> None:
    output, wanted = answer(images=1), targets(9)
    narrower = [{**t, "labels": t["labels"].to(dtype)} for t in wanted]
    expected, found = fcos_loss(output, wanted), fcos_loss(output, narrower)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_image_without_objects_has_a_finite_loss_and_gradient() -> None:
    network = narrow()
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    loss = fcos_loss(network(torch.randn(2, 1, 64, 96)), [none, none])
    assert loss["bbox_regression"] == loss["bbox_ctrness"] == 0
    sum(loss.values()).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert 0 < loss["classification"] < 10
    assert all(g.isfinite().all() for g in gradients)


def test_gradients_reach_every_parameter() -> None:
    network = narrow()
    wanted = [
        {"boxes": boxes(4, 64, 96, 24).float(), "labels": torch.arange(4)}
        for _ in range(2)
    ]
    sum(fcos_loss(network(torch.randn(2, 1, 64, 96)), wanted).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_first_scores_are_the_prior_probability() -> None:
    scores = narrow()(torch.randn(2, 1, 64, 96)).logits.sigmoid()
    assert abs(scores.mean().item() - 0.01) < 2e-3


def test_centre_ness_alone_lowers_a_score() -> None:
    """sqrt of score times centre-ness, for a lone point."""
    output = answer(images=1)
    logits = torch.full_like(output.logits, -30.0)
    logits[0, 700, 2] = 3.0
    for ctr in (4.0, 0.0):
        centerness = torch.full_like(output.centerness, ctr)
        found = fcos_detections(output._replace(logits=logits, centerness=centerness))
        expected = (torch.tensor([3.0, ctr]).sigmoid().prod().sqrt()).double()
        torch.testing.assert_close(found[0]["scores"][0], expected, rtol=1e-6, atol=0)
        assert found[0]["labels"].tolist() == [2]


def test_no_two_boxes_of_a_class_overlap_by_more_than_the_threshold() -> None:
    found = fcos_detections(answer(), limit=500)[0]
    overlap = box_iou(found["boxes"], found["boxes"]).fill_diagonal_(0).nan_to_num()
    same = found["labels"][:, None] == found["labels"]
    assert len(found["boxes"]) > 100
    assert overlap[same].max() <= 0.6
    assert overlap[~same].max() > 0.6


def test_detections_are_sorted_and_inside_the_image() -> None:
    for found in fcos_detections(answer()):
        assert (found["scores"].diff() <= 0).all()
        assert found["scores"].min() > 0.2
        assert found["boxes"].min() >= 0
        assert (found["boxes"].amax(dim=0) <= torch.tensor([768, 512] * 2)).all()


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
        fcos_loss(answer(), [target] * 2)


def test_refuses_what_does_not_fit() -> None:
    network = narrow()
    with pytest.raises(ValueError, match="num_classes=0"):
        FCOS(network.backbone, 32, 0)
    with pytest.raises(ValueError, match="groups of equal size, got channels=48"):
        FCOS(network.backbone, 48, 2)
    for bounds in [(64,), (64, 32), (0, 32), (20, math.inf)]:
        with pytest.raises(ValueError, match="a rising bound between levels"):
            FCOS(network.backbone, 32, 2, (8, 16, 32), bounds)
    with pytest.raises(
        ValueError, match=r"expected images \(N, C, H, W\), got \(3, 64, 96\)"
    ):
        network(torch.randn(3, 64, 96))
    with pytest.raises(ValueError, match=r"expected self\.strides=.*, got 3 levels"):
        FCOS(network.backbone, 32, 10)(torch.randn(1, 1, 64, 96))
    with pytest.raises(ValueError, match="a cell every 4 of"):
        FCOS(network.backbone, 32, 10, (4, 8, 16), (20, 30))(torch.randn(1, 1, 64, 96))
    output = answer()
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        fcos_loss(output, targets(1))
    flat = {"boxes": torch.tensor([[5.0, 5.0, 5.0, 9.0]]), "labels": torch.tensor([0])}
    with pytest.raises(
        ValueError, match=r"x1 < x2 and y1 < y2, got \[\[5.0, 5.0, 5.0, 9.0\]\]"
    ):
        fcos_loss(output, [flat] * 2)
    beyond = [{"boxes": boxes(1, 64, 96), "labels": torch.tensor([5])}] * 2
    with pytest.raises(
        ValueError, match=r"labels must be in 0..4, got tensor\(\[5\]\)"
    ):
        fcos_loss(output, beyond)


# ---------------------------------------------------------------- cost


class Maps(nn.Module):
    def __init__(self, body: ResNet) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.body.features(x)


class Each(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, levels: list[Tensor]) -> list:
        return [self.head(level) for level in levels]


def test_cost_of_the_network_and_of_its_parts(evidence) -> None:
    with torch.device("meta"):
        image = torch.empty(1, 3, 800, 800)
        detector = fcos_resnet50_fpn().eval()
        cost = model_cost(detector, image)
        backbone, heads = detector.backbone, detector.head
        maps = backbone.body.features(image)[1:]
        levels = backbone.fpn(maps)
        points = len(detector(image).points.xy)
    rows = {
        "fcos_resnet50_fpn": {
            "name": "FCOS, ResNet-50",
            "params": cost.params,
            "macs": cost.macs,
            "points": points,
        }
    }
    parts = {
        "body": ("ResNet-50 without its classifier", Maps(backbone.body), image),
        "fpn": ("Pyramid, P3 to P7", backbone.fpn, maps),
        "classes": ("Classification head", Each(heads["classification_head"]), levels),
        "boxes": ("Regression head", Each(heads["regression_head"]), levels),
    }
    for key, (name, part, given) in parts.items():
        part_cost = model_cost(part.eval(), given)
        rows[key] = {"name": name, "params": part_cost.params, "macs": part_cost.macs}
    for key in ("params", "macs"):  # the parts are the whole
        whole = rows["fcos_resnet50_fpn"][key]
        assert sum(rows[part][key] for part in parts) == whole
    meta = torchvision.models.detection.FCOS_ResNet50_FPN_Weights.COCO_V1.meta
    rows["fcos_resnet50_fpn"]["frozen"] = meta["num_params"]
    rows["fcos_resnet50_fpn"]["quoted_gmacs"] = meta["_ops"]
    assert round(cost.macs / 1e9, 3) == meta["_ops"]
    evidence.computed("cost", rows)


# ---------------------------------------------------------------- the record


def test_the_bounds_of_the_trial_give_almost_every_digit_a_point(evidence) -> None:
    from cnn_lab.scene_trial import trial_scenes

    network = narrow().eval()
    with torch.no_grad():
        output = network(torch.zeros(1, 1, 96, 96))
    rows = {
        f"p{level}": {"name": f"P{level}", "objects": 0, "points": 0}
        for level in (3, 4, 5)
    }
    objects = learnt = 0
    for box in trial_scenes(200, 1000).boxes:  # a seed that no recorded run has
        match = fcos_match(box, output.points)
        objects, learnt = objects + len(box), learnt + len(match[match >= 0].unique())
        parts = match.split(output.level_sizes)
        for row, part in zip(rows.values(), parts, strict=True):
            row["objects"] += len(part[part >= 0].unique())
            row["points"] += int((part >= 0).sum())
    assert learnt > 0.99 * objects
    every = {"name": "All", "objects": objects, "learnt": learnt}
    evidence.computed("levels", {**rows, "all": every})


def learn_trial(learning_rate: float, seed: int) -> dict[str, object]:
    from cnn_lab.scene_trial import learn_boxes

    torch.manual_seed(seed)
    return learn_boxes(
        narrow(channels=3),
        lambda net, x, y: sum(fcos_loss(net(x), y).values()),
        fcos_detections,
        learning_rate=learning_rate,
        seed=seed,
    )


def trial(seeds: list[int], learning_rate: float) -> dict[str, object]:
    from cnn_lab.scene_trial import scene_trials

    cache = Path(__file__).parents[2] / ".cache/record/fcos.jsonl"
    arms = {"fcos": ("FCOS, ResNet-10 of width 16", {"learning_rate": learning_rate})}
    return scene_trials(learn_trial, seeds, cache, arms)


@pytest.mark.record
def test_record_it_learns_the_scenes_of_all_detectors(evidence) -> None:
    pytest.importorskip("torchmetrics")
    evidence.measured(
        "trial", arguments={"seeds": [0, 1, 2], "learning_rate": 2e-3}, run=trial
    )
