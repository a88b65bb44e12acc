"""Data that needs no download: scikit-learn's scans of digits, and scenes of them.

The 1,797 scans are split once: 1,200 to train and 597 to test, each digit in
proportion, drawn with seed 0. scikit-learn does not say who wrote which digit, so that
the same people's writing is in both parts.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Split = Literal["train", "test"]
Place = tuple[int, int, int, int]  # x1, y1, x2, y2
INK = 0.4  # a pixel belongs to a digit when at least this much of it is covered


def digits(split: Split, size: int = 8) -> tuple[Tensor, Tensor]:
    """Real handwritten digits and what they are.

    Returns float32 images (N, 1, size, size) in [0, 1] and int64 labels (N,) in 0..9; N
    is 1,200 for "train" and 597 for "test". A size other than the scans' 8 is made by
    bilinear interpolation.
    Raises: ValueError for another split, or a size below 1.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    images, labels = _scans()[split]
    if size != images.shape[-1]:
        images = F.interpolate(
            images,
            size=(size, size),
            mode="bilinear",
            antialias=size < images.shape[-1],
        )
    return images.clone(), labels.clone()


@cache
def _scans() -> dict[str, tuple[Tensor, Tensor]]:
    # Here, because the rest of the file works beside a bare torch.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans = load_digits()
    images = torch.from_numpy(scans.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(scans.target).long()
    train, test = train_test_split(
        np.arange(len(labels)), test_size=597, stratify=scans.target, random_state=0
    )
    return {
        name: (images[rows], labels[rows])
        for name, rows in (("train", train), ("test", test))
    }


@dataclass(frozen=True)
class Scenes:
    """Images and what is to be seen in them; M differs from image to image.

    Args:
        images: float32 (N, 1, H, W) in [0, 1]; `images.expand(-1, 3, -1, -1)` for a
            network that wants colours.
        boxes: per image float32 (M, 4): x1, y1, x2, y2 in pixels from the upper left
            corner, the smallest box that holds what is seen of the object, so that
            x2 - x1 is its width.
        labels: per image int64 (M,): the digit, 0..9.
        masks: int64 (N, H, W): 0 for background, digit + 1 where there is ink.
        instances: per image bool (M, H, W): the ink that is seen of each object; no
            pixel belongs to two.
    """

    images: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    masks: Tensor
    instances: list[Tensor]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def targets(self) -> list[dict[str, Tensor]]:
        """Boxes and labels in the form that detectors take: a dict for each image."""
        return [
            {"boxes": b, "labels": k}
            for b, k in zip(self.boxes, self.labels, strict=True)
        ]

    @property
    def targets_with_masks(self) -> list[dict[str, Tensor]]:
        """The same with "masks" (M, H, W), for networks that find instances."""
        return [
            {**target, "masks": masks}
            for target, masks in zip(self.targets, self.instances, strict=True)
        ]


def scenes(
    count: int,
    size: int,
    seed: int,
    split: Split = "train",
    objects: tuple[int, int] = (1, 4),
    side: tuple[float, float] = (0.2, 0.5),
    overlap: float = 0.0,
) -> Scenes:
    """Compose scenes of real digits, at random places and sizes, on a noisy slope.

    Scene i depends on (seed, split, i) and the settings alone, not on count. A later
    object hides what lies below its ink, but at most half of another's ink; where a
    drawn object finds no free place, the scene has one fewer, but always at least one.

    Args:
        count: N, number of scenes.
        size: H = W, in pixels, at least 16.
        split: the part that the digits are taken from; scenes from "test" hold scans
            that no scene from "train" holds.
        objects: fewest and most digits that are drawn for a scene.
        side: smallest and largest height of a pasted scan, as fractions of size; its
            ink is up to a third narrower.
        overlap: largest intersection over union of the windows that two objects are
            pasted into; 0: boxes never overlap.

    Raises: ValueError for a count, size, or range outside of the above.
    """
    if count < 1 or size < 16:
        raise ValueError(f"need count >= 1 and size >= 16, got {count=}, {size=}")
    if not 1 <= objects[0] <= objects[1]:
        raise ValueError(
            f"objects must be (fewest, most) with 1 <= fewest <= most, got {objects}"
        )
    if not 0 < side[0] <= side[1] <= 1:
        raise ValueError(
            f"side must be (smallest, largest), both above 0 and up to 1, got {side}"
        )
    if not 0 <= overlap <= 1:
        raise ValueError(f"overlap must be from 0 to 1, got {overlap}")
    scans, names = digits(split)
    images, masks = (
        torch.empty(count, 1, size, size),
        torch.zeros(count, size, size, dtype=torch.long),
    )
    boxes, labels, instances = [], [], []
    for i in range(count):
        rng = np.random.default_rng([seed, split == "test", i])
        image = _background(size, rng)
        pasted: list[Pasted] = []
        for which in rng.integers(
            len(scans), size=rng.integers(objects[0], objects[1] + 1)
        ):
            ink = _resized(scans[which], round(rng.uniform(*side) * size))
            place = _free_place(ink, size, pasted, overlap, rng)
            if place is None:
                continue
            x1, y1, x2, y2 = place
            window = (slice(y1, y2), slice(x1, x2))
            image[window] += ink * (rng.uniform(0.7, 1.0) - image[window])
            masks[i][window][ink >= INK] = names[which] + 1
            mask = torch.zeros(size, size, dtype=torch.bool)
            mask[window] = ink >= INK
            for other in pasted:
                other.seen &= ~mask
            pasted.append(Pasted(place, names[which], mask.clone(), int(mask.sum())))
        noise = torch.from_numpy(rng.normal(scale=0.04, size=(size, size)))
        images[i, 0] = (image + noise).clamp(0, 1)
        instances.append(torch.stack([item.seen for item in pasted]))
        boxes.append(_boxes(instances[-1]))
        labels.append(torch.stack([item.label for item in pasted]))
    return Scenes(images, boxes, labels, masks, instances)


@dataclass
class Pasted:
    """An object of a scene: its window, label, the ink that is seen, and all its ink."""

    window: Place
    label: Tensor
    seen: Tensor
    ink: int


def _boxes(masks: Tensor) -> Tensor:
    """The smallest boxes around masks (M, H, W), none of them empty."""
    boxes = []
    for mask in masks:
        rows, columns = torch.where(mask)
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        boxes.append(torch.stack(corners))
    return torch.stack(boxes).float()


def _background(size: int, rng: np.random.Generator) -> Tensor:
    level = rng.uniform(0.15, 0.35)
    slope_x, slope_y = rng.uniform(-0.15, 0.15, size=2).tolist()
    ramp = torch.linspace(-1, 1, size)
    image: Tensor = level + slope_x * ramp + slope_y * ramp[:, None]
    return image  # in [-0.15, 0.65]: clamped with the noise


def _resized(scan: Tensor, side: int) -> Tensor:
    """The scan at `side` pixels, cut to the smallest window that holds its ink."""
    large = F.interpolate(
        scan[None], size=(max(side, 4), max(side, 4)), mode="bilinear", antialias=True
    )[0, 0]
    rows, columns = torch.where(large >= INK)
    return large[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _free_place(
    ink: Tensor,
    size: int,
    taken: list[Pasted],
    overlap: float,
    rng: np.random.Generator,
) -> Place | None:
    """A window for the ink that leaves the others seen, or None after 20 tries."""
    height, width = ink.shape
    for _ in range(20):
        x, y = int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))
        place = (x, y, x + width, y + height)
        if all(_iou(place, other.window) <= overlap for other in taken) and not any(
            _hides(place, ink, other) for other in taken
        ):
            return place
    return None


def _iou(a: Place, b: Place) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return both / (sum(areas) - both)


def _hides(place: Place, ink: Tensor, other: Pasted) -> bool:
    """Whether ink at that place would leave less than half of another's to be seen."""
    x1, y1, x2, y2 = place
    hidden = other.seen[y1:y2, x1:x2] & (ink >= INK)
    return 2 * (int(other.seen.sum()) - int(hidden.sum())) < other.ink
