"""What is told before a run, `--dry-run`, and the bars of loading and testing."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from cnn_lab import networks, show
from cnn_lab.cli import main
from cnn_lab.photos import InputFormat
from cnn_lab.recipe import Recipe, Settings
from cnn_lab.saved import CONFIG, LAST, RESULT
from cnn_lab.show import Bar, summary
from cnn_lab.sources import open_data
from cnn_lab.train import train

TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
IMAGE = Image.fromarray(np.zeros((9, 9, 3), np.uint8))


def photos(folder: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for n in range(count):
            IMAGE.save(folder / name / f"{n}.png")
    return folder


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> Any:
    """Runs the command in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*asked: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["cnn-lab", *asked])
        with pytest.raises(SystemExit) as end:
            main()
        told = capsys.readouterr()
        return int(end.value.code or 0), told.out, told.err

    return run


# --- the summary ---------------------------------------------------------------------


def told_of(folder: Path) -> list[str]:
    data = open_data(f"folder:{folder}", InputFormat(3, 8))
    return summary(f"folder:{folder.name}", data).split("\n")


def test_images_in_memory_are_told_in_one_line() -> None:
    told = summary("digits", open_data("digits", InputFormat(1, 8)))
    assert told == "digits: 10 classes, 1,200 images to learn from, 597 to test"


def test_parts_stand_in_their_order_and_without_counts_there_are_totals() -> None:
    data = open_data("digits", InputFormat(1, 8))
    counts = {"test": [1] * 10, "validation": [2] * 10, "train": [300] * 10}
    told = summary("digits", replace(data, counts=counts))
    expected = "3,000 images to learn from, 20 to choose by, 10 to test"
    assert told == f"digits: 10 classes, {expected}"
    told = summary("digits", replace(data, counts={}))
    assert told == "digits: 10 classes, 1,200 images to learn from, 597 to test"


def test_classes_their_photos_and_what_was_left_out_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    photos(folder / "train", {"cat": 4, "guinea pig": 3})
    photos(folder / "test", {"cat": 2, "guinea pig": 1})
    for name in ("train/cat/a.txt", "train/cat/b.TXT", "test/cat/c.gz", "test/cat/d"):
        (folder / name).write_text("")
    (folder / "train/cat/.DS_Store").write_text("")  # not worth a word
    assert told_of(folder) == [
        "pets: 2 classes, 7 photos to learn from, 3 to test",
        "  cat         4 to learn from, 2 to test",
        "  guinea pig  3 to learn from, 1 to test",
        "left out, no photos: 2 .txt, 1 without ending, 1 .gz",
    ]


def test_a_part_that_is_held_out_is_counted_as_such(tmp_path: Path) -> None:
    folder = photos(tmp_path / "pets", {"cat": 20, "dog": 10})
    data = open_data(f"folder:{folder}", InputFormat(3, 8))
    first, *classes = told_of(folder)
    train, test = data.counts["train"], data.counts["test"]
    assert [a + b for a, b in zip(train, test, strict=True)] == [20, 10]
    assert first.endswith(f", {sum(train)} photos to learn from, {sum(test)} to test")
    assert classes[1] == f"  dog  {train[1]:,} to learn from, {test[1]} to test"


def test_of_many_classes_those_with_the_most_and_the_fewest_are_told(
    tmp_path: Path,
) -> None:
    counts = {f"c{n:02}": 2 + (7 * n) % 23 for n in range(23)}
    folder = tmp_path / "many"
    photos(folder / "train", counts)
    photos(folder / "val", dict.fromkeys(counts, 1))
    (folder / "val/c00/readme.md").write_text("")
    first, *classes, last = told_of(folder)
    assert (
        first
        == f"many: 23 classes, {sum(counts.values())} photos to learn from, 23 to test"
    )
    assert last == "left out, no photos: 1 .md"
    assert len(classes) == 11
    assert classes.pop(5) == "  … 13 more, with as many or fewer"
    order = sorted(counts, key=lambda name: -counts[name])
    expected = [
        f"  {name}  {counts[name]} to learn from, 1 to test"
        for name in [*order[:5], *order[-5:]]
    ]
    assert [re.sub(" +", " ", line) for line in classes] == [
        re.sub(" +", " ", line) for line in expected
    ]


def test_it_stands_before_the_first_epoch_and_before_going_on(
    lab: Any, tmp_path: Path
) -> None:
    photos(tmp_path / "pets", {"cat": 4, "dog": 5})
    asked = ["train", TINY, "--data", "folder:pets", "--size", "8", "--epochs", "1"]
    asked += ["--workers", "0", "--out", "run"]
    code, out, _ = lab(*asked)
    assert code == 0
    lines = out.split("\n")
    assert lines[0].startswith("pets: 2 classes, ") and lines[3].startswith("epoch 1/1")
    (tmp_path / "run" / RESULT).unlink()
    code, out, _ = lab("train", "--resume", "run")
    assert code == 0 and out.startswith(lines[0])


def test_what_was_done_to_read_weights_is_told(lab: Any, tmp_path: Path) -> None:
    state = networks.build(TINY, 10).state_dict()
    torch.save({"state_dict": state}, tmp_path / "theirs.pth")
    asked = ["train", TINY, "--size", "8", "--weights", "theirs.pth", "--dry-run"]
    code, out, _ = lab(*asked)
    assert code == 0
    assert out.split("\n")[0] == "weights of theirs.pth: taken from state_dict"


# --- a dry run -----------------------------------------------------------------------


def test_a_dry_run_tells_what_there_is_and_writes_nothing(
    lab: Any, tmp_path: Path
) -> None:
    asked = ["train", TINY, "--size", "8", "--epochs", "1", "--batch-size", "600"]
    for out in ([], ["--out", "run"]):
        code, told, err = lab(*asked, *out, "--dry-run")
        assert (code, err) == (0, "")
        assert told == "digits: 10 classes, 1,200 images to learn from, 597 to test\n"
        assert not list(tmp_path.iterdir())


def test_a_dry_run_of_transfer(lab: Any, tmp_path: Path) -> None:
    photos(tmp_path / "pets", {"cat": 4, "dog": 5})
    asked = ["transfer", "pets", "--network", TINY, "--weights", "", "--dry-run"]
    code, told, err = lab(*asked)
    assert (code, err) == (0, "") and told.startswith("pets: 2 classes, ")
    assert [p.name for p in tmp_path.iterdir()] == ["pets"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--data", "folder:one"], "one has the single class 'cat'"),
        (["--data", "folder:none"], "none is no folder of class folders"),
        (["--batch-size", "1200", "--weights", "w.pth"], "there is no file w.pth"),
        (["--track", "paper"], "unknown tracker 'paper'"),
        (["--out", "held"], "held holds a run already"),
        (["--resume", "held"], "there is no checkpoint"),
        (["--mixed-precision", "fp16"], "mixed precision fp16 needs a GPU"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would(
    more: list[str], told: str, lab: Any, tmp_path: Path
) -> None:
    if "fp16" in more and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    photos(tmp_path / "one", {"cat": 3})
    if "--out" in more:
        (tmp_path / "held").mkdir()
        (tmp_path / "held" / CONFIG).write_text("{}")
    if "--resume" in more:
        (tmp_path / "held").mkdir()
        (tmp_path / "held" / CONFIG).write_text("{}")
        (tmp_path / "held" / LAST).mkdir()
        told = "is a folder, not a checkpoint"
    before = sorted(tmp_path.rglob("*"))
    code, out, err = lab("train", TINY, "--size", "8", *more, "--dry-run")
    assert (code, out) == (1, "")
    assert told in err and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_before_going_on_tells_of_other_photos(
    lab: Any, tmp_path: Path
) -> None:
    photos(tmp_path / "pets", {"cat": 4, "dog": 5})
    recipe = Recipe(TINY, f"folder:{tmp_path / 'pets'}", size=8, epochs=1)
    train(recipe, tmp_path / "run", Settings(workers=0))
    code, out, _ = lab("train", "--resume", "run", "--dry-run")
    assert code == 0 and out.count("pets: 2 classes") == 1
    IMAGE.save(tmp_path / "pets/dog/new.png")
    code, out, err = lab("train", "--resume", "run", "--dry-run")
    assert (code, out) == (1, "") and "1 photo is new (dog/new.png)" in err


# --- bars ----------------------------------------------------------------------------


def screen() -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=100, color_system=None
    )


def test_a_bar_tells_how_far_a_test_is_and_goes_with_the_epoch(tmp_path: Path) -> None:
    console, seen = screen(), []

    class Kept(Bar):
        def tested(self, done: int, total: int) -> None:
            super().tested(done, total)
            seen.append((done, total))
            self.progress.refresh()

        def epoch(self, row: Any) -> None:
            super().epoch(row)
            assert len(self.progress.tasks) == 1

    recipe = Recipe(TINY, size=8, epochs=2, batch_size=600)
    train(recipe, tmp_path, show=Kept(console))
    assert seen == [(n, 597) for n in (0, 256, 512, 597)] * 2
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"testing .*512/597 .*images +\d:\d\d:\d\d", text)
    assert "digits: 10 classes, 1,200 images" in text and "reading the data" in text


def test_outside_of_a_run_there_is_a_bar_on_a_terminal_and_none_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with show.bar("testing", io.StringIO()) as told:
        assert told is None

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with show.bar("testing", stream) as told:
        assert told is not None
        told(3, 7)
    assert "testing" in stream.getvalue() and "3/7" in stream.getvalue()


def test_lines_tell_nothing_of_a_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe(TINY, size=8, epochs=1, batch_size=600)
    train(recipe, tmp_path, show=show.Lines())
    assert len(capsys.readouterr().out.splitlines()) == 2
