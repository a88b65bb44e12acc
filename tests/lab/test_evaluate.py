"""The measures are those of the books, and the command tells and keeps them."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn import metrics as reference
from torch import Tensor

from cnn_lab import checkpoint, cli
from cnn_lab.checkpoint import NotACheckpoint
from cnn_lab.evaluate import (
    SCORES,
    evaluate,
    evaluation_data,
    load_network,
    measures,
)
from cnn_lab.recipe import Recipe, Settings
from cnn_lab.report import draw
from cnn_lab.saved import LAST, RESULT
from cnn_lab.train import train
from cnn_techniques.evaluation import confusion_matrix, f1_score, precision, recall

SMALL = "ResNet(BasicBlock, (1,), width=4, small_images=True)"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny network that keeps the mean of its weights."""
    folder = tmp_path_factory.mktemp("run")
    train(Recipe(SMALL, size=8, epochs=1, weight_ema=0.9), folder)
    return folder / LAST


def cnn_lab(monkeypatch: pytest.MonkeyPatch, *asked: object) -> int:
    monkeypatch.setattr(sys, "argv", ["cnn-lab", *map(str, asked)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def drawn(images: int = 300, classes: int = 7) -> tuple[Tensor, Tensor]:
    truth = torch.randint(classes, (images,))
    scores = 2 * torch.randn(images, classes)
    scores[torch.arange(images), truth] += 1.5
    return scores, truth


def names(classes: int) -> list[str]:
    return [f"class {n}" for n in range(classes)]


def test_measures_are_those_of_scikit_learn() -> None:
    scores, truth = drawn()
    found = measures(scores, truth, names(7))
    shares, predicted = scores.double().softmax(1).numpy(), scores.argmax(1)
    macro: dict[str, Any] = {"average": "macro"}
    expected = {
        "accuracy": reference.accuracy_score(truth, predicted),
        "precision": reference.precision_score(truth, predicted, **macro),
        "recall": reference.recall_score(truth, predicted, **macro),
        "f1": reference.f1_score(truth, predicted, **macro),
        "auc": reference.roc_auc_score(truth, shares, multi_class="ovr", **macro),
        "top5": reference.top_k_accuracy_score(truth, shares, k=5),
        "loss": reference.log_loss(truth, shares),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    auc = reference.roc_auc_score(truth, shares, multi_class="ovr", average=None)
    assert [row["auc"] for row in found["classes"]] == pytest.approx(
        list(auc), abs=1e-6
    )


def test_training_tells_the_top_5_accuracy_of_every_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    given = {"size": 8, "epochs": 2, "batch-size": 64, "out": out}
    options = [text for name, value in given.items() for text in (f"--{name}", value)]
    assert cnn_lab(monkeypatch, "train", SMALL, *options) == 0
    result = json.loads((out / RESULT).read_text())
    first, last = result["history"]
    for row in (first, last):
        assert row["accuracy"] < row["top5"] < 1
    assert first["top5"] != last["top5"] == result["top5"]
    model, state = load_network(out / LAST)
    data, _ = evaluation_data(out / LAST, model, state, "", Settings())
    images, truth = data.test.take(
        torch.arange(len(data.test)), torch.zeros(len(data.test), data.test.draws)
    )
    with torch.no_grad():
        expected = reference.top_k_accuracy_score(truth, model(images), k=5)
    assert last["top5"] == pytest.approx(expected, abs=1e-6)


def test_measures_of_a_class_are_those_of_the_page() -> None:
    scores, truth = drawn()
    found = measures(scores, truth, names(7))
    matrix = confusion_matrix(scores, truth, 7)
    assert found["confusion"] == matrix.tolist()
    for name, score in (("precision", precision), ("recall", recall), ("f1", f1_score)):
        values = [row[name] for row in found["classes"]]
        assert values == pytest.approx(score(matrix).tolist(), abs=1e-6), name


def test_calibration_error_is_the_equation_of_guo_et_al() -> None:
    scores, truth = drawn()
    scores[:20] *= 40  # so sure that the confidence is 1 in single precision
    confidence, predicted = scores.double().softmax(1).max(1)
    error = 0.0
    for n in range(15):
        inside = (confidence > n / 15) & (confidence <= (n + 1) / 15)
        if inside.any():
            right = (predicted == truth)[inside].double().mean()
            error += float((right - confidence[inside].mean()).abs() * inside.sum())
    found = measures(scores, truth, names(7))["calibration_error"]
    assert found == pytest.approx(error / len(truth), abs=1e-6)


def test_sure_and_nearly_sure_predictions_share_the_last_bin() -> None:
    # Half are sure and wrong, half nearly sure and right: together 0.49 off, apart 0.51.
    scores = torch.zeros(4, 2, dtype=torch.float64)
    scores[:2, 0], scores[2:, 0] = 800.0, math.log(0.98 / 0.02)
    truth = torch.tensor([1, 1, 0, 0])
    found = measures(scores, truth, names(2))["calibration_error"]
    assert found == pytest.approx(0.49, abs=1e-6)


def test_interval_is_wilsons() -> None:
    # Newcombe, Statistics in Medicine 17, 1998, table I: 81 of 263 is 0.2553 to 0.3662.
    truth = torch.zeros(263, dtype=torch.long)
    scores = torch.zeros(263, 2)
    scores[:81, 0], scores[81:, 1] = 1.0, 1.0
    low, high = measures(scores, truth, names(2))["interval"]
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_a_class_without_an_image_has_no_scores_and_is_in_no_mean() -> None:
    scores, truth = drawn()
    truth[truth == 3] = 2
    found = measures(scores, truth, names(7))
    assert found["classes"][3] == {
        "name": "class 3",
        "images": 0,
        **dict.fromkeys(SCORES),
    }
    seen = [0, 1, 2, 4, 5, 6]
    expected = reference.f1_score(truth, scores.argmax(1), average="macro", labels=seen)
    assert found["f1"] == pytest.approx(expected, abs=1e-6)


def test_a_class_alone_has_no_area_under_the_curve() -> None:
    found = measures(torch.randn(9, 3), torch.ones(9, dtype=torch.long), names(3))
    assert found["auc"] is None
    assert found["recall"] is not None


def test_few_classes_have_no_top_5() -> None:
    assert "top5" not in measures(*drawn(classes=5), names(5))


def test_the_mean_of_the_weights_is_what_is_evaluated(run: Path) -> None:
    model, state = load_network(run)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state["weight_ema"][f"module.{name}"]), name
    assert any(
        not torch.equal(tensor, state["model"][name])
        for name, tensor in model.named_parameters()
    )
    assert evaluate(run)["accuracy"] == state["history"][-1]["accuracy"]


def test_a_checkpoint_without_a_layer_is_none(run: Path, tmp_path: Path) -> None:
    state = checkpoint.load(run)
    del state["weight_ema"][next(n for n in state["weight_ema"] if "weight" in n)]
    checkpoint.save(tmp_path / "broken", state)
    with pytest.raises(NotACheckpoint, match="does not hold its network"):
        load_network(tmp_path / "broken")


def test_other_classes_are_refused_with_the_first_that_differs(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = checkpoint.load(run)
    state["classes"][3] = "three"
    checkpoint.save(tmp_path / "other", state)
    assert cnn_lab(monkeypatch, "evaluate", tmp_path / "other") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "cnn-lab: digits has other classes than the checkpoint: class 3 is '3', "
        "in the checkpoint 'three'\n"
    )


def test_the_command_tells_draws_and_keeps_the_measures(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, kept, picture = run.read_bytes(), tmp_path / "m.json", tmp_path / "m.svg"
    asked = ("evaluate", run, "--json", kept, "--confusion", picture)
    assert cnn_lab(monkeypatch, *asked) == 0
    out = capsys.readouterr().out
    result = json.loads(kept.read_text())
    assert f"accuracy           {result['accuracy']:.2%}  (95% interval" in out
    assert f"{result['classes'][9]['images']:>6}" in out.splitlines()[-1]
    assert not [line for line in out.splitlines() if line != line.rstrip()]
    assert ">predicted<" in picture.read_text()
    assert run.read_bytes() == before
    monkeypatch.setenv("COLUMNS", "30")  # of a terminal, which there is not
    assert cnn_lab(monkeypatch, "evaluate", run, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out) == result
    assert cnn_lab(monkeypatch, "evaluate", run) == 0
    assert capsys.readouterr().out == out


def test_outputs_that_cannot_be_are_refused_before_anything_is_computed(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = run.read_bytes()
    assert cnn_lab(monkeypatch, "evaluate", run, "--json", run) == 1
    assert "is the checkpoint itself" in capsys.readouterr().err
    assert run.read_bytes() == before
    assert cnn_lab(monkeypatch, "evaluate", run, "--confusion", tmp_path / "m.gif") == 1
    out, err = capsys.readouterr()
    assert "must end in .png or .svg" in err
    assert out == ""
    assert not list(tmp_path.iterdir())


def test_a_picture_of_many_classes_holds_every_name_and_count(tmp_path: Path) -> None:
    scores, truth = drawn(200, 40)
    named = [f"${n}_sort$" for n in range(40)]  # no formulas
    result = {"network": "n", "data": "d", **measures(scores, truth, named)}
    draw(result, tmp_path / "m.svg")
    text = (tmp_path / "m.svg").read_text()
    assert all(text.count(f">{name}<") == 2 for name in named)
    cells = sum(count > 0 for row in result["confusion"] for count in row)
    assert text.count("<text") == 2 * 40 + cells + 3  # two axes, a title
    draw(result, tmp_path / "m.png")
    assert (tmp_path / "m.png").read_bytes()[:4] == b"\x89PNG"
