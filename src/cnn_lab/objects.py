"""Finding objects and labelling pixels: the data, the task, and what is done with a run."""

import math
import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from cnn_techniques.evaluation import coco_curves

from . import checkpoint, coco, networks, weights
from .coco import IGNORED, CocoImages
from .evaluate import load_network
from .fit import (
    AcceleratorLike,
    BadData,
    EvaluationBatches,
    InMemory,
    Loss,
    Source,
    load_batches,
)
from .object_networks import (
    DETECTORS,
    SEGMENTERS,
    build,
    command_of,
    kind_of,
    names,
)
from .photos import read
from .pictures import Pictures
from .prepare import workers_for
from .recipe import Recipe, Settings
from .saved import LAST
from .scene_trial import trial_scenes
from .show import ProgressCallback, Show, Silent
from .sources import DataSet, PhotoNames
from .sources import _digest as digest_of
from .stop import Refused, one_line

Json = dict[str, Any]
SCENES, COCO = "scenes", "coco:"
NAMES = (SCENES, "scenes:COUNT", "coco:FOLDER-OR-JSON")
SIZE = 320  # of images in files
BATCH = 32  # of a test
SURE = 0.5  # what is drawn has a higher score
COLOURS = ("red", "blue", "lime", "orange", "magenta", "cyan", "yellow", "purple")


# --- the data ------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """How images are given to a network, and which targets it learns from."""

    channels: int
    masks: bool
    size: int | None = None


def open_objects(
    name: str, wanted: Format, show: Show, *, all_of: list[str] | None = None
) -> DataSet:
    """Scenes, or annotated images in COCO's form.

    Args:
        all_of: these classes; take the whole of one JSON file to test with.

    Raises: BadData; ValueError for another name, or a size that scenes do not have.
    """
    if name.partition(":")[0] == SCENES:
        return _scenes(name, wanted)
    if not name.startswith(COCO):
        raise ValueError(f"unknown data {name!r}; expected one of {', '.join(NAMES)}")
    place = name.removeprefix(COCO)
    if all_of is not None:
        train = test = coco.annotations(Path(place), wanted.masks)
        coco.some_objects(test, "test with")
    else:
        train, test = coco.parts(place, wanted.masks)
    notes = train.notes + (test.notes if test is not train else [])
    for note in notes:
        show.note(note)
    # ImageNet's, as for photos.
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if wanted.channels == 1:
        mean, std = (0.449,), (0.226,)  # type: ignore[assignment]
    size = wanted.size or SIZE
    sources = [
        CocoImages(part.images, size, mean, std, wanted.masks, test=part is test)
        for part in (train, test)
    ]
    background = ["background"] if wanted.masks else []
    return DataSet(
        [*background, *train.classes],
        sources[0],
        sources[1],
        mean,
        std,
        size,
        coco.digest(train, test),
        {},
        PhotoNames([i.name for i in train.images], [i.name for i in test.images]),
    )


def _scenes(name: str, wanted: Format) -> DataSet:
    _, _, text = name.partition(":")
    count = int(text) if text.isdecimal() else 0
    if name != SCENES and count < 8:
        raise ValueError(f"data {name!r}: expected {SCENES}:COUNT with at least 8")
    count = count or 1600
    train, test = trial_scenes(count, 0), trial_scenes(count // 8, 0, "test")
    size = train.images.shape[-1]
    if wanted.size not in (None, size):
        raise ValueError(f"size is {wanted.size}: scenes are of {size} pixels")
    mean, std = (0.35,) * wanted.channels, (0.2,) * wanted.channels
    first, second = (
        InMemory(
            ((part.images - mean[0]) / std[0]).expand(-1, wanted.channels, -1, -1),
            part.masks if wanted.masks else part.targets,
        )
        for part in (train, test)
    )
    background = ["background"] if wanted.masks else []
    return DataSet(
        [*background, *map(str, range(10))],
        first,
        second,
        mean,
        std,
        size,
        digest_of(train.images, train.masks, test.images, test.masks),
        {},
    )


def start_from(model: nn.Module, path: Path, spec: str) -> str:
    """Give a network the weights of a file, and say what was done.

    What depends on the number of classes begins anew if the file is of another number.

    Args:
        path: of a checkpoint, a run's folder, or tensors as `torch.save` and safetensors write them.
        spec: of which the model was built.

    Raises: NotACheckpoint; ValueError that names the first tensor that does not fit.
    """
    own = model.state_dict()
    path = path / LAST if path.is_dir() else path
    if weights.is_foreign(path):
        given, notes = weights.read(path, own)
    else:
        given, notes = load_network(path)[0].state_dict(), []
    with torch.device("meta"):
        two, three = (build(spec, k).state_dict() for k in (2, 3))
    heads = {name for name in own if two[name].shape != three[name].shape}
    strange = weights.few(name for name in given if name not in own)
    anew = []
    for name, tensor in own.items():
        if name not in given and name.endswith("num_batches_tracked"):
            continue  # files of old have no such counts
        if name in given and given[name].shape == tensor.shape:
            own[name] = given[name]
        elif name in given and name in heads:
            anew.append(name)
        else:
            got = tuple(given[name].shape) if name in given else "none"
            raise ValueError(
                f"{path} does not fit {spec}: {name} of shape {tuple(tensor.shape)} is "
                f"needed, got {got}" + (f"; it has {strange} instead" * bool(strange))
            )
    if strange:
        raise ValueError(f"{path} does not fit {spec}, which has no {strange}")
    model.load_state_dict(own)
    if anew:
        notes.append(f"for other classes begin anew: {weights.few(anew)}")
    return f"weights of {path}" + (f": {'; '.join(notes)}" if notes else "")


# --- the tasks -----------------------------------------------------------------------


class Objects:
    """A task of `tasks.Task`: "detect", or "segment"."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.masks = command == "segment"
        self.measure = "mean_iou" if self.masks else "ap"

    def prepared(
        self,
        recipe: Recipe,
        settings: Settings,
        model: nn.Module | None = None,
        data: Any = None,
        show: Show | None = None,
    ) -> tuple[nn.Module, DataSet]:
        """As `prepare.prepared`; networks and data go by their names here."""
        show = show or Silent()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise Refused(f"cnn-lab {self.command} runs in one process")
        if model is not None or data is not None:
            raise ValueError(f"`{self.command}` takes networks and data by their names")
        if command_of(recipe.network) != self.command:
            raise ValueError(
                f"{recipe.network!r} is none of {self.command}'s networks: "
                f"{', '.join(names(self.command))}, or an expression of "
                f"{', '.join(k.__name__ for k in (SEGMENTERS if self.masks else DETECTORS))}"
            )
        with torch.random.fork_rng(devices=[]):
            model = build(recipe.network, 2)
            # Some make their heads before the backbone.
            channels = networks.channels(getattr(model, "backbone", model))
        with show.loading():
            wanted = Format(channels, self.masks, recipe.size)
            data_set = open_objects(recipe.data, wanted, show)
        model = build(recipe.network, len(data_set.classes))
        if recipe.weights:
            show.note(start_from(model, Path(recipe.weights), recipe.network))
        self._check(model, recipe, data_set)
        return model, data_set

    def _check(self, model: nn.Module, recipe: Recipe, data: DataSet) -> None:
        """ValueError unless a step could be made of the smallest batch of an epoch."""
        batch = min(len(data.train) % recipe.batch_size or recipe.batch_size, 2)
        shape = (batch, *data.image)
        targets: Any = torch.zeros(batch, *shape[2:], dtype=torch.long)
        if not self.masks:
            side = data.size / 2
            one = {
                "boxes": torch.tensor([[0, 0, side, side]]),
                "labels": targets[0, 0, :1],
            }
            targets = [one] * batch
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                tried = deepcopy(model).train()
                kind_of(model).loss(tried, torch.zeros(shape), targets)
        except (RuntimeError, ValueError) as error:
            left = "; one is left for the last batch: take another batch size"
            raise ValueError(
                f"{recipe.network} cannot be trained with a batch of shape {shape}: "
                f"{one_line(error)}{left if batch < min(recipe.batch_size, 2) else ''}"
            ) from None

    def loss(self, recipe: Recipe) -> Loss:
        return lambda model, x, y: kind_of(model).loss(model, x, y)

    def test(
        self,
        model: nn.Module,
        source: Source,
        accelerator: AcceleratorLike,
        workers: int = 0,
        progress: ProgressCallback | None = None,
    ) -> dict[str, float]:
        result = self.measured(model, source, accelerator, workers, progress)
        return {k: v for k, v in result.items() if isinstance(v, float)}

    def measured(
        self,
        model: nn.Module,
        source: Source,
        accelerator: AcceleratorLike,
        workers: int = 0,
        progress: ProgressCallback | None = None,
    ) -> Json:
        """The measures, and under "each" the first of them for every class (or None)."""
        answer = kind_of(model).answer
        measure: Any = (_Labels if self.masks else _Boxes)()
        modes = {module: module.training for module in model.modules()}
        planned, done = EvaluationBatches(source, BATCH, accelerator), 0
        model.eval()
        try:
            with torch.no_grad():
                for x, y in load_batches(planned, workers):
                    x = x.to(accelerator.device)
                    measure.add(answer(model(x), x), y)
                    done += len(x)
                    if progress is not None:
                        progress(done, len(source))
        finally:
            for module, mode in modes.items():
                module.training = mode
        return measure.result()  # type: ignore[no-any-return]


class _Boxes:
    """Average precision as COCO's: 100 boxes an image and class, crowds ignored."""

    def __init__(self) -> None:
        self.found: list[dict[str, Tensor]] = []
        self.truth: list[dict[str, Tensor]] = []

    def add(
        self, found: list[dict[str, Tensor]], truth: list[dict[str, Tensor]]
    ) -> None:
        self.found += [{k: v.cpu() for k, v in one.items()} for one in found]
        self.truth += truth

    def result(self) -> Json:
        labels = torch.cat([one["labels"] for one in (*self.found, *self.truth)])
        classes = int(labels.max()) + 1 if len(labels) else 1
        curves = coco_curves(self.found, self.truth, classes)[0][..., 0, 2]  # (T, R, K)
        parts = {"ap": curves, "ap50": curves[0], "ap75": curves[5]}
        each = enumerate(curves.mean(dim=(0, 1)).tolist())
        return {
            **{name: part.nanmean().item() for name, part in parts.items()},
            "each": {k: v for k, v in each if not math.isnan(v)},
        }


class _Labels:
    """Mean intersection over union of the classes that are there or were said to be."""

    def __init__(self) -> None:
        self.matrix: Tensor | None = None

    def add(self, scores: Tensor, truth: Tensor) -> None:
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        matrix = multiclass_confusion_matrix(
            scores.argmax(dim=1).cpu(), truth, scores.shape[1], ignore_index=IGNORED
        )
        self.matrix = matrix if self.matrix is None else self.matrix + matrix

    def result(self) -> Json:
        assert self.matrix is not None
        matrix = self.matrix.double()
        both = matrix.diag()
        either = matrix.sum(dim=0) + matrix.sum(dim=1) - both
        iou = (both / either)[either > 0]
        rows = (either > 0).nonzero().flatten().tolist()
        return {
            "mean_iou": iou.mean().item(),
            "pixel_accuracy": (both.sum() / matrix.sum()).item(),
            "each": dict(zip(rows, iou.tolist(), strict=True)),
        }


DETECT, SEGMENT = Objects("detect"), Objects("segment")
TASKS = {"detect": DETECT, "segment": SEGMENT}


# --- what was trained ----------------------------------------------------------------


def task_of(path: Path) -> Objects | None:
    """Of a checkpoint; None for a classifier's, and for what is none."""
    try:
        return TASKS.get(command_of(checkpoint.load(path)["recipe"]["network"]))
    except (KeyError, TypeError, AttributeError):
        return None


def evaluate(
    path: Path,
    data: str = "",
    settings: Settings | None = None,
    progress: ProgressCallback | None = None,
) -> Json:
    """The measures of a checkpoint on what its run held out, or on all of other data.

    Raises: NotACheckpoint, BadData; Refused where the run's own data have changed.
    """
    model, state = load_network(path)
    task = TASKS[command_of(state["recipe"]["network"])]
    data_set = test_data(path, task, state, data)
    settings = settings or Settings()
    accelerator = _here()
    model.to(accelerator.device)
    result = task.measured(
        model, data_set.test, accelerator, workers_for(settings, data_set), progress
    )
    each = result.pop("each")
    return {
        "checkpoint": str(path),
        "network": state["recipe"]["network"],
        "data": data or state["recipe"]["data"],
        "images": len(data_set.test),
        **result,
        "classes": [
            {"name": name, task.measure: each.get(label)}
            for label, name in enumerate(state["classes"])
        ],
    }


def test_data(path: Path, task: Objects, state: Json, data: str) -> DataSet:
    """What a checkpoint's network is tested with; Refused, BadData for what it cannot be."""
    given = data or state["recipe"]["data"]
    other = data not in ("", state["recipe"]["data"])
    whole = (
        other and given.startswith(COCO) and Path(given.removeprefix(COCO)).is_file()
    )
    wanted = Format(len(state["mean"]), task.masks, state["size"])
    data_set = open_objects(
        given, wanted, Silent(), all_of=state["classes"] if whole else None
    )
    if data_set.classes != state["classes"]:
        raise Refused(
            f"{given} has the classes {', '.join(data_set.classes)}; {path} was trained "
            f"on {', '.join(state['classes'])}"
        )
    if not other and data_set.digest != state["digest"]:
        raise Refused(
            f"{given} has changed since {path} was trained on it: name other data to "
            "test with, --data coco:FILE.json"
        )
    return data_set


def _here() -> Any:
    from .fit import SingleProcess

    return SingleProcess(
        torch.accelerator.current_accelerator(True) or torch.device("cpu")
    )


class Raw(nn.Module):
    """A network whose output is a tuple of tensors, each with the batch first."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors; Refused for a network that has none to give.

        Those of a two-stage detector are as many as there are proposals, which an
        exported network cannot sample and suppress as this one does.
        """
        kind = kind_of(self.model)
        if not kind.exported:
            raise Refused(
                f"a {type(self.model).__name__} cannot be exported: how many boxes its "
                "second stage reads depends on the image"
            )
        return kind.exported + kind.shared

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        out, kind = self.model(x), kind_of(self.model)
        if isinstance(out, Tensor):
            return (kind.answer(out, x),)
        shared = [_field(out, name) for name in kind.shared]
        return (
            *(_field(out, name) for name in kind.exported),
            *(t.expand(x.shape[0], *t.shape) for t in shared),
        )


def _field(out: Any, name: str) -> Tensor:
    for part in name.split("."):
        out = out[int(part)] if part.lstrip("-").isdigit() else getattr(out, part)
    return out  # type: ignore[no-any-return]


def predict(
    path: Path,
    images: Sequence[Path],
    out: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Json:
    """What is in images, drawn into copies of them.

    Args:
        out: folder of the pictures; `predictions` beside the checkpoint if None.

    Returns "checkpoint", "network" and "images": for each its "file" and "error", or its
    "file", "picture", and of a detector "objects" ("name", "score", "box" as x1, y1, x2,
    y2 in pixels of the image), of a segmenter "classes" with the share of the pixels.
    """
    from .predict import rows_of

    model, state = load_network(path)
    model.to(_here().device)
    rows = [row for image in images for row in rows_of(image)]
    pictures = Pictures(out or path.parent / "predictions")
    pictures.spare(Path(row["file"]) for row in rows)
    for done, row in enumerate(rows, 1):
        if "error" not in row:
            try:
                picture, told = _predicted(model, state, row["file"])
            except BadData as error:
                row["error"] = str(error)
            else:
                row.update(told, picture=pictures.write(picture, Path(row["file"])))
        if progress is not None:
            progress(done, len(rows))
    return {
        "checkpoint": str(path),
        "network": state["recipe"]["network"],
        "images": rows,
    }


def _predicted(model: nn.Module, state: Json, file: str) -> tuple[Tensor, Json]:
    size, classes = state["size"], state["classes"]
    x = coco.fitted(file, size, tuple(state["mean"]), tuple(state["std"]))
    image = read(file, size)
    whole = image.shape[-2], image.shape[-1]
    inner = coco.inner_size(*whole, size)
    with torch.no_grad():
        batch = x[None].to(_here().device)
        found = kind_of(model).answer(model(batch), batch)
    if type(model) in DETECTORS:
        one = {k: v.cpu() for k, v in found[0].items()}
        sure = (one["scores"] > SURE).nonzero().flatten()
        sure = sure[one["scores"][sure].argsort()]  # the surest is drawn last, on top
        scale = torch.tensor([inner[1] / whole[1], inner[0] / whole[0]]).repeat(2)
        limits = torch.tensor([whole[1], whole[0]]).repeat(2)
        boxes = (one["boxes"][sure] / scale).clamp(min=0).minimum(limits)
        labels, scores = one["labels"][sure].tolist(), one["scores"][sure].tolist()
        told = [
            {"name": classes[k], "score": s, "box": [round(v, 1) for v in box]}
            for k, s, box in zip(labels, scores, boxes.tolist(), strict=True)
        ]
        names = [f"{t['name']} {t['score']:.0%}" for t in told]
        colours = [COLOURS[k % len(COLOURS)] for k in labels]
        drawn = (
            draw_bounding_boxes(image, boxes, names, colours, width=2)
            if told
            else image
        )
        return drawn, {"objects": told[::-1]}
    scores = found[:, :, : inner[0], : inner[1]].float().cpu()
    large = F.interpolate(scores, tuple(whole), mode="bilinear")
    labels = large[0].argmax(dim=0)
    present = [k for k in labels.unique().tolist() if k]
    masks = torch.stack([labels == k for k in present]) if present else None
    colours = [COLOURS[k % len(COLOURS)] for k in present]
    if masks is not None:
        image = draw_segmentation_masks(image, masks, alpha=0.6, colors=colours)
    shares = {classes[k]: float((labels == k).double().mean()) for k in [0, *present]}
    return image, {"classes": shares}
