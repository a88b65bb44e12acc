"""A file of predictions is measured as scikit-learn measures it, and as a checkpoint is."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn import metrics as reference

from cnn_lab import cli
from cnn_lab.evaluate import measures
from cnn_lab.fit import BadData
from cnn_lab.predictions import measured

CLASSES = ["ant", "bee", "cat, small", "dog", "eel", "fox"]


def cnn_lab(monkeypatch: pytest.MonkeyPatch, *asked: object) -> int:
    monkeypatch.setattr(sys, "argv", ["cnn-lab", *map(str, asked)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def written(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    truth = torch.randint(6, (200,))
    scores = 2 * torch.randn(200, 6, dtype=torch.float64)
    scores[torch.arange(200), truth] += 1.5
    return scores, truth


def test_scores_and_probabilities_are_measured_as_those_of_a_checkpoint(
    tmp_path: Path,
) -> None:
    scores, truth = drawn()
    expected = measures(scores, truth, CLASSES)
    for kind, values in (("scores", scores), ("shares", scores.softmax(1))):
        rows = [
            [f"{n}.png", CLASSES[label], *row]
            for n, (label, row) in enumerate(
                zip(truth.tolist(), values.tolist(), strict=True)
            )
        ]
        path = written(tmp_path / f"{kind}.csv", ["file", "true", *CLASSES], rows)
        found = measured(path)
        assert found.pop("predictions") == str(path) and found.pop("changed") == ""
        for name in ("loss", "calibration_error", "auc"):
            assert found[name] == pytest.approx(expected[name], rel=1e-6)
        for name in ("accuracy", "interval", "top5", "f1", "confusion"):
            assert found[name] == expected[name]


def test_predicted_classes_alone_are_measured_without_what_needs_scores(
    tmp_path: Path,
) -> None:
    scores, truth = drawn()
    guess = scores.argmax(1)
    pairs = list(zip(truth.tolist(), guess.tolist(), strict=True))
    rows = [[n, CLASSES[a], CLASSES[b]] for n, (a, b) in enumerate(pairs)]
    found = measured(written(tmp_path / "p.csv", ["", "true", "predicted"], rows))
    macro: Any = {"average": "macro"}
    assert found["accuracy"] == reference.accuracy_score(truth, guess)
    for name in ("precision", "recall", "f1"):
        score = getattr(reference, f"{name}_score")(truth, guess, **macro)
        assert found[name] == pytest.approx(score, rel=1e-6)
    assert found["confusion"] == reference.confusion_matrix(truth, guess).tolist()
    assert found["auc"] is found["loss"] is found["calibration_error"] is None
    assert all(row["auc"] is None for row in found["classes"])
    assert "top5" not in found


def test_a_probability_of_zero_costs_what_it_costs_in_scikit_learn(
    tmp_path: Path,
) -> None:
    rows = [["a", 1, 0], ["b", 1, 0], ["b", 0.25, 0.75], ["a", 0.5, 0.5]]
    found = measured(written(tmp_path / "p.csv", ["true", "a", "b"], rows))
    shares = [row[1:] for row in rows]
    expected = reference.log_loss([row[0] for row in rows], shares)
    assert found["loss"] == pytest.approx(expected, rel=1e-6)


def test_the_command_tells_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [["cat", "cat"], ["cat", "dog"], ["dog", "dog"], ["dog", "dog"]]
    written(tmp_path / "p.csv", ["true", "predicted"], rows)
    asked = ("evaluate", "p.csv", "--json", "p.json", "--confusion", "p.svg")
    assert cnn_lab(monkeypatch, *asked) == 0
    out = capsys.readouterr().out
    assert out.startswith("4 images of p.csv\n\naccuracy           75.00%")
    assert "loss               -" in out
    assert json.loads((tmp_path / "p.json").read_text()) == measured(Path("p.csv"))
    assert "p.csv: 75.00%" in (tmp_path / "p.svg").read_text()
    assert cnn_lab(monkeypatch, "evaluate", "p.csv", "--data", "digits") == 1
    assert "p.csv holds the true classes itself" in capsys.readouterr().err
    assert cnn_lab(monkeypatch, "evaluate", "p.csv", "--json", "p.csv") == 1
    assert "p.csv is the file of predictions itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no file"),
        ("", "has the columns none; expected a column 'true'"),
        ("file,predicted\na,b\n", "has the columns file, predicted; expected a col"),
        ("file,true\na,b\n", "expected a column 'true', and 'predicted' or"),
        ("true,predicted\n", "has no predictions below its head"),
        ("true,a,a\na,1,2\n", "has the column 'a' twice"),
        ("true,predicted\na,a\n", "has the single class 'a'; two are needed"),
        ("true,a,b\na,1,2\n\nc,1,2\n", "line 4: 'c' is none of a, b"),
        ("true,a,b\na,1,x\n", "line 2: b is 'x', expected a finite number"),
        ("true,a,b\na,1,2\na,nan,2\n", "line 3: a is 'nan', expected a finite"),
        ("true,a,b\na,1\n", "line 2: 2 values, expected 3"),
        ("true,a\na,\xff\n", "is no CSV file"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(
    content: str | None, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.csv"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(BadData) as refused:
        measured(path)
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_the_signature_of_a_spreadsheet_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("\ufefftrue,predicted\na,a\nb,a\n")
    assert measured(tmp_path / "p.csv")["accuracy"] == 0.5
