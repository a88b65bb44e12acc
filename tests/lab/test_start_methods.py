"""Transfer and compare give the same however the processes that load images are started."""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_lab.cli import main

TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
SPAWN = pytest.param("spawn", marks=pytest.mark.slow)
FORKSERVER = pytest.param("forkserver", marks=pytest.mark.slow)
# Sets the method before the command runs, and writes down how each process was started.
START = """
import multiprocessing, multiprocessing.process, sys
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv.pop(1))
    start = multiprocessing.process.BaseProcess.start
    def noted(process):
        start(process)
        with open("started", "a") as file:
            print(process._popen.method, file=file)
    multiprocessing.process.BaseProcess.start = noted
    from cnn_lab.cli import main
    main()
"""
TRANSFER = [
    *("transfer", "photos", "--network", TINY, "--weights", "before/last.safetensors"),
    *("--strategy", "last-n", "--last", "1", "--size", "16", "--epochs", "1"),
    *("--batch-size", "7", "--validate", "0.2", "--mixup", "0.2"),
    *("--augment", "basic-augmentation,trivialaugment"),
]
COMPARE = [
    *("compare", TINY, "--data", "folder:photos", "--size", "16", "--epochs", "1"),
    *("--batch-size", "7", "--augment", "basic-augmentation,randaugment"),
    *("--with", "mixup=0.2", "--seeds", "2"),
]
OWN = [
    *("train", "mine:net", "--data", "mine:data", "--epochs", "1"),
    *("--batch-size", "10", "--validate", "0.2"),
]
MINE = """
import torch
from torch import nn
from torch.utils.data import Dataset
from cnn_lab.own import Datasets

def net(num_classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(4 * 6 * 6, num_classes))

class Noise(Dataset):
    classes = ["dark", "light"]

    def __init__(self, count):
        self.targets = [n % 2 for n in range(count)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        return torch.rand(1, 8, 8) + self.targets[row], self.targets[row]

def data():
    return Datasets(Noise(40), Noise(20))

class Held(Noise):
    def __init__(self, count):
        super().__init__(count)
        self.change = lambda image: image  # which cannot be pickled

def held_tests():
    return Datasets(Noise(40), Held(20))
"""


def photos(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for n in range(12):
            pixels = draw.integers(0, 256, (16, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{n}.png")


def called(*arguments: str) -> None:
    """The command in this process, which has to end well."""
    kept, sys.argv = sys.argv, ["cnn-lab", *arguments]
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = kept
    assert not end.value.code


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, weights to start from, and what a single process makes of them."""
    folder = tmp_path_factory.mktemp("yard")
    photos(folder / "photos")
    (folder / "mine.py").write_text(MINE)
    (folder / "start.py").write_text(START)
    short = ["--size", "8", "--epochs", "1", "--batch-size", "600"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        called("train", TINY, *short, "--out", "before")
        for name, asked in {
            "transfer": TRANSFER,
            "compare": COMPARE,
            "own": OWN,
        }.items():
            called(*asked, "--workers", "0", "--out", f"alone-{name}")
        sys.modules.pop("mine")
    return folder


@pytest.fixture
def here(yard: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(yard)
    method = multiprocessing.get_start_method()
    yield yard
    multiprocessing.set_start_method(method, force=True)


def carried_out(method: str, out: str, *arguments: str) -> None:
    """The command with a process that loads images, started by that method."""
    asked = [*arguments, "--workers", "1", "--out", out]
    if method == "fork":  # here: nothing has to be imported again
        multiprocessing.set_start_method(method, force=True)
        called(*asked)
        return
    Path("started").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "start.py", method, *asked],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # For training and for testing, and again in each run.
    runs = len(list(Path(out).rglob("result.json")))
    started = Path("started").read_text().split()
    assert set(started) == {method} and len(started) >= 2 * runs


def same_files(out: str, alone: str, *names: str) -> None:
    for name in names:
        found = sorted(str(p.relative_to(out)) for p in Path(out).rglob(name))
        expected = sorted(str(p.relative_to(alone)) for p in Path(alone).rglob(name))
        assert found == expected and found, name
        for file in found:
            assert Path(out, file).read_bytes() == Path(alone, file).read_bytes(), file


def without_times(path: Path) -> Any:
    """What a run or a comparison has written, less what tells of time and place."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        if isinstance(value, dict):
            left = ("time", "environment", "seconds", "processor_seconds")
            return {k: plain(v) for k, v in value.items() if k not in left}
        return value

    return plain(json.loads(path.read_text()))


@pytest.mark.parametrize("method", ["fork", SPAWN, FORKSERVER])
def test_transfer(method: str, here: Path) -> None:
    out, alone = f"{method}-transfer", "alone-transfer"
    carried_out(method, out, *TRANSFER)
    same_files(out, alone, "last.safetensors", "best.safetensors", "photos.json")
    found, expected = (without_times(Path(p, "result.json")) for p in (out, alone))
    assert found == expected


@pytest.mark.parametrize(
    "method", ["fork", SPAWN]
)  # the stricter one; forkserver is slow
def test_compare(method: str, here: Path) -> None:
    out, alone = f"{method}-compare", "alone-compare"
    carried_out(method, out, *COMPARE)
    same_files(out, alone, "last.safetensors", "photos.json", "compare.svg")
    assert len(list(Path(out).rglob("last.safetensors"))) == 4
    found, expected = (without_times(Path(p, "compare.json")) for p in (out, alone))
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_network_and_a_data_set_of_ones_own(method: str, here: Path) -> None:
    carried_out(method, f"{method}-own", *OWN)
    same_files(f"{method}-own", "alone-own", "last.safetensors", "best.safetensors")


@pytest.mark.slow
def test_a_part_that_cannot_be_pickled_is_told_before_the_run(here: Path) -> None:
    asked = [*OWN, "--data", "mine:held_tests", "--out", "held"]
    own = ["--network", "mine:net", "--data", "mine:held_tests"]
    for command in (asked, ["evaluate", "alone-own", *own]):
        done = subprocess.run(
            [sys.executable, "start.py", "spawn", *command, "--workers", "1"],
            capture_output=True,
            text=True,
        )
        told = "cnn-lab: the Dataset cannot be given to other processes"
        assert done.returncode == 1 and done.stderr.startswith(told), done.stderr
        assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert not Path("held").exists()
