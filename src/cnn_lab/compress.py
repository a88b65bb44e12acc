"""A checkpoint's network made smaller, as a file, and tested beside the original."""

import copy
import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cnn_techniques.compression import (
    HalfPrecision,
    apply_masks,
    fold_batch_norms,
    magnitude_masks,
    norms_to_fold,
    quantize_int8,
)

from .bench_trained import file_bytes
from .checkpoint import written_whole
from .evaluate import calibration, evaluation_data, load_network, refuse_overwriting
from .fit import SingleProcess
from .recipe import Settings
from .scores import scores
from .sources import DataSet
from .stop import Refused

Json = dict[str, Any]


class Method(StrEnum):
    fold = "fold"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"
    prune = "prune"


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
    of the training part.

    Args:
        out: the file; `METHOD.safetensors` beside the checkpoint if None.
        data: whose parts are used; the run's own if empty.
        sparsity: the share of weights that `prune` sets to zero.
        network: of one's own, as `evaluate` takes it.

    Returns "file", "images", and for "before" and "after" the accuracy and bytes.
    Raises: Refused for a network that the method cannot change; NotACheckpoint and
    BadData; ValueError for a sparsity outside [0, 1). No file is written then.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"--sparsity is {sparsity}, expected from 0 to below 1")
    out = out or path.with_name(f"{method}.safetensors")
    refuse_overwriting(out, path)
    model, state = load_network(path, network)
    model.float()
    data_set, _ = evaluation_data(path, model, state, data, settings or Settings())
    change = CHANGES[method]
    try:
        smaller = change(model, calibration(data_set, path), sparsity)
    except ValueError as error:
        name = state["recipe"]["network"]
        raise Refused(f"{name} cannot be changed by {method}: {error}") from None
    tensors = {k: v.clone().contiguous() for k, v in smaller.state_dict().items()}
    about = {
        "method": str(method),
        "network": state["recipe"]["network"],
        "classes": state["classes"],
        "mean": state["mean"],
        "std": state["std"],
    }
    with written_whole(out) as part:
        save_file(tensors, part, {key: json.dumps(v) for key, v in about.items()})
        smaller.load_state_dict(load_file(part))  # what is tested is what was written
        rows = {
            "before": {
                "accuracy": _accuracy(model, data_set),
                "bytes": file_bytes(model.state_dict()),
            },
            "after": {
                "accuracy": _accuracy(smaller, data_set),
                "bytes": part.stat().st_size,
            },
        }
    return {"file": str(out), "images": len(data_set.test), **rows}


def _accuracy(model: nn.Module, data_set: DataSet) -> float:
    found, truth = scores(
        model.eval(), data_set.test, SingleProcess(torch.device("cpu")), 0, None
    )
    return float((found.argmax(dim=1) == truth).double().mean())


def _fold(model: nn.Module, images: Tensor, sparsity: float) -> nn.Module:
    return fold_batch_norms(model, images[:2])


def _int8(model: nn.Module, images: Tensor, sparsity: float) -> nn.Module:
    if norms_to_fold(model, images[:2]):
        model = fold_batch_norms(model, images[:2])
    return quantize_int8(model, images, percentile=99.99)


def _prune(model: nn.Module, images: Tensor, sparsity: float) -> nn.Module:
    pruned = copy.deepcopy(model)
    apply_masks(pruned, magnitude_masks(pruned, sparsity))
    return pruned


CHANGES: dict[Method, Callable[[nn.Module, Tensor, float], nn.Module]] = {
    Method.fold: _fold,
    Method.float16: lambda model, *_: HalfPrecision(model, torch.float16),
    Method.bfloat16: lambda model, *_: HalfPrecision(model, torch.bfloat16),
    Method.int8: _int8,
    Method.prune: _prune,
}
