"""The interval and the folds of the guide to few images, against the definition they solve."""

import math
import runpy

import pytest
import torch

from cnn_site import ROOT

GUIDE = runpy.run_path(str(ROOT / "snippets/guides/few_images.py"))


@pytest.mark.parametrize(("right", "images"), [(0, 5), (18, 20), (20, 20), (90, 100)])
def test_the_interval_ends_where_the_share_is_z_deviations_away(
    right: int, images: int
) -> None:
    for end in GUIDE["wilson"](right, images):
        away = abs(right / images - end)
        assert away == pytest.approx(
            1.96 * math.sqrt(end * (1 - end) / images), abs=1e-7
        )


def test_counts_that_cannot_be_are_refused() -> None:
    for right, images in ((5, 4), (-1, 4), (0, 0)):
        with pytest.raises(ValueError, match="expected 0 to"):
            GUIDE["wilson"](right, images)


def test_each_image_is_in_one_fold_and_classes_are_spread_evenly() -> None:
    labels = torch.tensor([0] * 13 + [1] * 7 + [2] * 5)
    part = GUIDE["folds"](labels, 5)
    sizes = part.bincount(minlength=5)
    assert sizes.sum() == 25 and sizes.max() - sizes.min() <= 1
    for name in range(3):
        counts = part[labels == name].bincount(minlength=5)
        assert counts.max() - counts.min() <= 1
    assert not torch.equal(part, GUIDE["folds"](labels, 5, seed=1))


def test_more_folds_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 to 3 parts, got 4"):
        GUIDE["folds"](torch.zeros(3, dtype=torch.int64), 4)
