from functools import cache

import pytest
import torch
import torchvision

from cnn_lab.data import INK, Pasted, Scenes, _hides, digits, scenes


def test_the_split_is_the_one_written_down() -> None:
    (images, labels), (unseen, unseen_labels) = digits("train"), digits("test")
    assert images.shape == (1200, 1, 8, 8)
    assert unseen.shape == (597, 1, 8, 8)
    assert labels.bincount().tolist() == [
        119,
        122,
        118,
        122,
        121,
        122,
        121,
        119,
        116,
        120,
    ]
    assert unseen_labels.bincount().tolist() == [59, 60, 59, 61, 60, 60, 60, 60, 58, 60]
    assert labels[:12].tolist() == [9, 4, 1, 2, 4, 5, 6, 2, 2, 0, 2, 8]


def test_both_parts_together_are_all_scans() -> None:
    from sklearn.datasets import load_digits

    both = torch.cat([digits("train")[0], digits("test")[0]]).flatten(1)
    scans = torch.from_numpy(load_digits().data).float() / 16
    assert sorted(both.tolist()) == sorted(scans.tolist())


def test_digits_are_in_range_and_a_caller_cannot_change_them_for_others() -> None:
    images, labels = digits("train")
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.min() == 0
    assert images.max() == 1
    images.zero_()
    assert digits("train")[0].any()


@pytest.mark.parametrize("size", [4, 16, 32])
def test_resizing_keeps_the_range_and_the_mean(size: int) -> None:
    images, _ = digits("test", size=size)
    assert images.shape == (597, 1, size, size)
    assert images.min() >= 0
    assert images.max() <= 1 + 1e-6
    assert images.mean().item() == pytest.approx(
        digits("test")[0].mean().item(), rel=0.05
    )


@pytest.mark.parametrize(("split", "size"), [("validation", 8), ("train", 0)])
def test_digits_refuses_what_there_is_not(split: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"got"):
        digits(split, size=size)  # type: ignore[arg-type]


def test_scenes_have_the_promised_shapes() -> None:
    made = scenes(20, 48, seed=3)
    assert len(made) == 20
    assert made.images.shape == (20, 1, 48, 48)
    assert made.masks.shape == (20, 48, 48)
    assert (made.images.min() >= 0) & (made.images.max() <= 1)
    for boxes, labels, target in zip(
        made.boxes, made.labels, made.targets, strict=True
    ):
        assert boxes.shape == (len(labels), 4)
        assert 1 <= len(labels) <= 4
        assert target["boxes"] is boxes
        assert target["labels"] is labels


def test_every_box_is_the_smallest_that_holds_its_mask() -> None:
    made = scenes(50, 64, seed=0)
    for boxes, labels, mask in zip(made.boxes, made.labels, made.masks, strict=True):
        covered = torch.zeros_like(mask)
        for (x1, y1, x2, y2), label in zip(boxes.long().tolist(), labels, strict=True):
            ink = mask[y1:y2, x1:x2] == label + 1
            assert ink[0].any() & ink[-1].any() & ink[:, 0].any() & ink[:, -1].any()
            covered[y1:y2, x1:x2] += 1
        assert covered.max() == 1  # no two boxes overlap
        assert not mask[covered == 0].any()  # no ink outside of the boxes


def test_a_scene_does_not_depend_on_how_many_follow_it() -> None:
    few, many = scenes(3, 32, seed=7), scenes(9, 32, seed=7)
    assert torch.equal(few.images, many.images[:3])
    assert torch.equal(few.masks, many.masks[:3])
    assert torch.equal(few.boxes[2], many.boxes[2])


def test_another_seed_or_split_makes_other_scenes() -> None:
    a, b, c = (
        scenes(1, 32, seed=1),
        scenes(1, 32, seed=2),
        scenes(1, 32, seed=1, split="test"),
    )
    assert not torch.equal(a.images, b.images)
    assert not torch.equal(a.masks, c.masks)


def test_ink_is_brighter_than_the_background_around_it() -> None:
    made = scenes(30, 64, seed=5)
    ink = made.masks[:, None] > 0
    assert made.images[ink].mean() > made.images[~ink].mean() + INK / 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"size": 8},
        {"objects": (0, 2)},
        {"objects": (3, 2)},
        {"side": (0.6, 0.5)},
        {"side": (0.5, 1.5)},
    ],
)
def test_scenes_refuses_settings_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="got"):
        scenes(**({"count": 1, "size": 32, "seed": 0} | wrong))  # type: ignore[arg-type]


# ---------------------------------------------------------------- overlap, instances


@cache
def crowd() -> Scenes:
    return scenes(10, 64, seed=1, objects=(4, 8), side=(0.3, 0.6), overlap=0.5)


def test_without_overlap_no_two_boxes_meet() -> None:
    for boxes in scenes(20, 64, seed=0).boxes:
        meet = torchvision.ops.box_iou(boxes, boxes) - torch.eye(len(boxes))
        assert meet.abs().max() < 1e-6


def test_with_overlap_boxes_meet_and_instances_do_not() -> None:
    found = crowd()
    ious = []
    for boxes, masks in zip(found.boxes, found.instances, strict=True):
        assert masks.sum(dim=0).max() == 1  # no pixel belongs to two
        iou = torchvision.ops.box_iou(boxes, boxes).triu(diagonal=1)
        ious.append(float(iou.max()))
    assert max(ious) > 0.3


def test_boxes_and_classes_are_those_of_the_instances() -> None:
    found = crowd()
    for n in range(len(found)):
        masks = found.instances[n]
        boxes = torchvision.ops.masks_to_boxes(masks)
        boxes[:, 2:] += 1  # torchvision's ends at the last pixel
        torch.testing.assert_close(found.boxes[n], boxes)
        classes = (masks.long() * (found.labels[n] + 1)[:, None, None]).sum(dim=0)
        assert torch.equal(classes, found.masks[n])


def test_an_object_is_not_put_where_it_hides_more_than_half_of_another() -> None:
    seen = torch.zeros(8, 8, dtype=torch.bool)
    seen[2:6, 2:6] = True  # 16 pixels
    below = Pasted((2, 2, 6, 6), torch.tensor(3), seen, ink=16)
    ink = torch.ones(4, 2)
    assert not _hides((2, 2, 4, 6), ink, below)  # 8 of 16 are left
    assert _hides((2, 1, 5, 6), torch.ones(5, 3), below)  # 4 of 16
    seen[2:6, 4] = False  # 12 are left, of which the same ink hides 8
    assert _hides((2, 2, 4, 6), ink, below)


def test_targets_with_masks_are_in_the_form_that_detectors_take() -> None:
    found = crowd()
    for target, masks in zip(found.targets_with_masks, found.instances, strict=True):
        assert target["masks"].dtype == torch.bool
        assert target["masks"].shape == masks.shape
        assert len(target["boxes"]) == len(target["labels"]) == len(masks)


def test_an_overlap_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"overlap must be from 0 to 1, got 1\.5"):
        scenes(1, 32, seed=0, overlap=1.5)
