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
            corner, the smallest box that holds the object's mask, so that x2 - x1 is
            its width.
        labels: per image int64 (M,): the digit, 0..9.
        masks: int64 (N, H, W): 0 for background, digit + 1 where there is ink.
    """

    images: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    masks: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @property
    def targets(self) -> list[dict[str, Tensor]]:
        """Boxes and labels in the form that detectors take: a dict for each image."""
        return [
            {"boxes": b, "labels": k}
            for b, k in zip(self.boxes, self.labels, strict=True)
        ]


def scenes(
    count: int,
    size: int,
    seed: int,
    split: Split = "train",
    objects: tuple[int, int] = (1, 4),
    side: tuple[float, float] = (0.2, 0.5),
) -> Scenes:
    """Compose scenes of real digits, at random places and sizes, on a noisy slope.

    Scene i depends on (seed, split, i) and the settings alone, not on count. Boxes
    never overlap; where a drawn object finds no free place, the scene has one fewer,
    but always at least one.

    Args:
        count: N, number of scenes.
        size: H = W, in pixels, at least 16.
        split: the part that the digits are taken from; scenes from "test" hold scans
            that no scene from "train" holds.
        objects: fewest and most digits that are drawn for a scene.
        side: smallest and largest height of a pasted scan, as fractions of size; its
            ink is up to a third narrower.

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
    scans, names = digits(split)
    images, masks = (
        torch.empty(count, 1, size, size),
        torch.zeros(count, size, size, dtype=torch.long),
    )
    boxes, labels = [], []
    for i in range(count):
        rng = np.random.default_rng([seed, split == "test", i])
        image = _background(size, rng)
        found: list[tuple[Place, Tensor]] = []
        for which in rng.integers(
            len(scans), size=rng.integers(objects[0], objects[1] + 1)
        ):
            ink = _resized(scans[which], round(rng.uniform(*side) * size))
            place = _free_place(ink, size, [box for box, _ in found], rng)
            if place is None:
                continue
            x1, y1, x2, y2 = place
            window = (slice(y1, y2), slice(x1, x2))
            image[window] += ink * (rng.uniform(0.7, 1.0) - image[window])
            masks[i][window][ink >= INK] = names[which] + 1
            found.append((place, names[which]))
        noise = torch.from_numpy(rng.normal(scale=0.04, size=(size, size)))
        images[i, 0] = (image + noise).clamp(0, 1)
        boxes.append(torch.tensor([box for box, _ in found], dtype=torch.float32))
        labels.append(torch.stack([name for _, name in found]))
    return Scenes(images, boxes, labels, masks)


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
    ink: Tensor, size: int, taken: list[Place], rng: np.random.Generator
) -> Place | None:
    """A box for the ink that meets no other, or None after 20 tries."""
    height, width = ink.shape
    for _ in range(20):
        x, y = int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))
        box = (x, y, x + width, y + height)
        if all(
            x >= b[2] or box[2] <= b[0] or y >= b[3] or box[3] <= b[1] for b in taken
        ):
            return box
    return None
