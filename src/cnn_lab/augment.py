"""Augmentation of a batch, drawn once for every image of it.

An augmentation gets images and, for each, its own uniform numbers from [0, 1): what
happens to an image is decided by them alone, and by nothing drawn elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from cnn_techniques.training import (
    AugMix,
    AutoAugment,
    RandAugment,
    TrivialAugment,
    crop_images,
    erase_boxes,
    flip_images,
)

from . import options


@dataclass(frozen=True)
class Augmentation:
    """`apply(images, draws)` with draws (N, `draws`), float64 from [0, 1)."""

    apply: Callable[[Tensor, Tensor], Tensor]
    draws: int


def flip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror left and right with probability one half; draws (N, 1)."""
    return flip_images(images, draws[:, 0] < 0.5)


def crop(images: Tensor, draws: Tensor, padding: int = 4) -> Tensor:
    """Shift by up to `padding` pixels each way, black where nothing was; draws (N, 2)."""
    top, left = (draws * (2 * padding + 1)).long().unbind(1)  # 0 .. 2 * padding
    return crop_images(images, top, left, padding)


def cutout(images: Tensor, draws: Tensor) -> Tensor:
    """Black out a square of half the height, its centre anywhere; draws (N, 2).

    What of the square is outside the image hides nothing, as in the paper.
    """
    side = images.shape[-2] // 2
    corner = (draws * torch.tensor(images.shape[-2:])).long() - side // 2  # (N, 2)
    return erase_boxes(images, torch.cat([corner, corner + side], dim=1))


# Objects, not closures: a process that loads images gets them pickled under spawn.


@dataclass(frozen=True)
class PerImage:
    """A transform of one image (C, H, W) for each of a batch, seeded for every image.

    Args:
        make: of the transform, once per process: tables of operations hold functions
            that cannot be pickled.
    """

    make: Callable[[], Callable[[Tensor], Tensor]]

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        usual = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)  # that of a byte image's coordinates
        try:
            with torch.random.fork_rng(devices=[]):
                pairs = zip(images, draws, strict=True)
                return torch.stack([self.transform_one(i, d) for i, d in pairs])
        finally:
            torch.set_default_dtype(usual)

    def transform_one(self, image: Tensor, draw: Tensor) -> Tensor:
        # On the CPU alone: torch.manual_seed costs as much as a transform.
        torch.default_generator.manual_seed(int(draw.item() * 2**53))
        return _made(self.make)(image)


@dataclass(frozen=True)
class Chained:
    """One augmentation after the other, each with draws of its own."""

    parts: tuple[Augmentation, ...]

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        own = draws.split([part.draws for part in self.parts], dim=1)
        for part, drawn in zip(self.parts, own, strict=True):
            images = part.apply(images, drawn)
        return images


@cache
def _made(make: Callable[[], Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    return make()


def per_image(make: Callable[[], Callable[[Tensor], Tensor]]) -> Augmentation:
    """What makes a transform of one image (C, H, W), as an augmentation."""
    return Augmentation(PerImage(make), 1)


def chain(parts: Sequence[Augmentation]) -> Augmentation:
    """Augmentations as one."""
    return Augmentation(Chained(tuple(parts)), sum(part.draws for part in parts))


# What of the pages changes an image, by name. Those of one image draw from torch's global
# generator.
AUGMENTATIONS: dict[str, Augmentation] = {
    options.Augmentation.basic_augmentation: chain(
        [Augmentation(flip, 1), Augmentation(crop, 2)]
    ),
    options.Augmentation.cutout: Augmentation(cutout, 2),
    options.Augmentation.autoaugment: per_image(AutoAugment),
    options.Augmentation.randaugment: per_image(RandAugment),
    options.Augmentation.trivialaugment: per_image(TrivialAugment),
    options.Augmentation.augmix: per_image(AugMix),
}


def by_name(names: Sequence[str], *, mirror: bool = True) -> Augmentation:
    """The augmentations of `names`, in that order, for images (N, C, H, W) of uint8.

    Args:
        mirror: whether a mirrored image is still of its class; a digit is not.

    Raises: ValueError for a name that is not in `AUGMENTATIONS`.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise ValueError(
                f"unknown augmentation {name!r}; expected {', '.join(AUGMENTATIONS)}"
            )
    known = dict(AUGMENTATIONS)
    if not mirror:
        known[options.Augmentation.basic_augmentation] = Augmentation(crop, 2)
    return chain([known[name] for name in names])
