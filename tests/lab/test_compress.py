"""`cnn-lab compress` and `export --int8`: each writes a file, tests what it holds, and leaves no half of one."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from cnn_lab import checkpoint, smaller
from cnn_lab.checkpoint import NotACheckpoint
from cnn_lab.compress import compress
from cnn_lab.evaluate import evaluate, load_network
from cnn_lab.export import export
from cnn_lab.recipe import Recipe
from cnn_lab.smaller import Method
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
    state = checkpoint.load(out)
    kinds = {tensor.dtype for tensor in state["model"].values()}
    expected = {
        Method.float16: torch.float16,
        Method.bfloat16: torch.bfloat16,
        Method.int8: torch.int8,
        Method.int4: torch.uint8,
    }
    assert expected.get(method, torch.float32) in kinds
    assert state["compressed"][-1]["method"] == method
    if method not in (Method.fold, Method.prune):
        assert result["after"]["bytes"] < 0.7 * result["before"]["bytes"]
    told = evaluate(out, "digits")
    assert told["accuracy"] == result["after"]["accuracy"]


def test_folding_changes_no_answer_and_pruning_sets_its_share_to_zero(
    run: Path, tmp_path: Path
) -> None:
    folded = compress(run, Method.fold, tmp_path / "folded.safetensors")
    assert folded["after"]["accuracy"] == folded["before"]["accuracy"]
    out = tmp_path / "pruned.safetensors"
    compress(run, Method.prune, out, sparsity=0.75)
    model = checkpoint.load(out)["model"]
    weights = [v for v in model.values() if v.ndim in (2, 4)]
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

    monkeypatch.setitem(smaller.WAYS, Method.float16, smaller.Way(cannot, cannot))
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


def test_what_is_still_floating_point_is_made_smaller_again_and_exported(
    run: Path, tmp_path: Path
) -> None:
    narrow, small = tmp_path / "narrow.safetensors", tmp_path / "small.safetensors"
    first = compress(run, Method.structured, narrow, sparsity=0.5)
    compress(narrow, Method.fold, small)
    second = compress(small, Method.int8, tmp_path / "int8.safetensors")
    assert second["after"]["bytes"] < first["after"]["bytes"]
    model, _ = load_network(small)
    assert "BatchNorm2d" not in {type(m).__name__ for m in model.modules()}
    told = export(small, tmp_path / "small.onnx")
    assert told["difference"] < 1e-5


@pytest.mark.parametrize("method", [Method.int8, Method.int4, Method.float16])
def test_what_is_no_longer_floating_point_is_refused(
    method: Method, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small.safetensors"
    compress(run, method, out)
    for again in (
        lambda: compress(out, Method.fold, tmp_path / "a.safetensors"),
        lambda: export(out, tmp_path / "a.onnx"),
    ):
        with pytest.raises(Refused, match=f"compressed by {method}, which is the last"):
            again()
    assert [p.name for p in tmp_path.iterdir()] == ["small.safetensors"]


def test_a_file_with_an_unknown_change_is_no_checkpoint(
    run: Path, tmp_path: Path
) -> None:
    state = checkpoint.load(run) | {"compressed": [{"method": "zip", "shape": [2]}]}
    checkpoint.save(tmp_path / "a.safetensors", state)
    with pytest.raises(NotACheckpoint, match="does not hold its network"):
        load_network(tmp_path / "a.safetensors")
