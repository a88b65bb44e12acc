"""The authors' layers, targets, Matrix NMS and choice of masks, written a second way."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnn_lab.scene_trial import trial_scenes
from cnn_site.equivalence import difference
from cnn_site.laws import gradient_reaches_every_parameter
from cnn_techniques.detection import FeaturePyramidNetwork
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import BasicBlock, ResNet, resnet50, resnet101
from cnn_techniques.segmentation import (
    SOLOv2,
    SOLOv2Backbone,
    SOLOv2Output,
    dice_loss,
    matrix_nms,
    solo_v2,
    solo_v2_assign,
    solo_v2_detections,
    solo_v2_loss,
    with_coordinates,
)

DEVICE_CASES = {"SOLOv2": lambda: (narrow(), (torch.randn(2, 3, 64, 96),))}
GRIDS, STRIDES = (12, 10, 8), (8, 8, 16)
RANGES = ((1.0, 30.0), (24.0, 38.0), (32.0, 1000.0))


def narrow(num_classes: int = 10, width: int = 16) -> SOLOv2:
    """Three stages of a ResNet, a head of two convolutions: what the record trains."""
    body = ResNet(BasicBlock, (1, 1, 1), width=width)
    fpn = FeaturePyramidNetwork([width, 2 * width, 4 * width], 2 * width)
    return SOLOv2(
        SOLOv2Backbone(body, fpn),
        2 * width,
        num_classes,
        GRIDS,
        width=2 * width,
        mask_width=2 * width,
        kernel_channels=width,
        convs=2,
        mask_levels=3,
        groups=8,
    )


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def drawn(images: int = 2, classes: int = 5, loud: float = 1.0) -> SOLOv2Output:
    """Answers of three grids drawn at random, some of the cells sure."""
    logits = [
        (loud * torch.randn(images, classes, s, s, dtype=torch.float64) - 1.5)
        for s in GRIDS
    ]
    kernels = [torch.randn(images, 6, s, s, dtype=torch.float64) for s in GRIDS]
    smooth = F.interpolate(
        torch.randn(images, 6, 4, 6, dtype=torch.float64), (16, 24), mode="bilinear"
    )
    return SOLOv2Output(logits, kernels, smooth, (64, 96))


def objects(count: int, size: tuple[int, int] = (64, 96)) -> dict[str, Tensor]:
    """Discs of many sizes, some cut off by the border."""
    rows, columns = torch.meshgrid(
        torch.arange(size[0]), torch.arange(size[1]), indexing="ij"
    )
    masks = []
    for _ in range(count):
        y, x = torch.rand(2) * torch.tensor(size)
        masks.append(
            (rows - y) ** 2 + (columns - x) ** 2 < (4 + 30 * torch.rand(1)) ** 2
        )
    stacked = torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool)
    boxes = [
        [c.min(), r.min(), c.max() + 1, r.max() + 1]
        for r, c in (torch.where(m) for m in stacked)
    ]
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float64).view(-1, 4),
        "labels": torch.randint(5, (count,)),
        "masks": stacked,
    }


# ---------------------------------------------------------------- the network


def restated(net: SOLOv2, images: Tensor) -> dict[str, Tensor]:
    """The authors' order of operations on a dict of weights, without modules."""
    w = dict(net.named_parameters())
    levels = net.backbone(images)

    def coordinates(x: Tensor) -> Tensor:
        ys, xs = torch.meshgrid(
            torch.linspace(-1, 1, x.shape[2], dtype=x.dtype),
            torch.linspace(-1, 1, x.shape[3], dtype=x.dtype),
            indexing="ij",
        )
        both = torch.stack([xs, ys]).expand(len(x), -1, -1, -1)
        return torch.cat([x, both], dim=1)

    def convs(
        x: Tensor, prefix: str, padding: int = 1, enlarge: bool = False
    ) -> Tensor:
        number = 0
        while f"{prefix}.{number}.0.weight" in w:
            name = f"{prefix}.{number}"
            x = F.conv2d(x, w[f"{name}.0.weight"], padding=padding)
            groups = x.unflatten(1, (8, -1))
            mean = groups.mean(dim=(2, 3, 4), keepdim=True)
            variance = (groups - mean).square().mean(dim=(2, 3, 4), keepdim=True)
            x = ((groups - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
            x = (
                x * w[f"{name}.1.weight"][:, None, None]
                + w[f"{name}.1.bias"][:, None, None]
            )
            x = x.clamp(min=0)
            if enlarge:
                x = F.interpolate(x, scale_factor=2, mode="bilinear")
            number += 1
        return x

    total = convs(levels[0], "mask_branch.branches.0")
    for number in range(1, 3):
        x = coordinates(levels[number]) if number == 2 else levels[number]
        total = total + convs(x, f"mask_branch.branches.{number}", enlarge=True)
    last = {k.replace("mask_branch.last", "last.0"): v for k, v in w.items()}
    w.update(last)
    out = {"features": convs(total, "last", padding=0)}
    levels = [
        F.interpolate(levels[0], scale_factor=0.5, mode="bilinear"),
        levels[1],
        F.interpolate(levels[2], levels[1].shape[2:], mode="bilinear"),
    ]
    for number, (x, s) in enumerate(zip(levels, GRIDS, strict=True)):
        x = F.interpolate(coordinates(x), size=s, mode="bilinear")
        for answer, inputs in (("kernel", x), ("category", x[:, :-2])):
            y = convs(inputs, f"head.{answer}_convs")
            weight, bias = w[f"head.{answer}.weight"], w[f"head.{answer}.bias"]
            out[f"{answer} {number}"] = F.conv2d(y, weight, bias, padding=1)
    return out


def test_the_network_is_the_authors_list_of_layers(evidence) -> None:
    net = narrow().double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    output = net(images)
    ours = {"features": output.features}
    for number in range(3):
        ours[f"kernel {number}"] = output.kernels[number]
        ours[f"category {number}"] = output.logits[number]
    theirs = restated(net, images)
    weights = {name: torch.randn_like(x) for name, x in ours.items()}
    slopes = []
    for side in (ours, theirs):
        total = sum((side[n] * weights[n]).sum() for n in ours)
        heads = [p for n, p in net.named_parameters() if not n.startswith("backbone")]
        slopes.append(torch.autograd.grad(total, heads, retain_graph=True))
    names = [n for n, _ in net.named_parameters() if not n.startswith("backbone")]
    comparison = difference(
        {n: (ours[n].detach(), theirs[n].detach()) for n in ours},
        {n: (a, b) for n, a, b in zip(names, *slopes, strict=True)},
        shape=list(images.shape),
        modes=["training"],
    )
    evidence.equivalent(
        "network",
        comparison,
        reference="the authors' head and mask branch, restated as a list of operations",
        settings="narrow, three levels",
    )


def test_costs_on_the_page(evidence) -> None:
    rows = {}
    for key, body in (("r50", resnet50), ("r101", resnet101)):
        with torch.device("meta"):
            net, image = solo_v2(body()), torch.empty(1, 3, 800, 1344)
            cost = model_cost(net, image)
        rows[key] = {
            "name": f"SOLOv2, ResNet-{key[1:]}",
            "params": cost.params,
            "macs": cost.macs,
        }
        if key == "r50":
            parts = {"backbone": "ResNet-50 and pyramid", "head": "head", "mask_branch": "mask branch"}  # fmt: skip
            for part, name in parts.items():
                size = sum(p.numel() for p in getattr(net, part).parameters())
                rows[part] = {"name": name, "params": size}
    evidence.computed("cost", rows)
    assert (
        sum(rows[p]["params"] for p in ("backbone", "head", "mask_branch"))
        == (rows["r50"]["params"])
    )


def test_parameters_of_head_and_mask_branch_are_those_of_the_authors_layers() -> None:
    """Counted by hand: a layer is (inputs, outputs, kernel side), its norm two numbers an output."""
    with torch.device("meta"):
        net = solo_v2(resnet50())
    tower = [(256, 512)] + 3 * [(512, 512)]
    head = sum(9 * a * b + 2 * b for a, b in tower) + 9 * 512 * 80 + 80
    head += sum(9 * a * b + 2 * b for a, b in [(258, 512), *tower[1:]])
    head += 9 * 512 * 256 + 256
    assert sum(p.numel() for p in net.head.parameters()) == head
    first, more = 9 * 256 * 128 + 256, 9 * 128 * 128 + 256
    branch = 4 * first + 9 * 2 * 128 + 3 * more + 128 * 256 + 2 * 256
    assert sum(p.numel() for p in net.mask_branch.parameters()) == branch


def test_a_kernel_of_a_cell_is_a_convolution_of_one_by_one() -> None:
    output = drawn(1)
    kernels = output.kernels[0][0, :, 3, 4:6]
    ours = torch.einsum("ec,ehw->chw", kernels, output.features[0])
    theirs = F.conv2d(output.features[:1], kernels.T[:, :, None, None])[0]
    torch.testing.assert_close(ours, theirs)


def test_coordinates_go_from_minus_one_to_one() -> None:
    x = with_coordinates(torch.zeros(2, 3, 4, 5))
    assert x.shape == (2, 5, 4, 5)
    assert x[0, 3, 0].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert x[1, 4, :, 2].tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])


def test_gradients_reach_every_parameter() -> None:
    images = torch.randn(2, 3, 64, 96)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = narrow()

        def forward(self, x: Tensor) -> list[Tensor]:
            out = self.net(x)
            return [*out.logits, *out.kernels, out.features]

    gradient_reaches_every_parameter(Whole(), images)


# ---------------------------------------------------------------- targets and loss


def test_cells_learn_what_the_authors_rule_says_of_each_cell_alone() -> None:
    """Cell by cell: the object whose middle part, at most three by three cells, holds it."""
    learnt = 0
    for _ in range(40):
        target = objects(4)
        found = solo_v2_assign(target["boxes"], target["masks"], GRIDS, RANGES)
        for learns, s, (low, high) in zip(found, GRIDS, RANGES, strict=True):
            for row in range(s):
                for column in range(s):
                    wanted = -1
                    for i in range(4):
                        x1, y1, x2, y2 = target["boxes"][i].tolist()
                        if not low <= math.sqrt((x2 - x1) * (y2 - y1)) <= high:
                            continue
                        ys, xs = torch.where(target["masks"][i])
                        held = True
                        for at, points, side, length in (
                            (row, ys, y2 - y1, 64),
                            (column, xs, x2 - x1, 96),
                        ):
                            c = points.double().mean().item()
                            least = math.floor(max(c - 0.1 * side, 0) / length * s)
                            most = math.floor((c + 0.1 * side) / length * s)
                            middle = math.floor(c / length * s)
                            held &= max(least, middle - 1) <= at
                            held &= at <= min(most, middle + 1, s - 1)
                        wanted = i if held else wanted
                    assert learns[row, column] == wanted
                    learnt += wanted >= 0
    assert learnt > 300


def test_the_loss_is_that_of_every_cell_by_itself(evidence) -> None:
    output = drawn(3)
    for part in (*output.logits, *output.kernels, output.features):
        part.requires_grad_()
    targets = [objects(3), objects(0), objects(5)]
    ours = solo_v2_loss(output, targets, RANGES)
    focal, dice = torch.zeros((), dtype=torch.float64), []
    for n, target in enumerate(targets):
        cells = solo_v2_assign(target["boxes"], target["masks"], GRIDS, RANGES)
        quarter = F.interpolate(
            target["masks"][:, None].double(), (16, 24), mode="bilinear"
        )[:, 0]
        for level, s in enumerate(GRIDS):
            for row in range(s):
                for column in range(s):
                    i = int(cells[level][row, column])
                    for k in range(5):
                        p = output.logits[level][n, k, row, column].sigmoid()
                        if i >= 0 and k == target["labels"][i]:
                            focal = focal - 0.25 * (1 - p) ** 2 * p.log()
                        else:
                            focal = focal - 0.75 * p**2 * (1 - p).log()
                    if i >= 0:
                        kernel = output.kernels[level][n, :, row, column]
                        m = (
                            (kernel[:, None, None] * output.features[n])
                            .sum(0)
                            .sigmoid()
                        )
                        q = quarter[i].round()
                        a, b, c = (m * q).sum(), (m * m).sum(), (q * q).sum()
                        dice.append(1 - 2 * a / (b + 0.001 + c + 0.001))
    assert len(dice) > 10
    theirs = {
        "loss_category": focal / (len(dice) + 1),
        "loss_mask": 3 * torch.stack(dice).mean(),
    }
    leaves = [*output.logits, *output.kernels, output.features]
    slopes = [torch.autograd.grad(sum(x.values()), leaves) for x in (ours, theirs)]
    comparison = difference(
        {n: (ours[n].detach(), theirs[n].detach()) for n in ours},
        {str(i): pair for i, pair in enumerate(zip(*slopes, strict=True))},
        shape=[3, 5, 12, 12],
        modes=["3, 0 and 5 objects"],
    )
    evidence.equivalent(
        "loss",
        comparison,
        reference="focal and Dice loss of each cell in loops",
        settings="three images, one of them without objects",
    )


def test_dice_is_zero_for_the_mask_itself_and_one_without_overlap() -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6, 2:6] = 1
    torch.testing.assert_close(
        dice_loss(mask, mask), torch.tensor([0.0]), atol=1e-4, rtol=0
    )
    assert dice_loss(mask, 1 - mask) == 1
    half = dice_loss(mask * 0.5, mask)  # 1 - 2 * 8 / (4 + 16)
    torch.testing.assert_close(half, torch.tensor([0.2]), atol=1e-4, rtol=0)


def test_images_without_objects_have_a_finite_loss_with_a_slope() -> None:
    net = narrow()
    loss = solo_v2_loss(
        net(torch.randn(2, 3, 64, 96)), [objects(0), objects(0)], RANGES
    )
    sum(loss.values()).backward()
    assert loss["loss_mask"] == 0 < loss["loss_category"]
    assert net.head.category.bias.grad.abs().sum() > 0


# ---------------------------------------------------------------- detections


def loops(masks: Tensor, labels: Tensor, scores: Tensor, sigma: float) -> list[float]:
    """Equations 3 and 4 of the paper, one pair of masks after the other."""

    def iou(i: int, j: int) -> float:
        if labels[i] != labels[j]:
            return 0.0
        both = (masks[i] & masks[j]).sum().item()
        return both / max((masks[i] | masks[j]).sum().item(), 1)

    result = []
    for j in range(len(scores)):
        decay = 1.0
        for i in range(j):
            most = max((iou(k, i) for k in range(i)), default=0.0)
            f = math.exp(-sigma * iou(i, j) ** 2) / math.exp(-sigma * most**2)
            decay = min(decay, f)
        result.append(scores[j].item() * decay)
    return result


def test_matrix_nms_is_the_papers_equations_pair_by_pair(evidence) -> None:
    pairs, count = {}, 0
    for case in range(60):
        m = int(torch.randint(0, 12, ()))
        masks = F.interpolate(torch.rand(m, 1, 3, 3), (9, 12))[:, 0] > 0.4
        labels = torch.randint(2, (m,))
        scores = torch.rand(m, dtype=torch.float64).sort(descending=True).values
        sigma = (0.5, 2.0)[case % 2]
        theirs = torch.tensor(loops(masks, labels, scores, sigma), dtype=torch.float64)
        pairs[str(case)] = matrix_nms(masks, labels, scores, sigma), theirs
        count += m
    comparison = difference(pairs, shape=[count, 9, 12], modes=["60 sets of masks"])
    evidence.equivalent(
        "matrix_nms",
        comparison,
        reference="equations 3 and 4 of the paper in loops",
        settings="0 to 11 masks of two classes, sigma 0.5 and 2",
    )


def test_the_surest_mask_keeps_its_score_and_the_same_mask_again_loses_most() -> None:
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[:2, :2], masks[2, 2:] = True, True
    lowered = matrix_nms(masks, torch.zeros(3), torch.tensor([0.9, 0.8, 0.7]))
    expected = torch.tensor([0.9, 0.8 * math.exp(-2), 0.7])
    torch.testing.assert_close(lowered, expected)
    other = matrix_nms(masks, torch.tensor([0, 1, 0]), torch.tensor([0.9, 0.8, 0.7]))
    torch.testing.assert_close(other, torch.tensor([0.9, 0.8, 0.7]))


def chosen(output: SOLOv2Output, n: int, strides: tuple[int, ...]) -> list[dict]:
    """The authors' choice for one image, cell after cell."""
    cells = []
    for level, z in enumerate(output.logits):
        p = z[n].sigmoid()
        s = p.shape[1]
        for row in range(s):
            for column in range(s):
                for k in range(p.shape[0]):
                    value = p[k, row, column]
                    window = p[
                        k, max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1
                    ]
                    if value <= 0.1 or value < window.max():
                        continue
                    kernel = output.kernels[level][n, :, row, column]
                    soft = (kernel[:, None, None] * output.features[n]).sum(0).sigmoid()
                    inside = soft[soft > 0.5]
                    if len(inside) > strides[level]:
                        cells.append({"score": (value * inside.mean()).item(), "label": k, "soft": soft})  # fmt: skip
    cells.sort(key=lambda c: -c["score"])
    cells = cells[:500]
    masks = torch.stack([c["soft"] > 0.5 for c in cells])
    labels = torch.tensor([c["label"] for c in cells])
    scores = torch.tensor([c["score"] for c in cells], dtype=torch.float64)
    for c, score in zip(cells, loops(masks, labels, scores, 2.0), strict=True):
        c["score"] = score
    cells = [c for c in cells if c["score"] >= 0.05]
    return sorted(cells, key=lambda c: -c["score"])[:100]


def test_detections_are_the_authors_choice_cell_by_cell(evidence) -> None:
    output = drawn(2, classes=3)
    output = output._replace(logits=[z - 1.8 for z in output.logits])
    ours = solo_v2_detections(output, strides=STRIDES)
    pairs = {}
    for n, found in enumerate(ours):
        theirs = chosen(output, n, STRIDES)
        assert 5 < len(theirs) < 100
        large = F.interpolate(
            torch.stack([c["soft"] for c in theirs])[None], (64, 96), mode="bilinear"
        )[0]
        pairs |= {
            f"scores {n}": (found["scores"], torch.tensor([c["score"] for c in theirs], dtype=torch.float64)),
            f"labels {n}": (found["labels"], torch.tensor([c["label"] for c in theirs])),
            f"masks {n}": (found["masks"].long(), (large > 0.5).long()),
        }  # fmt: skip
    comparison = difference(pairs, shape=[2, 6, 16, 24], modes=["two images"])
    evidence.equivalent(
        "detections",
        comparison,
        reference="the authors' choice of masks, one cell after the other",
        settings="scores above 0.1, Matrix NMS in loops",
    )


def test_boxes_are_the_smallest_around_the_masks() -> None:
    output = drawn(2, classes=3)
    checked = 0
    for found in solo_v2_detections(output, strides=STRIDES):
        for box, mask in zip(found["boxes"], found["masks"], strict=True):
            rows, columns = torch.where(mask)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == [int(v) for v in expected]
            checked += 1
    assert checked > 10


def test_nothing_sure_is_nothing_found() -> None:
    output = drawn(1)
    quiet = output._replace(logits=[z - 50 for z in output.logits])
    (found,) = solo_v2_detections(quiet, strides=STRIDES)
    assert found["masks"].shape == (0, 64, 96)
    assert found["boxes"].shape == (0, 4)
    assert len(found["scores"]) == len(found["labels"]) == 0


# ---------------------------------------------------------------- what is refused


def test_refuses_what_does_not_fit() -> None:
    net = narrow()
    with pytest.raises(
        ValueError, match=r"sides multiples of 16, got \(1, 3, 64, 90\)"
    ):
        net(torch.zeros(1, 3, 64, 90))
    with pytest.raises(ValueError, match="num_classes=0"):
        narrow(0)
    with pytest.raises(ValueError, match="expected 1 to 3 levels, got mask_levels=4"):
        SOLOv2(net.backbone, 32, 10, GRIDS)
    output = net(torch.zeros(1, 3, 64, 96))
    with pytest.raises(ValueError, match="2 targets for 1 images"):
        solo_v2_loss(output, [objects(1), objects(1)], RANGES)
    target = objects(2)
    with pytest.raises(ValueError, match=r"bool \(2, 64, 96\), got torch.uint8"):
        solo_v2_loss(output, [{**target, "masks": target["masks"].byte()}], RANGES)
    wrong = {**target, "labels": torch.tensor([3, 10])}
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.9"):
        solo_v2_loss(output, [wrong], RANGES)
    with pytest.raises(ValueError, match=r"expected boxes \(2, 4\)"):
        solo_v2_loss(output, [{**target, "boxes": target["boxes"][:1]}], RANGES)


# ---------------------------------------------------------------- the record


def test_nearly_every_digit_of_the_scenes_has_a_cell_that_learns_it(evidence) -> None:
    scenes, learnt, total = trial_scenes(200, 7), 0, 0
    for target in scenes.targets_with_masks:
        cells = solo_v2_assign(target["boxes"], target["masks"], GRIDS, RANGES)
        seen = torch.cat([c.flatten() for c in cells]).unique()
        learnt, total = learnt + int((seen >= 0).sum()), total + len(target["labels"])
    evidence.computed("cells", {"all": {"learnt": learnt, "objects": total}})
    assert learnt > 0.95 * total


def learn_trial(learning_rate: float, seed: int) -> dict[str, object]:
    from cnn_lab.scene_trial import learn_boxes

    torch.manual_seed(seed)
    return learn_boxes(
        narrow(),
        lambda net, x, y: sum(solo_v2_loss(net(x), y, RANGES).values()),
        lambda out: solo_v2_detections(out, strides=STRIDES),
        masks=True,
        learning_rate=learning_rate,
        seed=seed,
    )


def trial(seeds: list[int], learning_rate: float) -> dict[str, object]:
    from cnn_lab.scene_trial import scene_trials

    cache = Path(__file__).parents[2] / ".cache/record/solo_v2.jsonl"
    name = "SOLOv2, three stages of width 16"
    arms = {"solo_v2": (name, {"learning_rate": learning_rate})}
    return scene_trials(learn_trial, seeds, cache, arms)


@pytest.mark.record
def test_record_it_learns_the_scenes_of_all_segmenters(evidence) -> None:
    evidence.measured(
        "trial", arguments={"seeds": [0, 1, 2], "learning_rate": 2e-3}, run=trial
    )
