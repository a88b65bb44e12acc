"""Data sets by name: torchvision's loaders, the embedded digits, folders of photos."""

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as T

from .augment import Augmentation, by_name
from .data import digits
from .fit import BadData, InMemory, Source, generator

# torchvision's class, the folder that its files are in, whether a mirrored image is
# still of its class, and the side of an image.
LOADERS: dict[str, tuple[Callable[..., Any], str, bool, int]] = {
    "mnist": (datasets.MNIST, "MNIST/raw", False, 28),
    "fashion-mnist": (datasets.FashionMNIST, "FashionMNIST/raw", True, 28),
    "cifar10": (datasets.CIFAR10, "cifar-10-batches-py", True, 32),
    "cifar100": (datasets.CIFAR100, "cifar-100-python", True, 32),
}
NAMES = ("digits", *LOADERS, "folder:PATH")
Statistics = tuple[float, ...]


@dataclass(frozen=True)
class DataSet:
    """What a network is trained on and tested with.

    Args:
        classes: their names, in the order of the labels.
        mean, std: of each channel, in [0, 1]; images are taken less mean, through std.
        size: height and width in pixels.
    """

    classes: list[str]
    train: Source
    test: Source
    mean: Statistics
    std: Statistics
    size: int


@dataclass(frozen=True)
class Look:
    """How images are given to a network: its channels, their statistics, the size.

    `mean` and `std` of None are those of the training images (photos: ImageNet's).
    """

    channels: int
    size: int | None = None
    mean: Statistics | None = None
    std: Statistics | None = None


def open_data(
    name: str,
    look: Look,
    *,
    root: Path = Path("data"),
    augment: Sequence[str] = (),
    download: bool = False,
) -> DataSet:
    """The data set of that name, for a network that wants images of that look.

    Args:
        name: one of `NAMES`. A folder has a folder for every class, or `train` and
            `val` (or `test`) that have; without those, a fifth of every class, drawn
            once with seed 0, is held out as the test part.
        root: where torchvision's loaders find their files.
        augment: names of augmentations, for the training part only.
        download: let torchvision fetch the files where they are missing.

    Raises: BadData for files that are missing or cannot be read; ValueError for an
    unknown name.
    """
    if name.startswith("folder:"):
        return _photos(Path(name.removeprefix("folder:")), look, augment)
    if name == "digits":
        size = look.size or 32
        parts = [_bytes(*digits(part, size)) for part in ("train", "test")]
        classes, mirror = [str(digit) for digit in range(10)], False
    elif name in LOADERS:
        mirror = LOADERS[name][2]
        classes, parts = _loaded(name, root, download)
        parts = [(_resized(images, look.size), labels) for images, labels in parts]
    else:
        raise ValueError(f"unknown data {name!r}; expected one of {', '.join(NAMES)}")
    (images, labels), (tests, truth) = parts
    images, tests = (_channels(part, look.channels) for part in (images, tests))
    mean, std = look.mean, look.std
    if mean is None or std is None:
        mean, std = _statistics(images)
    to_network = partial(normalised, mean=mean, std=std)
    drawn = by_name(augment, mirror=mirror)

    def augmented(batch: Tensor, draws: Tensor) -> Tensor:
        return to_network(drawn.apply(batch, draws))

    def unchanged(batch: Tensor, draws: Tensor) -> Tensor:
        return to_network(batch)

    return DataSet(
        classes,
        InMemory(images, labels, augmented, drawn.draws),
        InMemory(tests, truth, unchanged),
        mean,
        std,
        images.shape[-1],
    )


def normalised(images: Tensor, mean: Statistics, std: Statistics) -> Tensor:
    """Bytes (N, C, H, W) as numbers, less the mean and through the deviation."""
    numbers = images.to(torch.get_default_dtype()).div_(255)
    shape = (1, len(mean), 1, 1)
    center = torch.tensor(mean, dtype=numbers.dtype).view(shape)
    spread = torch.tensor(std, dtype=numbers.dtype).view(shape)
    return numbers.sub_(center).div_(spread)


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


def _channels(images: Tensor, channels: int) -> Tensor:
    """Grey as equal colours, colours as grey; ValueError for what is neither."""
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.repeat(1, channels, 1, 1)
    if channels == 1:
        return T.rgb_to_grayscale(images)
    raise ValueError(
        f"the network reads {channels} channels, the images have {images.shape[1]}"
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


class Photos:
    """Images in files, read when they are needed.

    Args:
        files: paths and labels.
        look: of the network; size 224 and ImageNet's statistics where it says none.
        train: cut a random part, mirror it, and augment, instead of cutting the middle.
    """

    def __init__(
        self, files: list[tuple[str, int]], look: Look, augment: Sequence[str] = ()
    ) -> None:
        self.files, self.look = files, look
        self.size = look.size or 224
        self.targets = torch.tensor([label for _, label in files])
        rest = [name for name in augment if name != "basic-augmentation"]
        self.cut = "basic-augmentation" in augment
        self.augmentation: Augmentation = by_name(rest)
        self.draws = self.augmentation.draws + self.cut

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        images = []
        with torch.random.fork_rng(devices=[]):
            for n, row in enumerate(rows.tolist()):
                if self.cut:  # of this image alone
                    seed = int(draws[n, -1].item() * 2**53)
                    torch.default_generator.manual_seed(seed)
                images.append(self._cut(_read(self.files[row][0])))
        batch = self.augmentation.apply(
            torch.stack(images), draws[:, : self.augmentation.draws]
        )
        batch = _channels(batch, self.look.channels)
        mean, std = self.look.mean, self.look.std
        assert mean is not None and std is not None
        return normalised(batch, mean, std), self.targets[rows]

    def _cut(self, image: Tensor) -> Tensor:
        if self.cut:
            cut = v2.RandomResizedCrop(self.size, antialias=True)(image)
            return v2.RandomHorizontalFlip()(cut)  # type: ignore[no-any-return]
        # The usual ratio of the shorter side to what is cut out: 256 to 224.
        image = T.resize(image, [math.ceil(self.size / 0.875)], antialias=True)
        return T.center_crop(image, [self.size, self.size])  # type: ignore[no-any-return]


def _read(path: str) -> Tensor:
    """The image as bytes (3, H, W); BadData that names the file if it is none."""
    try:
        with Image.open(path) as file, warnings.catch_warnings():
            image: Image.Image = file
            if image.mode.startswith("I;16"):  # Pillow would cut it off at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            warnings.filterwarnings("ignore", "Palette images with Transparency")
            return T.pil_to_tensor(image.convert("RGB"))  # type: ignore[no-any-return]
    except Exception as error:  # what Pillow raises differs between formats
        raise BadData(f"{path} is not an image that can be read: {error}") from None


def _photos(path: Path, look: Look, augment: Sequence[str]) -> DataSet:
    tests = next((path / n for n in ("val", "test") if (path / n).is_dir()), None)
    if tests is not None and (path / "train").is_dir():
        found, held = _images(path / "train"), _images(tests)
        if found.classes != held.classes:
            differ = ", ".join(sorted(set(found.classes) ^ set(held.classes)))
            raise BadData(f"{path}: train and {tests.name} differ in {differ}")
        parts = [found.samples, held.samples]
    else:
        found = _images(path)
        parts = _held_out(found.samples)
    # ImageNet's statistics, or their mean for a network that reads grey.
    colours, spreads = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    grey = look.channels == 1
    mean = look.mean or ((math.fsum(colours) / 3,) if grey else colours)
    std = look.std or ((math.fsum(spreads) / 3,) if grey else spreads)
    look = Look(look.channels, look.size, mean, std)
    train, test = Photos(parts[0], look, augment), Photos(parts[1], look)
    return DataSet(found.classes, train, test, mean, std, train.size)


def _images(path: Path) -> datasets.ImageFolder:
    try:
        return datasets.ImageFolder(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise BadData(
            f"{path} is no folder of class folders: {_first(error)}"
        ) from None


def _held_out(files: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """All but a fifth of every class, and that fifth (at least one image)."""
    train, test = [], []
    for label in sorted({label for _, label in files}):
        own = [file for file in files if file[1] == label]
        if len(own) < 2:
            folder = os.path.dirname(own[0][0])
            raise BadData(f"{folder} has one image; training and testing need two")
        order = torch.randperm(len(own), generator=generator(0, label)).tolist()
        held = max(len(own) // 5, 1)
        test += [own[n] for n in sorted(order[:held])]
        train += [own[n] for n in sorted(order[held:])]
    return [train, test]
