"""Why mean IoU and Dice are right: torchmetrics, scikit-learn, sets of pixels, and the laws of both."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cnn_site.equivalence import Comparison, difference
from cnn_techniques.evaluation import (
    confusion_matrix,
    dice,
    f1_score,
    iou,
    mean_dice,
    mean_iou,
    pixel_matrices,
)

VOID = 255
KINDS = (
    "every class",
    "absent classes",
    "one class in the targets",
    "one class predicted",
    "all right",
    "nothing right",
)


def drawn(case: int, void: float = 0.0) -> tuple[Tensor, Tensor, int]:
    """One random case: predictions and targets of up to four images, and K. Its kind follows from its number."""
    g = torch.Generator().manual_seed(case)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    kind, classes = KINDS[case % len(KINDS)], whole(2, 6)
    shape = (whole(1, 4), whole(2, 7), whole(2, 7))
    some = torch.randperm(classes, generator=g)
    if kind == "absent classes":
        some = some[: whole(1, classes)]

    def labels(among: Tensor) -> Tensor:
        return among[torch.randint(among.shape[0], shape, generator=g)]

    targets = labels(some[:1] if kind == "one class in the targets" else some)
    guesses = labels(some[-1:] if kind == "one class predicted" else some)
    right = torch.rand(shape, generator=g) < torch.rand((), generator=g)
    predictions = torch.where(right, targets, guesses)
    if kind == "all right":
        predictions = targets.clone()
    if kind == "nothing right":
        predictions = (targets + 1) % classes
    if void:
        targets = torch.where(torch.rand(shape, generator=g) < void, VOID, targets)
        targets[:, 0, 0] = guesses[:, 0, 0]  # no image without any label
    return predictions, targets, classes


def joined(
    rows: Iterator[dict[str, tuple[Tensor, Tensor]]], bound: float = 1e-6
) -> Comparison:
    """Each quantity of all cases in one tensor; NaN must stand in the same places."""
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for row in rows:
        for name, pair in row.items():
            pairs.setdefault(name, []).append(pair)
    outputs = {}
    for name, found in pairs.items():
        ours, theirs = (
            torch.cat([p[k].flatten().double() for p in found]) for k in (0, 1)
        )
        assert ours.isnan().equal(theirs.isnan()), name
        outputs[name] = (ours.nan_to_num(-1), theirs.nan_to_num(-1))
    return difference(outputs, bound=bound, modes=[", ".join(KINDS)])


DEVICE_CASES = {
    "matrices": lambda: (
        lambda p, t: pixel_matrices(p, t, 5, VOID),
        (torch.randint(5, (3, 20, 30)), torch.randint(5, (3, 20, 30))),
    ),
    "scores": lambda: (
        lambda m: torch.cat([iou(m), dice(m), mean_iou(m)[:, None]], dim=1),
        (torch.randint(50, (3, 5, 5)),),
    ),
}


def test_torchmetrics_jaccard_index_is_the_data_sets_iou(evidence: Any) -> None:
    metrics = pytest.importorskip("torchmetrics.functional.classification")

    def rows() -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
        for case in range(1000):
            predictions, targets, classes = drawn(case, void=0.3 * (case % 2))
            options = {"ignore_index": VOID, "validate_args": False}
            total = pixel_matrices(predictions, targets, classes, VOID).sum(0)
            each, mean = (
                metrics.multiclass_jaccard_index(
                    predictions, targets, classes, average=average, **options
                )
                for average in ("none", "macro")
            )
            yield {
                "IoU a class": (iou(total).nan_to_num(0), each),
                "mean IoU": (mean_iou(total), mean),
            }

    evidence.equivalent(
        "jaccard",
        joined(rows()),
        reference="torchmetrics.functional.classification.multiclass_jaccard_index",
        settings='1,000 random cases; average="none" and "macro", ignore_index=255',
    )


def test_torchmetrics_scores_of_segmentation_are_means_of_other_things(
    evidence: Any,
) -> None:
    segmentation = pytest.importorskip("torchmetrics.functional.segmentation")

    def rows() -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
        for case in range(1200):
            predictions, targets, classes = drawn(case)
            m = pixel_matrices(predictions, targets, classes)
            given, options = (predictions, targets, classes), {"input_format": "index"}
            each = segmentation.mean_iou(*given, per_class=True, **options)
            each = torch.where(each < 0, torch.nan, each)  # -1: the class is absent
            by_image, of_all = (
                segmentation.dice_score(
                    *given, average="macro", aggregation_level=level, **options
                )
                for level in ("samplewise", "global")
            )
            yield {
                "IoU, image and class": (iou(m), each),
                "IoU of the images": (
                    mean_iou(m),
                    segmentation.mean_iou(*given, **options),
                ),
                "Dice of the images": (mean_dice(m), by_image),
                "Dice of the data set": (mean_dice(m.sum(0)), of_all),
            }

    evidence.equivalent(
        "segmentation",
        joined(rows()),
        reference="torchmetrics.functional.segmentation",
        settings='1,200 random cases; mean_iou and dice_score(average="macro"), '
        'input_format="index"',
    )


def test_the_classes_of_torchmetrics_average_as_the_page_says() -> None:
    segmentation = pytest.importorskip("torchmetrics.segmentation")
    for case in range(60):
        predictions, targets, classes = drawn(case)
        m = pixel_matrices(predictions, targets, classes)
        options = {"num_classes": classes, "input_format": "index"}
        for metric, ours in (
            (segmentation.MeanIoU(**options), iou(m).nanmean()),
            (
                segmentation.MeanIoU(per_class=True, **options),
                iou(m).nanmean(0).nan_to_num(-1),
            ),
            (segmentation.DiceScore(**options), mean_dice(m).mean()),
            (
                segmentation.DiceScore(aggregation_level="global", **options),
                mean_dice(m.sum(0)),
            ),
        ):
            for image in range(predictions.shape[0]):  # batches of one image each
                metric.update(
                    predictions[image : image + 1], targets[image : image + 1]
                )
            theirs = metric.compute().double().squeeze()
            torch.testing.assert_close(theirs, ours.squeeze(), rtol=0, atol=1e-6)


def test_scikit_learns_jaccard_score_is_the_data_sets_iou(evidence: Any) -> None:
    metrics = pytest.importorskip("sklearn.metrics")

    def rows() -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
        for case in range(1000, 1400):
            predictions, targets, classes = drawn(case, void=0.3 * (case % 2))
            total = pixel_matrices(predictions, targets, classes, VOID).sum(0)
            kept = targets != VOID
            given = targets[kept].numpy(), predictions[kept].numpy()
            each = metrics.jaccard_score(
                *given, labels=range(classes), average=None, zero_division=0
            )
            mean = metrics.jaccard_score(*given, average="macro", zero_division=0)
            yield {
                "IoU a class": (iou(total).nan_to_num(0), torch.from_numpy(each)),
                "mean IoU": (mean_iou(total), torch.tensor(mean, dtype=torch.float64)),
            }

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that is nowhere
        comparison = joined(rows(), bound=1e-10)
    evidence.equivalent(
        "sklearn",
        comparison,
        reference="sklearn.metrics.jaccard_score",
        settings='400 random cases without their ignored pixels; average=None and "macro"',
    )


def test_both_are_what_the_sets_of_pixels_say() -> None:
    for case in range(100):
        predictions, targets, classes = drawn(case, void=0.2)
        m = pixel_matrices(predictions, targets, classes, VOID).sum(0)
        kept = (targets != VOID).flatten()
        for k in range(classes):
            a = {i for i, p in enumerate(predictions.flatten()) if kept[i] and p == k}
            b = {i for i, t in enumerate(targets.flatten()) if kept[i] and t == k}
            if not a | b:
                assert iou(m)[k].isnan()
                assert dice(m)[k].isnan()
            else:
                assert iou(m)[k] == len(a & b) / len(a | b)
                assert dice(m)[k] == 2 * len(a & b) / (len(a) + len(b))


def test_dice_is_the_f1_of_pixels_and_follows_from_iou() -> None:
    for case in range(200):
        predictions, targets, classes = drawn(case)
        m = pixel_matrices(predictions, targets, classes).sum(0)
        assert m.equal(
            confusion_matrix(predictions.flatten(), targets.flatten(), classes)
        )
        assert dice(m).nan_to_num(0).equal(f1_score(m))
        j = iou(m)
        torch.testing.assert_close(2 * j / (1 + j), dice(m), equal_nan=True)
        assert bool((dice(m) >= j)[~j.isnan()].all())


def test_matrices_of_images_add_up_to_that_of_the_data_set() -> None:
    for case in range(100):
        predictions, targets, classes = drawn(case)
        one = pixel_matrices(predictions.flatten()[None, None], targets.flatten()[None, None], classes)  # fmt: skip
        assert pixel_matrices(predictions, targets, classes).sum(0).equal(one[0])


def test_what_is_predicted_on_ignored_pixels_does_not_count() -> None:
    predictions, targets, classes = drawn(0, void=0.4)
    other = torch.where(targets == VOID, 99, predictions)
    expected = pixel_matrices(predictions, targets, classes, VOID)
    assert pixel_matrices(other, targets, classes, VOID).equal(expected)
    assert int(expected.sum()) == int((targets != VOID).sum())


@pytest.mark.parametrize("ignored", [255, -1, -100, 7])
def test_an_image_of_ignored_pixels_alone_adds_nothing(ignored: int) -> None:
    predictions = torch.zeros(2, 3, 3, dtype=torch.int64)
    targets = predictions.clone()
    targets[1] = ignored
    m = pixel_matrices(predictions, targets, 2, ignored)
    assert m[1].sum() == 0
    assert mean_iou(m).isnan().tolist() == [False, True]
    assert mean_iou(m.sum(0)) == 1


def test_a_class_predicted_but_nowhere_true_counts_as_0_and_an_absent_one_not() -> None:
    targets = torch.zeros(1, 2, 2, dtype=torch.int64)
    predictions = torch.tensor([[[0, 0], [0, 1]]])
    m = pixel_matrices(predictions, targets, 3)[0]
    assert iou(m)[:2].tolist() == [0.75, 0]
    assert iou(m)[2].isnan()
    assert mean_iou(m) == 0.375


def test_of_equal_scores_the_first_class_counts() -> None:
    scores = torch.tensor([1.0, 2.0, 2.0, 0.0]).view(1, 4, 1, 1).expand(2, 4, 3, 5)
    ones = torch.ones(2, 3, 5, dtype=torch.int64)
    assert pixel_matrices(scores, ones, 4).equal(pixel_matrices(ones, ones, 4))


def test_other_names_for_the_classes_only_move_the_scores() -> None:
    for case in range(50):
        predictions, targets, classes = drawn(case)
        order = torch.randperm(classes, generator=torch.Generator().manual_seed(case))
        m = pixel_matrices(predictions, targets, classes)
        renamed = pixel_matrices(order[predictions], order[targets], classes)
        torch.testing.assert_close(iou(renamed)[:, order], iou(m), equal_nan=True)
        torch.testing.assert_close(mean_iou(renamed), mean_iou(m), equal_nan=True)


def test_swapping_predictions_and_targets_changes_neither_score() -> None:
    for case in range(50):
        predictions, targets, classes = drawn(case)
        m = pixel_matrices(predictions, targets, classes)
        swapped = pixel_matrices(targets, predictions, classes)
        assert swapped.equal(m.transpose(1, 2))
        assert mean_iou(swapped).equal(mean_iou(m))
        assert mean_dice(swapped).equal(mean_dice(m))


def test_torchmetrics_ignoring_a_class_is_another_number() -> None:
    # `ignore_index` of a class takes its pixels away and leaves it out of the mean; taking it out of the mean alone keeps
    # the background's pixels that were predicted as an object.
    jaccard = pytest.importorskip(
        "torchmetrics.functional.classification"
    ).multiclass_jaccard_index
    targets = torch.tensor([[[0, 0, 0, 1]]])
    predictions = torch.tensor([[[0, 0, 1, 1]]])
    m = pixel_matrices(predictions, targets, 2)[0]
    assert iou(m)[1:].mean() == 0.5
    assert jaccard(predictions, targets, 2, ignore_index=0) == 1
    with pytest.raises(ValueError, match="no class 0 to 1, got 0"):
        pixel_matrices(predictions, targets, 2, ignored=0)


def test_without_the_background_torchmetrics_keeps_its_false_positives() -> None:
    segmentation = pytest.importorskip("torchmetrics.functional.segmentation")
    for case in range(60):
        predictions, targets, classes = drawn(case)
        m = pixel_matrices(predictions, targets, classes)
        theirs = segmentation.mean_iou(
            predictions,
            targets,
            classes,
            include_background=False,
            per_class=True,
            input_format="index",
        )
        theirs = torch.where(theirs < 0, torch.nan, theirs).double()
        torch.testing.assert_close(
            theirs, iou(m)[..., 1:], rtol=0, atol=1e-6, equal_nan=True
        )


def test_on_equal_images_all_averages_are_one_number() -> None:
    predictions, targets, classes = drawn(6)
    m = pixel_matrices(predictions[:1], targets[:1], classes).expand(4, -1, -1)
    assert mean_iou(m).mean() == mean_iou(m.sum(0))


LABELS = torch.ones(2, 3, 3, dtype=torch.int64)
SCORES = torch.rand(2, 4, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: pixel_matrices(LABELS, LABELS[:1], 4), ValueError, r"got \(2, 3, 3\) and \(1, 3, 3\)"),
        (lambda: pixel_matrices(SCORES[:, :3], LABELS, 4), ValueError, r"\(N, 4, H, W\) and .*got \(2, 3, 3, 3\)"),
        (lambda: pixel_matrices(LABELS[0], LABELS[0], 4), ValueError, r"targets \(N, H, W\), got \(3, 3\)"),
        (lambda: pixel_matrices(LABELS[:0], LABELS[:0], 4), ValueError, r"got \(0, 3, 3\)"),
        (lambda: pixel_matrices(SCORES / 0 * 0, LABELS, 4), ValueError, "without NaN, got torch.float32"),
        (lambda: pixel_matrices(SCORES.long(), LABELS, 4), ValueError, "floating scores .*got torch.int64"),
        (lambda: pixel_matrices(LABELS, 4 * LABELS, 4), ValueError, "targets from 0 to 3, got 4 to 4"),
        (lambda: pixel_matrices(LABELS, VOID * LABELS, 4), ValueError, "targets from 0 to 3, got 255 to 255"),
        (lambda: pixel_matrices(9 * LABELS, LABELS, 4), ValueError, "predictions from 0 to 3, got 9 to 9"),
        (lambda: pixel_matrices(LABELS, LABELS.float(), 4), TypeError, "integer targets, got torch.float32"),
        (lambda: pixel_matrices(LABELS, LABELS, 4, ignored=3), ValueError, "no class 0 to 3, got 3"),
        (lambda: iou(torch.rand(4, 4)), TypeError, r"integer counts, got torch.float32 \(4, 4\)"),
        (lambda: dice(torch.ones(4, 3).long()), ValueError, r"\(..., K, K\), got torch.int64 \(4, 3\)"),
        (lambda: mean_iou(-torch.eye(3).long()), ValueError, "0 or more, got -1"),
        (lambda: mean_dice(torch.ones(3).long()), ValueError, r"got torch.int64 \(3,\)"),
    ],
)  # fmt: skip
def test_refuses_what_is_no_labelling(
    call: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        call()


# ---------------------------------------------------------------- the record


def averages(predictions: Tensor, targets: Tensor, classes: int) -> dict[str, float]:
    """The same labels, averaged in four ways, and what is right without classes."""
    m = pixel_matrices(predictions, targets, classes)
    each = iou(m)  # (N, K)
    labelled = each.masked_fill(m.sum(-1) == 0, torch.nan)  # only classes of the image
    found = {
        "data": mean_iou(m.sum(0)),
        "images": mean_iou(m).mean(),
        "labelled": labelled.nanmean(1).mean(),
        "classes": each.nanmean(0).mean(),
        "pairs": each.nanmean(),
        "dice_data": mean_dice(m.sum(0)),
        "dice_images": mean_dice(m).mean(),
        "dice_labelled": dice(m)
        .masked_fill(m.sum(-1) == 0, torch.nan)
        .nanmean(1)
        .mean(),
        "pixels": (predictions == targets).double().mean(),
        "stray": ((m.sum(-1) == 0) & (m.sum(-2) > 0)).double().sum(1).mean(),
        "present": (m.sum(-1) > 0).double().sum(1).mean(),
    }
    return {name: value.item() for name, value in found.items()}


def label_scenes(
    train: int, tests: int, epochs: int, lr: float, seed: int
) -> dict[str, float]:
    """A narrow U-Net learns scenes of two to four digits of a fifth to half the scene's side."""
    from torch.nn import functional as F

    from cnn_lab.data import scenes
    from cnn_lab.fit import fit, predict, steps
    from cnn_techniques.segmentation import UNet

    kind: Any = {"objects": (2, 4), "side": (0.2, 0.5)}
    seen = scenes(train, 64, seed=seed, **kind)
    unseen = scenes(tests, 64, seed=0, split="test", **kind)
    torch.manual_seed(seed)
    net = UNet(in_channels=1, classes=11, width=8, padding=1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-4)
    weight = torch.tensor([0.2] + 10 * [1.0])  # most pixels are background
    fit(
        net,
        ((seen.images - 0.35) / 0.2, seen.masks),
        epochs=epochs,
        batch_size=8,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            lr,
            total_steps=steps(train, epochs=epochs, batch_size=8),
            pct_start=0.2,
        ),
        loss=lambda net, x, y: F.cross_entropy(net(x), y, weight=weight),
        seed=seed,
    )
    labels = predict(net, (unseen.images - 0.35) / 0.2, 50).argmax(dim=1)
    return averages(labels, unseen.masks, 11)


def average_scenes(seeds: int, **settings: Any) -> dict[str, Any]:
    from cnn_lab.record import interval, paired, repeat

    cache = Path(__file__).parents[2] / ".cache/record/segmentation_iou.jsonl"
    runs = repeat(label_scenes, {"unet": settings}, range(seeds), cache)["unet"]
    values = {name: [run[name] for run in runs] for name in runs[0]}
    names = {
        "data": "data set: one matrix of all pixels",
        "images": "images: mean over the classes of an image, then over images",
        "labelled": "images, without classes that the image's labels lack",
        "classes": "classes: mean over the images of a class, then over classes",
        "pairs": "pairs of image and class, each alike",
    }
    rows = {
        key: {"name": name, "iou": {"values": values[key], **interval(values[key])}}
        for key, name in names.items()
    }
    for key in ("data", "images", "labelled"):
        found = values[f"dice_{key}"]
        rows[key]["dice"] = {"values": found, **interval(found)}
    others = {k: interval(values[k]) for k in ("pixels", "stray", "present")}
    return {
        "seeds": seeds,
        "arms": rows,
        "others": others,
        "paired": {"images": paired(values["images"], values["data"])},
    }


@pytest.mark.record
def test_record_averages_of_the_same_labels_that_disagree(evidence: Any) -> None:
    settings = {"train": 1600, "tests": 500, "epochs": 12, "lr": 5e-3, "seeds": 5}
    found = evidence.measured("scenes", arguments=settings, run=average_scenes)
    rows = found["arms"]
    assert rows["images"]["iou"]["mean"] < rows["data"]["iou"]["mean"]
