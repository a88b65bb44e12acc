"""`cnn-lab compress` and `export --int8`: each writes a file, tests what it holds, and leaves no half of one."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cnn_lab.compress import Method, compress
from cnn_lab.export import export
from cnn_lab.recipe import Recipe
from cnn_lab.stop import Refused
from cnn_lab.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small network with batch norms."""
    folder = tmp_path_factory.mktemp("run")
    network = "ResNet(BasicBlock, (1, 1), num_classes=10, width=8, in_channels=1, small_images=True)"  # fmt: skip
    recipe = Recipe(network=network, data="digits", epochs=1, size=16)
    train(recipe, folder)
    return folder / "last.safetensors"


@pytest.mark.parametrize("method", Method)
def test_every_method_writes_a_file_and_tests_what_it_holds(
    method: Method, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small.safetensors"
    result = compress(run, method, out)
    assert result["file"] == str(out) and result["images"] == 597
    assert result["after"]["bytes"] == out.stat().st_size
    assert abs(result["after"]["accuracy"] - result["before"]["accuracy"]) < 0.35
    kinds = {tensor.dtype for tensor in load_file(out).values()}
    expected = {
        Method.float16: torch.float16,
        Method.bfloat16: torch.bfloat16,
        Method.int8: torch.int8,
    }
    assert expected.get(method, torch.float32) in kinds
    with safe_open(out, "pt") as file:
        about = {key: json.loads(value) for key, value in file.metadata().items()}
    assert about["method"] == method and about["classes"] == [str(n) for n in range(10)]
    if method in (Method.float16, Method.bfloat16, Method.int8):
        assert result["after"]["bytes"] < 0.65 * result["before"]["bytes"]


def test_folding_changes_no_answer_and_pruning_sets_its_share_to_zero(
    run: Path, tmp_path: Path
) -> None:
    folded = compress(run, Method.fold, tmp_path / "folded.safetensors")
    assert folded["after"]["accuracy"] == folded["before"]["accuracy"]
    out = tmp_path / "pruned.safetensors"
    compress(run, Method.prune, out, sparsity=0.75)
    weights = [v for k, v in load_file(out).items() if v.ndim in (2, 4)]
    zeros = sum(int((w == 0).sum()) for w in weights)
    assert zeros / sum(w.numel() for w in weights) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0])
def test_a_sparsity_outside_0_to_1_is_refused(
    sparsity: float, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"--sparsity is {sparsity}"):
        compress(run, Method.prune, tmp_path / "a.safetensors", sparsity=sparsity)
    assert not list(tmp_path.iterdir())


def test_the_checkpoint_itself_is_not_overwritten(run: Path) -> None:
    before = run.read_bytes()
    with pytest.raises(Refused, match="the checkpoint itself"):
        compress(run, Method.int8, run)
    assert run.read_bytes() == before


def test_what_cannot_be_changed_is_told_and_nothing_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: Any) -> None:
        raise ValueError("1.running_var holds 100000")

    monkeypatch.setitem(compress.__globals__["CHANGES"], Method.float16, cannot)
    with pytest.raises(Refused, match=r"cannot be changed by float16: 1\.running_var"):
        compress(run, Method.float16, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_export_in_int8_keeps_the_metadata_and_nearly_all_answers(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.int8.onnx"
    whole = export(run, tmp_path / "model.onnx")
    result = export(run, out, int8=True)
    assert result["agree"] > 0.9 and result["tests"] == 597
    assert result["difference"] == pytest.approx(whole["difference"], abs=1e-5)
    stored, before = (
        {p.key: p.value for p in onnx.load(path).metadata_props}
        for path in (out, tmp_path / "model.onnx")
    )
    assert stored == before
    kinds = {node.op_type for node in onnx.load(out).graph.node}
    assert "QuantizeLinear" in kinds
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.int8.onnx",
        "model.onnx",
    ]
