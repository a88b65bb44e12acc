"""One network in all the forms that the compression pages make of it, timed side by side."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from cnn_lab import bench, bench_trained
from cnn_lab.export import quantize
from cnn_site.speed import side_by_side
from cnn_techniques.compression import (
    HalfPrecision,
    apply_masks,
    export_onnx,
    fold_batch_norms,
    magnitude_masks,
    prune_filters,
    quantize_int4,
)

FORMS = {
    "float32": "float32, as it is",
    "folded": "batch norms folded",
    "bfloat16": "bfloat16",
    "int4": "INT4 weights, unpacked at every run",
    "zeros": "nine weights in ten zero",
    "filters": "half of the filters removed",
    "onnx": "ONNX Runtime, float32",
    "onnx_int8": "ONNX Runtime, INT8",
}


def by_onnx(path: Path) -> Callable[[Tensor], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(None, {"images": images.numpy()})


def forms(images: Tensor) -> dict[str, Callable[[Tensor], object]]:
    """Each form as what it does with images; the network is drawn, as time asks for no weights."""
    model = bench_trained.untrained(0).eval()
    zeros = bench_trained.untrained(0).eval()
    apply_masks(zeros, magnitude_masks(zeros, 0.9))
    made: dict[str, nn.Module] = {
        "float32": model,
        "folded": fold_batch_norms(model, images[:2]),
        "bfloat16": HalfPrecision(model, torch.bfloat16),
        "int4": quantize_int4(model, 32),
        "zeros": zeros,
        "filters": prune_filters(model, 0.5, images[:1]),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, images[:2], path)
        whole = by_onnx(path)
        quantize(path, images.numpy(), {})
        small = by_onnx(path)
    return {**made, "onnx": whole, "onnx_int8": small}


def build(count: int) -> dict[str, Callable[[], Callable[[], object]]]:
    """So many garments through each."""
    torch.manual_seed(0)
    images = torch.randn(count, 1, 28, 28)

    def runs(form: Callable[[Tensor], object]) -> Callable[[], object]:
        @torch.no_grad()
        def run() -> object:
            return form(images)

        return run

    made = forms(images)
    return {name: lambda form=form: runs(form) for name, form in made.items()}


def timed(forms: dict[str, str], count: int) -> dict[str, object]:
    result = side_by_side(build, against="float32", arguments={"count": count})
    return {
        "arms": {
            key: {**result["arms"][key], "name": title} for key, title in forms.items()
        }
    }


@pytest.mark.record
def test_record_the_time_of_every_form(evidence) -> None:
    arguments = {"forms": FORMS, "count": bench.BATCH_SIZE}
    evidence.measured("time", arguments=arguments, run=timed)


def test_every_form_gives_scores_for_every_image() -> None:
    images = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    made = forms(images)
    assert set(made) == set(FORMS)
    with torch.no_grad():
        for form in made.values():
            out = form(images)
            scores = out if isinstance(out, Tensor) else torch.from_numpy(out[0])
            assert scores.shape == (8, 10) and scores.isfinite().all()
