"""YOLACT's equations a second way, by loops; its layers counted from the paper's figures."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, nms

from cnn_site.equivalence import compare, difference
from cnn_site.laws import gradient_reaches_every_parameter
from cnn_techniques.detection import decode_boxes, encode_boxes, match_anchors
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import BasicBlock, ResNet
from cnn_techniques.segmentation import (
    YOLACT,
    YOLACTOutput,
    crop_masks,
    fast_nms,
    hard_negatives,
    prototype_logits,
    shrunken_masks,
    yolact_detections,
    yolact_loss,
    yolact_resnet50,
    yolact_resnet101,
)

SIZES = (24, 32, 42)  # of the anchors of the trial, on P3 to P5
EACH = (10.0, 10.0, 5.0, 5.0)


def narrow(channels: int = 3) -> YOLACT:
    """ResNet-10 of width 16, P3 to P5 of 32 channels, 8 prototypes: the recorded run's."""
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=16, in_channels=channels)
    return YOLACT(body, 32, 10, 8, SIZES, (1, 0.7, 0.5))


def boxes(count: int, size: float = 96.0) -> Tensor:
    corner = torch.rand(count, 2, dtype=torch.float64) * size * 0.6
    extent = 8 + torch.rand(count, 2, dtype=torch.float64) * size * 0.3
    return torch.cat([corner, corner + extent], dim=1)


def answer(images: int = 2, classes: int = 5, prototypes: int = 4) -> YOLACTOutput:
    """An output drawn at random, with the anchors of a small network: 64 x 96 pixels."""
    with torch.no_grad():
        anchors = narrow().eval()(torch.zeros(1, 3, 64, 96)).anchors.double()
    total = len(anchors)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    return YOLACTOutput(
        draw(images, total, classes + 1) * 2,
        draw(images, total, 4),
        draw(images, total, prototypes).tanh(),
        draw(images, prototypes, 16, 24).relu() * 3,
        draw(images, classes, 8, 12),
        anchors,
        (64, 96),
    )


def targets(*counts: int) -> list[dict[str, Tensor]]:
    found = []
    for m in counts:
        box = boxes(m, 64)
        masks = torch.zeros(m, 64, 96, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, box.long().tolist(), strict=True):
            mask[y1:y2, x1:x2] = torch.rand(y2 - y1, x2 - x1) > 0.2
        found.append({"boxes": box, "labels": torch.arange(m) % 5, "masks": masks})
    return found


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def loss_case():
    output, wanted = answer(images=1), targets(3)[0]

    def loss_of(logits, offsets, coefficients, prototypes, semantic, anchors, *target):
        out = YOLACTOutput(
            logits, offsets, coefficients, prototypes, semantic, anchors, (64, 96)
        )
        named = dict(zip(("boxes", "labels", "masks"), target, strict=True))
        return yolact_loss(out, [named])

    return loss_of, (*output[:6], wanted["boxes"], wanted["labels"], wanted["masks"])


DEVICE_CASES = {
    "yolact_loss": loss_case,
    "fast_nms": lambda: (fast_nms, (boxes(60).view(3, 20, 4),)),
    "YOLACT, narrow": lambda: (narrow().eval(), (torch.randn(2, 3, 64, 96),)),
}


# ---------------------------------------------------------------- the layers, a second way


class SecondPyramid(nn.Module):
    """The paper's section 3.3 and the authors' FPN, written level by level."""

    def __init__(self, widths: tuple[int, ...], d: int) -> None:
        super().__init__()
        # in the order of our parameters, so that they pair by order
        self.lateral = nn.ModuleList(nn.Conv2d(c, d, 1) for c in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(d, d, 3, 1, 1) for _ in widths)
        self.coarser = nn.ModuleList(nn.Conv2d(d, d, 3, 2, 1) for _ in range(2))

    def forward(self, c3, c4, c5):
        def up(x, like):
            return nn.Upsample(tuple(like.shape[-2:]), mode="bilinear")(x)

        m5 = self.lateral[2](c5)
        m4 = self.lateral[1](c4) + up(m5, c4)
        m3 = self.lateral[0](c3) + up(m4, c3)
        p3, p4, p5 = (
            f(m).relu() for f, m in zip(self.smooth, (m3, m4, m5), strict=True)
        )
        p6 = self.coarser[0](p5)
        return p3, p4, p5, p6, self.coarser[1](p6)


class Second(nn.Module):
    """The network of figures 2 to 4, one anchor's numbers picked by index."""

    def __init__(self, classes: int, k: int, d: int, width: int) -> None:
        super().__init__()
        self.fpn = SecondPyramid((2 * width, 4 * width, 8 * width), d)
        convs = [nn.Conv2d(d, d, 3, 1, 1) for _ in range(4)]
        self.proto = nn.ModuleList([*convs, nn.Conv2d(d, k, 1)])
        self.shared = nn.Conv2d(d, d, 3, 1, 1)
        self.outs = nn.ModuleList(
            nn.Conv2d(d, 3 * width, 3, 1, 1) for width in (classes + 1, 4, k)
        )
        self.semantic = nn.Conv2d(d, classes, 1)
        self.body = ResNet(BasicBlock, (1, 1, 1, 1), width=width)
        self.body.fc = nn.Identity()

    def forward(self, images):
        _, *maps = self.body.features(images)
        levels = self.fpn(*maps)
        x = levels[0]
        for conv in self.proto[:3]:
            x = conv(x).relu()
        x = nn.functional.interpolate(
            x, scale_factor=2.0, mode="bilinear", align_corners=False
        )
        x = self.proto[4](self.proto[3](x).relu()).relu()
        rows = [[], [], []]
        for level in levels:
            y = self.shared(level).relu()
            for which, conv in enumerate(self.outs):
                out = conv(y)
                width = out.shape[1] // 3
                for i in range(out.shape[2]):
                    for j in range(out.shape[3]):
                        for a in range(3):
                            rows[which].append(
                                out[:, a * width : (a + 1) * width, i, j]
                            )
        logits, offsets, masks = (torch.stack(r, dim=1) for r in rows)
        return logits, offsets, masks.tanh(), x, self.semantic(levels[0])


def test_network_equals_its_layers_written_a_second_way(evidence) -> None:
    ours = YOLACT(ResNet(BasicBlock, (1, 1, 1, 1), width=8), 12, 3, 4)
    comparison = compare(
        ours,
        Second(3, 4, 12, 8),
        torch.randn(2, 3, 72, 100),
        match="order",
        outputs=(lambda o: tuple(o[:5]), lambda o: o),
    )
    evidence.equivalent(
        "network",
        comparison,
        reference="the layers of figures 2 to 4, written a second way",
        settings="parameters paired by order",
    )


@pytest.mark.parametrize("square", [False, True])
def test_anchors_are_centred_in_their_cells_with_the_area_of_their_level(
    square,
) -> None:
    network = YOLACT(ResNet(BasicBlock, (1, 1, 1, 1), width=2), 4, 2, 2, square=square)
    with torch.no_grad():
        anchors = network.eval()(torch.zeros(1, 3, 100, 150)).anchors
    rows = []
    for level, side in enumerate((24, 48, 96, 192, 384)):
        h, w = -(-100 // 2 ** (level + 3)), -(-150 // 2 ** (level + 3))
        for i in range(h):
            for j in range(w):
                for ratio in (1, 0.5, 2):
                    x, y = (j + 0.5) * 150 / w, (i + 0.5) * 100 / h
                    aw = side * ratio**0.5
                    ah = aw if square else side / ratio**0.5
                    rows.append([x - aw / 2, y - ah / 2, x + aw / 2, y + ah / 2])
    torch.testing.assert_close(anchors, torch.tensor(rows))
    size = anchors[:, 2:] - anchors[:, :2]
    assert square == torch.allclose(size[:, 0], size[:, 1])


# ---------------------------------------------------------------- masks


def test_masks_equal_the_sum_over_prototypes_written_as_loops(evidence) -> None:
    prototypes = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    coefficients = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    box = torch.tensor(
        [[1.2, 0.4, 3.1, 2.9], [0, 0, 7, 5], [5.5, 3.5, 9, 9], [2, 2, 2, 2]]
    )
    ours = crop_masks(
        prototype_logits(prototypes, coefficients).sigmoid(), box.double()
    )
    pixels = []
    for m in range(4):
        x1, y1, x2, y2 = box[m].tolist()
        for i in range(5):
            for j in range(7):
                total = sum(coefficients[m, c] * prototypes[c, i, j] for c in range(3))
                seen = x1 - 1 <= j < x2 + 1 and y1 - 1 <= i < y2 + 1
                pixels.append(1 / (1 + (-total).exp()) if seen else total * 0)
    theirs = torch.stack(pixels).view(4, 5, 7)
    weights = torch.randn(4, 5, 7, dtype=torch.float64)
    slopes = {
        name: tuple(
            torch.autograd.grad((m * weights).sum(), leaf, retain_graph=True)[0]
            for m in (ours, theirs)
        )
        for name, leaf in (("prototypes", prototypes), ("coefficients", coefficients))
    }
    assert 0 < int((theirs == 0).sum()) < theirs.numel()
    comparison = difference(
        {"masks": (ours.detach(), theirs.detach())},
        slopes,
        shape=[4, 5, 7],
        modes=["4 boxes"],
    )
    evidence.equivalent(
        "masks", comparison, reference="equation 1 and the crop, pixel by pixel"
    )


# ---------------------------------------------------------------- Fast NMS


def brute_fast_nms(box: Tensor, threshold: float) -> list[bool]:
    """The paper's: each column's largest overlap above the diagonal, for sorted boxes."""
    iou, kept = box_iou(box, box).tolist(), []
    for j in range(len(box)):
        worst = max((iou[i][j] for i in range(j)), default=0.0)
        kept.append(worst <= threshold)
    return kept


def crowd(classes: int, count: int) -> Tensor:
    """Boxes around a few objects each, as a detector gives them; some are equal."""
    centres = torch.randint(20, 76, (classes, count // 8, 2)).double()
    centres = (
        centres.repeat_interleave(8, dim=1)
        + torch.randn(classes, count, 2).double() * 4
    )
    sides = 24 + torch.randn(classes, count, 2).double().abs() * 8
    crowded = torch.cat([centres - sides / 2, centres + sides / 2], dim=2)
    crowded[:, 1::9] = crowded[:, 0::9][:, : crowded[:, 1::9].shape[1]]  # ties
    return crowded[:, torch.randperm(count)]


def test_fast_nms_equals_brute_force_and_never_keeps_what_nms_removes(evidence) -> None:
    rows = {}
    for threshold in (0.3, 0.5, 0.7):
        count = {"boxes": 0, "fast": 0, "nms": 0, "different": 0}
        for _ in range(4):
            box = crowd(10, 40)
            fast = fast_nms(box, threshold)
            for one, kept in zip(box, fast, strict=True):
                scores = torch.arange(len(one), 0, -1).double()
                ordinary = torch.zeros(len(one), dtype=torch.bool)
                ordinary[nms(one, scores, threshold)] = True
                assert not (kept & ~ordinary).any()  # keeps a subset
                brute = torch.tensor(brute_fast_nms(one, threshold))
                count["different"] += int((kept != brute).sum())
                count["boxes"] += len(one)
                count["fast"] += int(kept.sum())
                count["nms"] += int(ordinary.sum())
        assert count["different"] == 0
        assert count["fast"] < count["nms"]
        name = f"IoU above {threshold}"
        rows[f"at_{round(threshold * 10)}"] = {"name": name, **count}
    evidence.computed("nms", rows)


def test_fast_nms_of_a_chain_removes_what_a_removed_box_overlaps() -> None:
    chain = torch.tensor([[[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]]])
    iou = box_iou(chain[0], chain[0])
    assert iou[0, 1] > 0.5 and iou[1, 2] > 0.5 and iou[0, 2] < 0.5
    assert fast_nms(chain).tolist() == [[True, False, False]]
    assert nms(chain[0], torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]


def test_fast_nms_keeps_boxes_of_different_classes_apart() -> None:
    same = torch.tensor([0.0, 0, 10, 10]).expand(2, 1, 4)
    assert fast_nms(same).all()
    assert fast_nms(same.reshape(1, 2, 4)).tolist() == [[True, False]]


def test_fast_nms_of_no_boxes_and_of_no_classes_is_empty() -> None:
    assert fast_nms(torch.zeros(3, 0, 4)).shape == (3, 0)


# ---------------------------------------------------------------- the losses


def test_hard_negatives_are_three_for_each_object_found_by_loops() -> None:
    for trial in range(20):
        logits = torch.randn(60, 4)
        logits[20:30] = logits[10:20]  # ties
        match = torch.randint(-2, 6, (60,)).clamp(max=trial % 3 - 1)
        negative = [a for a in range(60) if match[a] == -1]
        loss = {a: float(logits[a].logsumexp(0) - logits[a, 0]) for a in negative}
        wanted = min(3 * sum(m >= 0 for m in match.tolist()), len(negative))
        best = sorted(loss.values(), reverse=True)[:wanted]
        chosen = hard_negatives(logits, match)
        assert set(torch.where(chosen)[0].tolist()) <= set(negative)
        found = sorted((loss[a] for a in torch.where(chosen)[0].tolist()), reverse=True)
        torch.testing.assert_close(found, best)


def second_loss(
    output: YOLACTOutput, wanted: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """All four losses, anchor by anchor and pixel by pixel."""
    classes, offsets, masks, semantic = [], [], [], []
    h, w = output.prototypes.shape[2:]
    height, width = output.image_size
    matched = 0
    for n, target in enumerate(wanted):
        match = match_anchors(target["boxes"], output.anchors).tolist()
        positive = [a for a, m in enumerate(match) if m >= 0]
        matched += len(positive)
        log_p = output.logits[n].log_softmax(1)
        surprise = log_p.detach()[:, 0].tolist()
        background = [a for a, m in enumerate(match) if m == -1]
        background.sort(key=lambda a: surprise[a])
        classes += [-log_p[a, 0] for a in background[: 3 * len(positive)]]
        small = shrunken_masks(target["masks"], (h, w))
        for a in positive:
            m = match[a]
            classes.append(-log_p[a, int(target["labels"][m]) + 1])
            exact = encode_boxes(target["boxes"][m], output.anchors[a], EACH)
            for d in (output.offsets[n, a] - exact).abs():
                offsets.append(0.5 * d * d if d < 1 else d - 0.5)
            x1, y1, x2, y2 = (
                float(v) * s
                for v, s in zip(
                    target["boxes"][m], (w / width, h / height) * 2, strict=True
                )
            )
            for i in range(h):
                for j in range(w):
                    if x1 - 1 <= j < x2 + 1 and y1 - 1 <= i < y2 + 1:
                        mixed = (
                            output.prototypes[n, :, i, j] @ output.coefficients[n, a]
                        )
                        p = torch.sigmoid(mixed if small[m, i, j] else -mixed)
                        masks.append(-p.log() / ((x2 - x1) * (y2 - y1)))
        coarse = shrunken_masks(target["masks"], tuple(output.semantic.shape[2:]))
        for c in range(output.semantic.shape[1]):
            there = torch.zeros_like(coarse[0]) if len(coarse) else torch.zeros(8, 12)
            for label, mask in zip(target["labels"], coarse, strict=True):
                there = there | mask if label == c else there
            sign = torch.where(there.bool(), 1.0, -1.0)
            per_pixel = -(sign * output.semantic[n, c]).sigmoid().log()
            semantic.append(per_pixel.mean() / len(wanted))
    zero = output.logits.sum() * 0
    count = max(matched, 1)
    return {
        "classification": sum(classes, zero) / count,
        "bbox_regression": 1.5 * sum(offsets, zero) / count,
        "mask": 6.125 * sum(masks, zero) / count,
        "semantic": sum(semantic, zero),
    }


def test_losses_and_gradients_equal_loops_over_anchors_and_pixels(evidence) -> None:
    pairs, slopes = {}, {}
    for name, counts in {"objects": (2, 0, 3), "no object": (0, 0)}.items():
        output, wanted = answer(images=len(counts)), targets(*counts)
        leaves = [t.requires_grad_() for t in output[:5]]
        names = ["logits", "offsets", "coefficients", "prototypes", "semantic"]
        ours, theirs = (
            yolact_loss(output, wanted, limit=10**6),
            second_loss(output, wanted),
        )
        assert list(ours) == list(theirs)
        for key in ours:
            pairs[f"{key}, {name}"] = ours[key].detach(), theirs[key].detach()
        if name == "objects":
            both = [
                torch.autograd.grad(sum(loss.values()), leaves)
                for loss in (ours, theirs)
            ]
            slopes = {k: (a, b) for k, a, b in zip(names, *both, strict=True)}
        else:
            assert all(ours[key] == 0 for key in list(ours)[:3])
            assert ours["semantic"] > 0
    comparison = difference(
        pairs,
        slopes,
        shape=list(output.logits.shape),
        modes=["5 objects in 3 images", "no object"],
    )
    evidence.equivalent(
        "losses", comparison, reference="section 3.4's losses, anchor by anchor"
    )


def test_of_more_masks_than_the_limit_some_are_drawn_and_stand_for_all() -> None:
    output, wanted = answer(images=1), targets(4)
    positive = int((match_anchors(wanted[0]["boxes"], output.anchors) >= 0).sum())
    assert positive > 6
    everything = yolact_loss(output, wanted, limit=positive)["mask"]
    draws = [
        yolact_loss(output, wanted, limit=positive // 2)["mask"] for _ in range(300)
    ]
    assert len({d.item() for d in draws}) > 20
    torch.testing.assert_close(torch.stack(draws).mean(), everything, rtol=0.05, atol=0)


def test_a_mask_learns_nothing_outside_of_its_box() -> None:
    output, wanted = answer(images=1), targets(1)
    output = output._replace(prototypes=output.prototypes.requires_grad_())
    (slope,) = torch.autograd.grad(
        yolact_loss(output, wanted)["mask"], output.prototypes
    )
    touched = slope[0].abs().sum(0) > 0
    x1, y1, x2, y2 = (wanted[0]["boxes"][0] / 4).tolist()
    rows, columns = torch.where(touched)
    assert y1 - 1 <= rows.min() and rows.max() < y2 + 1
    assert x1 - 1 <= columns.min() and columns.max() < x2 + 1


def test_gradients_reach_every_parameter_through_the_losses() -> None:
    network = narrow().double()
    wanted = targets(3, 2)
    coarse = torch.tensor([[27.0, 27, 69, 64]])  # as large as an anchor of P5
    wanted[0]["boxes"] = torch.cat([wanted[0]["boxes"][:2], coarse.double()])

    class Losses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor):
            return yolact_loss(self.network(images), wanted)

    gradient_reaches_every_parameter(Losses(), torch.randn(2, 3, 64, 96).double())


# ---------------------------------------------------------------- detecting


def second_detections(output: YOLACTOutput, n: int, limit: int) -> list[tuple]:
    """One image's, by loops: class, box, mask; the surest first."""
    height, width = output.image_size
    h, w = output.prototypes.shape[2:]
    p = output.logits[n].softmax(1)
    box = decode_boxes(output.offsets[n], output.anchors, EACH)
    found = []
    for label in range(p.shape[1] - 1):
        order = sorted(range(len(p)), key=lambda a: -float(p[a, label + 1]))[:200]
        keep = brute_fast_nms(box[order], 0.5)
        found += [
            (float(p[a, label + 1]), label, a)
            for a, kept in zip(order, keep, strict=True)
            if kept and p[a, label + 1] > 0.05
        ]
    found.sort(reverse=True)
    rows = []
    for score, label, a in found[:limit]:
        corner = [
            min(max(float(v), 0.0), float(s))
            for v, s in zip(box[a], (width, height) * 2, strict=True)
        ]
        mask = (output.prototypes[n] * output.coefficients[n, a][:, None, None]).sum(0)
        mask = mask.sigmoid()
        for i in range(h):
            for j in range(w):
                x, y = w / width, h / height
                inside = corner[0] * x - 1 <= j < corner[2] * x + 1
                if not (inside and corner[1] * y - 1 <= i < corner[3] * y + 1):
                    mask[i, j] = 0
        large = nn.functional.interpolate(
            mask[None, None], (height, width), mode="bilinear", align_corners=False
        )
        rows.append((corner, score, label, large[0, 0] > 0.5))
    return rows


def test_detections_equal_loops_over_classes_boxes_and_pixels(evidence) -> None:
    output = answer(images=2, classes=3)
    ours = yolact_detections(output, limit=20)
    pairs, wrong = {}, 0
    for n, found in enumerate(ours):
        rows = second_detections(output, n, 20)
        assert len(rows) == len(found["boxes"]) == 20
        pairs[f"boxes {n}"] = (
            found["boxes"],
            torch.tensor([r[0] for r in rows], dtype=torch.float64),
        )
        pairs[f"scores {n}"] = (
            found["scores"],
            torch.tensor([r[1] for r in rows], dtype=torch.float64),
        )
        assert found["labels"].tolist() == [r[2] for r in rows]
        wrong += int((found["masks"] != torch.stack([r[3] for r in rows])).sum())
        assert found["masks"].any() and not found["masks"].all()
    assert wrong == 0
    comparison = difference(
        pairs, shape=list(output.logits.shape), modes=["boxes, scores, labels, masks"]
    )
    evidence.equivalent(
        "detections", comparison, reference="the steps of section 3, by loops"
    )


def planted() -> tuple[YOLACTOutput, Tensor]:
    """Two objects of one class that share a prototype, each found by one anchor."""
    output = answer(images=1, classes=2, prototypes=1)
    total = len(output.anchors)
    box = torch.tensor([[8.0, 8, 32, 40], [56.0, 20, 88, 52]], dtype=torch.float64)
    rows = [torch.cdist(b[None, :2], output.anchors[:, :2]).argmin() for b in box]
    logits = torch.zeros(1, total, 3, dtype=torch.float64)
    logits[..., 0] = 20
    offsets = torch.zeros(1, total, 4, dtype=torch.float64)
    prototype = torch.full((1, 1, 16, 24), -8.0, dtype=torch.float64)
    for row, b, label in zip(rows, box, (1, 2), strict=True):
        logits[0, row, label], logits[0, row, 0] = 6.0, 0
        offsets[0, row] = encode_boxes(b, output.anchors[row], EACH)
        x1, y1, x2, y2 = (b / 4).int().tolist()
        prototype[0, 0, y1:y2, x1:x2] = 8
    coefficients = torch.ones(1, total, 1, dtype=torch.float64)
    small = output._replace(
        logits=logits, offsets=offsets, coefficients=coefficients, prototypes=prototype
    )
    return small, box


def test_planted_objects_are_found_with_their_masks_and_without_a_crop_they_leak() -> (
    None
):
    output, box = planted()
    found = yolact_detections(output)[0]
    assert sorted(found["labels"].tolist()) == [0, 1]
    for label, b in enumerate(box):
        at = found["labels"].tolist().index(label)
        torch.testing.assert_close(found["boxes"][at], b)
        x1, y1, x2, y2 = b.int().tolist()
        inside = torch.zeros(64, 96, dtype=torch.bool)
        inside[y1:y2, x1:x2] = True
        assert (found["masks"][at] == inside).double().mean() > 0.99
    leaky = yolact_detections(output, crop=False)[0]["masks"]
    assert torch.equal(leaky[0], leaky[1])  # both hold both objects


def test_nothing_above_the_threshold_gives_empty_detections() -> None:
    for found in yolact_detections(answer(), score_threshold=1.0):
        assert found["boxes"].shape == (0, 4) and found["masks"].shape == (0, 64, 96)
        assert found["masks"].dtype == torch.bool


def test_more_candidates_than_anchors_and_a_limit_of_one_are_fine() -> None:
    output = answer(images=1)
    everything = yolact_detections(output, candidates=10**6)[0]
    first = yolact_detections(output, limit=1)[0]
    assert len(first["scores"]) == 1 and first["scores"][0] == everything["scores"][0]


def test_training_and_evaluation_give_the_same_raw_output() -> None:
    network = narrow()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    images = torch.randn(4, 3, 64, 96)
    trained = network.train()(images)
    seen = network.eval()(images)
    assert [t.shape for t in trained[:6]] == [t.shape for t in seen[:6]]
    assert (seen.prototypes >= 0).all() and (seen.coefficients.abs() <= 1).all()


# ---------------------------------------------------------------- refusals


def test_what_it_cannot_use_is_refused() -> None:
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=2)
    with pytest.raises(ValueError, match="at least 1, got channels=0"):
        YOLACT(body, 0)
    with pytest.raises(ValueError, match=r"3 levels and 4 stages, got .*\(24, 48\)"):
        YOLACT(body, 4, anchor_sizes=(24, 48))
    with pytest.raises(ValueError, match=r"\(2, 4, 4\) and \(3, 5\)"):
        prototype_logits(torch.zeros(2, 4, 4), torch.zeros(3, 5))
    output, good = answer(images=1), targets(2)
    with pytest.raises(ValueError, match="2 targets for 1 images"):
        yolact_loss(output, good * 2)
    small = {**good[0], "masks": good[0]["masks"][:, ::2, ::2]}
    with pytest.raises(ValueError, match=r"\(2, 64, 96\), got .*\(2, 32, 48\)"):
        yolact_loss(output, [small])
    with pytest.raises(ValueError, match=r"in 0..4, got tensor\(\[0, 5\]\)"):
        yolact_loss(output, [{**good[0], "labels": torch.tensor([0, 5])}])
    flat = good[0]["boxes"].clone()
    flat[0, 2] = flat[0, 0]
    with pytest.raises(ValueError, match="expected x1 < x2 and y1 < y2"):
        yolact_loss(output, [{**good[0], "boxes": flat}])


# ---------------------------------------------------------------- costs


def authors_layers(blocks: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' weights (commit 902073d), from their layer table."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, into: int, k: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out, into, k, k)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)

    conv("backbone.conv1", 64, 3, 7, False)
    norm("backbone.bn1", 64)
    into = 64
    for stage, (count, width) in enumerate(
        zip(blocks, (64, 128, 256, 512), strict=True)
    ):
        for block in range(count):
            name = f"backbone.layers.{stage}.{block}"
            for number, (o, i, k) in enumerate(
                ((width, into, 1), (width, width, 3), (4 * width, width, 1)), start=1
            ):
                conv(f"{name}.conv{number}", o, i, k, False)
                norm(f"{name}.bn{number}", o)
            if block == 0:
                conv(f"{name}.downsample.0", 4 * width, into, 1, False)
                norm(f"{name}.downsample.1", 4 * width)
            into = 4 * width
    for i, width in enumerate((2048, 1024, 512)):  # the coarsest first
        conv(f"fpn.lat_layers.{i}", 256, width, 1)
        conv(f"fpn.pred_layers.{i}", 256, 256, 3)
    for i in (0, 1):
        conv(f"fpn.downsample_layers.{i}", 256, 256, 3)
    for i in (0, 2, 4, 8):
        conv(f"proto_net.{i}", 256, 256, 3)
    conv("proto_net.10", 32, 256, 1)
    conv("prediction_layers.0.upfeature.0", 256, 256, 3)
    for name, width in (("bbox", 4), ("conf", 81), ("mask", 32)):
        conv(f"prediction_layers.0.{name}_layer", 3 * width, 256, 3)
    conv("semantic_seg_conv", 80, 256, 1)
    return shapes


def page_function(name: str):
    """A function that the page shows, as the page shows it."""
    page = Path(__file__).parents[2] / "docs/segmentation/yolact.md"
    text = page.read_text("utf-8")
    start = text.index("RENAMED = {")
    names: dict[str, object] = {}
    exec(text[start : text.index("```", start)].split("\nnetwork")[0], names)
    return names[name]


@pytest.mark.parametrize(
    ("make", "blocks", "params"),
    [
        (yolact_resnet50, (3, 4, 6, 3), 31_164_943),
        (yolact_resnet101, (3, 4, 23, 3), 50_157_071),
    ],
)
def test_the_pages_renaming_takes_every_tensor_of_the_authors_weights(
    make, blocks, params
) -> None:
    shapes = authors_layers(blocks)
    renamed = page_function("renamed")
    with torch.device("meta"):
        network = make()
        theirs = {name: torch.empty(shape) for name, shape in shapes.items()}
    ours = renamed(theirs)
    assert len(ours) == len(theirs)
    expected = {
        name: tuple(value.shape)
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert {name: tuple(value.shape) for name, value in ours.items()} == expected
    network.load_state_dict(ours, strict=True, assign=True)
    assert sum(p.numel() for p in network.parameters()) == params


class Maps(nn.Module):
    def __init__(self, network: YOLACT) -> None:
        super().__init__()
        self.body = network.backbone

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.body.features(x)


class Each(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *levels: Tensor) -> list:
        return [self.part(level) for level in levels]


def test_cost(evidence) -> None:
    rows = {}
    variants = {
        "resnet50": ("YOLACT-550, ResNet-50", yolact_resnet50, 550),
        "resnet101": ("YOLACT-550, ResNet-101", yolact_resnet101, 550),
        "resnet101_400": ("YOLACT-400, ResNet-101", yolact_resnet101, 400),
        "resnet101_700": ("YOLACT-700, ResNet-101", yolact_resnet101, 700),
    }
    with torch.device("meta"):
        for key, (name, make, size) in variants.items():
            network = make(size=size).eval()
            image = torch.empty(1, 3, size, size)
            cost = model_cost(network, image)
            cells = sum((-(-size // 2**level)) ** 2 for level in range(3, 8))
            rows[key] = {"name": name, "params": cost.params, "macs": cost.macs}
            rows[key]["anchors"] = 3 * cells
        network, image = yolact_resnet101().eval(), torch.empty(1, 3, 550, 550)
        maps = Maps(network)(image)
        levels = network.fpn(maps[1:])
        cells = sum(level[0, 0].numel() for level in levels)
        assert rows["resnet101"]["anchors"] == 3 * cells == 19_248
        parts = {
            "body": ("ResNet-101 without its classifier", Maps(network), (image,)),
            "fpn": ("Pyramid, P3 to P7", network.fpn, (maps[1:],)),
            "proto": ("Protonet", network.proto_net, (levels[0],)),
            "head": ("Head, all levels", Each(network.head), tuple(levels)),
            "semantic": ("Semantic scores", network.semantic, (levels[0],)),
        }
        for key, (name, part, given) in parts.items():
            cost = model_cost(part, *given)
            rows[key] = {"name": name, "params": cost.params, "macs": cost.macs}
    for key in ("params", "macs"):  # the parts are the whole
        assert sum(rows[part][key] for part in parts) == rows["resnet101"][key]
    evidence.computed("cost", rows)


# ---------------------------------------------------------------- the record


def test_the_anchors_of_the_trial_match_almost_every_digit(evidence) -> None:
    from cnn_lab.scene_trial import trial_scenes

    with torch.no_grad():
        anchors = narrow().eval()(torch.zeros(1, 3, 96, 96)).anchors
    objects, halves, ceiling = 0, 0, 0.0
    unused = trial_scenes(200, 1000)  # a seed that no recorded run has
    for box, masks in zip(unused.boxes, unused.instances, strict=True):
        best = shrunken_masks(shrunken_masks(masks, (24, 24)), (96, 96))
        shared, either = (best & masks).sum((1, 2)), (best | masks).sum((1, 2))
        ceiling += float((shared / either).sum())
        objects += len(box)
        halves += int((box_iou(box, anchors).amax(dim=1) >= 0.5).sum())
    assert halves > 0.9 * objects
    params = sum(p.numel() for p in narrow().parameters())
    row = {"name": "Anchors of the trial", "objects": objects, "matched": halves}
    row["ceiling"] = round(ceiling / objects, 2)
    evidence.computed("scenes", {"all": {**row, "params": params, "k": 8}})


def learn_trial(learning_rate: float, seed: int) -> dict[str, object]:
    from cnn_lab.scene_trial import learn_boxes

    torch.manual_seed(seed)
    return learn_boxes(
        narrow(),
        lambda net, x, y: sum(yolact_loss(net(x), y).values()),
        yolact_detections,
        masks=True,
        learning_rate=learning_rate,
        seed=seed,
    )


def trial(seeds: list[int], learning_rate: float) -> dict[str, object]:
    from cnn_lab.scene_trial import scene_trials

    cache = Path(__file__).parents[2] / ".cache/record/yolact.jsonl"
    name = "YOLACT, ResNet-10 of width 16"
    arms = {"yolact": (name, {"learning_rate": learning_rate})}
    return scene_trials(learn_trial, seeds, cache, arms)


@pytest.mark.record
def test_record_it_learns_the_scenes_of_all_segmenters(evidence) -> None:
    pytest.importorskip("torchmetrics")
    evidence.measured(
        "trial", arguments={"seeds": [0, 1, 2], "learning_rate": 2e-3}, run=trial
    )
