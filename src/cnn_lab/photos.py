"""Photos in folders: which files are photos, which part they belong to, how they are read."""

import hashlib
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as T

from .augment import Augmentation, by_name
from .fit import BadData

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2"),
)
TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation")
TEST = ("test", "testing", *VALIDATION)  # the first that is there
FIFTH = 1 / 5
MIDDLE = 224 / 256  # the usual share of the shorter side that a test cuts out
ORIENTATION = ExifTags.Base.Orientation


# --- which files ---------------------------------------------------------------------


@dataclass(frozen=True)
class Folder:
    """A folder with a folder for every class.

    Args:
        classes: their names, sorted.
        files: paths below `path` and labels, sorted by class and name.
        other: how many files of each ending are no photos.
    """

    path: Path
    classes: list[str]
    files: list[tuple[str, int]]
    other: dict[str, int] = field(default_factory=dict)

    def counts(self) -> list[int]:
        """Photos per class."""
        counts = [0] * len(self.classes)
        for _, label in self.files:
            counts[label] += 1
        return counts

    def full_paths(self) -> list[tuple[str, int]]:
        """The files as they are opened, and their labels."""
        return [(str(self.path / name), label) for name, label in self.files]


def hidden(name: str) -> bool:
    """What programs leave behind: .ipynb_checkpoints, ._photo.jpg, __MACOSX, Thumbs.db."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def folders_in(path: Path) -> list[str]:
    """The folders of a folder that are not hidden, sorted; BadData if it is none."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not hidden(e.name))
    except OSError as error:
        raise BadData(
            f"{path} is no folder of class folders: {error.strerror}"
        ) from None


def scan(path: Path, classes: Sequence[str] | None = None) -> Folder:
    """The photos below the class folders of `path`.

    Args:
        classes: the classes that there are, whose labels are given; all folders that
            are found must be of these, but not all of these must be found.

    Raises: BadData that says what was found instead.
    """
    names = folders_in(path)
    if not names:
        raise BadData(f"{path} has no folder for a class")
    if classes is not None:
        for name in names:
            if name not in classes:
                raise BadData(
                    f"{path} has the class {name!r}, which is none of "
                    f"{', '.join(classes)}"
                )
    known = list(classes or names)
    files: list[tuple[str, int]] = []
    other: dict[str, int] = {}
    for name in names:
        label, before = known.index(name), len(files)
        for root, folders, file_names in os.walk(path / name, followlinks=True):
            folders[:] = sorted(n for n in folders if not hidden(n))
            for file in sorted(file_names):
                ending = os.path.splitext(file)[1].lower()
                if hidden(file):
                    continue
                if ending in ENDINGS:
                    place = os.path.relpath(os.path.join(root, file), path)
                    files.append((place.replace(os.sep, "/"), label))
                else:
                    other[ending] = other.get(ending, 0) + 1
        if len(files) == before and classes is None:
            endings = ", ".join(sorted(e or "none" for e in other)) or "no file at all"
            raise BadData(
                f"{path / name} has no photo: it has {endings}; photos end in "
                f"{', '.join(ENDINGS)}"
            )
    return Folder(path, known, files, other)


def divided(path: Path) -> bool:
    """Whether whoever made the folder has divided it into the two parts."""
    names = folders_in(path)
    return any(n in names for n in TRAIN) and any(n in names for n in TEST)


def parts(path: Path) -> tuple[Folder, Folder]:
    """What is trained on and what is tested with.

    `train` and one of `HELD`, as they are divided; else a part of every class is held
    out, of which `held_out` decides.

    Raises: BadData for a folder that is a level too high, has one class, or parts that
    differ in their classes.
    """
    names = folders_in(path)
    train = next((n for n in TRAIN if n in names), None)
    tests = next((n for n in TEST if n in names), None)
    if train and tests:
        folder, test_folder = scan(path / train), scan(path / tests)
        if folder.classes != test_folder.classes:
            differ = ", ".join(sorted(set(folder.classes) ^ set(test_folder.classes)))
            raise BadData(f"{path}: {train} and {tests} differ in {differ}")
        _check_classes(folder)
        return folder, test_folder
    if tests and set(names) <= {*TRAIN, *TEST}:
        raise BadData(f"{path} has {', '.join(names)} and no train to learn from")
    folder = scan(path / train if train and names == [train] else path)
    _check_classes(folder)
    test = held_out(folder.files)
    kept = [file for file in folder.files if file not in test]
    rest = Folder(folder.path, folder.classes, kept, folder.other)
    return rest, Folder(folder.path, folder.classes, sorted(test, key=_by_label))


def with_validation(path: Path, share: float) -> tuple[Folder, Folder, Folder]:
    """What is trained on, what a choice is made by, and what is tested with.

    Of `train`, `test` and one of `VALIDATION` each is what its name says, whatever the
    share; else that share of every class is held out from the training part.

    Raises: BadData as `parts` does, and for a class that is then left without a photo.
    """
    train, test = parts(path)
    name = next((n for n in VALIDATION if n in folders_in(path)), None)
    if name and train.path != test.path != path / name:
        validation = scan(path / name)
        if validation.classes != train.classes:
            differ = ", ".join(sorted(set(validation.classes) ^ set(train.classes)))
            raise BadData(f"{path}: {train.path.name} and {name} differ in {differ}")
        return train, validation, test
    held = held_out(train.files, share, "validation")
    kept = [file for file in train.files if file not in held]
    return (
        Folder(train.path, train.classes, kept, train.other),
        Folder(train.path, train.classes, sorted(held, key=_by_label)),
        test,
    )


def _by_label(file: tuple[str, int]) -> tuple[int, str]:
    return file[1], file[0]


def _check_classes(folder: Folder) -> None:
    """BadData for a single class, which cannot be learnt."""
    if len(folder.classes) > 1:
        return
    only = folder.path / folder.classes[0]
    inner = folders_in(only)
    hint = f"; is it a level too high? {only} has {', '.join(inner)}" if inner else ""
    raise BadData(
        f"{folder.path} has the single class {only.name!r}; at least two are needed, "
        f"each a folder{hint}"
    )


def held_out(
    files: Sequence[tuple[str, int]], share: float = FIFTH, part: str = "testing"
) -> set[tuple[str, int]]:
    """The files of a part that is held out: a photo's own name decides.

    So a photo more or less moves no other. Of a class in which none falls to this part,
    or all do, the one whose number is lowest (highest) is moved.

    Args:
        share: of all files, from 0 to 1.
        part: for what; what is held out for one purpose tells nothing of the other.

    Raises: BadData for a class with one photo.
    """
    salt = b"" if part == "testing" else part.encode()
    numbers = {file: _number(file[0], salt) for file in files}
    held = {file for file, number in numbers.items() if number < int(share * 2**32)}
    for label in sorted({label for _, label in files}):
        own = sorted((f for f in files if f[1] == label), key=numbers.__getitem__)
        if len(own) < 2:
            folder = os.path.dirname(own[0][0])
            also = "" if part == "testing" else ", beside those held out for testing"
            raise BadData(f"{folder} has one image{also}; training and {part} need two")
        if own[0] not in held:
            held.add(own[0])
        elif own[-1] in held:
            held.remove(own[-1])
    return held


def _number(name: str, salt: bytes = b"") -> int:
    """Of a photo, by its path below the folder: spread evenly over 32 bits."""
    digest = hashlib.blake2b(name.encode(), digest_size=4, salt=salt).digest()
    return int.from_bytes(digest)


# --- how they are read ---------------------------------------------------------------


@dataclass(frozen=True)
class InputFormat:
    """How images are given to a network: its channels, their statistics, the size.

    `mean` and `std` of None are those of the training images (photos: ImageNet's). Photos
    are cut from the middle, or with `whole` given in full, as images in memory are.
    """

    channels: int
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    whole: bool = False


class Photos:
    """Images in files, read when they are needed.

    Args:
        files: paths and labels.
        input_format: of the network; size 224 and ImageNet's statistics where it says none.
        train: cut a random part, mirror it, and augment, instead of cutting the middle.
    """

    def __init__(
        self,
        files: list[tuple[str, int]],
        input_format: InputFormat,
        augment: Sequence[str] = (),
    ) -> None:
        self.files, self.input_format = files, input_format
        self.size = input_format.size or 224
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
                images.append(self._cut(read(self.files[row][0], self.size)))
        batch = self.augmentation.apply(
            torch.stack(images), draws[:, : self.augmentation.draws]
        )
        batch = with_channels(batch, self.input_format.channels)
        mean, std = self.input_format.mean, self.input_format.std
        assert mean is not None and std is not None
        return normalised(batch, mean, std), self.targets[rows]

    def _cut(self, image: Tensor) -> Tensor:
        if self.cut:
            cut = v2.RandomResizedCrop(self.size, antialias=True)(image)
            return v2.RandomHorizontalFlip()(cut)  # type: ignore[no-any-return]
        if self.input_format.whole:
            return T.resize(image, [self.size, self.size], antialias=True)  # type: ignore[no-any-return]
        image = T.resize(_not_thin(image), [math.ceil(self.size / MIDDLE)])
        return T.center_crop(image, [self.size, self.size])  # type: ignore[no-any-return]


def _not_thin(image: Tensor, ratio: int = 8) -> Tensor:
    """The middle of an image that is long and thin: resized whole, it would be huge."""
    h, w = image.shape[-2:]
    longest = ratio * min(h, w)
    if max(h, w) <= longest:
        return image
    return T.center_crop(image, [min(h, longest), min(w, longest)])  # type: ignore[no-any-return]


def read(path: str, size: int = 224) -> Tensor:
    """A photo as bytes (3, H, W), as it is to be seen; BadData that names the file.

    Turned as its EXIF tag says. Transparent pixels are put on white. Of 16 bits the
    upper eight are taken, and whole numbers of 32 bits are read as 16; floating-point
    numbers are read from 0 to 1.

    Of an image whose shorter side is more than 16 times `size`, that side is made 8 to 16
    times `size`: a JPEG is decoded smaller; any other is decoded whole, because Pillow
    cannot otherwise, in up to 4 bytes a pixel, and then averaged over squares.
    """
    try:
        # Pillow warns of what is large, and refuses what is twice that.
        large = Image.DecompressionBombWarning
        with (
            warnings.catch_warnings(action="ignore", category=large),
            Image.open(path) as file,
        ):
            # A file with a name may be mapped, and Pillow 13 maps a TIFF that is to be
            # turned by a quarter with rows of the wrong length.
            file.filename = ""
            if min(file.size) > 16 * size:  # JPEG only, and at least that large
                file.draft("RGB", (8 * size, 8 * size))
            image = _smaller(file, 8 * size)
            image.getexif()[ORIENTATION] = file.getexif().get(ORIENTATION, 1)
            ImageOps.exif_transpose(image, in_place=True)
            return T.pil_to_tensor(image)  # type: ignore[no-any-return]
    except Image.DecompressionBombError as error:
        told = str(error).partition(", could")[0]
        raise BadData(f"{path} is too large: {told}; make it smaller") from None
    except MemoryError:
        raise
    except Exception as error:  # what Pillow raises differs between formats
        raise BadData(f"{path} is not an image that can be read: {error}") from None


def _smaller(image: Image.Image, side: int) -> Image.Image:
    """An image as RGB, averaged over squares as long as its sides stay at least `side`.

    Band by band, so that of the whole image there is one copy, the decoded one.
    """
    factor = min(image.size) // side
    if factor < 2:
        return _colours(image)
    width, height = image.size
    size = math.ceil(width / factor), math.ceil(height / factor)
    small = Image.new("RGB", size)
    rows = 16 * factor
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        small.paste(_colours(band).reduce(factor), (0, top // factor))
    return small


def _colours(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        numbers = np.asarray(image)
        lowest, highest = int(numbers.min()), int(numbers.max())
        if lowest < 0 or highest > 65535:
            raise ValueError(
                f"numbers from {lowest} to {highest}; read are 8 and 16 bits"
            )
        image = Image.fromarray((numbers >> 8).astype(np.uint8))
    elif image.mode == "F":
        numbers = np.asarray(image)
        if not (numbers.min() >= 0 and numbers.max() <= 1):  # NaN too
            raise ValueError(
                f"numbers from {numbers.min():g} to {numbers.max():g}; "
                "floating-point ones are read from 0 to 1"
            )
        image = Image.fromarray((numbers * 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def normalised(
    images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensor:
    """Bytes (N, C, H, W) as numbers, less the mean and through the deviation."""
    numbers = images.to(torch.get_default_dtype()).div_(255)
    shape = (1, len(mean), 1, 1)
    center = torch.tensor(mean, dtype=numbers.dtype).view(shape)
    spread = torch.tensor(std, dtype=numbers.dtype).view(shape)
    return numbers.sub_(center).div_(spread)


def with_channels(images: Tensor, channels: int) -> Tensor:
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
