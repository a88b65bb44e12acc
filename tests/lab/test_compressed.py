"""One trained network in all the forms that the compression pages make of it: accuracy, bytes, time."""

import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import onnxruntime
import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from cnn_lab import bench, bench_trained
from cnn_lab.export import quantize
from cnn_lab.fit import SingleProcess
from cnn_lab.record import interval, paired, repeat
from cnn_site import ROOT
from cnn_site.speed import side_by_side
from cnn_techniques.compression import (
    HalfPrecision,
    apply_masks,
    convert_qat,
    export_onnx,
    fold_batch_norms,
    magnitude_masks,
    prepare_qat,
    prune_filters,
    prune_iteratively,
    quantize_int4,
    quantize_int8,
)

FORMS = {
    "float32": "float32, as it is",
    "again": "float32, four epochs more",
    "folded": "batch norms folded",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "int8": "INT8",
    "qat": "INT8, trained with its rounding",
    "int4_32": "INT4 weights, groups of 32",
    "int4_128": "INT4 weights, groups of 128",
    "filters_25": "25 % of the filters removed",
    "filters_50": "50 % of the filters removed",
    "filters_75": "75 % of the filters removed",
    "zeros_50": "50 % of the weights zero",
    "zeros_80": "80 % of the weights zero",
    "zeros_90": "90 % of the weights zero",
    "zeros_95": "95 % of the weights zero",
    "rounds_3": "87.5 % zero, in three rounds",
    "onnx": "ONNX Runtime, float32",
    "onnx_int8": "ONNX Runtime, INT8",
}


class Learn(Protocol):
    """Trains a network again in place; what `masks` prune stays zero."""

    def __call__(
        self, model: nn.Module, masks: dict[str, Tensor] | None = None
    ) -> nn.Module: ...


class OnnxRuntime(nn.Module):
    """The exported network: its file, run by ONNX Runtime on one thread."""

    def __init__(self, model: nn.Module, images: Tensor, int8: bool) -> None:
        super().__init__()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(model, images[:2], path)
            if int8:
                quantize(path, images.numpy(), {})
            self.file = path.read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            self.file, options, providers=["CPUExecutionProvider"]
        )

    def forward(self, images: Tensor) -> Tensor:
        (scores,) = self.session.run(None, {"images": images.numpy()})
        return torch.from_numpy(scores)


def made(form: str, model: nn.Module, images: Tensor, learn: Learn) -> nn.Module:
    """The network in a form; `images` calibrate it, and the network itself may be changed."""
    kind, _, text = form.partition("_")
    number = int(text) if text.isdigit() else 0
    if kind == "again":
        return learn(model)
    if kind == "folded":
        return fold_batch_norms(model, images[:2])
    if kind in ("float16", "bfloat16"):
        return HalfPrecision(model, getattr(torch, kind))
    if kind == "int8":
        return quantize_int8(fold_batch_norms(model, images[:2]), images)
    if kind == "qat":
        folded = fold_batch_norms(model, images[:2])
        return convert_qat(learn(prepare_qat(folded, images)))
    if kind == "int4":
        return quantize_int4(model, number)
    if kind == "filters":
        return learn(prune_filters(model, number / 100, images[:1]))
    if kind == "zeros":
        masks = magnitude_masks(model, number / 100)
        apply_masks(model, masks)
        return learn(model, masks)
    if kind == "rounds":
        prune_iteratively(model, learn, 1 - 0.5**number, number)
        return model
    if kind == "onnx":
        return OnnxRuntime(model, images, int8=text == "int8")
    return model


def file_of(form: nn.Module) -> bytes:
    """What is stored: the ONNX file, or the tensors as a safetensors file."""
    if isinstance(form, OnnxRuntime):
        return form.file
    state = form.state_dict().items()
    return save({name: tensor.clone().contiguous() for name, tensor in state})


def one_run(form: str, seed: int) -> dict[str, float]:
    """Accuracy on the test images, and bytes, of one trained network in a form."""

    def learn(model: nn.Module, masks: dict[str, Tensor] | None = None) -> nn.Module:
        more = {"update": bench_trained.keeping(model, masks)} if masks else {}
        epochs, rate = bench_trained.AGAIN_EPOCHS, bench_trained.AGAIN_RATE
        return bench_trained.train(model, seed, epochs=epochs, rate=rate, **more)

    images = bench_trained.calibration_images()
    small = made(form, bench_trained.trained(seed), images, learn)
    file = file_of(small)
    return {
        "accuracy": bench_trained.score(small),
        "bytes": len(file),
        "zipped": len(zlib.compress(file, 9)),
    }


def as_it_is(model: nn.Module, masks: dict[str, Tensor] | None = None) -> nn.Module:
    return model


def drawn(images: Tensor) -> dict[str, nn.Module]:
    """Each form of a network that is not trained: for its time."""
    return {
        form: made(form, bench_trained.untrained(0).eval(), images, as_it_is)
        for form in FORMS
    }


def build(count: int) -> dict[str, Callable[[], Callable[[], object]]]:
    """So many garments through each."""
    torch.manual_seed(0)
    images = torch.randn(count, 1, 28, 28)

    def runs(form: nn.Module) -> Callable[[], object]:
        @torch.no_grad()
        def run() -> object:
            return form(images)

        return run

    return {name: lambda form=form: runs(form) for name, form in drawn(images).items()}


def beside_each_other(
    forms: dict[str, str], seeds: list[int], count: int
) -> dict[str, object]:
    cache = ROOT / ".cache/record/compressed.jsonl"
    runs = repeat(one_run, {form: {"form": form} for form in forms}, seeds, cache)
    times = side_by_side(build, against="float32", arguments={"count": count})["arms"]
    rows: dict[str, dict[str, object]] = {}
    before = [run["accuracy"] for run in runs["float32"]]
    for form, name in forms.items():
        values = [run["accuracy"] for run in runs[form]]
        change = paired(values, before)
        rows[form] = {
            **times[form],
            "name": name,
            "accuracy": {**interval(values), "values": values},
            "change": {**change, "mean": change["difference"]},
            "bytes": runs[form][0]["bytes"],
            "zipped": runs[form][0]["zipped"],
        }
    return {"seeds": len(seeds), "images": count, "arms": rows}


@pytest.mark.record
def test_record_accuracy_bytes_and_time_of_every_form(evidence) -> None:
    arguments = {
        "forms": FORMS,
        "seeds": list(bench_trained.SEEDS),
        "count": bench.BATCH_SIZE,
    }
    evidence.measured("forms", arguments=arguments, run=beside_each_other)


def test_every_form_gives_scores_for_every_image_and_has_a_file() -> None:
    images = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    made = drawn(images)
    sizes = {name: len(file_of(form)) for name, form in made.items()}
    with torch.no_grad():
        for form in made.values():
            scores = form(images)
            assert scores.shape == (8, 10) and scores.isfinite().all()
    whole = sizes["float32"]
    assert sizes["again"] == sizes["zeros_90"] == sizes["rounds_3"] == whole
    assert sizes["int8"] == sizes["qat"] < 0.3 * whole
    assert sizes["int4_128"] < sizes["int4_32"] < 0.2 * whole
    assert sizes["filters_75"] < sizes["filters_50"] < sizes["filters_25"] < whole


def test_only_what_says_so_learns_again() -> None:
    images = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    learnt: dict[str, int] = {}
    for form in FORMS:
        calls = []

        def learn(
            model: nn.Module, masks: dict[str, Tensor] | None = None, calls=calls
        ) -> nn.Module:
            calls.append(masks is not None)
            return model

        made(form, bench_trained.untrained(0).eval(), images, learn)
        learnt[form] = len(calls)
        assert all(calls) == form.startswith(("zeros", "rounds")) or not calls
    once = {f for f, n in learnt.items() if n == 1}
    assert once == {"again", "qat"} | {f for f in FORMS if "filters" in f or "zeros" in f}  # fmt: skip
    assert learnt["rounds_3"] == 3 and sum(learnt.values()) == len(once) + 3


def test_what_is_pruned_stays_zero_when_it_learns_again() -> None:
    images = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    def one_more(model: nn.Module, masks: dict[str, Tensor] | None = None) -> nn.Module:
        assert masks is not None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        step = bench_trained.keeping(model, masks)
        loss = lambda: model(images).square().mean()  # noqa: E731
        before = next(model.parameters()).clone()
        step(loss, optimizer, SingleProcess(torch.device("cpu")))
        assert not torch.equal(before, next(model.parameters()))
        return model

    for form, share in {"zeros_90": 0.9, "rounds_3": 0.875}.items():
        model = made(form, bench_trained.untrained(0).eval(), images, one_more)
        weights = [p for p in model.parameters() if p.ndim > 1]
        zeros = sum(int((w == 0).sum()) for w in weights)
        assert zeros / sum(w.numel() for w in weights) == pytest.approx(share, abs=1e-3)
