"""What a checkpoint is worth: how its network does on the test part of a data set.

Computed in full precision, whatever precision the run was trained in.
"""

import dataclasses
import warnings
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import checkpoint, networks, object_networks, own
from .checkpoint import NotACheckpoint
from .fit import BadData, SingleProcess
from .norms import replace_norms
from .options import Norm
from .photos import InputFormat, divided
from .prepare import workers_for
from .recipe import Settings
from .saved import PHOTOS, run_photo_names
from .scores import scores
from .show import ProgressCallback
from .smaller import in_form
from .sources import DataSet, all_photos, open_data, run_test_photos
from .stop import Refused

Json = dict[str, Any]
CALIBRATION = 200  # images of the training part
BINS = 15  # of confidence, as in Guo et al., arXiv:1706.04599, table 1
SCORES = ("precision", "recall", "f1", "auc")


def load_network(
    path: Path, network: str = "", model: nn.Module | None = None
) -> tuple[nn.Module, Json]:
    """The network of a checkpoint in evaluation mode, and the checkpoint's state.

    Its weights are the mean of the weights where the run kept one (`weight_ema`).

    Args:
        network: package.module:function of a network of one's own.
        model: or that network itself, which is given the weights.

    Raises: NotACheckpoint for a file that does not hold all of a network; ValueError
    for one of a network that is code: a file alone does not have it run.
    """
    state = checkpoint.load(path)
    try:
        name = state["recipe"]["network"]
    except (KeyError, TypeError):
        raise NotACheckpoint(f"{path} does not hold its network: 'recipe'") from None
    if model is None and not network and own.is_own(name):
        named = name if own.is_code(name) else "package.module:function"
        raise ValueError(
            f"{path} is of the network {name!r}, whose code it does not hold; if you "
            f"trust that code, name it with --network {named}"
        )
    if model is None and network:
        model = networks.build(network, len(state["classes"]))
    try:
        if model is None:
            model = _build(name, len(state["classes"]))
        replace_norms(model, state["recipe"].get("norm", Norm.network))
        weights = state["model"]
        if state["weight_ema"] is not None:
            averaged, prefix = state["weight_ema"], "module."
            weights = {
                name.removeprefix(prefix): tensor
                for name, tensor in averaged.items()
                if name.startswith(prefix)  # the rest counts the steps
            }
        model.to(torch.get_default_dtype())
        for change in state.get("compressed", []):
            model = in_form(model, change)
        model.load_state_dict(weights)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        message = " ".join(str(error).split())[:200]
        raise NotACheckpoint(f"{path} does not hold its network: {message}") from None
    return model.eval(), state


def _build(name: str, num_classes: int) -> nn.Module:
    command = object_networks.command_of(name)
    make = networks.build if command == "train" else object_networks.build
    return make(name, num_classes)


def saved_input_format(state: Json) -> InputFormat:
    """How images have to look for a checkpoint's network."""
    return InputFormat(
        len(state["mean"]),
        state["size"],
        tuple(state["mean"]),
        tuple(state["std"]),
        whole=_folder(state["recipe"]["data"]) is None,
    )


def evaluation_data(
    path: Path, model: nn.Module, state: Json, name: Any, settings: Settings
) -> tuple[DataSet, str]:
    """What a checkpoint's network is tested with, as it wants it, and what is to be said of it.

    Of the run's own data the part that was held out then; of another data set its test
    part; of another folder of photos all of them.

    Args:
        name: of the data, empty for the run's own; or data as `train` takes them.

    Raises: BadData where they cannot be read or have other classes.
    """
    trained_on = state["recipe"]["data"]
    if not isinstance(name, str) or own.is_code(name):
        given = own.datasets(name) if isinstance(name, str) else name
        if isinstance(given, tuple) and len(given) == 2:
            classes = getattr(given[0], "classes", None) or state["classes"]
            given = own.Datasets(given[0], given[1], classes)
        if isinstance(given, own.Datasets):  # nothing is chosen here
            given = dataclasses.replace(given, validation=None)
        data = own.data_set(given)
        _same_classes(data, state, name if isinstance(name, str) else own.GIVEN)
        return data, ""
    if own.is_own(trained_on):
        named = trained_on if own.is_code(trained_on) else "package.module:function"
        raise BadData(
            f"{path} was trained on {trained_on!r}, whose transforms it does not hold; if you "
            f"trust that code, name it with --data {named}"
        )
    input_format = saved_input_format(state)
    folder = _folder(name or trained_on)
    if folder is not None and _folder(trained_on) != folder:
        return all_photos(folder, input_format, state["classes"]), ""
    if folder is not None:
        photo_names = run_photo_names(path.parent)
        if photo_names is not None and photo_names.digest() == state.get("digest"):
            return run_test_photos(folder, input_format, photo_names)
    data = open_data(
        name or trained_on,
        input_format,
        root=settings.root,
        validate=state["recipe"].get("validate", 0.0) if folder is not None else 0.0,
        download=settings.download,
    )
    differs = data.digest != state.get("digest")
    if folder is not None and differs and not divided(folder):
        raise BadData(
            f"{path.parent / PHOTOS}, which tells what was held out from the run, is "
            f"missing or of another run, and {folder} has changed since; give other "
            "photos with --data"
        )
    _same_classes(data, state, name or trained_on)
    return data, ""


def calibration(data_set: DataSet, path: Path) -> Tensor:
    """Images of the training part, evenly taken, as a test gives them."""
    count = min(CALIBRATION, len(data_set.train))
    if not count:
        raise BadData(
            f"there is no training image to calibrate {path} with; name the data of the "
            "run with --data"
        )
    rows = torch.linspace(0, len(data_set.train) - 1, count).round().long()
    draws = torch.full((count, data_set.train.draws), 0.5, dtype=torch.float64)
    return data_set.train.take(rows, draws)[0].float()


def _same_classes(data: DataSet, state: Json, name: str) -> None:
    pairs = zip_longest(data.classes, state["classes"])
    for label, (actual, expected) in enumerate(pairs):
        if actual != expected:
            actual, expected = (
                "missing" if side is None else repr(side) for side in (actual, expected)
            )
            raise BadData(
                f"{name} has other classes than the checkpoint: class {label} is "
                f"{actual}, in the checkpoint {expected}"
            )


def _folder(name: str) -> Path | None:
    if not name.startswith("folder:"):
        return None
    return Path(name.removeprefix("folder:")).resolve()


def evaluate(
    path: Path,
    data: Any = "",
    settings: Settings | None = None,
    progress: ProgressCallback | None = None,
    *,
    network: str = "",
    model: nn.Module | None = None,
) -> Json:
    """The measures of a checkpoint's network on the test part of the data.

    Args:
        data: a data set with the same classes, or a folder of photos of some of them;
            the run's own if empty. Or data as `train` takes them.
        network: of one's own, as `load_network` takes it.
        model: the same.
        progress: called with how many images are done, of how many.

    Raises: NotACheckpoint, BadData; FloatingPointError for scores that are not finite.
    """
    settings = settings or Settings()
    model, state = load_network(path, network, model)
    data_set, changed = evaluation_data(path, model, state, data, settings)
    accelerator = SingleProcess(
        torch.accelerator.current_accelerator(True) or torch.device("cpu")
    )
    model.to(accelerator.device)
    workers = workers_for(settings, data_set)
    if workers:
        own.can_be_sent(data_set.test)
    out, truth = scores(model, data_set.test, accelerator, workers, progress)
    if not out.isfinite().all():
        raise FloatingPointError(f"{path}: the network's scores are not finite")
    return {
        "checkpoint": str(path),
        "network": state["recipe"]["network"],
        "data": (data or state["recipe"]["data"])
        if isinstance(data, str)
        else own.GIVEN,
        "changed": changed,
        **measures(out, truth, data_set.classes),
    }


def measures(scores: Tensor, truth: Tensor, classes: list[str]) -> Json:
    """How well scores (N, K) tell the classes (N,), over all and for each class.

    Precision, recall, F1 and the area under the ROC curve (one against the rest) of all
    are means over the classes with images; a class without has None for each.
    A class that is never predicted has precision and F1 of 0.
    """
    from scipy.stats import binomtest
    from torchmetrics.functional import classification as metrics

    count, many = len(classes), len(truth)
    # In double precision: in single, sure predictions would all be 1 and tie.
    shares, predicted = scores.double().softmax(dim=1), scores.argmax(dim=1)
    options: Json = {"num_classes": count, "average": "none"}
    with warnings.catch_warnings():  # of classes that get None instead
        warnings.filterwarnings("ignore", "No (positive|negative) samples in targets")
        by_class = [
            metrics.multiclass_precision(predicted, truth, **options),
            metrics.multiclass_recall(predicted, truth, **options),
            metrics.multiclass_f1_score(predicted, truth, **options),
            metrics.multiclass_auroc(shares, truth, **options),
        ]
    matrix = metrics.multiclass_confusion_matrix(predicted, truth, count)
    images = matrix.sum(dim=1).tolist()
    rows: list[Json] = []
    for name, number, *values in zip(classes, images, *by_class, strict=True):
        known: Json = {
            score: float(value) if number else None
            for score, value in zip(SCORES, values, strict=True)
        }
        if number == many:  # there is nothing to tell it from
            known["auc"] = None
        rows.append({"name": name, "images": number, **known})
    right = int(matrix.diag().sum())
    interval = binomtest(right, many).proportion_ci(method="wilson")
    # torchmetrics gives a confidence of exactly 1 a bin of its own; and counts in single.
    sure = shares.clamp(max=1 - 2**-24)
    result: Json = {
        "images": many,
        "accuracy": right / many,
        "interval": [float(interval.low), float(interval.high)],
    }
    if count > 5:
        top = metrics.multiclass_accuracy(shares, truth, count, "micro", top_k=5)
        result["top5"] = float(top)
    error = metrics.multiclass_calibration_error(sure, truth, count, BINS)
    return {
        **result,
        **{score: _mean([row[score] for row in rows]) for score in SCORES},
        "calibration_error": float(error),
        "loss": float(F.cross_entropy(scores.double(), truth)),
        "classes": rows,
        "confusion": matrix.tolist(),
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def refuse_overwriting(out: Path | None, path: Path) -> None:
    """Refused where what is written would take the place of what is read."""
    if out and out.exists() and path.exists() and out.samefile(path):
        what = "file of predictions" if path.suffix.lower() == ".csv" else "checkpoint"
        raise Refused(f"{out} is the {what} itself; choose another file")
