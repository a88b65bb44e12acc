"""The same command as several processes, under torchrun and accelerate launch."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from cnn_lab import checkpoint
from cnn_lab.fit import EvaluationBatches, InMemory, SingleProcess, TrainingBatches
from cnn_lab.prepare import prepared
from cnn_lab.recipe import Recipe, Settings
from cnn_lab.saved import LAST, RESULT
from cnn_lab.scores import accuracy
from cnn_lab.train import train

# 12 steps an epoch, of 109 images; the last has one, less than there are processes.
OPTIONS = {
    "epochs": 2,
    "batch_size": 109,
    "learning_rate": 0.01,
    "augment": "basic-augmentation,randaugment",
}
NORMED = "ResNet(BasicBlock, (1, 1), width=8, small_images=True)"
DRIVER = """
import os, sys, torch, cnn_lab.cli
torch.set_default_dtype(torch.float64)
open(f"pid-{os.environ['RANK']}", "w").write(str(os.getpid()))
cnn_lab.cli.main()
"""


# --- how the data are split ----------------------------------------------------------


def shares(count: int, batch: int, processes: int) -> list[list[list[int]]]:
    """The images of an epoch by process and step, each an index."""
    source = InMemory(torch.arange(count), torch.arange(count))
    found = []
    for rank in range(processes):
        plan = TrainingBatches(
            source, 0, 1, batch, SingleProcess(torch.device("cpu"), processes, rank)
        )
        steps = []
        for step in range(len(plan)):
            images, labels = plan[step]  # type: ignore[misc]
            assert images.equal(labels)
            steps.append(images[: plan.share(step)].tolist())
        found.append(steps)
    return found


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize(("count", "batch"), [(24, 6), (25, 6), (26, 7), (21, 10)])
def test_every_image_of_a_batch_is_at_one_process(
    count: int, batch: int, processes: int
) -> None:
    alone = shares(count, batch, 1)[0]
    found = shares(count, batch, processes)
    for step, whole in enumerate(alone):
        parts = [steps[step] for steps in found]
        assert sorted(chain(*parts)) == sorted(whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert sorted(chain(*alone)) == list(range(count))


def test_an_image_is_augmented_alike_at_any_process() -> None:
    def augment(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        return torch.stack([images.double(), draws[:, 0]], dim=1)

    source = InMemory(torch.arange(20), torch.arange(20), augment, 1)
    seen = []
    for processes in (1, 3):
        drawn: dict[int, float] = {}
        for rank in range(processes):
            plan = TrainingBatches(
                source, 0, 1, 6, SingleProcess(torch.device("cpu"), processes, rank)
            )
            for step in range(len(plan)):
                rows = plan[step][0][: plan.share(step)]  # type: ignore[index]
                drawn |= {int(row): draw for row, draw in rows.tolist()}
        assert len(drawn) == 20
        seen.append(drawn)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_test_image_is_counted_once(processes: int) -> None:
    source, found = InMemory(torch.arange(10), torch.arange(10)), []
    for rank in range(processes):
        parts = EvaluationBatches(
            source, 4, SingleProcess(torch.device("cpu"), processes, rank)
        )
        found += [row for n in range(len(parts)) for row in parts[n][0].tolist()]  # type: ignore[index]
    assert sorted(found) == list(range(10))


# --- real processes ------------------------------------------------------------------

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--main_process_port", "0"),
]
GIVEN = ["--save-every", "2", "--out", "run"]
GIVEN += [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]


@dataclass
class Launched:
    """A launcher and what it has started."""

    process: "subprocess.Popen[str]"
    folder: Path

    def pid(self, rank: int) -> int:
        return int((self.folder / f"pid-{rank}").read_text())

    def until_saved(self) -> None:
        """Wait for a checkpoint of this run."""
        begun, end = time.time(), time.time() + 180
        path = self.folder / "run" / LAST
        while not path.exists() or path.stat().st_mtime < begun:
            assert self.process.poll() is None, self.process.communicate()
            assert time.time() < end, "waited in vain"
            time.sleep(0.01)

    def ended(self) -> tuple[int, list[str]]:
        """The exit code, and the lines in which a process of cnn-lab tells of an error."""
        _, errors = self.process.communicate(timeout=120)
        # torchrun's own report quotes nothing of them.
        told = [line for line in errors.split("\n") if line.startswith("cnn-lab: ")]
        assert "cnn_lab/" not in errors, errors  # no traceback through it
        return self.process.returncode, told


@contextmanager
def launched(launcher: list[str], folder: Path, *arguments: str) -> Iterator[Launched]:
    (folder / "driver.py").write_text(DRIVER)
    for old in folder.glob("pid-*"):
        old.unlink()
    with subprocess.Popen(
        [sys.executable, "-m", *launcher, "driver.py", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=_interruptible,
    ) as process:
        try:
            yield Launched(process, folder)
        finally:
            process.terminate()


def _interruptible() -> None:
    """A shell's background ignores SIGINT, and so would all that is started there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def curve(folder: Path) -> list[tuple[float, float]]:
    told = json.loads((folder / RESULT).read_text())
    return [(row["loss"], row["accuracy"]) for row in told["history"]]


def alone(network: str, folder: Path, **options: Any) -> list[tuple[float, float]]:
    """What one process finds, in float64."""
    train_in_one(network, folder, **options)
    return curve(folder)


def train_in_one(network: str, folder: Path, **options: Any) -> dict[str, Any]:
    torch.set_default_dtype(torch.float64)
    try:
        return train(Recipe(network, **{**OPTIONS, **options}), folder, Settings())
    finally:
        torch.set_default_dtype(torch.float32)


def together(launcher: list[str], folder: Path, network: str, *more: str) -> None:
    """Carry a run out, as two processes, in float64."""
    folder.mkdir(exist_ok=True)
    with launched(launcher, folder, "train", network, *GIVEN, *more) as run:
        out, errors = run.process.communicate(timeout=300)
    assert run.process.returncode == 0, errors
    assert len(re.findall("of 597 test images", out)) == 1  # told by one of them


@pytest.mark.slow
def test_two_processes_find_what_one_finds_unless_batches_are_normed(
    tmp_path: Path,
) -> None:
    """A batch norm takes the statistics of the images of its own process."""
    for network, launcher, batch, same in (
        ("LeNet5", ACCELERATE, 109, True),
        (NORMED, TORCHRUN, 100, False),
    ):
        folder = tmp_path / network[:5]
        together(launcher, folder, network, f"--batch-size={batch}")
        found = curve(folder / "run")
        expected = alone(network, folder / "alone", batch_size=batch)
        difference = max(abs(a[0] - b[0]) for a, b in zip(found, expected, strict=True))
        assert (difference < 1e-8) == same, (found, expected)
        if same:
            assert [a[1] for a in found] == [b[1] for b in expected]
        # What is told of the network is true of the one that is saved.
        assert _scored(folder / "run" / LAST, network) == found[-1][1]


@pytest.mark.slow
def test_two_processes_add_up_the_parts_of_a_batch(tmp_path: Path) -> None:
    """The batch of one image has fewer than there are processes and parts."""
    more = {"accumulate": 3, "clip": 0.5, "validate": 0.1}
    given = [f"--{name}={value}" for name, value in more.items()]
    together(TORCHRUN, tmp_path, "LeNet5", *given, "--batch-size=1079")
    expected = train_in_one("LeNet5", tmp_path / "alone", batch_size=1079, **more)
    found = json.loads((tmp_path / "run" / RESULT).read_text())
    assert found["accuracy"] == expected["accuracy"]
    for ours, theirs in zip(found["history"], expected["history"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-8)


def _scored(path: Path, network: str) -> float:
    state = checkpoint.load(path)
    torch.set_default_dtype(torch.float64)
    try:
        model, data = prepared(Recipe(network), Settings())
        model.load_state_dict(state["model"])
        return accuracy(model, data.test, SingleProcess(torch.device("cpu")))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_a_process_that_is_lost_ends_the_run_which_goes_on_to_the_same_bytes(
    tmp_path: Path,
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    together(TORCHRUN, whole, "LeNet5")
    expected = alone("LeNet5", tmp_path / "alone")
    for found, one in zip(curve(whole / "run"), expected, strict=True):
        assert found == pytest.approx(one, rel=0, abs=1e-8)

    begins, goes_on = ["train", "LeNet5", *GIVEN], ["train", "--resume", "run"]
    for rank, arguments in ((1, begins), (0, goes_on)):
        with launched(TORCHRUN, killed, *arguments) as run:
            run.until_saved()
            os.kill(run.pid(rank), signal.SIGKILL)
            begun = time.monotonic()
            code, told = run.ended()
        assert code != 0 and len(told) == 1, told
        assert told[0].startswith("cnn-lab: another process has ended (")
        assert told[0].endswith("go on with: cnn-lab train --resume run")
        assert time.monotonic() - begun < 60
    with launched(TORCHRUN, killed, *goes_on) as run:
        run.until_saved()
        run.process.send_signal(signal.SIGINT)  # torchrun hands it on to both
        code, told = run.ended()
    assert code != 0
    assert told and re.fullmatch(
        r"cnn-lab: stopped after \d+ steps, all of which are saved; "
        r"go on with: cnn-lab train --resume run",
        told[0],
    )
    with launched(TORCHRUN, killed, *goes_on) as run:
        assert run.ended() == (0, [])
    ended = [(folder / "run" / LAST).read_bytes() for folder in (killed, whole)]
    assert ended[0] == ended[1]
