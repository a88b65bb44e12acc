"""A real data set through the real command; the record that the page on training shows."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cnn_lab.evaluate import evaluation_data, load_network
from cnn_lab.fit import EvaluationBatches, SingleProcess, load_batches
from cnn_lab.recipe import Settings
from cnn_lab.record import interval
from cnn_site import ROOT
from cnn_site.evidence import Evidence

CPU = torch.device("cpu")
RUNS = ROOT / ".cache" / "record" / "fashion-mnist"
COMMAND = (
    'cnn-lab train "ResNet(BasicBlock, (1, 1, 1), width=16, small_images=True)" '
    "--data fashion-mnist --epochs 5 --batch-size 128 --learning-rate 0.01"
)


def train_fashion_mnist(command: str, seeds: list[int]) -> dict[str, Any]:
    """The command once a seed; a run that has ended is not made again."""
    root = Path(os.environ.get("CNN_LAB_ROOT", "data")).resolve()
    results, printed = [], []
    for seed in seeds:
        told = RUNS / f"seed-{seed}.txt"
        if not told.exists():
            RUNS.mkdir(parents=True, exist_ok=True)
            asked = shlex.split(f"{command} --seed {seed} --out seed-{seed}")[1:]
            run = subprocess.run(
                [sys.executable, "-m", "cnn_lab", *asked],
                cwd=RUNS,
                env={**os.environ, "CNN_LAB_ROOT": str(root), "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
            )
            assert run.returncode == 0, run.stderr
            told.write_text(run.stdout)
        printed.append(told.read_text())
        results.append(json.loads((RUNS / f"seed-{seed}/result.json").read_text()))
    values = [result["accuracy"] for result in results]
    return {
        "command": f"{command} --seed {seeds[0]} --out seed-{seeds[0]}",
        "output": printed[0],
        "arms": {
            "resnet": {
                "name": "ResNet, one block a stage, 16 channels",
                "accuracy": {**interval(values), "values": values},
                "loss": interval([result["loss"] for result in results]),
                "seconds": interval([result["seconds"] for result in results]),
                "curve": [result["history"] for result in results],
            }
        },
    }


@pytest.mark.record
def test_record_a_narrow_resnet_learns_fashion_mnist(evidence: Evidence) -> None:
    result = evidence.measured(
        "fashion_mnist",
        arguments={"command": COMMAND, "seeds": [0, 1, 2]},
        run=train_fashion_mnist,
    )
    assert min(result["arms"]["resnet"]["accuracy"]["values"]) >= 0.9


def run_by_onnxruntime(folder: str) -> dict[str, Any]:
    """The run's network exported by the command, on all test images beside torch."""
    import onnxruntime

    root = os.environ.get("CNN_LAB_ROOT", "data")
    checkpoint, out = RUNS / folder / "last.safetensors", RUNS / folder / "model.onnx"
    asked = ["export", str(checkpoint), "--to", "onnx", "--root", root]
    subprocess.run([sys.executable, "-m", "cnn_lab", *asked], check=True)
    model, state = load_network(checkpoint)
    data, _ = evaluation_data(checkpoint, model, state, "", Settings(Path(root)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(out, options)

    def by_onnx(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    seconds, found = {"torch": 0.0, "onnx": 0.0}, {"torch": [], "onnx": []}
    truth = []
    with torch.no_grad():
        for images, labels in load_batches(
            EvaluationBatches(data.test, 100, SingleProcess(CPU)), 0
        ):
            truth.append(labels)
            for name, run in (("torch", model), ("onnx", by_onnx)):
                start = time.process_time()
                found[name].append(run(images))
                seconds[name] += time.process_time() - start
    theirs, ours, labels = (
        torch.cat(part) for part in (found["torch"], found["onnx"], truth)
    )
    names = {"torch": "torch", "onnx": "onnxruntime, from the ONNX file"}
    return {
        "difference": ((ours - theirs).abs().max() / theirs.abs().max()).item(),
        "same_class": int((ours.argmax(1) == theirs.argmax(1)).sum()),
        "arms": {
            key: {
                "name": names[key],
                "accuracy": (torch.cat(found[key]).argmax(1) == labels)
                .double()
                .mean()
                .item(),
                "speed": len(labels) / seconds[key],
            }
            for key in names
        },
    }


def evaluate_one(command: str) -> dict[str, Any]:
    """The command, in the folder of the runs; its picture goes to the page."""
    root = Path(os.environ.get("CNN_LAB_ROOT", "data")).resolve()
    run = subprocess.run(
        [sys.executable, "-m", "cnn_lab", *shlex.split(command)[1:]],
        cwd=RUNS,
        env={**os.environ, "CNN_LAB_ROOT": str(root), "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    shutil.copy(RUNS / "fashion-mnist.svg", ROOT / "docs/lab/fashion-mnist.svg")
    return {"command": command, "output": run.stdout}


@pytest.mark.record
def test_record_the_run_is_evaluated_class_by_class(evidence: Evidence) -> None:
    command = "cnn-lab evaluate seed-0/last.safetensors --confusion fashion-mnist.svg"
    result = evidence.measured(
        "evaluated", arguments={"command": command}, run=evaluate_one
    )
    assert "Shirt" in result["output"]


@pytest.mark.record
def test_record_the_exported_network_reads_as_well(evidence: Evidence) -> None:
    result = evidence.measured(
        "onnx", arguments={"folder": "seed-0"}, run=run_by_onnxruntime
    )
    accuracies = {arm["accuracy"] for arm in result["arms"].values()}
    assert max(accuracies) - min(accuracies) <= 1e-3
    assert result["difference"] <= 1e-4
