"""A checkpoint as a file that other programs run, compared with torch before it exists.

The file reads images as the network does: (N, C, H, W), single precision, values from 0
to 1 less `mean` and through `std`. Its metadata say the rest, each as JSON; `cut` is the
share of a photo's shorter side that tests take from its middle.
"""

import json
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
from .evaluate import (
    calibration,
    evaluation_data,
    load_network,
    refuse_overwriting,
    saved_input_format,
)
from .fit import BadData, Source
from .photos import MIDDLE
from .recipe import Settings
from .smaller import still_float
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
    int8: bool = False,
    network: str = "",
    model: nn.Module | None = None,
) -> Json:
    """Write the network of a checkpoint as ONNX, and compare it on test images.

    Args:
        out: the file; `model.onnx` beside the checkpoint if None, `model.int8.onnx` with
            `int8`.
        data: whose test images are compared; the run's own if empty.
        int8: weights and activations of 8 bits, calibrated on training images.
        network: of one's own, as `evaluate` takes it.
        model: the same.

    Returns "file", "opset", "images" compared, and the largest "difference" to torch, as
    a share of the largest score; with `int8` also "agree", the share of all test images
    that it puts into the same class as the file in float32, of which the rest is told.
    Raises: Refused for a network that cannot be exported, or a file that computes
    something else; NotACheckpoint and BadData. No file is written then.
    """
    out = out or path.with_name("model.int8.onnx" if int8 else "model.onnx")
    refuse_overwriting(out, path)
    model, state = load_network(path, network, model)
    still_float(path, state)
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
        "cut": 1.0 if task or saved_input_format(state).whole else MIDDLE,
        "network": state["recipe"]["network"],
        "version": f"cnn-techniques {version('cnn-techniques')}",
    }
    with written_whole(out) as part:
        with _quiet():
            _write(model, images[:3], metadata, part, outputs)
        difference = difference_to_torch(part, model, images)
        told = {
            "file": str(out),
            "opset": OPSET,
            "images": len(images),
            "difference": difference,
        }
        if int8:
            if task is not None:
                raise Refused(f"--int8 is for classifiers, not for {task.command}")
            with _quiet():
                quantize(part, calibration(data_set, path).numpy(), metadata)
            with torch.no_grad():
                told |= _agreement(part, model, tests)
    return told


def quantize(path: Path, images: Any, metadata: Json) -> None:
    """The file in place, by onnxruntime's own tools; `images` calibrate it."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images[i : i + 16] for i in range(0, len(images), 16))

        def get_next(self) -> Any:
            batch = next(self.left, None)
            return None if batch is None else {"images": batch}

    ready = path.with_name(f"{path.name}.ready")
    try:
        quant_pre_process(path, ready)
        quantize_static(
            ready,
            path,
            Images(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        whole = onnx.load(path)
        onnx.helper.set_model_props(
            whole, {key: json.dumps(value) for key, value in metadata.items()}
        )
        onnx.save(whole, path)
    except (
        Exception
    ) as error:  # neither onnx's nor onnxruntime's have a class in common
        raise Refused(f"the network cannot be quantised: {_first(error)}") from None
    finally:
        ready.unlink(missing_ok=True)


def _agreement(path: Path, model: nn.Module, tests: Source) -> Json:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    same = 0
    for rows in torch.arange(len(tests)).split(64):
        images = tests.take(rows, torch.empty(len(rows), 0))[0].float()
        (found,) = session.run(["scores"], {"images": images.numpy()})
        classes = torch.from_numpy(found).argmax(dim=1)
        same += int((classes == model(images).argmax(dim=1)).sum())
    return {"agree": same / len(tests), "tests": len(tests)}


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
