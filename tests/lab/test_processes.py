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

from cnn_lab.fit import EvaluationBatches, InMemory, SingleProcess, TrainingBatches
from cnn_lab.recipe import Recipe, Settings
from cnn_lab.saved import LAST, RESULT
from cnn_lab.train import train
from cnn_site import ROOT

# 12 steps an epoch, of 109 images; the last has one, less than there are processes.
OPTIONS = {
    "epochs": 2,
    "batch_size": 109,
    "learning_rate": 0.01,
    "augment": "basic-augmentation,randaugment",
}
DRIVER = """
import os, torch, cnn_lab.cli
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
        _until_saved(self.folder, time.time(), self.process)

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


def _until_saved(
    folder: Path, begun: float, process: "subprocess.Popen[str] | None" = None
) -> None:
    path, end = folder / "run" / LAST, time.time() + 180
    while not path.exists() or path.stat().st_mtime < begun:
        assert process is None or process.poll() is None, process.communicate()
        assert time.time() < end, "waited in vain"
        time.sleep(0.01)


def _interruptible() -> None:
    """A shell's background ignores SIGINT, and so would all that is started there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def alone(network: str, folder: Path, **options: Any) -> dict[str, Any]:
    """The result of one process, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        return train(Recipe(network, **{**OPTIONS, **options}), folder, Settings())
    finally:
        torch.set_default_dtype(torch.float32)


def together(forks: Any, folder: Path, network: str, *more: str) -> dict[str, Any]:
    """The result of two processes, in float64; started as torchrun does."""
    folder.mkdir(exist_ok=True)
    told = forks.done(
        folder, ["train", network, *GIVEN, *more], processes=2, float64=True
    )
    assert len(re.findall("of 597 test images", told)) == 1  # told by one of them
    result: dict[str, Any] = json.loads((folder / "run" / RESULT).read_text())
    return result


def the_same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether losses differ by rounding alone, and nothing else does."""
    names = ("images", "validation_images", "epoch", "accuracy", "validation_accuracy")
    results = [{k: r[k] for k in names if k in r} for r in (found, expected)]
    rows = [[{**row, "loss": 0.0} for row in r["history"]] for r in (found, expected)]
    pairs = zip(found["curve"], expected["curve"], strict=True)
    return (
        results[0] == results[1]
        and rows[0] == rows[1]
        and all(abs(a - b) < 1e-8 for a, b in pairs)
    )


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    """As accelerate starts them; the page shows torchrun."""
    with launched(ACCELERATE, tmp_path, "train", "LeNet5", *GIVEN) as run:
        out, errors = run.process.communicate(timeout=300)
    assert run.process.returncode == 0, errors
    assert len(re.findall("of 597 test images", out)) == 1  # told by one of them
    found = json.loads((tmp_path / "run" / RESULT).read_text())
    expected = alone("LeNet5", tmp_path / "alone")
    assert the_same(found, expected), (found, expected)


@pytest.mark.slow
def test_two_processes_add_up_the_parts_of_a_batch(forks: Any, tmp_path: Path) -> None:
    """The batch of one image has fewer than there are processes and parts."""
    more = {"accumulate": 3, "clip": 0.5, "validate": 0.1}
    given = [f"--{name}={value}" for name, value in more.items()]
    found = together(forks, tmp_path, "LeNet5", *given, "--batch-size=1079")
    expected = alone("LeNet5", tmp_path / "alone", batch_size=1079, **more)
    assert the_same(found, expected), (found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("normed", [False, True])
def test_two_processes_train_a_network_and_data_of_ones_own(
    normed: bool, forks: Any, tmp_path: Path
) -> None:
    """Those of the page; with batch norms, which see one process's images, otherwise."""
    page = (ROOT / "docs/lab/own-network.md").read_text(encoding="utf-8")
    for name in ("mynet", "mydata"):
        shown = re.search(rf'title="{name}\.py"\}}\n(.*?)\n```', page, re.DOTALL)
        assert shown is not None, name
        # Statistics of the last batch alone differ most between processes.
        norm = r"nn.BatchNorm2d(\1, momentum=1)" if normed else r"nn.GroupNorm(1, \1)"
        code, count = re.subn(r"nn\.BatchNorm2d\((.*)\)", norm, shown[1])
        assert count == (2 if name == "mynet" else 0)
        (tmp_path / f"{name}.py").write_text(code)
    # Without: the last batch of an epoch, of 960 images, has one: less than processes.
    more = ["--batch-size", "137", "--validate", "0.2", "--workers", "1"]
    asked = [
        *("train", "mynet:small", "--data", "mydata:parity", "--epochs", "2"),
        *("--learning-rate", "0.003", *(["--batch-size", "30"] if normed else more)),
    ]
    forks.done(tmp_path, [*asked, "--out", "one"], float64=True)
    told = forks.done(tmp_path, [*asked, "--out", "two"], processes=2, float64=True)
    assert len(re.findall("of 597 test images", told)) == 1  # told by one of them
    one, two = (json.loads((tmp_path / n / RESULT).read_text()) for n in ("one", "two"))
    assert the_same(two, one) != normed, (two, one)
    # What is told of the network is true of the one that is saved.
    own = ["--network", "mynet:small", "--data", "mydata:parity", "--json", "-"]
    measures = json.loads(forks.done(tmp_path, ["evaluate", "two", *own], float64=True))
    assert measures["accuracy"] == two["accuracy"] and measures["images"] == 597


@pytest.mark.slow
def test_a_process_that_is_lost_ends_the_run_which_goes_on_to_the_same_bytes(
    forks: Any, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    together(forks, whole, "LeNet5")

    begins, goes_on = ["train", "LeNet5", *GIVEN], ["train", "--resume", "run"]
    with launched(TORCHRUN, killed, *begins) as run:
        run.until_saved()
        os.kill(run.pid(1), signal.SIGKILL)
        code, told = run.ended()
    assert code != 0 and len(told) == 1, told
    assert LOST.fullmatch(told[0])

    # Now the one at whose port they meet; and no launcher ends the other.
    begun = time.time()
    first, _ = forks.begin(killed, goes_on, processes=2, float64=True)
    _until_saved(killed, begun)
    os.kill(first, signal.SIGKILL)
    assert forks.ended(120) == [-signal.SIGKILL, 1]
    assert LOST.fullmatch(forks.told("err").strip())

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
    forks.done(killed, goes_on, processes=2, float64=True)
    ended = [(folder / "run" / LAST).read_bytes() for folder in (killed, whole)]
    assert ended[0] == ended[1]


LOST = re.compile(
    r"cnn-lab: another process has ended \(.*\), so this one stops; "
    r"go on with: cnn-lab train --resume run"
)
