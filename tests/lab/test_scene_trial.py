import torch
from torch import Tensor, nn

from cnn_lab import scene_trial
from cnn_lab.scene_trial import (
    learn_boxes,
    learn_masks,
    packed,
    pixel_loss,
    scene_trials,
    trial_scenes,
    unpacked,
)


class Told(nn.Module):
    """Knows the scenes by their pixels, and says what it was told of them."""

    def __init__(self, split: str, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.scenes = trial_scenes(count, 0, split)

    def which(self, images: Tensor) -> list[int]:
        known = scene_trial.normalized(self.scenes.images)
        return [
            int((known - image).abs().flatten(1).sum(1).argmin()) for image in images
        ]


class ToldMasks(Told):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        masks = self.scenes.masks[self.which(images)]
        scores = nn.functional.one_hot(masks, 11).movedim(-1, 1).float() + self.weight
        return scores, -scores


class ToldBoxes(Told):
    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        targets = [self.scenes.targets_with_masks[i] for i in self.which(images)]
        return [{**t, "scores": torch.full((len(t["labels"]),), 0.9)} for t in targets]


def test_scenes_overlap_and_those_of_the_test_hold_other_scans() -> None:
    some = trial_scenes(40, 0)
    assert some.images.shape == (40, 1, 96, 96)
    inside = 0
    for boxes in some.boxes:
        a, b = boxes[:, None], boxes[None]
        both = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)  # fmt: skip
        inside += int((both.prod(-1).fill_diagonal_(0) > 0).any())
    assert inside > 5
    assert not torch.equal(some.images, trial_scenes(40, 0, "test").images)


def test_who_knows_the_masks_has_an_iou_of_one_and_the_first_four_are_kept() -> None:
    result = learn_masks(ToldMasks("test", 20), count=8, epochs=1, tests=20)
    assert result["iou"] == result["pixels"] == 1
    assert torch.equal(
        unpacked(result["first"], 4, 96, 96), trial_scenes(4, 0, "test").masks
    )


def test_who_knows_boxes_and_masks_has_a_precision_of_one() -> None:
    def loss(model: nn.Module, images: Tensor, targets: list) -> Tensor:
        assert images.shape[1:] == (3, 96, 96)
        assert {"boxes", "labels", "masks"} == set(targets[0])
        return model.weight.sum()

    result = learn_boxes(
        ToldBoxes("test", 12), loss, list, masks=True, count=8, epochs=1, tests=12
    )
    assert result["map"] == result["mask_map"] == result["mask_map_75"] == 1
    found, truth = result["predictions"][0], trial_scenes(1, 0, "test")
    assert found["labels"] == truth.labels[0].tolist()
    assert torch.equal(unpacked(found["masks"], -1, 96, 96), truth.instances[0].long())


def test_an_auxiliary_score_counts_with_its_weight_and_the_background_for_a_fifth() -> (
    None
):
    scores = torch.randn(2, 11, 4, 4)
    masks = torch.randint(11, (2, 4, 4))
    weight = torch.where(masks == 0, 0.2, 1.0)
    each = -scores.log_softmax(1).gather(1, masks[:, None])[:, 0]
    mean = (weight * each).sum() / weight.sum()
    both = pixel_loss(0.5)(lambda x: (scores, scores), None, masks)  # type: ignore[arg-type]
    alone = pixel_loss()(lambda x: scores, None, masks)  # type: ignore[arg-type]
    torch.testing.assert_close(alone, mean)
    torch.testing.assert_close(both, 1.5 * mean)


def test_nothing_found_comes_back_from_its_text_as_nothing() -> None:
    assert unpacked(packed(torch.zeros(0, 5, 5, dtype=torch.bool)), -1, 5, 5).shape == (
        0, 5, 5,
    )  # fmt: skip


def run_of_seed(start: float, seed: int) -> dict[str, object]:
    return {"iou": start + seed, "curve": [2.0, 1.0 + seed], "first": f"seed {seed}"}


def test_rows_hold_each_number_with_its_interval_and_what_the_first_seed_found(
    tmp_path,
) -> None:
    rows = scene_trials(
        run_of_seed, [0, 1, 2], tmp_path / "runs", {"a": ("A", {"start": 0.5})}
    )
    assert rows["arms"]["a"]["iou"]["values"] == [0.5, 1.5, 2.5]
    assert rows["arms"]["a"]["iou"]["mean"] == 1.5
    assert rows["arms"]["a"]["loss"]["mean"] == 2
    assert rows["arms"]["a"]["first"] == "seed 0"
