"""What Windows' Python lacks is hidden: all is imported, and what needs no lock works."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cnn_lab.recipe import Recipe
from cnn_lab.train import train
from cnn_site import ROOT

TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
# The modules of the standard library that are on Unix alone.
UNIX = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
# What other libraries import of these is theirs; Windows' wheels of them do without.
HIDE = f"""
import contextlib, io, json, os, signal, sys
import accelerate, matplotlib.figure, onnx, onnxruntime, onnxscript, rich.progress
import scipy.stats, sklearn.datasets, torch, torch.onnx, torchmetrics, torchvision, typer
for name in {UNIX}:
    sys.modules[name] = None
del signal.SIGHUP, signal.SIGKILL, os.fork, os.O_DIRECTORY
real = os.open
def no_folders(path, *given, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return real(path, *given, **options)
os.open = no_folders
"""
IMPORTS = """
import importlib, pkgutil
import cnn_lab, cnn_techniques
count = 0
for package in (cnn_lab, cnn_techniques):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
            count += 1
print(count)
"""
COMMANDS = """
import cnn_lab.cli
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
PYTHON = """
from pathlib import Path
from torch import nn
from cnn_lab.compare import compare
from cnn_lab.data import digits
from cnn_lab.evaluate import evaluate
from cnn_lab.export import export
from cnn_lab.fit import accuracy, fit
from cnn_lab.predict import predict
from cnn_lab.recipe import Recipe
from cnn_lab.stop import Refused
from cnn_lab.train import train
here, network = Path(sys.argv[1]), sys.argv[2]
images, labels = digits("train", 8)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), 0.01)
fit(model, (images, labels), epochs=3, batch_size=100, optimizer=optimizer)
assert accuracy(model, images, labels) > 0.5
assert evaluate(here)["images"] == 597
assert "classes" in predict(here, [Path("black.png")])["images"][0]
assert export(here, Path("python.onnx"))["images"] == 10
recipe = Recipe(network, size=8, epochs=1)
other = Recipe(network, size=8, epochs=1, mixup=0.2)
for refused in (
    lambda: train(recipe, Path("made")),
    lambda: train(recipe, Path("made"), model=model),
    lambda: compare(recipe, [other], Path("made")),
):
    try:
        refused()
    except Refused as error:
        assert str(error).startswith("cnn-lab's runs need POSIX (fcntl)"), error
        assert len(str(error).splitlines()) == 1
    else:
        raise AssertionError("it was not refused")
assert not Path("made").exists()
print("done")
"""
NETS = """
from torch import nn

def small(num_classes):
    return nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten(), nn.Linear(4, num_classes))
"""
DATA = """
from torch.utils.data import TensorDataset
from cnn_lab.data import digits
from cnn_lab.own import Datasets

def tens():
    train, test = (TensorDataset(*digits(part, 8)) for part in ("train", "test"))
    return Datasets(train, test, [str(n) for n in range(10)])
"""


def hidden(folder: Path, program: str, *arguments: str) -> str:
    """What a program prints that has nothing of Unix."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HIDE + program, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that were made elsewhere, and what they are used with."""
    folder = tmp_path_factory.mktemp("yard")
    (folder / "nets.py").write_text(NETS)
    (folder / "tens.py").write_text(DATA)
    Image.new("L", (8, 8)).save(folder / "black.png")
    (folder / "new").mkdir()
    Image.new("RGB", (9, 12)).save(folder / "new" / "a.jpg")
    (folder / "guesses.csv").write_text("true,predicted\ncat,cat\ndog,cat\n")
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for n in range(6):
            image = Image.new("L", (8, 8), 40 * n)
            image.save(folder / "photos" / name / f"{n}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        small = {"size": 8, "epochs": 1, "batch_size": 600}
        train(Recipe(TINY, **small), Path("run"))
        train(Recipe(TINY, "folder:photos", validate=0.3, **small), Path("of-photos"))
        own = {**small, "size": None}
        train(Recipe("nets:small", "tens:tens", **own), Path("own"))
        for module in ("nets", "tens"):
            sys.modules.pop(module)
    for name in ("run", "of-photos", "own"):
        (folder / name / ".lock").unlink()
    return folder


@pytest.mark.slow
def test_every_module_is_imported(tmp_path: Path) -> None:
    files = [
        path
        for package in ("cnn_lab", "cnn_techniques")
        for path in (ROOT / "src" / package).rglob("*.py")
        if path.stem != "__main__" and path != ROOT / "src" / package / "__init__.py"
    ]
    assert int(hidden(tmp_path, IMPORTS)) == len(files)


def test_no_module_imports_what_is_on_unix_alone_when_it_is_imported() -> None:
    """A library may have imported it before, so that hiding it would show nothing."""
    seen = 0
    for package in ("cnn_lab", "cnn_techniques"):
        for path in (ROOT / "src" / package).rglob("*.py"):
            seen += 1
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                names = (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [str(node.module)]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
                assert not set(names) & set(UNIX), f"{path.name}: {names}"
    assert seen > 50


@pytest.mark.slow
def test_commands_that_need_no_lock_work_and_runs_are_refused(yard: Path) -> None:
    own = ["--network", "nets:small", "--data", "tens:tens"]
    works = [
        ["list"],
        ["--version"],
        ["--help"],
        ["train", "--help"],
        ["evaluate", "run"],
        ["evaluate", "run", "--confusion", "matrix.png"],
        ["evaluate", "run", "--json", "-"],
        ["evaluate", "guesses.csv", "--confusion", "guesses.svg"],
        ["evaluate", "of-photos", "--workers", "2"],
        ["evaluate", "own", *own, "--workers", "2"],
        ["predict", "of-photos", "new", "black.png"],
        ["export", "run"],
        ["export", "run"],  # over the one that is there
        ["export", "of-photos"],
        ["export", "own", *own],
    ]
    refused = [
        ["train", "--resume", "of-photos"],
        ["train", "--config", "run/config.json", "--out", "made"],
        ["train", "nets:small", "--data", "tens:tens", "--out", "made"],
        ["train", TINY, "--size", "8", "--out", "made", "--dry-run"],
        ["transfer", "photos", "--weights", "", "--network", TINY, "--out", "made"],
        ["transfer", "photos", "--weights", "", "--network", TINY, "--dry-run"],
        ["compare", TINY, "--size", "8", "--with", "mixup=0.2", "--out", "made"],
    ]
    (yard / "of-photos" / "result.json").unlink(missing_ok=True)
    ended = json.loads(hidden(yard, COMMANDS, json.dumps([*works, *refused])))
    for asked, (code, out, err) in zip(works, ended, strict=False):
        assert (code, err) == (0, "") and out, (asked, err)
    for asked, (code, out, err) in zip(refused, ended[len(works) :], strict=True):
        assert (code, out) == (1, "") and err.count("\n") == 1, (asked, out, err)
        assert err.startswith("cnn-lab: cnn-lab's runs need POSIX (fcntl)"), asked
        assert "evaluate, export, predict and list work" in err
    for name in ("matrix.png", "guesses.svg", "run/model.onnx", "own/model.onnx"):
        assert (yard / name).stat().st_size > 1000, name
    assert not (yard / "made").exists() and not list(yard.rglob(".lock"))


@pytest.mark.slow
def test_from_python_it_is_the_same(yard: Path) -> None:
    assert hidden(yard, PYTHON, "run/last.safetensors", TINY).endswith("done\n")
