"""Annotated images in COCO's JSON form: read, checked before a run, fitted to one size.

What cannot be used is refused with file and id; what is left out is told the same way.
"""

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from .fit import BadData
from .photos import ORIENTATION, TEST, TRAIN, held_out, normalised, read, with_channels

Json = dict[str, Any]
IGNORED = 255  # label of pixels that do not count
LISTS = ("images", "annotations", "categories")
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width


@dataclass(frozen=True)
class Region:
    """One annotation.

    Args:
        label: place of its category in the order of the categories' ids.
        box: x1, y1, x2, y2 in pixels, inside the image; None where masks are read.
        mask: polygons, or a run-length code {"size", "counts"}; None where boxes are.
        crowd: whether it covers many objects, which are not told apart.
    """

    id: int
    label: int
    box: tuple[float, ...] | None
    mask: Any
    crowd: bool


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file, its name in the JSON file, its size, and what is to be seen in it."""

    id: int
    name: str
    path: str
    width: int
    height: int
    regions: list[Region] = field(default_factory=list)


@dataclass(frozen=True)
class Annotations:
    """What a JSON file holds, checked; `notes` tell what was changed or left out."""

    path: Path
    classes: list[str]
    images: list[AnnotatedImage]
    notes: list[str]

    def objects(self) -> int:
        return sum(not r.crowd for image in self.images for r in image.regions)


# --- reading -------------------------------------------------------------------------


def parts(place: str, masks: bool) -> tuple[Annotations, Annotations]:
    """What is trained on and what is tested with.

    Args:
        place: a JSON file; two with a comma between; or a folder with one JSON file, or
            with one whose name says train and one whose name says test (or val).
        masks: read masks, not boxes.

    Of one file about a fifth of the images is held out, as of photos: an image's own
    name decides.
    Raises: BadData.
    """
    first, second = _files(place)
    train = annotations(first, masks)
    if second is not None:
        test = annotations(second, masks)
        if test.classes != train.classes:
            differ = sorted(set(train.classes) ^ set(test.classes))
            told = ", ".join(differ) or "their order"
            raise BadData(f"{first} and {second} differ in their categories: {told}")
    else:
        if len(train.images) < 2:
            raise BadData(
                f"{first} has {len(train.images)} images; training and testing need two"
            )
        held = {name for name, _ in held_out([(i.name, 0) for i in train.images])}
        sides: tuple[list[AnnotatedImage], list[AnnotatedImage]] = ([], [])
        for image in train.images:
            sides[image.name in held].append(image)
        test = Annotations(first, train.classes, sides[1], [])
        train = Annotations(first, train.classes, sides[0], train.notes)
    some_objects(train, "learn from")
    some_objects(test, "test with")
    return train, test


def some_objects(part: Annotations, what: str) -> None:
    """BadData where there is nothing to learn from, or to test with."""
    if not part.objects():
        raise BadData(
            f"{part.path} has no annotated object to {what} in {len(part.images)} images"
        )


def _files(place: str) -> tuple[Path, Path | None]:
    path = Path(place)
    if path.is_file():
        return path, None
    if not path.exists() and "," in place:
        first, _, second = place.partition(",")
        return Path(first), Path(second)
    if not path.is_dir():
        raise BadData(f"there is no folder and no JSON file {place}")
    found = sorted([*path.glob("*.json"), *path.glob("*/*.json")])
    instances = [p for p in found if p.name.startswith("instances_")]
    found = instances or found  # not the captions that lie beside them
    if len(found) == 1:
        return found[0], None

    def of(names: Sequence[str]) -> list[Path]:
        for name in names:
            some = [p for p in found if name in p.relative_to(path).as_posix().lower()]
            if some:
                return some
        return []

    train, test = of(TRAIN), of(TEST)
    if len(train) == len(test) == 1 and train != test:
        return train[0], test[0]
    names = ", ".join(p.relative_to(path).as_posix() for p in found[:6]) or "none"
    raise BadData(
        f"{path}: expected one JSON file, or one for train and one for test or val; "
        f"found {names}; name two as coco:TRAIN.json,TEST.json"
    )


def annotations(path: Path, masks: bool) -> Annotations:
    """The annotated images of a JSON file, in the order of the file.

    Raises: BadData that names the file and the id of the first thing that is wrong, and
    says how many others are.
    """
    content = _content(path)
    reader = _Reader(path, masks)
    classes = reader.categories(content["categories"])
    images = reader.images(content["images"])
    reader.annotations(content["annotations"], images)
    if reader.problems:
        more = len(reader.problems) - 1
        also = f" (and {more:,} more of such)" if more else ""
        raise BadData(f"{path}: {reader.problems[0]}{also}")
    return Annotations(path, classes, list(images.values()), reader.notes())


def _content(path: Path) -> Json:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadData(f"{path} is no JSON file: {error}") from None
    for name in LISTS:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise BadData(
                f"{path} is not in COCO's form: expected the lists {', '.join(LISTS)}, "
                f"found no {name}"
            )
    return content  # type: ignore[no-any-return]


class _Reader:
    """Goes through the three lists of a file, and notes all that is wrong."""

    def __init__(self, path: Path, masks: bool) -> None:
        self.path, self.masks = path, masks
        self.problems: list[str] = []
        self.labels: dict[int, int] = {}
        self.told: dict[str, list[int]] = {}  # what was done -> annotation ids
        parent, stem = path.parent, path.stem
        self.roots = [
            *(parent, parent / "images", parent / stem),
            *(parent.parent / "images", parent.parent / stem.split("_")[-1]),
        ]

    def notes(self) -> list[str]:
        notes = []
        for what, ids in self.told.items():
            some = ", ".join(map(str, ids[:3])) + ", ..." * (len(ids) > 3)
            number = "annotation" if len(ids) == 1 else "annotations"
            notes.append(f"{self.path}: {len(ids):,} {number} {what} ({some})")
        return notes

    def _numbered(self, entries: list[Any], what: str) -> Iterator[tuple[int, Json]]:
        seen: set[int] = set()
        for place, entry in enumerate(entries):
            number = entry.get("id") if isinstance(entry, dict) else None
            if type(number) is not int:
                self.problems.append(f"{what} number {place} has no whole number as id")
            elif number in seen:
                self.problems.append(f"{what} {number} is there twice")
            else:
                seen.add(number)
                yield number, entry

    def categories(self, entries: list[Any]) -> list[str]:
        names: dict[int, str] = {}
        for number, entry in self._numbered(entries, "category"):
            name = entry.get("name")
            if not isinstance(name, str) or not name:
                self.problems.append(f"category {number} has no name")
            elif name in names.values():
                self.problems.append(f"category {number}: the name {name!r} is taken")
            names[number] = str(name)
        if not names and not self.problems:
            self.problems.append("there is no category")
        self.labels = {number: label for label, number in enumerate(sorted(names))}
        return [names[number] for number in sorted(names)]

    def images(self, entries: list[Any]) -> dict[int, AnnotatedImage]:
        images: dict[int, AnnotatedImage] = {}
        names: set[str] = set()
        for number, entry in self._numbered(entries, "image"):
            name: Any = entry.get("file_name")
            width: Any = entry.get("width")
            height: Any = entry.get("height")
            size = width, height
            if not isinstance(name, str) or not name or "\0" in name:
                self.problems.append(f"image {number} has no file_name")
                continue
            if any(type(side) is not int or side < 1 for side in size):
                self.problems.append(
                    f"image {number} ({name}): width and height are {size}, expected "
                    "whole numbers above 0"
                )
                continue
            if name in names:
                self.problems.append(f"image {number}: the file {name} is there twice")
                continue
            names.add(name)
            file = next((r / name for r in self.roots if (r / name).is_file()), None)
            if file is None:
                self.problems.append(
                    f"image {number}: there is no file {name} in {self.roots[0]} or "
                    f"{self.roots[1]}"
                )
                continue
            if problem := _differs(file, size):
                self.problems.append(f"image {number}: {problem}")
                continue
            images[number] = AnnotatedImage(number, name, str(file), width, height)
        self.known = {e.get("id") for e in entries if isinstance(e, dict)}
        return images

    def annotations(
        self, entries: list[Any], images: dict[int, AnnotatedImage]
    ) -> None:
        for number, entry in self._numbered(entries, "annotation"):
            image, category = entry.get("image_id"), entry.get("category_id")
            crowd = entry.get("iscrowd", 0)
            if type(image) is not int or image not in self.known:
                problem = f"is of image {image!r}, which is not there"
            elif type(category) is not int or category not in self.labels:
                problem = f"is of category {category!r}, which is not there"
            elif crowd not in (0, 1):
                problem = f"has iscrowd {crowd!r}, expected 0 or 1"
            elif image not in images:
                continue  # told already
            else:
                problem = self._add(number, entry, images[image])
            if problem:
                self.problems.append(f"annotation {number} {problem}")

    def _add(self, number: int, entry: Json, image: AnnotatedImage) -> str:
        """What is wrong with an annotation; else it is added to its image."""
        box: tuple[float, ...] | None = None
        mask, crowd = None, bool(entry.get("iscrowd", 0))
        if self.masks:
            mask = entry.get("segmentation")
            if problem := mask_problem(mask, image.width, image.height):
                return f"({image.name}) {problem}"
        else:
            given: Any = entry.get("bbox")
            if not _numbers(given) or len(given) != 4:
                return f"({image.name}) has bbox {_short(given)}, expected x, y, w, h"
            x, y, w, h = map(float, given)
            limits = (image.width, image.height) * 2
            corners = (x, y, x + w, y + h)
            clipped = tuple(
                min(max(v, 0.0), float(most))
                for v, most in zip(corners, limits, strict=True)
            )
            if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
                self._tell("without area inside their image left out", number)
                return ""
            if max(abs(a - b) for a, b in zip(corners, clipped, strict=True)) > 0.01:
                self._tell("with a box beyond their image clipped to it", number)
            box = clipped
        if crowd:
            self._tell("of crowds not learnt from, and not counted in tests", number)
        label = self.labels[entry["category_id"]]
        image.regions.append(Region(number, label, box, mask, crowd))
        return ""

    def _tell(self, what: str, number: int) -> None:
        self.told.setdefault(what, []).append(number)


def _differs(file: Path, size: tuple[int, int]) -> str:
    """What is wrong with an image file, as far as its head tells."""
    try:
        with Image.open(file) as image:
            found = image.size
            if image.getexif().get(ORIENTATION, 1) in TURNED:
                found = found[::-1]
    except Exception as error:  # what Pillow raises differs between formats
        return f"{file} is not an image that can be read: {error}"
    if found == size:
        return ""
    return (
        f"{file} is {found[0]} x {found[1]} pixels as it is to be seen, annotated are "
        f"{size[0]} x {size[1]}"
    )


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(v) in (int, float) and math.isfinite(v) for v in values
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


# --- masks ---------------------------------------------------------------------------


def mask_problem(mask: Any, width: int, height: int) -> str:
    """What is wrong with a mask of an image of that size; empty if nothing is."""
    if isinstance(mask, dict):
        try:
            counts = run_lengths(mask["counts"])
        except (KeyError, ValueError, TypeError):
            return "has a run-length code that cannot be read"
        if mask.get("size") != [height, width]:
            return f"has a mask of {mask.get('size')}, the image is [{height}, {width}]"
        if min(counts, default=0) < 0 or sum(counts) != height * width:
            return (
                f"has a run-length code of {sum(counts)} pixels, the image has "
                f"{height * width}"
            )
        return ""
    if not isinstance(mask, list) or not mask:
        return f"has no mask: segmentation is {_short(mask)}"
    for place, polygon in enumerate(mask):
        if not _numbers(polygon):
            return f"has a polygon (number {place}) that is no list of numbers"
        if len(polygon) % 2:
            return f"has a polygon (number {place}) of an odd count: {len(polygon)}"
        if len(polygon) < 6:
            return f"has a polygon (number {place}) of {len(polygon) // 2} points"
        if max(map(abs, polygon)) > 2 * max(width, height):
            return f"has a polygon (number {place}) far outside of the image"
    return ""


def run_lengths(counts: Any) -> list[int]:
    """The lengths of runs of 0, 1, 0, ... down the columns; compressed ones are text.

    Compressed as pycocotools does it: 5 bits a character, signed, from the fourth on as
    the difference to the one two places before. It reads past the end of broken text.

    Raises: ValueError or TypeError for what is neither.
    """
    if isinstance(counts, list):
        if any(type(count) is not int for count in counts):
            raise TypeError(counts)
        return counts
    if not isinstance(counts, str):
        raise TypeError(counts)
    found: list[int] = []
    value = shift = 0
    for byte in counts.encode("ascii"):
        bits = byte - 48
        if not 0 <= bits < 64:
            raise ValueError(counts)
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = shift = 0
    if shift or not found:
        raise ValueError(counts)
    return found


def decoded(mask: Any, width: int, height: int) -> Tensor:
    """A checked mask as bool (H, W)."""
    if isinstance(mask, dict):
        counts = run_lengths(mask["counts"])
        bits = np.arange(len(counts)) % 2 == 1
        runs = np.repeat(bits, counts).reshape(width, height).T
        return torch.from_numpy(runs.copy())
    from pycocotools import mask as coco_mask

    codes = coco_mask.frPyObjects(mask, height, width)
    # Its own decoder warns of NumPy 2.
    counts = coco_mask.merge(codes)["counts"].decode()
    return decoded({"counts": counts}, width, height)


def label_map(image: AnnotatedImage) -> Tensor:
    """The class of every pixel, int64 (H, W): 0 the background, label + 1, or IGNORED.

    Where objects overlap, the smaller one is seen.
    """
    labels = torch.zeros(image.height, image.width, dtype=torch.long)
    masks = [(decoded(r.mask, image.width, image.height), r) for r in image.regions]
    for mask, region in sorted(masks, key=lambda m: (not m[1].crowd, -int(m[0].sum()))):
        labels[mask] = IGNORED if region.crowd else region.label + 1
    return labels


# --- batches -------------------------------------------------------------------------


@dataclass(frozen=True)
class CocoImages:
    """Annotated images as a source of batches, read when they are needed.

    Each is made as large as fits into a square, in its upper left corner; the rest is of
    the mean colour, and of no class. Boxes and masks go with it.

    Args:
        masks: targets are labels of pixels (N, size, size), not boxes.
        test: crowds are among the boxes, marked by "iscrowd".
    """

    images: list[AnnotatedImage]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    masks: bool
    test: bool = False
    draws = 0

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, Any]:
        chosen = [self.images[row] for row in rows.tolist()]
        batch = torch.stack(
            [fitted(i.path, self.size, self.mean, self.std) for i in chosen]
        )
        if self.masks:
            return batch, torch.stack([self._labels(image) for image in chosen])
        return batch, [self._boxes(image) for image in chosen]

    def _labels(self, image: AnnotatedImage) -> Tensor:
        height, width = inner_size(image.height, image.width, self.size)
        labels = T.resize(
            label_map(image)[None], [height, width], T.InterpolationMode.NEAREST
        )[0]
        large = torch.full((self.size, self.size), IGNORED)
        large[:height, :width] = labels
        return large

    def _boxes(self, image: AnnotatedImage) -> dict[str, Tensor]:
        height, width = inner_size(image.height, image.width, self.size)
        scale = torch.tensor([width / image.width, height / image.height]).repeat(2)
        kept = [r for r in image.regions if self.test or not r.crowd]
        boxes = torch.tensor([r.box for r in kept], dtype=scale.dtype).view(-1, 4)
        target = {
            "boxes": boxes * scale,
            "labels": torch.tensor([r.label for r in kept], dtype=torch.long),
        }
        if self.test:
            target["iscrowd"] = torch.tensor([int(r.crowd) for r in kept])
        return target


def inner_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of an image once its longer side is `size`."""
    longest = max(height, width)
    return max(round(height * size / longest), 1), max(round(width * size / longest), 1)


def fitted(
    path: str, size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensor:
    """An image file as the network gets it: (C, size, size); BadData that names it."""
    image = read(path, size)
    height, width = inner_size(image.shape[-2], image.shape[-1], size)
    small = T.resize(image, [height, width], antialias=True)
    numbers = normalised(with_channels(small[None], len(mean)), mean, std)[0]
    large = numbers.new_zeros(len(mean), size, size)
    large[:, :height, :width] = numbers
    return large


def digest(*parts_of: Annotations) -> str:
    """Of names, sizes and annotations: the same for the same data, wherever they lie."""
    told = [
        [
            part.classes,
            [
                [
                    i.name,
                    i.width,
                    i.height,
                    [[r.id, r.label, r.box, r.mask, r.crowd] for r in i.regions],
                ]
                for i in part.images
            ],
        ]
        for part in parts_of
    ]
    return f"{zlib.crc32(json.dumps(told).encode()):08x}"
