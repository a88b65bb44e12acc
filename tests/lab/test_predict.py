"""What a network takes images for is what a test finds; broken images stop no others."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cnn_lab import checkpoint, cli
from cnn_lab.data import digits
from cnn_lab.evaluate import evaluate, evaluation_data, load_network
from cnn_lab.predict import BATCH, predict
from cnn_lab.recipe import Recipe, Settings
from cnn_lab.saved import LAST
from cnn_lab.train import train

TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
HERE = Settings(workers=0)


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of four shapes and kinds, in three classes, divided."""
    folder = tmp_path_factory.mktemp("data") / "pets"
    draw = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 5)):
        for name in ("ant", "bee", "cat"):
            (folder / part / name).mkdir(parents=True)
            for n in range(count):
                pixels = draw.integers(0, 256, (20 + n, 31, 3), dtype=np.uint8)
                mode = ("RGB", "L", "RGBA", "P")[n % 4]
                image = Image.fromarray(pixels).convert(mode)
                image.save(folder / part / name / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pets: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(Recipe(TINY, f"folder:{pets}", size=16, epochs=1, batch_size=6), folder, HERE)
    return folder / LAST


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    train(Recipe(TINY, size=8, epochs=2, learning_rate=0.01), folder)
    return folder / LAST


def cnn_lab(monkeypatch: pytest.MonkeyPatch, *asked: object) -> int:
    monkeypatch.setattr(sys, "argv", ["cnn-lab", *map(str, asked)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def as_given(path: Path) -> tuple[Tensor, list[str]]:
    """The probabilities of the test part, computed from the images that a test is given."""
    model, state = load_network(path)
    data, _ = evaluation_data(path, model, state, "", HERE)
    rows = torch.arange(len(data.test))
    images, _ = data.test.take(rows, torch.empty(len(rows), 0))
    with torch.no_grad():
        return model(images).softmax(1), data.names.test if data.names else []


def test_probabilities_are_those_of_a_test(run: Path, pets: Path) -> None:
    expected, names = as_given(run)
    found = predict(run, [pets / "test"], top=3)["images"]
    assert [row["file"] for row in found] == [str(pets / "test" / n) for n in names]
    for row, shares in zip(found, expected, strict=True):
        order = shares.argsort(descending=True).tolist()
        names_of = [c["name"] for c in row["classes"]]
        assert names_of == [("ant", "bee", "cat")[label] for label in order]
        given = torch.tensor([c["probability"] for c in row["classes"]])
        torch.testing.assert_close(given, shares[order], rtol=1e-4, atol=1e-6)


def test_an_image_of_a_data_set_in_memory_is_given_in_full(
    of_digits: Path, tmp_path: Path
) -> None:
    """Its edges would be cut off from a photo."""
    images, _ = digits("test", 8)
    (tmp_path / "all").mkdir()
    for n, image in enumerate((images[:90, 0] * 255).round().byte()):
        Image.fromarray(image.numpy()).save(tmp_path / "all" / f"{n:03}.png")
    expected, _ = as_given(of_digits)
    found = predict(of_digits, [tmp_path / "all"], top=10)["images"]
    assert len(found) == 90 > BATCH
    for row, shares in zip(found, expected[:90], strict=True):
        given = torch.zeros(10)
        for one in row["classes"]:
            given[int(one["name"])] = one["probability"]
        torch.testing.assert_close(given, shares, rtol=1e-4, atol=1e-5)


def test_a_folder_of_such_images_is_evaluated_in_full_too(
    of_digits: Path, tmp_path: Path
) -> None:
    images, labels = digits("test", 8)
    for n, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = tmp_path / "all" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(
            folder / f"{n}.png"
        )
    own = evaluate(of_digits, settings=HERE)
    found = evaluate(of_digits, f"folder:{tmp_path / 'all'}", HERE)
    assert found["confusion"] == own["confusion"]


def test_no_more_classes_than_there_are(run: Path, pets: Path) -> None:
    image = pets / "test/ant/0.png"
    (row,) = predict(run, [image])["images"]
    assert len(row["classes"]) == 3
    assert sum(c["probability"] for c in row["classes"]) == pytest.approx(1)
    (row,) = predict(run, [image], top=1)["images"]
    assert len(row["classes"]) == 1
    with pytest.raises(ValueError, match="top is 0, expected at least 1"):
        predict(run, [image], top=0)


def test_the_command_tells_a_line_for_each_image(
    run: Path, pets: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(pets / "test")
    asked = ("predict", run.parent, "cat/3.png", "ant", "--top", "2")
    assert cnn_lab(monkeypatch, *asked) == 0
    lines = capsys.readouterr().out.splitlines()
    files = ["cat/3.png", *(f"ant/{n}.png" for n in range(5))]
    assert [line.split(": ")[0] for line in lines] == files
    first = predict(run, [Path("cat/3.png")])["images"][0]["classes"]
    told = [f"{c['name']} {c['probability']:.1%}" for c in first[:2]]
    assert lines[0] == f"cat/3.png: {', '.join(told)}"


def test_broken_images_are_told_and_the_others_are_predicted(
    run: Path,
    pets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    good = (pets / "test/ant/0.png").read_bytes()
    (tmp_path / "in").mkdir()
    for name, content in (("a.png", good), ("b.png", good[:90]), ("c.png", good)):
        (tmp_path / "in" / name).write_bytes(content)
    (tmp_path / "in/notes.txt").write_text("no photo")
    (tmp_path / "empty").mkdir()
    asked = ("predict", run, "in", "nowhere.png", "empty")
    assert cnn_lab(monkeypatch, *asked) == 1
    told = capsys.readouterr()
    assert [line.split(":")[0] for line in told.out.splitlines()] == [
        "in/a.png", "in/c.png"
    ]  # fmt: skip
    errors = told.err.splitlines()
    assert errors[0].startswith("cnn-lab: in/b.png is not an image that can be read")
    assert errors[1:] == [
        "cnn-lab: there is no image nowhere.png",
        "cnn-lab: empty has no photo",
        "cnn-lab: 3 of 5 images could not be read",
    ]
    assert cnn_lab(monkeypatch, *asked, "--json", "-") == 1
    rows = json.loads(capsys.readouterr().out)["images"]
    assert ["error" in row for row in rows] == [False, True, False, True, True]
    assert all(("classes" in row) != ("error" in row) for row in rows)


def test_json_is_written_as_told(
    run: Path,
    pets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image, out = pets / "test/ant/1.png", tmp_path / "out.json"
    assert cnn_lab(monkeypatch, "predict", run, image, "--json", out) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert json.loads(out.read_text()) == predict(run, [image])
    before = run.read_bytes()
    assert cnn_lab(monkeypatch, "predict", run, image, "--json", run) == 1
    assert "is the checkpoint itself" in capsys.readouterr().err
    assert run.read_bytes() == before


def test_scores_that_are_not_finite_are_refused(
    run: Path, pets: Path, tmp_path: Path
) -> None:
    state = checkpoint.load(run)
    state["model"]["fc.bias"][0] = torch.nan
    checkpoint.save(tmp_path / LAST, state)
    with pytest.raises(FloatingPointError, match="scores are not finite"):
        predict(tmp_path / LAST, [pets / "test/ant/0.png"])
