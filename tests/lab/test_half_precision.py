"""fp16 needs a GPU: without one it is told in a line, before anything is written."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cnn_lab import checkpoint
from cnn_lab.cli import main
from cnn_lab.recipe import Precision, Recipe
from cnn_lab.stop import Refused
from cnn_lab.train import train

TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
SHORT = [TINY, "--size", "8", "--epochs", "1", "--batch-size", "600"]
HALF = ["--mixed-precision", "fp16"]
TOLD = "cnn-lab: mixed precision fp16 needs a GPU; bf16 runs on a CPU too\n"
COMMANDS = {
    "train": ["train", *SHORT, *HALF, "--out", "run"],
    "a dry run": ["train", *SHORT, *HALF, "--out", "run", "--dry-run"],
    "transfer": [
        *("transfer", "digits", "--network", TINY, "--weights", "", *HALF),
        *("--strategy", "everything", "--out", "run"),
    ],
    "compare": ["compare", *SHORT, *HALF, "--with", "mixup=0.2", "--out", "run"],
    "an arm": ["compare", *SHORT, "--with", "mixed-precision=fp16", "--out", "run"],
    "a baseline": [
        *("compare", *SHORT, *HALF, "--with", "mixed-precision=no", "--out", "run"),
    ],
}


@pytest.fixture
def lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Runs the command in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*asked: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cnn-lab", *asked])
        with pytest.raises(SystemExit) as end:
            main()
        told = capsys.readouterr()
        return int(end.value.code or 0), told.out, told.err

    return run


@pytest.fixture(params=["none", "kept from it"], autouse=True)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Without a GPU; and with one that Accelerate's own variable keeps runs from."""
    there = request.param != "none"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setenv("ACCELERATE_USE_CPU", str(there).lower())
    return str(request.param)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_refuses_it_in_one_line_and_writes_nothing(
    command: str, lab: Any, tmp_path: Path
) -> None:
    assert lab(*COMMANDS[command]) == (1, "", TOLD)
    assert not list(tmp_path.iterdir())


def test_python_is_told_the_same(tmp_path: Path) -> None:
    recipe = Recipe(TINY, size=8, epochs=1, mixed_precision=Precision.fp16)
    with pytest.raises(Refused, match="fp16 needs a GPU; bf16 runs on a CPU too"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_there_is_no_option_for_the_device(lab: Any, tmp_path: Path) -> None:
    code, out, err = lab("train", *SHORT, "--device", "cpu", *HALF)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("cnn-lab: No such option: --device")
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_made_on_a_gpu_is_used_and_not_gone_on_with(
    lab: Any, tmp_path: Path, gpu: str
) -> None:
    if gpu != "none":
        pytest.skip("evaluate takes the GPU that is there")
    asked = ["train", *SHORT, "--epochs", "2", "--out", "run"]
    assert lab(*asked)[0] == 0
    (tmp_path / "run" / "result.json").unlink()
    path = tmp_path / "run" / "last.safetensors"
    state, config = checkpoint.load(path), tmp_path / "run" / "config.json"
    state["recipe"]["mixed_precision"] = "fp16"
    state["scaler"] = torch.amp.GradScaler("cpu").state_dict()
    checkpoint.save(path, state)
    saved = json.loads(config.read_text())
    config.write_text(json.dumps({**saved, "mixed_precision": "fp16"}))
    before = path.read_bytes()
    assert lab("train", "--resume", "run") == (1, "", TOLD)
    assert path.read_bytes() == before
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    for command in (["evaluate", "run"], ["predict", "run", "black.png"]):
        code, out, err = lab(*command)
        assert (code, err) == (0, "") and out, command
