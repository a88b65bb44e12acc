"""Assignments are those of the paper's equations in loops, and the loss of distances is cross-entropy against two classes."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnn_site.equivalence import difference
from cnn_techniques.detection import (
    box_iou,
    distribution_focal_loss,
    expected_distance,
    task_aligned_assignment,
)

SETTINGS = {"paper": (1.0, 6.0, 13), "YOLOv8": (0.5, 6.0, 10), "one point": (1.0, 1.0, 1)}  # fmt: skip


def scene(
    seed: int, count: int = 3, classes: int = 4, size: int = 64
) -> tuple[Tensor, ...]:
    """Scores, predictions around the truth, points of a grid, and objects that overlap."""
    draw = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    y, x = torch.meshgrid(torch.arange(2, size, 4), torch.arange(2, size, 4), indexing="ij")  # fmt: skip
    points = torch.stack([x, y], dim=-1).view(-1, 2).double()
    corner = rand(count, 2) * size * 0.5
    boxes = torch.cat([corner, corner + 6 + rand(count, 2) * size * 0.4], dim=1)
    labels = torch.randint(classes, (count,), generator=draw)
    scores = rand(len(points), classes)
    if not count:
        return scores, torch.cat([points, points + 8], dim=1), points, boxes, labels
    near = torch.randint(count, (len(points),), generator=draw)
    predicted = boxes[near] + 6 * (rand(len(points), 4) - 0.5)
    return scores, predicted, points, boxes, labels


DEVICE_CASES = {
    "task_aligned_assignment": lambda: (task_aligned_assignment, scene(0)),
    "distribution_focal_loss": lambda: (
        distribution_focal_loss,
        (torch.randn(5, 17), torch.rand(5) * 16),
    ),
}


# ---------------------------------------------------------------- a second way


def iou(a: list[float], b: list[float]) -> float:
    w = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    h = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    area = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return w * h / (sum(area) - w * h)


def in_loops(
    scores, predicted, points, boxes, labels, alpha: float, beta: float, m: int
) -> tuple[list[int], list[float]]:
    """Section 3.2 of the paper, one point and one object at a time."""
    chosen_by: dict[int, dict[int, tuple[float, float]]] = {}
    for i, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        found = []
        for a, (x, y) in enumerate(points.tolist()):
            u = iou(box, predicted[a].tolist())
            t = scores[a, label].item() ** alpha * u**beta
            if box[0] < x < box[2] and box[1] < y < box[3] and t > 0:
                found.append((t, a, u))
        for t, a, u in sorted(found, reverse=True)[:m]:
            chosen_by.setdefault(a, {})[i] = (t, u)
    owner = {a: max(by, key=lambda i: by[i][1]) for a, by in chosen_by.items()}
    index, target = [-1] * len(points), [0.0] * len(points)
    for i in range(len(boxes)):
        own = [a for a in owner if owner[a] == i]
        if not own:
            continue
        largest_t = max(chosen_by[a][i][0] for a in own)
        largest_u = max(chosen_by[a][i][1] for a in own)
        for a in own:
            index[a] = i
            target[a] = chosen_by[a][i][0] / largest_t * largest_u
    return index, target


def test_assignments_are_those_of_the_equations_in_loops(evidence) -> None:
    pairs, shared = {}, 0
    for seed in range(40):
        given = scene(seed, count=seed % 5)
        for setting, numbers in SETTINGS.items():
            found = task_aligned_assignment(*given, *numbers)
            objects, target = in_loops(*given, *numbers)
            key = f"{setting}, scene {seed}"
            pairs[f"objects, {key}"] = found.objects, torch.tensor(objects)
            score = torch.tensor(target, dtype=torch.float64)
            pairs[f"scores, {key}"] = found.score, score
        points, boxes = given[2], given[3][:, None]
        inside = ((points > boxes[..., :2]) & (points < boxes[..., 2:])).all(dim=2)
        shared += int((inside.sum(dim=0) > 1).sum())
    assert shared > 100  # points in more than one object, so that they are contended
    evidence.equivalent(
        "assignment",
        difference(pairs, shape=[256, 4], modes=list(SETTINGS)),
        reference="the equations of the paper in loops",
        settings="40 scenes of 0 to 4 objects",
    )


def test_the_loss_of_distances_is_cross_entropy_against_two_neighbours(
    evidence,
) -> None:
    logits = torch.randn(50, 17, dtype=torch.float64, requires_grad=True)
    target = torch.rand(50, dtype=torch.float64) * 16
    target[:3] = torch.tensor([0.0, 16.0, 7.0])  # at both ends, and a whole number
    soft = torch.zeros(50, 17, dtype=torch.float64)
    for row, y in enumerate(target.tolist()):
        for k in range(17):
            soft[row, k] = max(1 - abs(y - k), 0.0)
    ours = distribution_focal_loss(logits, target)
    reference = F.cross_entropy(logits, soft, reduction="none")
    slopes = [torch.autograd.grad(v.sum(), logits)[0] for v in (ours, reference)]
    evidence.equivalent(
        "loss",
        difference(
            {"loss": (ours.detach(), reference.detach())},
            {"logits": (slopes[0], slopes[1])},
            shape=[50, 17],
        ),
        reference="torch.nn.functional.cross_entropy",
        settings="targets of two classes",
    )


# ---------------------------------------------------------------- laws


def test_an_object_teaches_its_best_point_its_largest_overlap() -> None:
    for seed in range(20):
        scores, predicted, points, boxes, labels = scene(seed)
        found = task_aligned_assignment(scores, predicted, points, boxes, labels)
        for i in range(len(boxes)):
            own = found.objects == i
            if own.any():
                largest = box_iou(boxes[i : i + 1], predicted[own]).max()
                torch.testing.assert_close(found.score[own].max(), largest)
        assert found.score[found.objects < 0].abs().sum() == 0
        assert found.score.max() <= 1


def test_a_point_outside_of_an_object_never_learns_it() -> None:
    scores, predicted, points, boxes, labels = scene(3)
    predicted = boxes[:1].expand(len(points), 4)  # all predict the first one exactly
    found = task_aligned_assignment(scores, predicted, points, boxes, labels)
    x, y = points[found.objects == 0].unbind(1)
    assert len(x) > 0
    assert (
        ((x > boxes[0, 0]) & (x < boxes[0, 2]) & (y > boxes[0, 1]) & (y < boxes[0, 3]))
        .all()
        .item()
    )


@pytest.mark.parametrize("m", [1, 4, 13])
def test_no_object_has_more_than_m_points(m: int) -> None:
    counts = []
    for seed in range(10):
        found = task_aligned_assignment(*scene(seed), m=m)
        counts += found.objects[found.objects >= 0].bincount().tolist()
    assert max(counts) == m


def test_halving_all_scores_changes_neither_objects_nor_targets() -> None:
    scores, *rest = scene(5, count=1)
    found = task_aligned_assignment(scores, *rest)
    half = task_aligned_assignment(scores / 2, *rest)
    assert torch.equal(found.objects, half.objects)
    torch.testing.assert_close(found.score, half.score)


def test_without_one_of_the_exponents_the_other_decides_alone() -> None:
    scores, predicted, points, boxes, labels = scene(7, count=1)
    inside = ((points > boxes[:, :2]) & (points < boxes[:, 2:])).all(dim=1)
    u = box_iou(boxes, predicted)[0].where(inside, -1)
    s = scores[:, labels[0]].where(inside & (u > 0), -1)
    for alpha, beta, alone in ((0.0, 6.0, u), (1.0, 0.0, s)):
        found = task_aligned_assignment(
            scores, predicted, points, boxes, labels, alpha, beta, 1
        )
        assert (found.objects == 0).nonzero().tolist() == [[alone.argmax().item()]]


def test_the_order_of_objects_and_of_points_is_no_matter() -> None:
    scores, predicted, points, boxes, labels = scene(11, count=4)
    found = task_aligned_assignment(scores, predicted, points, boxes, labels)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0))
    rows = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    again = task_aligned_assignment(
        scores[rows], predicted[rows], points[rows], boxes[order], labels[order]
    )
    torch.testing.assert_close(again.score, found.score[rows])
    back = torch.cat([order, torch.tensor([-1])])
    assert torch.equal(back[again.objects], found.objects[rows])


def test_an_image_without_objects_teaches_background_alone() -> None:
    found = task_aligned_assignment(*scene(0, count=0))
    assert found.objects.unique().tolist() == [-1]
    assert found.score.sum() == 0


def test_the_least_loss_is_the_entropy_and_its_mean_is_the_target() -> None:
    y = torch.tensor([2.25, 0.5, 7.0], dtype=torch.float64)
    shares = torch.zeros(3, 9, dtype=torch.float64) + 1e-12
    shares[0, 2:4] = torch.tensor([0.75, 0.25])
    shares[1, 0:2] = torch.tensor([0.5, 0.5])
    shares[2, 7] = 1.0
    logits = shares.log().requires_grad_()
    loss = distribution_focal_loss(logits, y)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), math.log(2), 0.0
    torch.testing.assert_close(loss.detach(), torch.tensor(entropy).double())
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    assert slope.abs().max() < 1e-9
    torch.testing.assert_close(expected_distance(logits.detach()), y)


def test_a_flat_distribution_expects_the_middle() -> None:
    torch.testing.assert_close(expected_distance(torch.zeros(2, 17)), torch.full((2,), 8.0))  # fmt: skip


def test_refuses_what_does_not_fit() -> None:
    scores, predicted, points, boxes, labels = scene(0)
    for given, told in (
        ((scores, predicted[:5], points, boxes, labels), r"\(5, 4\)"),
        ((scores, predicted, points, boxes, labels.double()), "float64"),
        ((scores, predicted, points, boxes, labels + 9), "labels from 0 to 3, got"),
        ((scores * 4 - 2, predicted, points, boxes, labels), "probabilities from 0"),
    ):
        with pytest.raises(ValueError, match=told):
            task_aligned_assignment(*given)
    with pytest.raises(ValueError, match="m=0"):
        task_aligned_assignment(*scene(0), m=0)
    with pytest.raises(ValueError, match=r"targets from 0 to 4, got 0.5 to 4.5"):
        distribution_focal_loss(torch.zeros(2, 5), torch.tensor([0.5, 4.5]))
    with pytest.raises(ValueError, match="expected logits"):
        distribution_focal_loss(torch.zeros(2, 5), torch.zeros(3))


# ---------------------------------------------------------------- numbers


def test_what_halving_the_score_or_the_overlap_does_to_the_metric(evidence) -> None:
    rows = {}
    for key, (alpha, beta) in {"tood": (1.0, 6.0), "yolov8": (0.5, 6.0)}.items():
        name = {"tood": "TOOD", "yolov8": "YOLOv8"}[key]
        rows[key] = {"name": name, "alpha": alpha, "beta": beta}
        rows[key] |= {"score": 0.5**alpha, "overlap": 0.5**beta, "tenth": 0.9**beta}
    evidence.computed("halves", rows)
