"""Average precision is that of pycocotools, curve by curve, and obeys the laws that its rules have."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cnn_site.equivalence import difference
from cnn_site.parity import compare_metric
from cnn_techniques.evaluation import (
    coco_curves,
    crowd_iou,
    detection_map,
    match_detections,
    precision_at_levels,
)
from cnn_techniques.evaluation.detection_map import AREAS, LEVELS, LIMITS, THRESHOLDS

Images = Sequence[Mapping[str, Tensor]]
Case = tuple[Images, Images, int]


# ---------------------------------------------------------------- pycocotools


def evaluated(
    predictions: Images, targets: Images, classes: int, first: int = 1
) -> Any:
    """pycocotools' COCOeval of the same boxes; annotations are numbered from `first` on."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def as_coco(image: Mapping[str, Tensor], number: int) -> list[dict[str, Any]]:
        boxes = image["boxes"].double()
        sizes = boxes[:, 2:] - boxes[:, :2]
        rows: list[dict[str, Any]] = []
        for i, label in enumerate(image["labels"].tolist()):
            row = {
                "image_id": number,
                "category_id": label,
                "bbox": boxes[i, :2].tolist() + sizes[i].tolist(),
                "area": sizes[i].prod().item(),
                "iscrowd": 0,
            }
            for ours, theirs in (("scores", "score"), ("area", "area"), ("iscrowd", "iscrowd")):  # fmt: skip
                if ours in image:
                    row[theirs] = image[ours][i].item()
            rows.append(row)
        return rows

    def data(images: Images, first: int) -> Any:
        rows = [row for n, image in enumerate(images) for row in as_coco(image, n)]
        coco = COCO()
        coco.dataset = {
            "images": [{"id": n} for n in range(len(images))],
            "annotations": [
                {**row, "id": i} for i, row in enumerate(rows, start=first)
            ],
            "categories": [{"id": k} for k in range(classes)],
        }
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(data(targets, first), data(predictions, 1), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def by_pycocotools(
    predictions: Images, targets: Images, classes: int
) -> dict[str, Tensor]:
    found = evaluated(predictions, targets, classes)
    results = {**found.eval, "numbers": found.stats}
    tensors = {
        k: torch.from_numpy(results[k]) for k in ("precision", "recall", "numbers")
    }
    return {k: t.where(t > -1, torch.nan) for k, t in tensors.items()}


def ours(predictions: Images, targets: Images, classes: int) -> dict[str, Tensor]:
    precision, recall = coco_curves(predictions, targets, classes)
    numbers = torch.stack(list(detection_map(predictions, targets, classes).values()))
    return {"precision": precision, "recall": recall, "numbers": numbers}


# ---------------------------------------------------------------- cases


def drawn(case: int) -> Case:
    """One random case: up to four images of up to four classes, boxes on a grid, so that overlaps are equal too."""
    g = torch.Generator().manual_seed(case)

    def whole(low: int, high: int, *shape: int) -> Any:
        values = torch.randint(low, high + 1, shape, generator=g)
        return values if shape else int(values)

    classes, grid = whole(1, 4), (0.25, 4, 16)[whole(0, 2)]
    levels, widest = whole(0, 4), (12, 60)[whole(0, 1)]
    crowds, areas = whole(0, 1), whole(0, 1)
    predictions, targets = [], []
    for _ in range(whole(1, 4)):
        objects, count = whole(0, 6), whole(0, 12) if whole(0, 11) else 130
        corner, size = whole(0, 20, objects, 2), whole(0, widest, objects, 2)
        true = torch.cat([corner, corner + size], dim=1)
        labels = whole(0, classes - 1, objects)
        corner, size = whole(0, 20, count, 2), whole(0, widest, count, 2)
        boxes = torch.cat([corner, corner + size], dim=1).double()
        classed = whole(0, classes - 1, count)
        if objects and whole(0, 5):  # near the objects, most of the right class
            of = whole(0, objects - 1, count)
            boxes = true[of] + whole(-2, 2, count, 4) / 2
            right = torch.rand(count, generator=g) < 0.8
            classed = torch.where(right, labels[of], classed)
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2])
        scores = torch.rand(count, generator=g)
        if levels:  # equal scores
            scores = (scores * levels).round() / levels
        target = {"boxes": grid * true.double(), "labels": labels}
        if crowds:
            target["iscrowd"] = (torch.rand(objects, generator=g) < 0.3).long()
        if areas:
            part = torch.rand(objects, generator=g, dtype=torch.float64)
            target["area"] = part * grid**2 * (true[:, 2:] - true[:, :2]).prod(dim=1)
        targets.append(target)
        predictions.append({"boxes": grid * boxes, "scores": scores, "labels": classed})
    return predictions, targets, classes


def box(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y + side]


def found(*rows: tuple[list[float], float, int]) -> dict[str, Tensor]:
    """A prediction of (box, score, label)."""
    return {
        "boxes": torch.tensor([b for b, _, _ in rows]).reshape(-1, 4),
        "scores": torch.tensor([s for _, s, _ in rows]),
        "labels": torch.tensor([k for _, _, k in rows], dtype=torch.int64),
    }


def truth(*rows: tuple[list[float], int], **further: Any) -> dict[str, Tensor]:
    """A target of (box, label), with `iscrowd` or `area`."""
    return {
        "boxes": torch.tensor([b for b, _ in rows]).reshape(-1, 4),
        "labels": torch.tensor([k for _, k in rows], dtype=torch.int64),
        **{key: torch.tensor(value) for key, value in further.items()},
    }


ONE, TWO, FAR = box(0, 0, 40), box(100, 0, 40), box(0, 300, 40)
MANY = [(box(3 * i, 0, 2), 1 - i / 200, 0) for i in range(120)]
CASES: dict[str, Case] = {
    "several classes": drawn(3),
    "equal scores": (
        [found((FAR, 0.5, 0), (ONE, 0.5, 0)), found((ONE, 0.5, 0), (FAR, 0.5, 0))],
        [truth((ONE, 0)), truth((ONE, 0))],
        1,
    ),
    "equal overlaps": (
        [found((box(10, 0, 20), 0.9, 0), (box(0, 0, 20), 0.8, 0))],
        [truth((box(5, 0, 20), 0), (box(15, 0, 20), 0))],
        1,
    ),
    "an overlap of exactly a threshold": (
        [found(([0, 0, 20, 10], 0.9, 0), ([50, 0, 70, 15], 0.8, 0))],
        [truth(([0, 0, 20, 20], 0), ([50, 0, 70, 20], 0))],
        1,
    ),
    "a crowd found twice": (
        [found((ONE, 0.9, 0), (box(300, 0, 9), 0.8, 0), (box(320, 9, 9), 0.7, 0))],
        [truth((ONE, 0), (box(290, 0, 90), 0), iscrowd=[0, 1])],
        1,
    ),
    "areas at the bounds": (
        [found((box(0, 0, 32), 0.9, 0), (box(0, 200, 96), 0.8, 0))],
        [truth((box(0, 0, 32), 0), (box(0, 200, 96), 0))],
        1,
    ),
    "areas of masks": (
        [found((ONE, 0.9, 0), (TWO, 0.8, 0))],
        [truth((ONE, 0), (TWO, 0), area=[1000.0, 1600.0])],
        1,
    ),
    "an object that is nothing wide": (
        [found(([5, 5, 5, 9], 0.9, 0), (ONE, 0.8, 0))],
        [truth(([5, 5, 5, 9], 0), (ONE, 0))],
        1,
    ),
    "over 100 detections": (
        [found(*MANY)],
        [truth(*((b, 0) for b, _, _ in MANY[90:110]))],
        1,
    ),
    "a recall that rounds below its level": (  # 7 / 20 < 35 * 0.01
        [found(*MANY[:7], *((FAR, 0.9, 0) for _ in range(7)), *MANY[30:33])],
        [truth(*((b, 0) for b, _, _ in MANY[:7] + MANY[30:43]))],
        1,
    ),
    "a class without objects": (
        [found((ONE, 0.9, 0), (TWO, 0.8, 1))],
        [truth((ONE, 0))],
        3,
    ),
    "nothing found": ([found(), found()], [truth((ONE, 0)), truth()], 2),
    "no objects": ([found((ONE, 0.9, 0))], [truth()], 2),
    "only crowds": ([found((ONE, 0.9, 0))], [truth((ONE, 0), iscrowd=[1])], 1),
    "nothing at all": ([found()], [truth()], 1),
    "all right": (
        [found((ONE, 0.9, 0), (TWO, 0.8, 1))],
        [truth((ONE, 0), (TWO, 1))],
        2,
    ),
}


def numbers_of_tensors(*tensors: Tensor) -> Tensor:
    boxes, scores, labels, true, true_labels = tensors
    prediction = {"boxes": boxes, "scores": scores, "labels": labels}
    target = {"boxes": true, "labels": true_labels}
    numbers = detection_map([prediction], [target], 2)
    return torch.stack(list(numbers.values())).nan_to_num(-1)


DEVICE_CASES = {
    "detection_map": lambda: (
        numbers_of_tensors,
        (
            torch.tensor([ONE, TWO, FAR, ONE]),
            torch.tensor([0.9, 0.3, 0.5, 0.5]),
            torch.tensor([0, 1, 0, 1]),
            torch.tensor([ONE, FAR, TWO]),
            torch.tensor([0, 1, 1]),
        ),
    )
}


# ---------------------------------------------------------------- equality


def test_the_edge_cases_are_those_of_pycocotools(evidence: Any) -> None:
    comparison = compare_metric(ours, by_pycocotools, CASES, bound=1e-12)
    evidence.equivalent(
        "edges",
        comparison,
        reference="pycocotools.cocoeval.COCOeval",
        settings='"bbox", defaults; its -1 is NaN here',
    )


def worst_of(cases: range) -> dict[str, tuple[Tensor, Tensor]]:
    """The curves and numbers of all cases, one tensor each, after NaN was found in the same places."""
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for case in cases:
        mine, theirs = ours(*drawn(case)), by_pycocotools(*drawn(case))
        for name, value in theirs.items():
            assert mine[name].isnan().equal(value.isnan()), (case, name)
            pair = mine[name].nan_to_num(-1).flatten(), value.nan_to_num(-1).flatten()
            pairs.setdefault(name, []).append(pair)
    return {
        name: (torch.cat([p[0] for p in found]), torch.cat([p[1] for p in found]))
        for name, found in pairs.items()
    }


def test_random_cases_are_those_of_pycocotools(evidence: Any) -> None:
    comparison = difference(worst_of(range(150)), bound=1e-12, modes=["150 cases"])
    evidence.equivalent(
        "random",
        comparison,
        reference="pycocotools.cocoeval.COCOeval",
        settings="random images with equal scores and overlaps, crowds, given areas",
    )


@pytest.mark.slow
def test_four_thousand_random_cases_are_those_of_pycocotools() -> None:
    for name, (mine, theirs) in worst_of(range(200, 4200)).items():
        assert (mine - theirs).abs().max() < 1e-12, name


def by_torchmetrics(
    predictions: Images, targets: Images, classes: int, **lists: Any
) -> dict[str, Tensor]:
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(backend="pycocotools", **lists)
    metric.warn_on_many_detections = False
    metric.update(*([dict(image) for image in images] for images in (predictions, targets)))  # fmt: skip
    numbers = metric.compute()
    names = ["map", "map_50", "map_75", "map_small", "map_medium", "map_large"]
    names += ["mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"]
    values = torch.stack([numbers[name] for name in names]).double()
    return {"numbers": values.where(values > -1, torch.nan)}


def test_torchmetrics_gives_the_same_numbers_if_told_the_levels(evidence: Any) -> None:
    pytest.importorskip("torchmetrics")
    lists = {"iou_thresholds": THRESHOLDS, "rec_thresholds": LEVELS}
    cases = {f"random case {n}": drawn(n) for n in range(8)}
    comparison = compare_metric(
        lambda *case: {"numbers": ours(*case)["numbers"]},
        lambda *case: by_torchmetrics(*case, **lists),
        cases,
        bound=1e-6,
    )
    evidence.equivalent(
        "torchmetrics",
        replace(comparison, modes=["8 random cases, the twelve numbers"]),
        reference="torchmetrics.detection.MeanAveragePrecision",
        settings="iou_thresholds and rec_thresholds given in float64; it answers in float32",
    )


def test_torchmetrics_levels_are_float32_where_none_are_given() -> None:
    pytest.importorskip("torchmetrics")
    targets = [truth(*((b, 0) for b, _, _ in MANY[:5]))]
    predictions = [found(*MANY[:3])]
    assert ap(predictions, targets) == pytest.approx(61 / 101)
    reached = sum(level <= 3 / 5 for level in torch.linspace(0, 1, 101).tolist())
    theirs = by_torchmetrics(predictions, targets, 1)["numbers"][1]
    assert theirs.item() == pytest.approx(reached / 101)


def test_the_random_cases_have_every_kind_of_result() -> None:
    numbers = [
        torch.stack(list(detection_map(*drawn(case)).values())) for case in range(60)
    ]
    table = torch.stack(numbers)  # (cases, 12)
    for column in table.T:
        known = column[~column.isnan()]
        assert known.shape[0] >= 10 and known.unique().shape[0] >= 5
    assert ((table[:, 0] > 0.1) & (table[:, 0] < 0.9)).sum() >= 15


def test_thresholds_levels_areas_and_limits_are_cocos_to_the_last_bit() -> None:
    from pycocotools.cocoeval import Params

    params = Params("bbox")
    assert params.iouThrs.tolist() == THRESHOLDS and params.recThrs.tolist() == LEVELS
    assert [list(a) for a in AREAS] == params.areaRng and params.maxDets == LIMITS


def test_crowd_iou_is_that_of_pycocotools() -> None:
    from pycocotools import mask

    g = torch.Generator().manual_seed(0)
    corner, size = (torch.rand(60, 2, generator=g).double() * 50 for _ in range(2))
    crowd = torch.rand(40, generator=g) < 0.5
    boxes = torch.cat([corner, corner + size], dim=1)
    sized = torch.cat([corner, size], dim=1).numpy()
    theirs = mask.iou(sized[:20], sized[20:], crowd.int().tolist())
    mine = crowd_iou(boxes[:20], boxes[20:], crowd)
    torch.testing.assert_close(mine, torch.from_numpy(theirs), rtol=0, atol=1e-14)


# ---------------------------------------------------------------- other ways to write it


def test_the_curve_is_the_best_precision_of_any_cut_with_that_recall() -> None:
    g = torch.Generator().manual_seed(0)
    for objects in range(1, 30, 2):
        kind = torch.randint(3, (40,), generator=g)  # true, false, does not count
        true, false = kind == 0, kind == 1
        objects = max(objects, int(true.sum()))
        curve = precision_at_levels(true, false, torch.tensor(objects))
        for level, value in zip(LEVELS, curve.tolist(), strict=True):
            best = 0.0
            for cut in range(41):
                hits, misses = int(true[:cut].sum()), int(false[:cut].sum())
                if hits + misses and hits / objects >= level:
                    best = max(best, hits / (hits + misses))
            assert value == best


def voc_ap(recall: Any, precision: Any, eleven: bool) -> float:
    """PASCAL VOC's AP of 2007 (11 levels) and later (area), as py-faster-rcnn 45e0da9 does it."""
    if eleven:
        levels = [level for level in LEVELS[::10]]
        best = [max(precision[recall >= level], default=0) for level in levels]
        return float(sum(best) / 11)
    r, p = np.r_[0, recall, 1], np.r_[0, precision, 0]
    p = np.maximum.accumulate(p[::-1])[::-1]
    return float(((r[1:] - r[:-1]) * p[1:]).sum())


def test_every_tenth_level_is_vocs_of_2007_and_hits_alone_give_its_area() -> None:
    g = torch.Generator().manual_seed(1)
    for objects in range(30, 60):
        true = torch.rand(50, generator=g) < 0.5
        tp = true.cumsum(0).numpy()
        recall, precision = tp / objects, tp / np.arange(1, 51)
        curve = precision_at_levels(true, ~true, torch.tensor(objects))
        assert abs(float(curve[::10].mean()) - voc_ap(recall, precision, True)) < 1e-12
        best = torch.from_numpy(precision.copy()).flip(0).cummax(0).values.flip(0)
        area = float(best[true].sum() / objects)
        assert abs(area - voc_ap(recall, precision, False)) < 1e-12
        assert abs(float(curve.mean()) - area) < 0.02


# ---------------------------------------------------------------- laws


def ap(predictions: Images, targets: Images, classes: int = 1) -> float:
    return detection_map(predictions, targets, classes)["AP50"].item()


def test_all_found_is_one_and_nothing_found_is_zero() -> None:
    assert all(
        value == 1 or value.isnan()
        for value in detection_map(*CASES["all right"]).values()
    )
    assert ap(*CASES["nothing found"]) == 0


def test_a_growing_function_of_the_scores_changes_nothing() -> None:
    for case in range(20):
        predictions, targets, classes = drawn(case)
        grown = [{**p, "scores": 7 * p["scores"].double() - 3} for p in predictions]
        before = coco_curves(predictions, targets, classes)
        for a, b in zip(before, coco_curves(grown, targets, classes), strict=True):
            assert a.nan_to_num(-1).equal(b.nan_to_num(-1))


def test_other_names_for_the_classes_move_their_curves_only() -> None:
    for case in range(20):
        predictions, targets, classes = drawn(case)
        order = torch.randperm(classes, generator=torch.Generator().manual_seed(case))
        renamed = [
            [{**image, "labels": order[image["labels"]]} for image in images]
            for images in (predictions, targets)
        ]
        before, after = (
            coco_curves(*images, classes)
            for images in ((predictions, targets), renamed)
        )
        assert before[0].nan_to_num(-1).equal(after[0][:, :, order].nan_to_num(-1))
        assert before[1].nan_to_num(-1).equal(after[1][:, order].nan_to_num(-1))


def test_the_order_of_images_counts_only_among_equal_scores() -> None:
    for case in range(40):
        predictions, targets, classes = drawn(case)
        spread = [
            {**p, "scores": i + len(predictions) * torch.randperm(p["scores"].shape[0])}
            for i, p in enumerate(predictions)
        ]  # no two alike
        before = detection_map(spread, targets, classes)
        after = detection_map(spread[::-1], targets[::-1], classes)
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, equal_nan=True)
    hit_first, target = found((ONE, 0.5, 0), (FAR, 0.5, 0)), truth((ONE, 0))
    hit_last = {key: value.flip(0) for key, value in hit_first.items()}
    assert (ap([hit_first], [target]), ap([hit_last], [target])) == (1, 0.5)


def test_a_second_box_on_an_object_is_a_false_positive() -> None:
    twice = found((ONE, 0.9, 0), (ONE, 0.8, 0), (TWO, 0.7, 0))
    expected = (51 * 1 + 50 * 2 / 3) / 101
    assert abs(ap([twice], [truth((ONE, 0), (TWO, 0))]) - expected) < 1e-12


def test_false_alarms_below_the_last_hit_cost_nothing() -> None:
    all_found = [(ONE, 0.9, 0), (TWO, 0.8, 0)]
    alarms = [(box(500 + i, 0, 30), 0.1, 0) for i in range(50)]
    target = [truth((ONE, 0), (TWO, 0))]
    assert ap([found(*all_found, *alarms)], target) == 1
    above = [(b, 0.95, k) for b, _, k in alarms]
    assert ap([found(*all_found, *above)], target) == pytest.approx(2 / 52)


def test_a_crowd_takes_any_number_of_boxes_and_is_never_missed() -> None:
    crowd = box(200, 200, 100)
    inside = [(box(200 + 9 * i, 200, 30), 0.95, 0) for i in range(8)]
    target = [truth((ONE, 0), (crowd, 0), iscrowd=[0, 1])]
    assert ap([found((ONE, 0.9, 0), *inside)], target) == 1
    assert ap([found((ONE, 0.9, 0))], target) == 1
    marked_as_object = [{**target[0], "iscrowd": torch.zeros(2).long()}]
    assert ap([found((ONE, 0.9, 0), *inside)], marked_as_object) < 0.2


def test_an_object_that_counts_is_preferred_to_a_crowd_that_overlaps_more() -> None:
    iou, crowd = torch.tensor([[0.6, 1.0]]), torch.tensor([False, True])
    hits, spared = match_detections(iou, crowd, crowd[None])
    assert hits[0, :, 0].all()
    assert spared[0, :, 0].tolist() == [t > 0.6 for t in THRESHOLDS]


def test_false_alarms_of_a_class_without_objects_cost_nothing() -> None:
    target = [truth((ONE, 0))]
    alarms = [(box(50 * i, 200, 30), 0.99, 1) for i in range(30)]
    assert ap([found((ONE, 0.9, 0), *alarms)], target, 2) == 1
    precision, recall = coco_curves([found((ONE, 0.9, 0), *alarms)], target, 2)
    assert precision[:, :, 1].isnan().all() and recall[:, 1].isnan().all()


def test_limits_hold_for_each_class_of_an_image_by_itself() -> None:
    boxes = [box(60 * i, 0, 40) for i in range(6)]
    prediction = found(*((b, 0.9 - i / 100, i % 3) for i, b in enumerate(boxes)))
    target = truth(*((b, i % 3) for i, b in enumerate(boxes)))
    assert detection_map([prediction], [target], 3)["AR1"] == 0.5


def test_an_area_at_a_bound_belongs_to_both_ranges() -> None:
    _, recall = coco_curves(*CASES["areas at the bounds"])
    numbers = detection_map(*CASES["areas at the bounds"])
    assert recall.shape == (10, 1, 4, 3)
    assert [numbers[f"AP{a}"].item() for a in "sml"] == [1, 1, 1]


def test_pycocotools_does_not_see_a_match_with_annotation_0() -> None:
    case = CASES["all right"]
    assert evaluated(*case).stats[0] == pytest.approx(1, abs=1e-12)
    assert evaluated(*case, first=0).stats[0] == pytest.approx(0.5)


def test_half_and_whole_numbers_are_accepted() -> None:
    case = drawn(5)[0][:1], drawn(5)[1][:1], drawn(5)[2]
    whole = [
        [{**image, "boxes": (image["boxes"]).to(kind)} for image in images]
        for images in case[:2]
        for kind in (torch.float32,)
    ]
    for name, value in detection_map(*whole, case[2]).items():
        torch.testing.assert_close(value, detection_map(*case)[name], equal_nan=True)


# ---------------------------------------------------------------- refusals

GOOD, TARGET = found((ONE, 0.9, 0)), truth((ONE, 0))


@pytest.mark.parametrize(
    ("prediction", "target", "error", "said"),
    [
        ({"boxes": torch.tensor([[40.0, 0, 0, 40]])}, {}, ValueError, r"boxes finite, x1 <= x2, y1 <= y2 in prediction 1, got \[40.0, 0.0, 0.0, 40.0\]"),
        ({}, {"boxes": torch.tensor([[0.0, 40, 40, 0]])}, ValueError, r"in target 1, got \[0.0, 40.0, 40.0, 0.0\]"),
        ({"boxes": torch.tensor([[0, 0, torch.inf, 9]])}, {}, ValueError, r"boxes finite.*got \[0.0, 0.0, inf, 9.0\]"),
        ({"boxes": torch.tensor([[torch.nan, 0, 9, 9]])}, {}, ValueError, r"prediction 1, got \[nan"),
        ({"scores": torch.tensor([torch.nan])}, {}, ValueError, "scores that are not NaN in prediction 1, got nan"),
        ({"labels": torch.tensor([2])}, {}, ValueError, "labels from 0 to 1 in prediction 1, got 2"),
        ({}, {"labels": torch.tensor([-1])}, ValueError, "labels from 0 to 1 in target 1, got -1"),
        ({"labels": torch.tensor([0.0])}, {}, TypeError, "integer labels in prediction 1, got torch.float32"),
        ({"scores": None}, {}, TypeError, "tensor 'scores' in prediction 1, got NoneType"),
        ({}, {"boxes": [ONE]}, TypeError, "tensor 'boxes' in target 1, got list"),
        ({"boxes": torch.zeros(2, 4)}, {}, ValueError, r"boxes \(1, 4\) in prediction 1, got \(2, 4\)"),
        ({"boxes": torch.zeros(4)}, {}, ValueError, r"boxes \(1, 4\) in prediction 1, got \(4,\)"),
        ({"scores": torch.zeros(1, 1)}, {}, ValueError, r"scores \(1,\) in prediction 1, got \(1, 1\)"),
        ({}, {"iscrowd": torch.tensor([2])}, ValueError, "iscrowd 0 or 1 in target 1, got 2"),
        ({}, {"area": torch.tensor([-4.0])}, ValueError, "area of 0 or more in target 1, got -4.0"),
        ({}, {"area": torch.tensor([torch.nan])}, ValueError, "area of 0 or more in target 1, got nan"),
    ],
)  # fmt: skip
def test_refuses_what_is_no_detection(
    prediction: Any, target: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        detection_map([GOOD, {**GOOD, **prediction}], [TARGET, {**TARGET, **target}], 2)


def test_refuses_other_numbers_of_images_or_classes() -> None:
    with pytest.raises(ValueError, match="got 1 for 2"):
        detection_map([GOOD], [TARGET, TARGET], 1)
    with pytest.raises(ValueError, match="got 0 for 0"):
        detection_map([], [], 1)
    with pytest.raises(ValueError, match="num_classes of 1 or more, got 0"):
        detection_map([GOOD], [TARGET], 0)


# ---------------------------------------------------------------- the record


def in_one_ranking(images: Images) -> list[dict[str, Tensor]]:
    """One class for all; classes stand far apart, so that a box still finds its own class only."""
    return [
        {
            **image,
            "boxes": image["boxes"] + 1000 * image["labels"][:, None],
            "labels": torch.zeros_like(image["labels"]),
        }
        for image in images
    ]


def only_sure(images: Images, threshold: float) -> list[dict[str, Tensor]]:
    return [
        {key: value[image["scores"] >= threshold] for key, value in image.items()}
        for image in images
    ]


def averages(predictions: Images, targets: Images) -> dict[str, float]:
    """The same detections, counted in other ways: AP and AP50 of each."""
    each = [
        detection_map([p], [t], 10) for p, t in zip(predictions, targets, strict=True)
    ]
    precision, _ = coco_curves(predictions, targets, 10)
    eleven = precision[:, ::10, :, 0, 2]
    arms = {
        "coco": detection_map(predictions, targets, 10),
        "ranking": detection_map(
            in_one_ranking(predictions), in_one_ranking(targets), 1
        ),
        "images": {
            name: torch.stack([one[name] for one in each]).nanmean()
            for name in ("AP", "AP50")
        },
        "eleven": {"AP": eleven.nanmean(), "AP50": eleven[0].nanmean()},
        "above20": detection_map(only_sure(predictions, 0.2), targets, 10),
        "above50": detection_map(only_sure(predictions, 0.5), targets, 10),
    }
    found = {
        f"{arm}_{name}": numbers[name].item()
        for arm, numbers in arms.items()
        for name in ("AP", "AP50")
    }
    found["boxes"] = sum(p["scores"].shape[0] for p in predictions) / len(predictions)
    found["above50_boxes"] = sum(
        p["scores"].shape[0] for p in only_sure(predictions, 0.5)
    ) / len(predictions)
    return found


def find_scenes(
    train: int, tests: int, epochs: int, lr: float, threshold: float, seed: int
) -> dict[str, float]:
    """FCOS, narrow, learns the scenes of all detectors; what it finds is counted in several ways."""
    from cnn_lab.scene_trial import learn_boxes, trial_scenes
    from cnn_techniques.detection import (
        FCOS,
        FeaturePyramidNetwork,
        RetinaNetBackbone,
        fcos_detections,
        fcos_loss,
    )
    from cnn_techniques.modern import BasicBlock, ResNet

    torch.manual_seed(seed)
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=16, in_channels=3)
    backbone = RetinaNetBackbone(body, FeaturePyramidNetwork([32, 64, 128], 32))
    model = FCOS(backbone, 32, 10, (8, 16, 32), (28, 40), groups=4, first_side=1.0)
    predictions: list[dict[str, Tensor]] = []

    def find(output: Any) -> list[dict[str, Tensor]]:
        here = fcos_detections(output, score_threshold=threshold)
        predictions.extend(here)
        return here

    learnt = learn_boxes(
        model,
        lambda net, x, y: sum(fcos_loss(net(x), y).values()),
        find,
        learning_rate=lr,
        count=train,
        epochs=epochs,
        tests=tests,
        seed=seed,
    )
    numbers = averages(predictions, trial_scenes(tests, 0, "test").targets)
    return {**numbers, "torchmetrics": learnt["map"]}


def average_detections(seeds: int, **settings: Any) -> dict[str, Any]:
    from cnn_lab.record import interval, paired, repeat

    cache = Path(__file__).parents[2] / ".cache/record/detection_map.jsonl"
    runs = repeat(find_scenes, {"fcos": settings}, range(seeds), cache)["fcos"]
    values = {name: [run[name] for run in runs] for name in runs[0]}

    def with_values(name: str) -> dict[str, Any]:
        return {"values": values[name], **interval(values[name])}

    names = {
        "coco": "COCO: mean over classes",
        "ranking": "one ranking of all classes",
        "images": "mean over images",
        "eleven": "11 levels of recall",
        "above20": "COCO, scores of 0.2 and more",
        "above50": "COCO, scores of 0.5 and more",
    }
    return {
        "seeds": seeds,
        "arms": {
            key: {
                "name": name,
                "ap": with_values(f"{key}_AP"),
                "ap50": with_values(f"{key}_AP50"),
            }
            for key, name in names.items()
        },
        "others": {k: with_values(k) for k in ("boxes", "above50_boxes")},
        "torchmetrics": max(
            abs(a - b)
            for a, b in zip(values["coco_AP"], values["torchmetrics"], strict=True)
        ),
        "paired": {
            key: paired(values[f"{key}_AP"], values["coco_AP"])
            for key in names
            if key != "coco"
        },
    }


@pytest.mark.record
def test_record_other_averages_of_the_same_detections(evidence: Any) -> None:
    pytest.importorskip("torchmetrics")
    settings = {"train": 1600, "tests": 200, "epochs": 8, "lr": 2e-3, "threshold": 0.05, "seeds": 5}  # fmt: skip
    result = evidence.measured("scenes", arguments=settings, run=average_detections)
    assert result["torchmetrics"] < 1e-3  # its levels are float32
