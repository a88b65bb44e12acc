"""Without fcntl, as on Windows: what needs no lock works, a run is refused in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cnn_lab.recipe import Recipe
from cnn_lab.saved import LAST
from cnn_lab.train import train

TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
# Runs each command of a list in one process that has no fcntl, nor what else Windows'
# Python lacks, and prints what came of it.
WITHOUT = """
import contextlib, io, json, os, signal, sys
sys.modules["fcntl"] = None
real = os.open
def no_folders(path, *given, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return real(path, *given, **options)
import torch  # what other libraries need of POSIX is theirs
import cnn_lab.cli
assert not any("fcntl" in vars(module) for module in (cnn_lab.train, cnn_lab.stop))
del signal.SIGHUP, os.O_DIRECTORY
os.open = no_folders
ended = []
for asked in json.loads(sys.argv[1]):
    sys.argv = ["cnn-lab", *asked]
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cnn_lab.cli.main()
    except SystemExit as end:
        ended.append([end.code or 0, out.getvalue(), err.getvalue()])
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(Recipe(TINY, size=8, epochs=1, batch_size=600), folder)
    return folder / LAST


def without_fcntl(folder: Path, *asked: list[str]) -> list[tuple[int, str, str]]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT, json.dumps(asked)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(row) for row in json.loads(done.stdout)]


def test_what_needs_no_lock_works_and_a_run_is_refused_in_one_line(
    run: Path, tmp_path: Path
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    for name in ("0", "1"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "photos" / name / "a.png")
    here, short = str(run), ["--size", "8", "--epochs", "1"]
    works = [
        ["list"],
        ["--version"],
        ["evaluate", here, "--json", "measures.json"],
        ["evaluate", here, "--data", "folder:photos"],  # whose photos are loaded here
        ["evaluate", here, "--data", "folder:photos", "--workers", "2"],
        ["predict", here, "black.png", "--json", "classes.json"],
        ["export", here, "--out", "net.onnx"],
    ]
    refused = [
        ["train", TINY, *short, "--out", "new"],
        ["train", TINY, *short, "--out", "new", "--dry-run"],
        ["transfer", "digits", "--network", TINY, "--weights", here, "--out", "new"],
        ["compare", TINY, *short, "--with", "mixup=0.2", "--out", "new"],
    ]
    ended = without_fcntl(tmp_path, *works, *refused)
    for asked, (code, out, err) in zip(works, ended, strict=False):
        assert (code, err) == (0, ""), asked
        assert out, asked
    written = {p.name for p in tmp_path.iterdir()}
    assert written == {
        "black.png", "photos", "measures.json", "classes.json", "net.onnx",
    }  # fmt: skip
    assert json.loads((tmp_path / "measures.json").read_text())["images"] == 597
    for asked, (code, out, err) in zip(refused, ended[len(works) :], strict=True):
        assert (code, out) == (1, "") and err.count("\n") == 1, asked
        assert err.startswith("cnn-lab: cnn-lab's runs need POSIX (fcntl)"), asked
        assert "evaluate, export, predict and list work" in err
