"""A checkpoint's network made smaller, as a checkpoint, and tested beside the original."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import checkpoint, objects
from .checkpoint import written_whole
from .evaluate import calibration, evaluation_data, load_network, refuse_overwriting
from .fit import SingleProcess
from .recipe import Settings
from .scores import scores
from .smaller import Method, made_smaller, still_float
from .sources import DataSet
from .stop import Refused

Json = dict[str, Any]
# What is kept of a run: its network, and which images it was tested on.
KEPT = ("recipe", "classes", "mean", "std", "size", "images", "digest")


def compress(
    path: Path,
    method: Method,
    out: Path | None = None,
    data: Any = "",
    settings: Settings | None = None,
    *,
    sparsity: float = 0.5,
    network: str = "",
) -> Json:
    """Write a smaller network of a checkpoint, and test what the file holds.

    Nothing is trained again. INT8 folds batch norms first, and is calibrated on images
    of the training part. The file is a checkpoint, without what it takes to go on
    training; one that is still in floating point can be made smaller again.

    Args:
        out: the file; `METHOD.safetensors` beside the checkpoint if None.
        data: whose parts are used; the run's own if empty.
        sparsity: the share of weights that `prune` sets to zero, or of each
            convolution's filters that `structured` removes.
        network: of one's own, as `evaluate` takes it.

    Returns "file", "images", and for "before" and "after" the accuracy and the bytes of
    such a file.
    Raises: Refused for a network that the method cannot change; NotACheckpoint and
    BadData; ValueError for a sparsity outside [0, 1). No file is written then.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"--sparsity is {sparsity}, expected from 0 to below 1")
    out = out or path.with_name(f"{method}.safetensors")
    refuse_overwriting(out, path)
    if (task := objects.task_of(path)) is not None:
        raise Refused(f"compress is for classifiers, {path} is of {task.command}")
    model, state = load_network(path, network)
    changes = still_float(path, state)
    model.float()
    data_set, _ = evaluation_data(path, model, state, data, settings or Settings())
    try:
        smaller, change = made_smaller(
            model, method, calibration(data_set, path), sparsity
        )
    except ValueError as error:
        name = state["recipe"]["network"]
        raise Refused(f"{name} cannot be changed by {method}: {error}") from None
    about = {key: state[key] for key in KEPT if key in state} | {"weight_ema": None}
    with written_whole(out) as part:
        rows = {}
        for when, kept, made in (
            ("before", model, changes),
            ("after", smaller, [*changes, change]),
        ):
            checkpoint.save(
                part, {**about, "model": kept.state_dict(), "compressed": made}
            )
            tested = load_network(part, network)[0]  # what was written
            rows[when] = {
                "accuracy": _accuracy(tested, data_set),
                "bytes": part.stat().st_size,
            }
    return {"file": str(out), "images": len(data_set.test), **rows}


def _accuracy(model: nn.Module, data_set: DataSet) -> float:
    found, truth = scores(
        model.eval(), data_set.test, SingleProcess(torch.device("cpu")), 0, None
    )
    return float((found.argmax(dim=1) == truth).double().mean())
