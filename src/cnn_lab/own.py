"""One's own network and data: an `nn.Module`, `Dataset`s, or the code that makes them.

A name of the form package.module:function is imported and called. A checkpoint holds
such a name and never the code; it is called only where whoever runs the command says it.
"""

import pickle
import random
import re
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, multiprocessing, nn
from torch.utils.data import IterableDataset, Subset, default_collate

from .fit import BadData
from .sources import DataSet, held_out_rows

GIVEN = "given from Python"  # in the place of a name
CODE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_code(name: str) -> bool:
    """Whether a name is that of a function in a module."""
    return CODE.fullmatch(name) is not None and not name.startswith("folder:")


def is_own(name: str) -> bool:
    """Whether what is named is code that a checkpoint does not hold."""
    return is_code(name) or name.startswith(GIVEN)


def function(name: str) -> Callable[..., Any]:
    """What package.module:function names; modules of the current folder are found too.

    Raises: ValueError that says what is missing.
    """
    module, _, wanted = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:  # as `python -m` does
        sys.path.insert(0, here)
    try:
        imported = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{name}: {module} cannot be imported: {describe_error(error)}"
            ) from error
        raise ValueError(
            f"{name}: there is no module {error.name!r}, neither in {here} nor installed"
        ) from None
    except Exception as error:
        raise ValueError(
            f"{name}: {module} cannot be imported: {describe_error(error)}"
        ) from error
    made = getattr(imported, wanted, None)
    if not callable(made):
        functions = [
            n for n, v in vars(imported).items() if callable(v) and n[0] != "_"
        ]
        raise ValueError(
            f"{name}: {module} has no function {wanted!r}; it has "
            f"{', '.join(functions) or 'none'}"
        )
    return made  # type: ignore[no-any-return]


def network(name: str, num_classes: int) -> nn.Module:
    """The module that package.module:function makes, called with `num_classes` alone.

    Raises: ValueError for a function that fails, or returns something else.
    """
    make = function(name)
    try:
        model = make(num_classes=num_classes)
    except Exception as error:
        raise ValueError(
            f"{name}(num_classes={num_classes}) failed: {describe_error(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{name} returned a {type(model).__name__}, expected a torch.nn.Module"
        )
    return model


def describe_error(error: Exception) -> str:
    """An error in one line, with the last line of one's own code that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    not_own = ("site-packages", str(Path(__file__).parent), "<frozen")
    own_frames = [f for f in frames if not any(part in f.filename for part in not_own)]
    message = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if not own_frames:
        return message
    return f"{message} ({Path(own_frames[-1].filename).name}, line {own_frames[-1].lineno})"


# --- data ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Datasets:
    """Data of one's own.

    Args:
        train: a map-style `torch.utils.data.Dataset` of (image, label): a
            floating-point image (C, H, W), given to the network as it is, and a class
            from 0 to K - 1.
        test: another, of the images to test with.
        classes: names of the K classes; those of `train.classes` if None.
        validation: images of their own for `Recipe.validate`, whose share is then of no
            account.
        collate: makes a batch (images (N, C, H, W), labels (N,)) of a list of items.
    """

    train: Any
    test: Any
    classes: Sequence[str] | None = None
    validation: Any = None
    collate: Callable[[list[Any]], Any] = default_collate


class Items:
    """A `Dataset` as a source of batches.

    What an item draws from torch's, NumPy's or Python's global generator depends on the
    seed of the run, the epoch and the step alone; in a test, on its row.
    """

    draws = 1

    def __init__(
        self, data: Any, part: str, classes: int, collate: Callable[[list[Any]], Any]
    ) -> None:
        self.data, self.part, self.classes = data, part, classes
        self.collate = collate

    def __len__(self) -> int:
        return len(self.data)

    def take(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        drawn = draws.shape[1] > 0
        seeds = ((draws[:, 0] * 2**32).long() if drawn else rows).tolist()
        items = []
        with _drawing():
            for row, seed in zip(rows.tolist(), seeds, strict=True):
                torch.default_generator.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed)  # noqa: NPY002
                try:
                    items.append(self.data[row])
                except Exception as error:
                    raise BadData(
                        f"{self.part} image {row}: {describe_error(error)}"
                    ) from error
            return self._batch(items, rows)

    def _batch(self, items: list[Any], rows: Tensor) -> tuple[Tensor, Tensor]:
        some = ", ".join(map(str, rows[:3].tolist())) + ", ..." * (len(rows) > 3)
        place = f"{self.part} images {some}"
        if not (isinstance(items[0], tuple | list) and len(items[0]) == 2):
            raise BadData(
                f"{place}: expected (image, label), got a {type(items[0]).__name__}"
            )
        try:
            images, labels = self.collate(items)
        except Exception as error:  # default_collate's differ with what it is given
            kind = type(items[0][0]).__name__
            message = " ".join(str(error).split())[:200]
            raise BadData(
                f"{place} do not make a batch ({message}); expected tensors (C, H, W) of "
                f"one size, got a {kind} first"
            ) from error
        floating = isinstance(images, Tensor) and images.is_floating_point()
        if not floating or images.ndim != 4:
            got = (
                f"{images.dtype} {tuple(images.shape)}"
                if isinstance(images, Tensor)
                else type(images).__name__
            )
            raise BadData(
                f"{place}: expected floating-point images (N, C, H, W), got {got}; "
                "let the Dataset's transform make them"
            )
        labels = torch.as_tensor(labels)
        whole = not labels.is_floating_point() and labels.shape == (len(images),)
        if not whole or not bool(((labels >= 0) & (labels < self.classes)).all()):
            raise BadData(
                f"{place}: expected labels from 0 to {self.classes - 1}, one for each "
                f"image, got {' '.join(str(labels.tolist()).split())[:60]}"
            )
        return images.to(torch.get_default_dtype()), labels.long()


@contextmanager
def _drawing() -> Iterator[None]:
    """Leave the three global generators as they were."""
    before, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(before)
        np.random.set_state(numbers)  # noqa: NPY002


def datasets(name: str) -> Any:
    """What package.module:function gives when it is called with nothing."""
    make = function(name)
    try:
        return make()
    except Exception as error:
        raise ValueError(f"{name}() failed: {describe_error(error)}") from error


def data_set(given: Any, validate: float = 0.0) -> DataSet:
    """`Datasets`, or a pair (train, test), as what a network is trained on.

    Raises: ValueError for what is no map-style Dataset, or has no names of classes;
    BadData for an item that is no (image, label).
    """
    if isinstance(given, tuple) and len(given) == 2:
        given = Datasets(*given)
    if not isinstance(given, Datasets):
        raise ValueError(
            f"data is a {type(given).__name__}, expected a pair (train, test) of "
            "torch Datasets, or cnn_lab.own.Datasets"
        )
    parts = {"train": given.train, "test": given.test}
    if given.validation is not None:
        if not validate:
            raise ValueError(
                "validation images are given and nothing is chosen by them: set "
                "validate, such as 0.1"
            )
        parts["validation"] = given.validation
    for part, data in parts.items():
        _map_style(part, data)
    classes = given.classes or getattr(given.train, "classes", None)
    if not classes or len(classes) < 2:
        raise ValueError(
            f"the classes are {classes!r}, expected the names of at least two: give "
            "them as Datasets(train, test, classes=[...])"
        )
    names = [str(name) for name in classes]
    if validate and given.validation is None:
        labels = _labels(given.train)
        chosen = held_out_rows(
            torch.zeros(len(given.train)) if labels is None else labels, validate
        )
        for part, mask in (("validation", chosen), ("train", ~chosen)):
            parts[part] = Subset(given.train, mask.nonzero().flatten().tolist())
    sources = {
        part: Items(data, part, len(names), given.collate)
        for part, data in parts.items()
    }
    digest, shapes = zlib.crc32(repr(names).encode()), {}
    for part, source in sorted(sources.items()):
        rows = torch.tensor([0, len(source) // 2, len(source) - 1])
        images, labels = source.take(rows, torch.empty(3, 0))
        shapes[part] = tuple(images.shape[1:])
        for tensor in (images, labels, torch.tensor(len(source))):
            digest = zlib.crc32(tensor.contiguous().numpy().tobytes(), digest)
    shape = shapes["train"]
    for part, other in shapes.items():
        if other != shape:
            raise ValueError(f"{part} images are {other}, training images {shape}")
    known = {part: _labels(data) for part, data in parts.items()}
    return DataSet(
        names,
        sources["train"],
        sources["test"],
        (0.0,) * shape[0],
        (1.0,) * shape[0],
        shape[-1],
        f"{digest:08x}",
        {
            part: labels.bincount(minlength=len(names)).tolist()
            for part, labels in known.items()
            if labels is not None
        },
        validation=sources.get("validation"),
        shape=shape,
    )


def _map_style(part: str, data: Any) -> None:
    """ValueError for what has no length or no items by their number."""
    try:
        if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
            raise TypeError
        count = len(data)
    except (TypeError, NotImplementedError):
        raise ValueError(
            f"the {part} data, a {type(data).__name__}, have no length or no "
            "[row]: expected a map-style Dataset with __len__ and __getitem__"
        ) from None
    if not count:
        raise ValueError(f"the {part} data have no image")


def _labels(data: Any) -> Tensor | None:
    """The classes of all items, where a Dataset tells them as torchvision's do."""
    if isinstance(data, Subset):
        whole = _labels(data.dataset)
        return None if whole is None else whole[torch.as_tensor(data.indices)]
    targets = getattr(data, "targets", None)
    if not isinstance(targets, list | Tensor | np.ndarray) or len(targets) != len(data):
        return None
    try:
        labels = torch.as_tensor(targets).long()
    except (TypeError, ValueError, RuntimeError):
        return None
    return labels if labels.ndim == 1 and int(labels.min()) >= 0 else None


def can_be_sent(source: Any) -> None:
    """ValueError for a source that processes which load images could not be given."""
    if multiprocessing.get_start_method() == "fork":
        return
    try:
        pickle.dumps(source)
    except Exception as error:
        raise ValueError(
            f"the Dataset cannot be given to other processes ({describe_error(error)}): load in "
            "this one with 0 workers, or define all that it holds in a module"
        ) from error
