"""The command as one types it: help, configurations, what is shown, and trackers."""

import csv
import gc
import io
import json
import os
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from cnn_lab import networks, show
from cnn_lab.cli import main
from cnn_lab.options import OPTIONS
from cnn_lab.recipe import Recipe, Settings
from cnn_lab.saved import CONFIG, LAST, RESULT
from cnn_lab.show import Bar, Lines
from cnn_lab.train import train

DOCS = Path(__file__).parents[2] / "docs"
TINY = ["ResNet(BasicBlock, (1,), width=4, small_images=True)", "--size", "8"]
COMMANDS = (
    "train", "transfer", "compare", "compress", "detect", "segment", "evaluate", "predict", "export", "list",
)  # fmt: skip
CATEGORIES = (
    "foundations|modern|attention|training|optimization|evaluation|compression|lab"
)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> Any:
    """Runs the command in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")

    def run(*asked: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["cnn-lab", *asked])
        with pytest.raises(SystemExit) as end:
            main()
        told = capsys.readouterr()
        return int(end.value.code or 0), told.out, told.err

    return run


# --- help ----------------------------------------------------------------------------


@cache
def slugs() -> set[str]:
    """Of the catalogue: those of techniques that have no page yet are known too."""
    with (DOCS / "catalogue.csv").open(encoding="utf-8", newline="") as file:
        return {f"{row['category']}/{row['slug']}" for row in csv.DictReader(file)}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_pages_and_every_page_that_it_names_exists(
    command: str, lab: Any
) -> None:
    code, out, _ = lab(command, "--help")
    assert code == 0
    pages = re.findall(rf"\b(?:{CATEGORIES})/[a-z][a-z0-9-]*", out)
    assert pages
    for page in pages:
        assert page in slugs() or (DOCS / f"{page}.md").exists(), page


def test_help_of_train_names_the_page_of_every_option_that_has_one(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # no name is broken
    _, out, _ = lab("train", "--help")
    told = {m[1]: m[0] for m in re.finditer(r"│ (--[a-z-]+) (?:.(?!│ --))*", out, re.S)}
    for slug, option in OPTIONS.items():
        for name in re.findall(r"--[a-z-]+", option):
            value = slug.partition("/")[2]
            if option == f"{name} {value}":  # one of several, each of which has a page
                assert f"{slug.removesuffix(value)}NAME" in told[name], option
                assert value in told[name]
            else:
                assert slug in told[name], option


def test_every_command_is_in_the_help_of_all(lab: Any) -> None:
    _, out, _ = lab("--help")
    listed = re.findall(r"│ ([a-z]+) ", out)
    assert sorted(listed) == sorted(COMMANDS)


# --- the small commands --------------------------------------------------------------


def test_list_names_the_networks_one_a_line(lab: Any) -> None:
    code, out, _ = lab("list")
    assert code == 0
    assert out.split() == list(networks.networks())


def test_version_tells_its_own_and_that_of_torch(lab: Any) -> None:
    code, out, _ = lab("--version")
    assert code == 0
    assert out == f"cnn-lab {version('cnn-techniques')}, torch {version('torch')}\n"


def test_python_m_cnn_lab_is_the_command_and_needs_no_heavy_library_for_its_version() -> (
    None
):
    heavy = ("onnx", "onnxruntime", "matplotlib", "torchmetrics", "tensorboard")
    code = (
        "import runpy, sys\n"
        "sys.argv = ['cnn-lab', '--version']\n"
        "try: runpy.run_module('cnn_lab', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ
    )
    assert run.stderr == ""
    first, imported = run.stdout.splitlines()
    assert first.startswith("cnn-lab ")
    assert imported == "[]"


def test_without_a_command_the_help_is_shown_and_nothing_is_done(lab: Any) -> None:
    code, out, err = lab()
    assert code == 2
    assert "train" in out + err


# --- configurations ------------------------------------------------------------------


def test_a_saved_configuration_makes_the_same_run_bit_for_bit(
    lab: Any, tmp_path: Path
) -> None:
    options = [
        "--epochs", "2", "--batch-size", "200", "--optimizer", "sgd-momentum",
        "--schedule", "cosine-annealing", "--warmup", "0.5", "--learning-rate", "0.05",
        "--augment", "basic-augmentation,cutout,trivialaugment", "--cutmix", "1",
        "--label-smoothing", "0.1", "--weight-ema", "0.9", "--seed", "3",
        "--mixed-precision", "bf16", "--channels-last", "--save-every", "4",
    ]  # fmt: skip
    code, _, err = lab("train", *TINY, *options, "--out", "once")
    assert (code, err) == (0, "")
    code, _, err = lab("train", "--config", "once/config.json", "--out", "again")
    assert (code, err) == (0, "")
    once, again = (tmp_path / run for run in ("once", "again"))
    assert (once / LAST).read_bytes() == (again / LAST).read_bytes()
    assert (once / CONFIG).read_bytes() == (again / CONFIG).read_bytes()
    saved = json.loads((once / CONFIG).read_text())
    assert saved["augment"] == "basic-augmentation,cutout,trivialaugment"
    assert saved["save_every"] == 4


def test_what_is_given_beside_a_configuration_comes_first(
    lab: Any, tmp_path: Path
) -> None:
    asked = ["--epochs", "1", "--batch-size", "600", "--label-smoothing", "0.1"]
    lab("train", *TINY, *asked, "--out", "once")
    beside = ["--seed", "7", "--batch-size", "400", "LeNet5", "--size", "32"]
    for order in (0, 1):  # before it and after it
        config = ["--config", "once/config.json", "--out", f"again-{order}"]
        parts = [config, beside] if order else [beside, config]
        code, _, err = lab("train", *parts[0], *parts[1])
        assert (code, err) == (0, "")
        saved = json.loads((tmp_path / f"again-{order}" / CONFIG).read_text())
        assert (saved["seed"], saved["batch_size"], saved["size"]) == (7, 400, 32)
        assert (saved["network"], saved["label_smoothing"]) == ("LeNet5", 0.1)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is no saved configuration"),
        ("[1]", "is no saved configuration"),
        ('{"momentum": 3}', "has options that do not exist: momentum"),
        ('{"network": "LeNet5", "epochs": "many"}', "--epochs"),
        ('{"network": "LeNet5", "epochs": 0}', "--epochs"),
        ('{"network": "LeNet5", "optimizer": "lino"}', "--optimizer"),
    ],
)
def test_a_configuration_that_cannot_be_used_ends_in_one_line(
    content: str, told: str, lab: Any, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(content)
    code, out, err = lab("train", "--config", "config.json")
    assert (code, out) == (2, "")
    assert err.startswith("cnn-lab: ")
    assert told in err
    assert err.count("\n") == 1


# --- what is shown -------------------------------------------------------------------


class Data:
    """As much of a data set as is told of."""

    names, other = None, {}
    classes = ("a", "b")
    counts = {"train": [6, 4], "test": [3, 2]}  # noqa: RUF012


def test_where_there_is_no_terminal_each_epoch_is_a_line(lab: Any) -> None:
    code, out, _ = lab("train", *TINY, "--epochs", "2", "--out", "run")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 4
    assert lines[0] == "digits: 10 classes, 1,200 images to learn from, 597 to test"
    for n, line in enumerate(lines[1:3], 1):
        told = rf"epoch {n}/2: loss \d\.\d{{4}}, accuracy \d+\.\d\d%, \d+ images/s"
        assert re.fullmatch(told, line), line
    assert re.fullmatch(r"run: accuracy \d+\.\d\d% of 597 test images", lines[3])


def test_on_a_terminal_a_bar_shows_loss_accuracy_speed_and_the_time_left(
    tmp_path: Path,
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    seen: list[str] = []

    class Kept(Bar):
        def step(self, step: Any) -> None:
            super().step(step)
            self.progress.refresh()
            seen.append(screen.getvalue().rsplit("\r", 1)[-1])

    recipe = Recipe(TINY[0], size=8, epochs=2, batch_size=100)
    result = train(recipe, tmp_path, show=Kept(console))
    assert len(seen) == 24
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen[-2])
    assert re.search(
        r"epoch 2/2 .* 23/24 +loss \d\.\d{3}  accuracy (\d+\.\d)% +\d+ images/s +"
        r"\d:\d\d:\d\d",
        text,
    ), text
    first = result["history"][0]
    assert f"accuracy {first['accuracy']:.1%}" in text  # of the epoch before
    assert f"epoch 1/2: loss {first['loss']:.4f}" in screen.getvalue()


def test_a_stream_decides_whether_there_is_a_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert type(show.display_for(io.StringIO())) is Lines
    assert type(show.display_for(Terminal())) is Bar


def test_a_run_that_goes_on_shows_the_steps_that_are_made_already() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    bar = Bar(console)
    bar.begin(Recipe("LeNet5", epochs=3), Data(), 25, 10)  # type: ignore[arg-type]
    task = bar.progress.tasks[0]
    assert (task.completed, task.total) == (25, 30)
    assert task.description == "epoch 3/3"


# --- trackers ------------------------------------------------------------------------


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run."""
    found = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0})
    found.Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


# TensorBoard's own, at its import and with NumPy 2.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_the_loss_of_every_step_and_the_accuracy_of_every_epoch(
    tmp_path: Path,
) -> None:
    class Kept(show.Silent):
        def __init__(self) -> None:
            self.losses: list[float] = []

        def step(self, step: Any) -> None:
            self.losses.append(step.loss)

    kept = Kept()
    recipe = Recipe(TINY[0], size=8, epochs=2, batch_size=100)
    result = train(recipe, tmp_path, Settings(track="tensorboard"), show=kept)
    told = scalars(tmp_path)
    assert told["loss"] == [
        (n, pytest.approx(loss, rel=1e-6)) for n, loss in enumerate(kept.losses, 1)
    ]
    assert told["accuracy"] == [
        (12 * row["epoch"], pytest.approx(row["accuracy"])) for row in result["history"]
    ]
    assert [step for step, _ in told["learning_rate"]] == list(range(1, 25))
    plain = train(recipe, tmp_path / "plain")
    assert plain["history"] == result["history"]


class Killed(Exception):
    """Instead of a signal, which would end the tests too."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("killed_after", [2, 17])  # before and after a checkpoint
def test_steps_that_are_made_again_after_a_kill_are_shown_once(
    killed_after: int, tmp_path: Path
) -> None:
    class Kill(show.Silent):
        made = 0

        def step(self, step: Any) -> None:
            self.made += 1
            if self.made == killed_after:
                raise Killed

    recipe = Recipe(TINY[0], size=8, epochs=2, batch_size=100)
    settings = Settings(track="tensorboard")
    with pytest.raises(Killed):
        train(recipe, tmp_path, settings, show=Kill())
    # The killed process had told of these; a writer that is left open has not yet. Its
    # file was older by some seconds, which are in the name: TensorBoard reads by name.
    for writer in open_writers():
        writer.close()
    for file in (tmp_path / "tensorboard").glob("events.*"):
        file.rename(file.with_name(re.sub(r"\d{10}", "1000000000", file.name, count=1)))
    train(recipe, tmp_path, settings, resume=True)
    told = scalars(tmp_path)
    assert [step for step, _ in told["loss"]] == list(range(1, 25))
    train(recipe, tmp_path / "whole", settings)
    assert told == scalars(tmp_path / "whole")


def open_writers() -> list[Any]:
    return [
        thing
        for thing in gc.get_objects()
        if type(thing) is SummaryWriter and thing.all_writers
    ]


def test_a_tracker_without_its_package_is_told_with_the_package(
    lab: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    for name, package in (("wandb", "wandb"), ("comet_ml", "comet-ml")):
        code, _, err = lab("train", *TINY, "--track", name, "--out", "run")
        assert code == 1
        assert (
            err == f"cnn-lab: --track {name} needs a package: pip install {package}\n"
        )
    assert not (tmp_path / "run" / RESULT).exists()


def test_an_unknown_tracker_is_refused_with_the_known_ones(lab: Any) -> None:
    code, _, err = lab("train", *TINY, "--track", "paper", "--out", "run")
    assert code == 1
    assert err.startswith("cnn-lab: unknown tracker 'paper'; expected ")
    assert "tensorboard" in err


def test_a_folder_with_a_space_is_told_as_a_shell_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["train", "LeNet5", "--epochs", "1", "--batch-size", "1200"]
    for code in (0, 1):  # made, then refused
        monkeypatch.setattr(sys, "argv", ["cnn-lab", *asked, "--out", "my run"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code
    assert "go on with --resume 'my run'" in capsys.readouterr().err
    for path in (
        "my run",
        f"my run/{LAST}",
    ):  # a run's folder stands for its checkpoint
        monkeypatch.setattr(sys, "argv", ["cnn-lab", "evaluate", path])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        assert "LeNet5 on 597 test images" in capsys.readouterr().out
