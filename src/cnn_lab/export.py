"""A checkpoint as a file that other programs run, compared with torch before it exists.

The file reads images as the network does: (N, C, H, W), single precision, values from 0
to 1 less `mean` and through `std`. Its metadata say the rest, each as JSON.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnn_techniques.compression import export_onnx, onnx_difference

from . import objects
from .checkpoint import written_whole
from .evaluate import evaluation_data, load_network, refuse_overwriting
from .fit import BadData
from .recipe import Settings
from .stop import Refused

Json = dict[str, Any]
OPSET = 18
BATCHES = (1, 2, 7)  # all other than the 3 images that the export sees
BOUND = 1e-4  # of the largest score


class Format(StrEnum):
    onnx = "onnx"


def export(
    path: Path,
    out: Path | None = None,
    data: Any = "",
    settings: Settings | None = None,
    *,
    network: str = "",
    model: nn.Module | None = None,
) -> Json:
    """Write the network of a checkpoint as ONNX, and compare it on test images.

    Args:
        out: the file; `model.onnx` beside the checkpoint if None.
        data: whose test images are compared; the run's own if empty.
        network: of one's own, as `evaluate` takes it.
        model: the same.

    Returns "file", "opset", "images" compared, and the largest "difference" to torch, as
    a share of the largest score.
    Raises: Refused for a network that cannot be exported, or a file that computes
    something else; NotACheckpoint and BadData. No file is written then.
    """
    out = out or path.with_name("model.onnx")
    refuse_overwriting(out, path)
    model, state = load_network(path, network, model)
    model.float()
    outputs: tuple[str, ...] = ("scores",)
    task = objects.task_of(path)
    if task is not None:
        raw = objects.Raw(model).eval()
        model, outputs = raw, raw.outputs
    try:
        if task is not None:
            data_set = objects.test_data(path, task, state, data)
        else:
            data_set, _ = evaluation_data(
                path, model, state, data, settings or Settings()
            )
    except BadData as error:
        raise BadData(
            f"{error}; an exported network is compared on images: say where they are "
            "with --root, or name others of the same classes with --data"
        ) from None
    tests = data_set.test
    rows = torch.linspace(0, len(tests) - 1, sum(BATCHES)).round().long()
    images = tests.take(rows, torch.empty(len(rows), 0))[0].float()
    metadata = {
        "classes": state["classes"],
        "mean": state["mean"],
        "std": state["std"],
        "size": list(images.shape[-2:]),
        "channels": images.shape[1],
        "network": state["recipe"]["network"],
        "version": f"cnn-techniques {version('cnn-techniques')}",
    }
    with written_whole(out) as part:
        with _quiet():
            _write(model, images[:3], metadata, part, outputs)
        difference = difference_to_torch(part, model, images)
    return {
        "file": str(out),
        "opset": OPSET,
        "images": len(images),
        "difference": difference,
    }


def _write(
    model: nn.Module,
    images: Tensor,
    metadata: Json,
    path: Path,
    outputs: Sequence[str] = ("scores",),
) -> None:
    try:
        export_onnx(
            model, images, path, outputs=outputs, metadata=metadata, opset=OPSET
        )
    except Exception as error:  # those of torch.export have no class in common
        raise Refused(
            f"{metadata['network']} cannot be exported: {_first(error)}"
        ) from None


def difference_to_torch(path: Path, model: nn.Module, images: Tensor) -> float:
    """The largest difference of an ONNX file to torch, as a share of the largest score.

    Of several outputs each is compared with its own largest.

    Raises: Refused where that is more than BOUND, or the file cannot be run.
    """
    try:
        difference = onnx_difference(path, model, images.split(BATCHES))
    except Exception as error:  # onnxruntime's have no class in common either
        raise Refused(f"the exported network cannot be run: {_first(error)}") from None
    if not difference <= BOUND:  # nor if it is no number
        raise Refused(
            "the exported network computes something else: scores differ by "
            f"{difference:.1e} of the largest, at most {BOUND:.0e} is allowed"
        )
    return difference


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
