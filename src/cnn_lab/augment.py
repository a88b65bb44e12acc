"""Augmentation of a batch, drawn once for every image of it.

An augmentation gets images and, for each, its own uniform numbers from [0, 1): what
happens to an image is decided by them alone, and by nothing drawn elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

# Transforms of one image, which draw from torch's global generator. The names are those
# of the technique pages.
PER_IMAGE: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "autoaugment": v2.AutoAugment,
    "randaugment": v2.RandAugment,
    "trivialaugment": v2.TrivialAugmentWide,
    "augmix": v2.AugMix,
}
NAMES = ("basic-augmentation", "cutout", *PER_IMAGE)


@dataclass(frozen=True)
class Augmentation:
    """`apply(images, draws)` with draws (N, `draws`), float64 from [0, 1)."""

    apply: Callable[[Tensor, Tensor], Tensor]
    draws: int


def flip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror left and right with probability one half; draws (N, 1)."""
    mirrored = (draws[:, 0] < 0.5).view(-1, 1, 1, 1)
    return torch.where(mirrored, images.flip(-1), images)


def crop(images: Tensor, draws: Tensor, padding: int = 4) -> Tensor:
    """Shift by up to `padding` pixels each way, black where nothing was; draws (N, 2)."""
    n, c, h, w = images.shape
    padded = F.pad(images, [padding] * 4)
    top, left = (draws * (2 * padding + 1)).long().unbind(1)  # 0 .. 2 * padding
    rows = top[:, None] + torch.arange(h)  # (N, H)
    columns = left[:, None] + torch.arange(w)  # (N, W)
    image = torch.arange(n)[:, None, None, None]
    channel = torch.arange(c)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def cutout(images: Tensor, draws: Tensor) -> Tensor:
    """Black out a square of half the height, its centre anywhere; draws (N, 2).

    What of the square is outside the image hides nothing, as in the paper.
    """
    h, w = images.shape[-2:]
    side = h // 2
    top, left = ((draws * torch.tensor([h, w])).long() - side // 2).unbind(1)
    rows = torch.arange(h) - top[:, None]  # (N, H)
    columns = torch.arange(w) - left[:, None]  # (N, W)
    rows, columns = ((r >= 0) & (r < side) for r in (rows, columns))
    hidden = rows[:, None, :, None] & columns[:, None, None, :]  # (N, 1, H, W)
    return images.masked_fill(hidden, 0)


# Objects, not closures: a process that loads images gets them pickled under spawn.


@dataclass(frozen=True)
class PerImage:
    """A transform of one image (C, H, W) for each of a batch, seeded for every image."""

    transform: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            return torch.stack(
                [self.transform_one(i, d) for i, d in zip(images, draws, strict=True)]
            )

    def transform_one(self, image: Tensor, draw: Tensor) -> Tensor:
        # On the CPU alone: torch.manual_seed costs as much as a transform.
        torch.default_generator.manual_seed(int(draw.item() * 2**53))
        return self.transform(image)


@dataclass(frozen=True)
class Chained:
    """One augmentation after the other, each with draws of its own."""

    parts: tuple[Augmentation, ...]

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        own = draws.split([part.draws for part in self.parts], dim=1)
        for part, drawn in zip(self.parts, own, strict=True):
            images = part.apply(images, drawn)
        return images


def per_image(transform: Callable[[Tensor], Tensor]) -> Augmentation:
    """A transform of one image (C, H, W) as an augmentation."""
    return Augmentation(PerImage(transform), 1)


def chain(parts: Sequence[Augmentation]) -> Augmentation:
    """Augmentations as one."""
    return Augmentation(Chained(tuple(parts)), sum(part.draws for part in parts))


def by_name(names: Sequence[str], *, mirror: bool = True) -> Augmentation:
    """The augmentations of `names`, in that order, for images (N, C, H, W) of uint8.

    Args:
        mirror: whether a mirrored image is still of its class; a digit is not.

    Raises: ValueError for a name that is not in `NAMES`.
    """
    parts: list[Augmentation] = []
    for name in names:
        if name == "basic-augmentation":
            parts += [Augmentation(flip, 1)] if mirror else []
            parts += [Augmentation(crop, 2)]
        elif name == "cutout":
            parts += [Augmentation(cutout, 2)]
        elif name in PER_IMAGE:
            parts += [per_image(PER_IMAGE[name]())]
        else:
            raise ValueError(
                f"unknown augmentation {name!r}; expected {', '.join(NAMES)}"
            )
    return chain(parts)
