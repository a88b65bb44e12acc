"""YOLOv8 has the published layers and counts; its parts equal the same written a second way."""

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, complete_box_iou_loss, nms

from cnn_site.equivalence import compare, difference
from cnn_techniques.detection import (
    SPPF,
    C2f,
    YOLOv8,
    YOLOv8Output,
    ciou_loss,
    task_aligned_assignment,
    yolov8_boxes,
    yolov8_detections,
    yolov8_loss,
    yolov8l,
    yolov8m,
    yolov8n,
    yolov8s,
    yolov8x,
)
from cnn_techniques.evaluation.model_cost import model_cost

# Parameters with 80 classes, and FLOPs in 10^9 at 640 x 640 from the documentation.
PUBLISHED = {
    yolov8n: (3_157_200, 8.7),
    yolov8s: (11_166_560, 28.6),
    yolov8m: (25_902_640, 78.9),
    yolov8l: (43_691_520, 165.2),
    yolov8x: (68_229_648, 257.8),
}
TITLES = {
    yolov8n: "YOLOv8n",
    yolov8s: "YOLOv8s",
    yolov8m: "YOLOv8m",
    yolov8l: "YOLOv8l",
    yolov8x: "YOLOv8x",
}
DFL = 16  # weights 0, 1, ..., 15 of a fixed convolution that the published totals count


@cache
def on_meta(make) -> YOLOv8:
    with torch.device("meta"):
        return make().eval()


def narrow(channels: int = 1) -> YOLOv8:
    """An eighth of the width: what the recorded run trains."""
    return YOLOv8(10, depth=0.33, width=0.125, in_channels=channels)


def boxes(count: int, height: int, width: int, smallest: float = 8.0) -> Tensor:
    """Of all sizes and shapes, inside the image."""
    size = torch.tensor([width, height], dtype=torch.float64)
    sides = smallest * (size / smallest) ** torch.rand(count, 2, dtype=torch.float64)
    corner = torch.rand(count, 2, dtype=torch.float64) * (size - sides)
    return torch.cat([corner, corner + sides], dim=1)


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Points and strides, written a second way: one by one."""
    rows = [
        ((x + 0.5) * stride, (y + 0.5) * stride, stride)
        for stride in (8, 16, 32)
        for y in range(height // stride)
        for x in range(width // stride)
    ]
    table = torch.tensor(rows, dtype=torch.float64)
    return table[:, :2], table[:, 2]


def answer(
    images: int = 2,
    num_classes: int = 5,
    height: int = 128,
    width: int = 192,
    bins: int = 16,
) -> YOLOv8Output:
    """An output drawn at random, as from a network with sharp sides of few strides."""
    points, stride = grid(height, width)
    a = len(points)
    sides = torch.randn(images, a, 4, bins, dtype=torch.float64)
    sides -= 0.4 * torch.arange(bins)
    return YOLOv8Output(
        torch.randn(images, a, num_classes, dtype=torch.float64) * 2 - 3,
        sides,
        points,
        stride,
        (height, width),
    )


def targets(*counts: int, height: int = 128, width: int = 192) -> list[dict]:
    return [
        {"boxes": boxes(m, height, width), "labels": torch.randint(5, (m,))}
        for m in counts
    ]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def loss_case():
    output, wanted = answer(images=1), targets(3)[0]

    def loss_of(logits, bins, points, stride, box, label):
        out = YOLOv8Output(logits, bins, points, stride, (128, 192))
        return yolov8_loss(out, [{"boxes": box, "labels": label}])

    return loss_of, (*output[:4], wanted["boxes"], wanted["labels"])


DEVICE_CASES = {
    "yolov8_loss": loss_case,
    "ciou_loss": lambda: (ciou_loss, (boxes(9, 64, 96), boxes(9, 64, 96))),
    "YOLOv8, narrow": lambda: (narrow().eval(), (torch.randn(2, 1, 64, 96),)),
}


# ---------------------------------------------------------------- the published figures


@pytest.mark.parametrize("make", PUBLISHED, ids=lambda make: make.__name__)
def test_parameters_are_the_published_total_less_the_16_fixed_weights(make) -> None:
    count = sum(p.numel() for p in on_meta(make).parameters())
    assert count + DFL == PUBLISHED[make][0]


def stages_of(network: YOLOv8) -> dict[int, nn.Module | list[nn.Module]]:
    """The modules of a network in the order in which the package prints its layers."""
    s = network.stages
    return {
        0: network.stem,
        **{1 + 2 * k + i: s[k][i] for k in range(4) for i in (0, 1)},
        9: s[3][2],
        12: network.down4,
        15: network.down3,
        16: network.reduce3,
        18: network.up4,
        19: network.reduce4,
        21: network.up5,
        22: [network.box_head, network.class_head],
    }


# What the package printed of its layers: number -> parameters.
PRINTED = {
    # ultralytics/ultralytics, issues 7653 (layers 0 to 12) and 1629 (13 to 22)
    yolov8n: {
        **{0: 464, 1: 4672, 2: 7360, 3: 18560, 4: 49664, 5: 73984, 6: 197632},
        **{7: 295424, 8: 460288, 9: 164608, 12: 148224, 15: 37248, 16: 36992},
        **{18: 123648, 19: 147712, 21: 493056, 22: 897664},
    },
    # issue 4663
    yolov8m: {
        **{0: 1392, 1: 41664, 2: 111360, 3: 166272, 4: 813312, 5: 664320},
        **{6: 3248640, 7: 1991808, 8: 3985920, 9: 831168},
    },
    # issue 3607, of a variant with the same first layers
    yolov8x: {0: 2320, 1: 115520, 2: 436800, 3: 461440, 4: 3281920, 5: 1844480},
}


@pytest.mark.parametrize("make", PRINTED, ids=lambda make: make.__name__)
def test_every_layer_has_the_parameters_that_the_package_printed(make) -> None:
    layers = stages_of(on_meta(make))
    if make is yolov8n:
        assert set(layers) == set(PRINTED[make])
        assert sum(PRINTED[make].values()) == PUBLISHED[make][0]
    for number, expected in PRINTED[make].items():
        of_layer = nn.ModuleList(
            layers[number] if number == 22 else [layers[number]]  # type: ignore[list-item]
        )
        count = sum(p.numel() for p in of_layer.parameters())
        assert count + (DFL if number == 22 else 0) == expected, number


def test_folding_batch_norm_gives_the_published_parameters_of_the_fused_network() -> (
    None
):
    """Weight and bias of a norm become one bias: 11,156,544 for s (pull request 2735)."""
    network = on_meta(yolov8s)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    count = sum(p.numel() for p in network.parameters())
    assert count + DFL - sum(m.num_features for m in norms) == 11_156_544


LEVELS = {  # channels of P3, P4, P5 as the scales give them
    yolov8n: (64, 128, 256),
    yolov8s: (128, 256, 512),
    yolov8m: (192, 384, 576),
    yolov8l: (256, 512, 512),
    yolov8x: (320, 640, 640),
}


def test_cost_and_levels_of_all_variants(evidence) -> None:
    """FLOPs are twice the MACs, rounded; l needs the biases of the last layers too."""
    rows = {}
    for make, (total, flops) in PUBLISHED.items():
        network, seen = on_meta(make), []
        hooks = [
            head.register_forward_pre_hook(
                lambda _, x, seen=seen: seen.append((*x[0].shape[1:],))
            )
            for head in network.box_head
        ]
        cost = model_cost(network, torch.empty(1, 3, 640, 640, device="meta"))
        for hook in hooks:
            hook.remove()
        sides = zip(LEVELS[make], (80, 40, 20), strict=True)
        assert seen == [(c, side, side) for c, side in sides]
        fixed = 8400 * 4 * 16  # MACs of the means of the distributions
        biases = 8400 * (80 + 4 * 16)  # additions of the last convolutions
        whole = (2 * (cost.macs + fixed + biases)) / 1e9
        assert round(whole, 1) == flops
        assert abs(2 * cost.macs / 1e9 - flops) < 0.06
        rows[make.__name__] = {
            "name": TITLES[make],
            "params": cost.params,
            "fixed": total - cost.params,
            "macs": cost.macs,
            "flops": 2 * cost.macs,
            "whole_flops": 2 * (cost.macs + fixed + biases),
        }
    network = on_meta(yolov8n)
    levels = [
        torch.empty(1, c, side, side, device="meta")
        for c, side in zip(LEVELS[yolov8n], (80, 40, 20), strict=True)
    ]
    for key, heads in (("box", network.box_head), ("class", network.class_head)):
        part = model_cost(Each(heads), levels)
        rows[f"{key}_head"] = {
            "name": f"of which the {key} branches, n",
            "params": part.params,
            "macs": part.macs,
        }
    evidence.computed("cost", rows)


class Each(nn.Module):
    def __init__(self, heads: nn.ModuleList) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [head(level) for head, level in zip(self.heads, levels, strict=True)]


# ---------------------------------------------------------------- the network a second way


def convolution(i: int, o: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(i, o, kernel, stride, padding="same" if stride == 1 else 1)
    conv.register_parameter("bias", None)
    norm = nn.BatchNorm2d(o, 1e-3, 0.03)
    return nn.Sequential(conv, norm)


def silu(pair: nn.Module, x: Tensor) -> Tensor:
    x = pair(x)
    return x * torch.sigmoid(x)


class SecondWay(nn.Module):
    """The published table, row by row: each row says where its input comes from.

    A C2f names its slices instead of growing a list; the pooling pyramid has windows of
    5, 9 and 13 cells, side by side.
    """

    def __init__(self, k: int, widths: list[int], n: tuple[int, int]) -> None:
        super().__init__()
        a, b, c, d, e = widths
        short, long = n
        self.rows = [  # kind, inputs, outputs, repeats, shortcut, from
            ("conv", 3, a, 1, False, [-1]),  # 0
            ("conv", a, b, 1, False, [0]),
            ("c2f", b, b, short, True, [1]),
            ("conv", b, c, 1, False, [2]),
            ("c2f", c, c, long, True, [3]),  # 4
            ("conv", c, d, 1, False, [4]),
            ("c2f", d, d, long, True, [5]),  # 6
            ("conv", d, e, 1, False, [6]),
            ("c2f", e, e, short, True, [7]),
            ("sppf", e, e, 1, False, [8]),  # 9
            ("up", 0, 0, 0, False, [9]),
            ("c2f", d + e, d, short, False, [10, 6]),  # 11
            ("up", 0, 0, 0, False, [11]),
            ("c2f", c + d, c, short, False, [12, 4]),  # 13: P3
            ("conv", c, c, 1, False, [13]),
            ("conv", d, d, 1, False, [16]),  # 15: made before 16, used after it
            ("c2f", c + d, d, short, False, [14, 11]),  # 16: P4
            ("c2f", d + e, e, short, False, [15, 9]),  # 17: P5
        ]
        self.layers = nn.ModuleList()
        for kind, i, o, repeats, _, _ in self.rows:
            parts = nn.ModuleList()
            if kind == "conv":
                parts.append(convolution(i, o, 3, 2))
            if kind == "c2f":
                h = o // 2
                parts.append(convolution(i, o, 1))
                parts.extend(convolution(h, h, 3) for _ in range(2 * repeats))
                parts.append(convolution((2 + repeats) * h, o, 1))
            if kind == "sppf":
                parts.extend([convolution(i, i // 2, 1), convolution(i * 2, o, 1)])
            self.layers.append(parts)
        box, cls = max(16, c // 4, 64), max(c, min(k, 100))
        self.heads = nn.ModuleList(
            nn.ModuleList(
                [convolution(i, h, 3), convolution(h, h, 3), nn.Conv2d(h, o, 1)]
            )
            for h, o in ((box, 64), (cls, k))
            for i in (c, d, e)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made: dict[int, Tensor] = {-1: x}
        for row in (*range(15), 16, 15, 17):
            kind, _, _, repeats, shortcut, came = self.rows[row]
            x, parts = torch.cat([made[f] for f in came], 1), self.layers[row]
            if kind == "up":
                made[row] = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            if kind == "conv":
                made[row] = silu(parts[0], x)
            if kind == "sppf":
                x = silu(parts[0], x)
                wide = [F.max_pool2d(x, w, 1, w // 2) for w in (5, 9, 13)]
                made[row] = silu(parts[1], torch.cat([x, *wide], 1))
            if kind == "c2f":
                x = silu(parts[0], x)
                h = x.shape[1] // 2
                for r in range(repeats):
                    last = x[:, -h:]
                    new = silu(parts[2 + 2 * r], silu(parts[1 + 2 * r], last))
                    x = torch.cat([x, last + new if shortcut else new], 1)
                made[row] = silu(parts[-1], x)
        levels = [made[r] for r in (13, 16, 17)] * 2
        out = []
        for (first, second, last), level in zip(self.heads, levels, strict=True):
            rows = last(silu(second, silu(first, level))).permute(0, 2, 3, 1)
            out.append(rows.reshape(len(x), -1, rows.shape[3]))
        return torch.cat(out[3:], 1), torch.cat(out[:3], 1)


def both(output: YOLOv8Output) -> tuple[Tensor, Tensor]:
    return output.logits, output.bins.flatten(2)


def test_network_equals_the_published_table_written_row_by_row(evidence) -> None:
    comparison = compare(
        YOLOv8(7, depth=0.67, width=0.125),
        SecondWay(7, [8, 16, 32, 64, 128], (2, 4)),
        torch.randn(2, 3, 64, 96),
        match="order",
        outputs=(both, lambda o: o),
    )
    evidence.equivalent(
        "network",
        comparison,
        reference="the layer table, written row by row",
        settings="depth 0.67, width 0.125, 7 classes",
    )


@pytest.mark.slow
def test_yolov8n_equals_the_published_table_written_row_by_row(evidence) -> None:
    comparison = compare(
        yolov8n(),
        SecondWay(80, [16, 32, 64, 128, 256], (1, 2)),
        torch.randn(2, 3, 64, 96),
        match="order",
        outputs=(both, lambda o: o),
    )
    evidence.equivalent(
        "yolov8n", comparison, reference="the layer table, written row by row"
    )


def test_three_poolings_of_5_see_5_9_and_13_cells() -> None:
    x = torch.randn(1, 2, 20, 24)
    pool = SPPF(2).pool
    for times, side in ((1, 5), (2, 9), (3, 13)):
        y = x
        for _ in range(times):
            y = pool(y)
        assert torch.equal(y, F.max_pool2d(x, side, 1, side // 2))


def test_c2f_keeps_every_step_of_the_way() -> None:
    """With bottlenecks that give zeros, a shortcut repeats the second half."""
    for shortcut in (True, False):
        block = C2f(6, 8, 3, shortcut).eval()
        for bottleneck in block.blocks:
            nn.init.zeros_(bottleneck.conv2[0].weight)
        seen = []
        block.conv2.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
        with torch.no_grad():
            block(torch.randn(2, 6, 5, 5))
        first, *steps = seen[0].split(4, dim=1)[0:]
        assert len(steps) == 4
        assert first.abs().sum() > 0
        for step in steps[1:]:
            expected = steps[0] if shortcut else torch.zeros_like(steps[0])
            assert torch.equal(step, expected)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 32), (160, 224)])
def test_points_lie_in_the_middle_of_their_cells(height: int, width: int) -> None:
    with torch.no_grad():
        output = narrow().eval()(torch.zeros(1, 1, height, width))
    points, stride = grid(height, width)
    assert torch.equal(output.points.double(), points)
    assert torch.equal(output.stride.double(), stride)
    assert output.image_size == (height, width)


# ---------------------------------------------------------------- boxes and losses


def test_boxes_are_the_means_of_four_distributions() -> None:
    output = answer()
    found = yolov8_boxes(output)
    for a in (0, 17, 400, 503):
        (x, y), s = output.points[a].tolist(), output.stride[a].item()
        mean = []
        for side in output.bins[1, a].tolist():
            weight = [math.exp(v) for v in side]
            mean.append(s * sum(i * w for i, w in enumerate(weight)) / sum(weight))
        expected = [x - mean[0], y - mean[1], x + mean[2], y + mean[3]]
        torch.testing.assert_close(found[1, a].tolist(), expected)


def test_ciou_loss_and_gradient_equal_torchvisions(evidence) -> None:
    ours = boxes(400, 128, 192).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    truth = boxes(400, 128, 192)
    truth[:100] = ours.detach()[:100] + torch.randn(100, 4)  # near ones
    one, other = ciou_loss(ours, truth), complete_box_iou_loss(theirs, truth)
    one.sum().backward()
    other.sum().backward()
    evidence.equivalent(
        "ciou",
        difference(
            {"loss": (one.detach(), other.detach())},
            {"boxes": (ours.grad, theirs.grad)},
        ),
        reference="torchvision.ops.complete_box_iou_loss",
    )


def test_ciou_is_the_papers_three_terms_pair_by_pair() -> None:
    first, second = boxes(50, 128, 192), boxes(50, 128, 192)
    overlap = box_iou(first, second).diagonal().tolist()
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    for (a, b), iou, loss in zip(
        pairs, overlap, ciou_loss(first, second).tolist(), strict=True
    ):
        centres = [((p[0] + p[2]) / 2, (p[1] + p[3]) / 2) for p in (a, b)]
        rho = math.dist(*centres)
        c = math.dist(
            (min(a[0], b[0]), min(a[1], b[1])), (max(a[2], b[2]), max(a[3], b[3]))
        )
        angle = [math.atan((p[2] - p[0]) / (p[3] - p[1])) for p in (b, a)]
        v = 4 / math.pi**2 * (angle[0] - angle[1]) ** 2
        alpha = v / (1 - iou + v)
        assert math.isclose(loss, 1 - iou + rho**2 / c**2 + alpha * v, rel_tol=1e-5)


def test_ciou_of_simple_pairs() -> None:
    one = torch.tensor([0.0, 0.0, 2.0, 2.0], dtype=torch.float64)
    cases = {
        (0, 0, 2, 2): 0.0,  # the same box
        (1, 0, 3, 2): 1 - 1 / 3 + 1 / 13,  # a side further, of the same shape
        (2, 0, 4, 2): 1 + 4 / 20,  # side by side
        (8, 0, 10, 2): 1 + 64 / 104,  # apart: still with a slope
    }
    for other, expected in cases.items():
        loss = ciou_loss(one, torch.tensor(other, dtype=torch.float64))
        assert abs(loss.item() - expected) < 1e-6
    assert ciou_loss(one * 7, one * 7 + 3).allclose(
        ciou_loss(one, one + 3 / 7)
    )  # of no scale


def second_loss(output: YOLOv8Output, wanted: list[dict], m: int = 10) -> dict:
    """The loss with loops over images, objects and points, and torchvision's CIoU."""
    n, a, k = output.logits.shape
    r = output.bins.shape[-1]
    total, box, dfl = 0.0, 0.0, 0.0
    target = torch.zeros(n, a, k, dtype=torch.float64)
    steps = torch.arange(r, dtype=torch.float64)
    ltrb = (output.bins.softmax(-1) @ steps) * output.stride[:, None]
    corners = output.points[:, None] + torch.stack(
        [-ltrb[..., :2], ltrb[..., 2:]], dim=2
    )
    predicted = corners.flatten(2)
    for i in range(n):
        objects, labels = wanted[i]["boxes"], wanted[i]["labels"].tolist()
        u = box_iou(objects, predicted[i]).detach()
        claims: dict[int, list[tuple[float, int]]] = {}  # point -> (overlap, object)
        metric = {}
        for j, (x1, y1, x2, y2) in enumerate(objects.tolist()):
            row = []
            for p, (x, y) in enumerate(output.points.tolist()):
                score = output.logits[i, p, labels[j]].sigmoid().item()
                metric[j, p] = score**0.5 * u[j, p].item() ** 6
                if x1 < x < x2 and y1 < y < y2 and metric[j, p] > 0:
                    row.append((metric[j, p], p))
            for _, p in sorted(row, reverse=True)[:m]:
                claims.setdefault(p, []).append((u[j, p].item(), j))
        owner = {p: max(claim)[1] for p, claim in claims.items()}
        for j in set(owner.values()):
            mine = [p for p in owner if owner[p] == j]
            top = max(metric[j, p] for p in mine)
            best = max(u[j, p].item() for p in mine)
            for p in mine:
                weight = metric[j, p] / top * best
                total += weight
                target[i, p, labels[j]] = weight
                truth = objects[j]
                box = box + weight * complete_box_iou_loss(predicted[i, p], truth)
                (x, y), s = output.points[p].tolist(), output.stride[p].item()
                x1, y1, x2, y2 = truth.tolist()
                for side, distance in enumerate((x - x1, y - y1, x2 - x, y2 - y)):
                    d = min(distance / s, r - 1)
                    shares = (1 - (steps - d).abs()).clamp(min=0)
                    ce = F.cross_entropy(output.bins[i, p, side], shares)
                    dfl = dfl + weight * ce / 4
    bce = nn.BCEWithLogitsLoss(reduction="sum")(output.logits, target)
    total = max(total, 1.0)
    return {
        "box": 7.5 * box / total,
        "class": 0.5 * bce / total,
        "dfl": 1.5 * dfl / total,
    }


def test_loss_and_gradients_equal_the_sum_over_points_written_as_loops(
    evidence,
) -> None:
    pairs, slopes = {}, {}
    cases = {"objects": (4, 0, 7), "one object": (1,), "no object": (0, 0)}
    for name, counts in cases.items():
        output, wanted = answer(images=len(counts)), targets(*counts)
        leaves = [t.requires_grad_() for t in output[:2]]
        ours, theirs = yolov8_loss(output, wanted), second_loss(output, wanted)
        for key in ours:
            expected = torch.as_tensor(theirs[key]).double().detach()
            pairs[f"{key}, {name}"] = ours[key].detach(), expected
        for which, leaf in zip(("logits", "bins"), leaves, strict=True):
            (one,), (other,) = (
                torch.autograd.grad(sum(v.values()), leaf, allow_unused=True)
                for v in (ours, theirs)
            )
            if other is not None:
                slopes[f"{which}, {name}"] = one, other
    evidence.equivalent(
        "loss",
        difference(pairs, slopes, shape=[3, 504, 5], modes=list(cases)),
        reference="the same sum in loops over points, with torchvision's CIoU",
    )


def test_what_a_coarse_level_cannot_reach_learns_the_last_bin() -> None:
    """An object of 300 px seen from P3 reaches further than 15 strides."""
    output = answer(images=1, height=320, width=320, bins=16)
    wanted = [
        {"boxes": torch.tensor([[5.0, 5, 315, 315]]), "labels": torch.tensor([0])}
    ]
    only = output.stride == 8
    output = YOLOv8Output(
        output.logits[:, only],
        output.bins[:, only].requires_grad_(),
        output.points[only],
        output.stride[only],
        (320, 320),
    )
    loss = yolov8_loss(output, wanted)
    assert loss["dfl"].isfinite()
    (slope,) = torch.autograd.grad(loss["dfl"], output.bins)
    learning = slope.abs().sum(dim=(2, 3))[0] > 0
    assert 0 < learning.sum() <= 10


def test_images_of_a_batch_share_one_divisor() -> None:
    """Every loss is per unit of all scores to learn, not per image."""
    output, wanted = answer(), targets(5, 5)
    both = yolov8_loss(output, wanted)
    score = [
        task_aligned_assignment(
            output.logits[n].sigmoid(),
            yolov8_boxes(output)[n],
            output.points,
            wanted[n]["boxes"],
            wanted[n]["labels"],
            0.5,
            6.0,
            10,
        ).score.sum()
        for n in (0, 1)
    ]
    assert min(score) > 1
    parts = 0.0
    for n in (0, 1):
        one = output._replace(
            logits=output.logits[n : n + 1], bins=output.bins[n : n + 1]
        )
        parts += yolov8_loss(one, wanted[n : n + 1])["box"] * score[n]
    torch.testing.assert_close(both["box"], parts / sum(score))


def test_gains_multiply_and_nothing_else() -> None:
    output, wanted = answer(), targets(5, 0)
    plain = yolov8_loss(output, wanted, gains=(1, 1, 1))
    weighted = yolov8_loss(output, wanted)
    for key, gain in {"box": 7.5, "class": 0.5, "dfl": 1.5}.items():
        torch.testing.assert_close(weighted[key], gain * plain[key])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_are_integers_of_any_width(dtype: torch.dtype) -> None:
    output, wanted = answer(images=1), targets(6)
    narrower = [{**t, "labels": t["labels"].to(dtype)} for t in wanted]
    expected, found = yolov8_loss(output, wanted), yolov8_loss(output, narrower)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_image_without_objects_has_a_finite_loss_and_gradient() -> None:
    network = narrow()
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    loss = yolov8_loss(network(torch.randn(2, 1, 64, 96)), [none, none])
    assert loss["box"] == loss["dfl"] == 0
    sum(loss.values()).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert 0 < loss["class"] < 30
    assert all(g.isfinite().all() for g in gradients)


def test_gradients_reach_every_parameter() -> None:
    network = narrow()
    wanted = [
        {"boxes": boxes(4, 64, 96, 24).float(), "labels": torch.arange(4)}
        for _ in range(2)
    ]
    loss = yolov8_loss(network(torch.randn(2, 1, 64, 96)), wanted, m=100)
    sum(loss.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_first_scores_are_the_prior_probability() -> None:
    scores = narrow()(torch.randn(2, 1, 64, 96)).logits.sigmoid()
    assert abs(scores.mean().item() - 0.01) < 3e-3


# ---------------------------------------------------------------- detections


def second_detections(
    output: YOLOv8Output, score: float, iou: float, limit: int
) -> list[dict[str, Tensor]]:
    """Class by class, with torchvision's suppression of one class."""
    height, width = output.image_size
    found = []
    for logits, box in zip(output.logits, yolov8_boxes(output), strict=True):
        x, y = box[:, 0::2].clamp(0, width), box[:, 1::2].clamp(0, height)
        box = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)
        rows = []
        for c in range(logits.shape[1]):
            p = logits[:, c].sigmoid()
            sure = (p > score).nonzero()[:, 0]
            kept = sure[nms(box[sure], p[sure], iou)]
            rows += [(p[i].item(), c, box[i]) for i in kept.tolist()]
        rows.sort(key=lambda row: -row[0])
        rows = rows[:limit]
        found.append(
            {
                "boxes": torch.stack([r[2] for r in rows]),
                "scores": torch.tensor([r[0] for r in rows], dtype=torch.float64),
                "labels": torch.tensor([r[1] for r in rows]),
            }
        )
    return found


def test_detections_equal_those_of_each_class_alone(evidence) -> None:
    output, pairs = answer(), {}
    for name, score, iou, limit in [
        ("as published", 0.25, 0.7, 300),
        ("other settings", 0.05, 0.4, 120),
    ]:
        ours = yolov8_detections(output, score, iou, limit=limit)
        theirs = second_detections(output, score, iou, limit)
        for n in (0, 1):
            assert len(ours[n]["boxes"]) > 100
            for key in ours[n]:
                pairs[f"{key} {n}, {name}"] = ours[n][key], theirs[n][key]
    evidence.equivalent(
        "detections",
        difference(pairs, shape=[2, 504, 5], modes=["as published", "other settings"]),
        reference="torchvision.ops.nms, class by class",
    )


def test_objects_that_are_planted_are_found() -> None:
    output = answer(images=1)
    wanted = targets(6)[0]
    points, stride = output.points, output.stride
    logits = torch.full_like(output.logits, -20.0)
    bins = torch.full_like(output.bins, -40.0)
    for box, label in zip(wanted["boxes"], wanted["labels"], strict=True):
        inside = ((points > box[:2]) & (points < box[2:])).all(1)
        middle = (points - (box[:2] + box[2:]) / 2).abs().sum(1) + 1e6 * ~inside
        a = int(middle.argmin())
        ltrb = torch.cat([points[a] - box[:2], box[2:] - points[a]]) / stride[a]
        if not inside.any() or ltrb.max() > 15:
            continue
        logits[0, a, label] = 5.0
        for side, d in enumerate(ltrb.tolist()):  # two bins hold the exact mean
            low = min(int(d), 14)
            bins[0, a, side, low : low + 2] = torch.tensor(
                [max(1 - d + low, 1e-12), max(d - low, 1e-12)], dtype=torch.float64
            ).log()
    found = yolov8_detections(output._replace(logits=logits, bins=bins))[0]
    assert len(found["boxes"]) >= 4
    overlap = box_iou(found["boxes"], wanted["boxes"])
    assert (overlap.amax(1) > 0.999).all()
    assert torch.equal(found["labels"], wanted["labels"][overlap.argmax(1)])


def test_where_no_score_is_high_enough_nothing_is_found() -> None:
    output = answer()
    for found in yolov8_detections(output._replace(logits=output.logits - 30)):
        assert found["boxes"].shape == (0, 4)
        assert found["scores"].shape == found["labels"].shape == (0,)


def test_detections_are_sorted_inside_the_image_and_apart_within_a_class() -> None:
    for found in yolov8_detections(answer()):
        assert (found["scores"].diff() <= 0).all()
        assert found["scores"].min() > 0.25
        assert found["boxes"].min() >= 0
        assert (found["boxes"].amax(dim=0) <= torch.tensor([192, 128] * 2)).all()
        overlap = box_iou(found["boxes"], found["boxes"]).fill_diagonal_(0)
        same = found["labels"][:, None] == found["labels"]
        assert overlap[same].max() <= 0.7 < overlap[~same].max()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "target",
    [
        {"boxes": torch.zeros(1, 5), "labels": torch.zeros(1, dtype=torch.int64)},
        {"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.tensor([0.0])},
        {"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.tensor([5])},
    ],
    ids=["five columns", "float labels", "label 5 of 5 classes"],
)
def test_targets_of_another_form_are_refused(target: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"expected (scores|labels)"):
        yolov8_loss(answer(), [target] * 2)


def test_refuses_what_does_not_fit() -> None:
    for wrong in (
        {"num_classes": 0},
        {"bins": 1},
        {"depth": 0.0},
        {"width": -1.0},
        {"prior": 1.0},
        {"max_channels": 0},
    ):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name}={wrong[name]}"):
            YOLOv8(**wrong)  # type: ignore[arg-type]
    network = narrow()
    for shape in ((1, 64, 96), (1, 1, 60, 96), (1, 1, 64, 100)):
        with pytest.raises(ValueError, match="sides multiples of 32, got"):
            network(torch.zeros(shape))
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        yolov8_loss(answer(), targets(1))
    flat = {"boxes": torch.tensor([[5.0, 5, 5, 9]]), "labels": torch.tensor([0])}
    with pytest.raises(ValueError, match=r"x1 < x2 and y1 < y2, got"):
        yolov8_loss(answer(), [flat] * 2)


# ---------------------------------------------------------------- the record


def test_sixteen_bins_reach_further_than_the_trials_images_on_every_level(
    evidence,
) -> None:
    from cnn_lab.scene_trial import trial_scenes

    scenes = trial_scenes(100, 1000)  # a seed that no recorded run has
    points, _ = grid(96, 96)
    longest, fewest = 0.0, len(points)
    for box in scenes.boxes:
        longest = max(longest, (box[:, 2:] - box[:, :2]).max().item())
        inside = (points > box[:, None, :2]) & (points < box[:, None, 2:])
        fewest = min(fewest, int(inside.all(dim=2).sum(dim=1).min()))
    reach = {f"p{k}": {"name": f"P{k}", "reach": 15 * 2**k} for k in (3, 4, 5)}
    assert longest < 96 < reach["p3"]["reach"]
    assert fewest >= 5  # points of a digit: some have less than the ten that may learn
    every = {"name": "Digits", "longest": round(longest), "fewest": fewest}
    evidence.computed("reach", {**reach, "digits": every})


def learn_trial(learning_rate: float, seed: int) -> dict[str, object]:
    from cnn_lab.scene_trial import learn_boxes

    torch.manual_seed(seed)
    return learn_boxes(
        narrow(channels=3),
        lambda net, x, y: sum(yolov8_loss(net(x), y).values()),
        lambda output: yolov8_detections(output, score_threshold=0.05),
        learning_rate=learning_rate,
        seed=seed,
    )


def trial(seeds: list[int], learning_rate: float) -> dict[str, object]:
    from cnn_lab.scene_trial import scene_trials

    cache = Path(__file__).parents[2] / ".cache/record/yolov8.jsonl"
    arms = {"yolov8": ("YOLOv8, an eighth wide", {"learning_rate": learning_rate})}
    return scene_trials(learn_trial, seeds, cache, arms)


@pytest.mark.record
def test_record_it_learns_the_scenes_of_all_detectors(evidence) -> None:
    pytest.importorskip("torchmetrics")
    evidence.measured(
        "trial", arguments={"seeds": [0, 1, 2], "learning_rate": 6e-3}, run=trial
    )
