"""Choosing by images that are held out, and testing once at the end."""

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cnn_lab import checkpoint, photos, sources, tasks
from cnn_lab.checkpoint import NotACheckpoint
from cnn_lab.evaluate import evaluate, evaluation_data, load_network
from cnn_lab.fit import BadData, SingleProcess, Source
from cnn_lab.photos import InputFormat
from cnn_lab.prepare import prepared
from cnn_lab.recipe import Recipe, Settings
from cnn_lab.saved import BEST, LAST, PHOTOS, RESULT
from cnn_lab.scores import accuracy
from cnn_lab.show import Silent
from cnn_lab.sources import held_out_rows, open_data
from cnn_lab.stop import Refused, Stopped
from cnn_lab.train import best, train

TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
GREY = InputFormat(1, 8)


def tiny(**options: Any) -> Recipe:
    given: dict[str, Any] = {"size": 8, "epochs": 4, "batch_size": 300, "validate": 0.1}
    return Recipe(TINY, **{**given, **options})


def many_photos(folder: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    draw = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for n in range(60):
            pixels = draw.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{n}.png")
    return folder


# --- which images are held out -------------------------------------------------------


def test_of_every_class_the_share_is_drawn_once_and_a_larger_one_holds_it() -> None:
    labels = torch.tensor([0] * 100 + [1] * 40 + [2] * 3)
    torch.manual_seed(7)  # of a run: of no account
    held = held_out_rows(labels, 0.1)
    assert [int(held[labels == k].sum()) for k in range(3)] == [10, 4, 1]
    torch.manual_seed(8)
    assert held_out_rows(labels, 0.1).equal(held)
    more = held_out_rows(labels, 0.2)
    assert int((more & ~held).sum()) == 14 and not (held & ~more).any()
    assert int((~held_out_rows(labels, 0.9))[labels == 2].sum()) == 1
    with pytest.raises(BadData, match="class 1 has one image"):
        held_out_rows(torch.tensor([0, 0, 1]), 0.1)


def images_of(source: Source) -> set[bytes]:
    rows = torch.arange(len(source))
    images = source.take(rows, torch.empty(len(rows), source.draws))[0]
    return {image.numpy().tobytes() for image in images}


def test_the_parts_have_no_image_in_common_and_statistics_are_those_of_one() -> None:
    plain = dataclasses.replace(GREY, mean=(0.0,), std=(1.0,))
    whole, data = (open_data("digits", plain, validate=v) for v in (0.0, 0.25))
    assert data.validation is not None and whole.validation is None
    assert (len(data.train), len(data.validation), len(data.test)) == (901, 299, 597)
    train_, held = images_of(data.train), images_of(data.validation)
    assert train_ | held == images_of(whole.train) and not train_ & held
    assert images_of(data.test) == images_of(whole.test)
    found = open_data("digits", GREY, validate=0.25)
    pixels = data.train.take(torch.arange(901), torch.empty(901, 0))[0]
    assert found.mean[0] == pytest.approx(pixels.double().mean().item())
    assert found.mean != open_data("digits", GREY).mean
    assert found.digest != open_data("digits", GREY).digest
    assert sum(found.counts["validation"]) == 299 == 1200 - sum(found.counts["train"])


def test_a_photos_own_name_decides_whether_it_validates(tmp_path: Path) -> None:
    folder = many_photos(tmp_path / "photos")
    parts = [{name for name, _ in p.files} for p in photos.with_validation(folder, 0.3)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 120
    assert parts[2] == {name for name, _ in photos.parts(folder)[1].files}
    assert 15 <= len(parts[1]) <= 45  # not what is left above a fifth: 10 %
    (folder / "cat" / "7.png").unlink()
    (folder / "dog" / "new.png").write_bytes((folder / "dog" / "1.png").read_bytes())
    again = [{name for name, _ in p.files} for p in photos.with_validation(folder, 0.3)]
    for before, after in zip(parts, again, strict=True):
        assert before - {"cat/7.png"} == after - {"dog/new.png"}


def test_train_val_and_test_are_taken_as_they_are(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        many_photos(tmp_path / part)
    data = open_data(f"folder:{tmp_path}", InputFormat(3, 8), validate=0.1)
    assert data.names is not None and data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (120, 120, 120)
    assert str(tmp_path / "val" / "cat") in data.validation.files[0][0]  # type: ignore[attr-defined]
    # Without a test part it is val that is tested with, and train that is divided.
    (tmp_path / "test").rename(tmp_path / "other")
    train_, held, test = photos.with_validation(tmp_path, 0.1)
    assert (held.path, test.path) == (tmp_path / "train", tmp_path / "val")
    assert len(train_.files) + len(held.files) == 120 and held.files
    (tmp_path / "other").rename(tmp_path / "test")
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "eel")
    with pytest.raises(BadData, match="train and val differ in dog, eel"):
        photos.with_validation(tmp_path, 0.1)


def test_a_class_with_too_few_photos_is_named(tmp_path: Path) -> None:
    folder = many_photos(tmp_path / "photos")
    for n in range(2, 60):
        (folder / "dog" / f"{n}.png").unlink()
    with pytest.raises(BadData, match="dog has one image, beside those held out for"):
        photos.with_validation(folder, 0.1)


# --- the run -------------------------------------------------------------------------


class Events(Silent):
    """What happens in a run, in its order."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def epoch(self, row: dict[str, Any]) -> None:
        self.seen.append(f"epoch {row['epoch']}")


@dataclasses.dataclass
class Watched:
    source: Source
    name: str
    events: Events
    draws = 0

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, Any]:
        if self.events.seen[-1:] != [self.name]:
            self.events.seen.append(self.name)
        return self.source.take(rows, draws)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_the_test_part_is_not_looked_at_before_the_end(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, really = Events(), tasks.prepared

    def watched(*given: Any, **more: Any) -> Any:
        model, data = really(*given, **more)
        parts = {
            name: Watched(getattr(data, name), name, events)
            for name in ("test", "validation")
            if getattr(data, name) is not None
        }
        return model, dataclasses.replace(data, **parts)

    monkeypatch.setattr(tasks, "prepared", watched)
    train(tiny(epochs=2, validate=share), tmp_path, show=events)
    expected = ["validation", "epoch 1", "validation", "epoch 2", "test"]
    if not share:
        expected = ["test", "epoch 1", "test", "epoch 2"]
    assert events.seen == expected


def test_the_best_epoch_is_kept_and_tested(tmp_path: Path) -> None:
    result = train(tiny(epochs=6, learning_rate=0.05), tmp_path)
    rows = result["history"]
    assert all("accuracy" not in row for row in rows) and len(rows) == 6
    top = max(row["validation_accuracy"] for row in rows)
    assert result["validation_accuracy"] == top
    first = next(row for row in rows if row["validation_accuracy"] == top)
    assert {k: result[k] for k in first} == first
    model, state = load_network(tmp_path / BEST)
    data, _ = evaluation_data(tmp_path / BEST, model, state, "", Settings())
    assert state["history"][-1] == first and "optimizer" not in state
    assert (
        accuracy(model, data.test, SingleProcess(torch.device("cpu")))
        == result["accuracy"]
    )
    assert evaluate(tmp_path / BEST)["accuracy"] == result["accuracy"]
    held = prepared(tiny(), Settings())[1].validation
    assert held is not None and result["validation_images"] == len(held) == 120
    assert accuracy(model, held, SingleProcess(torch.device("cpu"))) == top


def test_of_equal_epochs_the_earlier_is_the_best() -> None:
    found = [0.5, 0.7, 0.6, 0.7]
    rows = [{"epoch": n, "validation_accuracy": a} for n, a in enumerate(found, 1)]
    assert best(rows)["epoch"] == 2


def of_these(monkeypatch: pytest.MonkeyPatch, found: list[float]) -> None:
    """Let epochs have these accuracies, and the test part 0.1."""
    waiting = [*found, 0.1]
    monkeypatch.setattr(
        "cnn_lab.tasks.accuracies", lambda *given: {"accuracy": waiting.pop(0)}
    )


@pytest.mark.parametrize(
    ("patience", "made", "chosen"), [(0, 6, 5), (1, 3, 2), (2, 6, 5), (9, 6, 5)]
)
def test_patience_counts_the_epochs_since_the_best(
    patience: int,
    made: int,
    chosen: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_these(monkeypatch, [0.5, 0.7, 0.7, 0.71, 0.8, 0.7][:made])
    recipe = tiny(epochs=6, patience=patience)
    result = train(recipe, tmp_path)
    assert (len(result["history"]), result["epoch"]) == (made, chosen)
    assert result["accuracy"] == 0.1 and result["steps"] == 4 * made
    assert checkpoint.load(tmp_path / BEST)["history"][-1]["epoch"] == chosen

    # Killed before its result was written, it makes no step more.
    (tmp_path / RESULT).unlink()
    of_these(monkeypatch, [])
    again = train(recipe, tmp_path, resume=True)
    assert again["steps"] == 0 and again["history"] == result["history"]


class StopsAfter(Silent):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, step: object) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


KEPT = (BEST, LAST)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(tiny(weight_ema=0.5), folder)
    return folder


@pytest.mark.parametrize("steps", [2, 4, 7])
def test_a_run_that_is_stopped_ends_with_the_same_best_and_last(
    steps: int, whole: Path, tmp_path: Path
) -> None:
    recipe = tiny(weight_ema=0.5)
    with pytest.raises(Stopped):
        train(recipe, tmp_path, show=StopsAfter(steps))
    result = train(recipe, tmp_path, resume=True)
    for name in KEPT:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name
    expected = json.loads((whole / RESULT).read_text())
    assert result["accuracy"] == expected["accuracy"]


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_run_that_is_lost_between_best_and_last_ends_the_same(
    which: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the so-many-th checkpoint that is not written."""
    write, left = checkpoint.write, [which]

    def fails(path: Path, content: bytes) -> None:
        left[0] -= path.name == LAST
        if left[0] == 0:
            raise KeyboardInterrupt
        write(path, content)

    recipe = tiny(weight_ema=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", fails)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path)
    train(recipe, tmp_path, resume=True)
    for name in KEPT:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_run_whose_best_is_gone_is_not_gone_on_with(
    whole: Path, tmp_path: Path
) -> None:
    (tmp_path / LAST).write_bytes((whole / LAST).read_bytes())
    with pytest.raises(NotACheckpoint, match=f"no checkpoint {tmp_path / BEST}"):
        train(tiny(weight_ema=0.5), tmp_path, resume=True)


def test_a_run_from_before_the_option_goes_on(tmp_path: Path) -> None:
    recipe = Recipe(TINY, size=8, epochs=2, batch_size=300)
    with pytest.raises(Stopped):
        train(recipe, tmp_path, show=StopsAfter(3))
    state = checkpoint.load(tmp_path / LAST)
    for name in ("validate", "patience"):
        del state["recipe"][name]
    checkpoint.save(tmp_path / LAST, state)
    with pytest.raises(Refused, match=r"with validate 0\.0, not 0\.1"):
        train(dataclasses.replace(recipe, validate=0.1), tmp_path, resume=True)
    assert train(recipe, tmp_path, resume=True)["steps"] == 5


def test_a_run_on_photos_remembers_all_three_parts(tmp_path: Path) -> None:
    folder, run = many_photos(tmp_path / "photos"), tmp_path / "run"
    recipe = tiny(data=f"folder:{folder}", epochs=1, batch_size=50)
    result = train(recipe, run, Settings(workers=0))
    kept = json.loads((run / PHOTOS).read_text())
    assert sorted(kept) == ["test", "train", "validation"]
    assert len(kept["validation"]) == result["validation_images"] > 2
    found = evaluate(run / BEST, settings=Settings(workers=0))
    assert found["images"] == len(kept["test"]) and not found["changed"]
    assert found["accuracy"] == result["accuracy"]
    # Names that a run without validation kept have their digest still.
    names = sources.PhotoNames(["a/1", "b/1"], ["a/2"])
    assert names.digest() != sources.PhotoNames(["a/1"], ["a/2"], ["b/1"]).digest()
    (run / RESULT).unlink()
    (folder / kept["validation"][0]).unlink()
    with pytest.raises(Refused, match=rf"1 photo is gone \({kept['validation'][0]}\)"):
        train(recipe, run, Settings(workers=0), resume=True)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"patience": 2}, r"patience \(2\) needs images to judge by"),
        ({"validate": 1.0}, "validate is 1.0, expected 0 to 0.9"),
        ({"validate": -0.1}, "validate is -0.1, expected 0 to 0.9"),
    ],
)
def test_what_cannot_be_held_out_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Recipe("LeNet5", **given)
