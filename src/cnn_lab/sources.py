"""Data sets by name: torchvision's loaders, the embedded digits, folders of photos."""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import functional as T

from .augment import Augmentation, by_name
from .data import digits
from .fit import BadData, InMemory, Source
from .fit import generator as seeded
from .photos import (
    TEST,
    Folder,
    InputFormat,
    Photos,
    normalised,
    parts,
    scan,
    with_channels,
    with_validation,
)

# torchvision's class, the folder that its files are in, whether a mirrored image is
# still of its class, and the side of an image.
LOADERS: dict[str, tuple[Callable[..., Any], str, bool, int]] = {
    "mnist": (datasets.MNIST, "MNIST/raw", False, 28),
    "fashion-mnist": (datasets.FashionMNIST, "FashionMNIST/raw", True, 28),
    "cifar10": (datasets.CIFAR10, "cifar-10-batches-py", True, 32),
    "cifar100": (datasets.CIFAR100, "cifar-100-python", True, 32),
}
NAMES = ("digits", *LOADERS, "folder:PATH")
AS_NUMBERS = 2**26  # most numbers, of 4 bytes, that a part of a data set is kept as
Statistics = tuple[float, ...]


@dataclass(frozen=True)
class PhotoNames:
    """The photos of all parts, as paths below the folder."""

    train: list[str]
    test: list[str]
    validation: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        return [*self.train, *self.validation, *self.test]

    def digest(self) -> str:
        validation = ["", *self.validation] if self.validation else []
        text = "\n".join([*self.train, *validation, "", *self.test])
        return f"{zlib.crc32(text.encode()):08x}"


@dataclass(frozen=True)
class DataSet:
    """What a network is trained on and tested with.

    Args:
        classes: their names, in the order of the labels.
        validation: what epochs are chosen by, where some images are held out for that.
        mean, std: of each channel, in [0, 1]; images are taken less mean, through std.
        size: height and width in pixels.
        digest: of all images and labels, or of the names of all photos.
        names: of the photos, where they are in files.
        counts: of the images of each class, by part; own data may not tell them.
        other: how many files of each ending are no photos, and left out.
        shape: of an image, where it is not square: (C, H, W).
    """

    classes: list[str]
    train: Source
    test: Source
    mean: Statistics
    std: Statistics
    size: int
    digest: str
    counts: dict[str, list[int]]
    names: PhotoNames | None = None
    validation: Source | None = None
    shape: tuple[int, ...] | None = None
    other: dict[str, int] = field(default_factory=dict)

    @property
    def image(self) -> tuple[int, ...]:
        """The shape of an image as the network gets it: (C, H, W)."""
        return self.shape or (len(self.mean), self.size, self.size)


def open_data(
    name: str,
    input_format: InputFormat,
    *,
    root: Path = Path("data"),
    augment: Sequence[str] = (),
    validate: float = 0.0,
    download: bool = False,
) -> DataSet:
    """The data set of that name, for a network that wants images of that format.

    Args:
        name: one of `NAMES`. A folder has a folder for every class, or `train` and
            `test` (or `val`) that have; without those, about a fifth of every class is
            held out as the test part. A photo's own name decides whether it is.
        root: where torchvision's loaders find their files.
        augment: names of augmentations, for the training part only.
        validate: the share of the training part that is held out for validation. Of
            photos a photo's own name decides, and a folder's own `val` beside `train`
            and `test` is taken as it is; of other sets the images are drawn once, with
            seed 0, each class in proportion.
        download: let torchvision fetch the files where they are missing.

    Raises: BadData for files that are missing or cannot be read; ValueError for an
    unknown name.
    """
    if name.startswith("folder:"):
        return _photo_data(
            Path(name.removeprefix("folder:")), input_format, augment, validate
        )
    if name == "digits":
        size = input_format.size or 32
        parts = [_bytes(*digits(part, size)) for part in ("train", "test")]
        classes, mirror = [str(digit) for digit in range(10)], False
    elif name in LOADERS:
        mirror = LOADERS[name][2]
        classes, parts = _loaded(name, root, download)
        parts = [
            (_resized(images, input_format.size), labels) for images, labels in parts
        ]
    else:
        raise ValueError(f"unknown data {name!r}; expected one of {', '.join(NAMES)}")
    (images, labels), (tests, truth) = parts
    images, tests = (
        with_channels(part, input_format.channels) for part in (images, tests)
    )
    digest = _digest(images, labels, tests, truth)
    counts = {"test": _counts(truth, classes)}
    validation: tuple[Tensor, Tensor] | None = None
    if validate:
        chosen = held_out_rows(labels, validate)
        digest = _digest(images, labels, chosen, tests, truth)
        validation = images[chosen], labels[chosen]
        images, labels = images[~chosen], labels[~chosen]
        counts["validation"] = _counts(validation[1], classes)
    counts["train"] = _counts(labels, classes)
    mean, std = input_format.mean, input_format.std
    if mean is None or std is None:
        mean, std = _statistics(images)
    drawn, plain = by_name(augment, mirror=mirror), ToNetwork(mean, std)
    train = (
        InMemory(images, labels, ToNetwork(mean, std, drawn), drawn.draws)
        if augment
        else _unchanging(images, labels, plain)
    )
    return DataSet(
        classes,
        train,
        _unchanging(tests, truth, plain),
        mean,
        std,
        images.shape[-1],
        digest,
        counts,
        validation=_unchanging(*validation, plain) if validation else None,
    )


def held_out_rows(labels: Tensor, share: float) -> Tensor:
    """Which images (N,) are held out: of every class that share, drawn with seed 0.

    A larger share holds out all that a smaller one does, and some more.

    Raises: BadData for a class with one image.
    """
    order = torch.randperm(len(labels), generator=seeded(0))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        own = order[labels[order] == label]
        if len(own) < 2:
            raise BadData(
                f"class {label} has one image; training and validation need two"
            )
        chosen[own[: min(max(round(share * len(own)), 1), len(own) - 1)]] = True
    return chosen


@dataclass(frozen=True)
class ToNetwork:
    """From bytes to what a network is given; an object, since a closure is not pickled."""

    mean: Statistics
    std: Statistics
    augmentation: Augmentation | None = None

    def __call__(self, batch: Tensor, draws: Tensor) -> Tensor:
        if self.augmentation is not None:
            batch = self.augmentation.apply(batch, draws)
        return normalised(batch, self.mean, self.std)


def _unchanging(images: Tensor, labels: Tensor, plain: ToNetwork) -> InMemory:
    """Images to which nothing is drawn: made numbers once, where memory allows it."""
    if images.numel() > AS_NUMBERS:
        return InMemory(images, labels, plain)
    return InMemory(plain(images, torch.empty(len(images), 0)), labels)


def _counts(labels: Tensor, classes: list[str]) -> list[int]:
    return labels.bincount(minlength=len(classes)).tolist()  # type: ignore[no-any-return]


def _digest(*tensors: Tensor) -> str:
    crc = 0
    for tensor in tensors:
        crc = zlib.crc32(tensor.contiguous().numpy().tobytes(), crc)
    return f"{crc:08x}"


def _bytes(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return (images * 255).round().to(torch.uint8), labels


def _loaded(
    name: str, root: Path, download: bool
) -> tuple[list[str], list[tuple[Tensor, Tensor]]]:
    loader, folder, _, _ = LOADERS[name]
    parts = []
    for train in (True, False):
        try:
            part = loader(root, train=train, download=download)
        except (
            Exception
        ) as error:  # what torchvision raises differs between its loaders
            if download:
                raise BadData(f"{name} could not be fetched: {error}") from None
            raise BadData(
                f"{name} is not in {root / folder} or is damaged ({_first(error)}); "
                "put its files there, or let them be fetched with --download"
            ) from None
        images = torch.as_tensor(part.data)
        images = (
            images.permute(0, 3, 1, 2).contiguous()
            if images.ndim == 4
            else images[:, None]
        )
        parts.append((images, torch.as_tensor(part.targets)))
    return list(part.classes), parts


def _first(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _resized(images: Tensor, size: int | None) -> Tensor:
    if size is None or size == images.shape[-1]:
        return images
    return torch.cat(
        [T.resize(part, [size, size], antialias=True) for part in images.split(1000)]
    )


def _statistics(images: Tensor) -> tuple[Statistics, Statistics]:
    """Mean and standard deviation of each channel, as numbers from 0 to 1.

    From counts of the 256 values, so that they do not depend on the order of additions.
    """
    value = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        count = channel.flatten().long().bincount(minlength=256).double()
        mean = (count * value).sum() / count.sum()
        means.append(mean.item())
        stds.append(((count * (value - mean) ** 2).sum() / count.sum()).sqrt().item())
    return tuple(means), tuple(max(std, 1e-3) for std in stds)


def _photo_data(
    path: Path, input_format: InputFormat, augment: Sequence[str], validate: float
) -> DataSet:
    if not validate:
        return _folder_data(*parts(path), input_format, augment)
    train, validation, test = with_validation(path, validate)
    return _folder_data(train, test, input_format, augment, validation)


def _folder_data(
    train: Folder,
    test: Folder,
    input_format: InputFormat,
    augment: Sequence[str] = (),
    validation: Folder | None = None,
) -> DataSet:
    # ImageNet's statistics, or their mean for a network that reads grey.
    colours, spreads = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    grey = input_format.channels == 1
    mean = input_format.mean or ((math.fsum(colours) / 3,) if grey else colours)
    std = input_format.std or ((math.fsum(spreads) / 3,) if grey else spreads)
    input_format = replace(input_format, mean=mean, std=std)
    source = Photos(train.full_paths(), input_format, augment)
    names = PhotoNames([n for n, _ in train.files], [n for n, _ in test.files])
    counts = {"train": train.counts(), "test": test.counts()}
    if validation is not None:
        names.validation.extend(n for n, _ in validation.files)
        counts["validation"] = validation.counts()
    return DataSet(
        train.classes,
        source,
        Photos(test.full_paths(), input_format),
        mean,
        std,
        source.size,
        names.digest(),
        counts,
        names,
        Photos(validation.full_paths(), input_format)
        if validation is not None
        else None,
        other=dict(Counter(train.other) + Counter(test.other)),
    )


# --- for testing what has been trained ------------------------------------------------


def all_photos(
    path: Path, input_format: InputFormat, classes: Sequence[str]
) -> DataSet:
    """A folder of photos to test with, in full; it need not have all of the classes.

    Where it is divided into `train` and `test` (or `val`), the test part.

    Raises: BadData for a class that is not one of `classes`.
    """
    tests = next((path / n for n in TEST if (path / n).is_dir()), path)
    folder = scan(tests, classes)
    if not folder.files:
        raise BadData(f"{tests} has no photo")
    return _folder_data(Folder(tests, list(classes), []), folder, input_format)


def run_test_photos(
    path: Path, input_format: InputFormat, photo_names: PhotoNames
) -> tuple[DataSet, str]:
    """The photos that a run held out, as far as they are still there; and what changed."""
    train, test = parts(path)
    if train.path != test.path:  # divided by whoever made the folder
        return _folder_data(train, test, input_format), ""
    present = {name: label for part in (train, test) for name, label in part.files}
    kept = [(name, present[name]) for name in photo_names.test if name in present]
    if not kept:
        raise BadData(
            f"{path} has none of the {len(photo_names.test)} photos held out then"
        )
    data = _folder_data(train, Folder(path, test.classes, kept), input_format)
    return data, photo_changes(photo_names, present)


def photo_changes(photo_names: PhotoNames, now: Iterable[str]) -> str:
    """How the photos differ from those of a run, in words; empty if they do not."""
    before, after = set(photo_names.all()), set(now)
    messages = []
    for names, is_, are in (
        (before - after, "is gone", "are gone"),
        (after - before, "is new", "are new"),
    ):
        if names:
            some = ", ".join(sorted(names)[:3]) + ", ..." * (len(names) > 3)
            count = len(names)
            messages.append(
                f"{count} photo{'s' * (count > 1)} "
                f"{is_ if count == 1 else are} ({some})"
            )
    return "; ".join(messages)
