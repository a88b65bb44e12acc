"""The pictures of a run show what it did: all of it, and the same bytes each time."""

import json
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnn_lab.prepare
from cnn_lab import cli, curves
from cnn_lab.curves import NAMES, draw, rates
from cnn_lab.recipe import Recipe, Schedule, Strategy, make_schedule
from cnn_lab.saved import RESULT
from cnn_lab.show import Silent
from cnn_lab.stop import Stopped
from cnn_lab.train import train

TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
RECIPE = Recipe(TINY, size=8, epochs=3, batch_size=300)  # 4 steps an epoch


def cnn_lab_(monkeypatch: pytest.MonkeyPatch, *asked: object) -> int:
    monkeypatch.setattr(sys, "argv", ["cnn-lab", *map(str, asked)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("strategy", [Strategy.everything, Strategy.discriminative])
def test_the_rates_are_those_of_the_run(
    schedule: Schedule,
    strategy: Strategy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[float] = []

    def watched(recipe: Recipe, optimizer: Any, per_epoch: int) -> Any:
        made = make_schedule(recipe, optimizer, per_epoch)
        optimizer.register_step_pre_hook(
            lambda optimizer, *_: used.append(
                max(group["lr"] for group in optimizer.param_groups)
            )
        )
        return made

    monkeypatch.setattr(cnn_lab.prepare, "make_schedule", watched)
    warmup = 0 if schedule == Schedule.one_cycle else 1
    recipe = replace(
        RECIPE,
        schedule=schedule,
        strategy=strategy,
        warmup=warmup,
        plateau_patience=0,
        learning_rate=1e-5 if schedule == Schedule.reduce_on_plateau else 1e-3,
    )
    result = train(recipe, tmp_path)
    at, values = rates(recipe, result["steps_per_epoch"], result["history"])
    assert len(used) == 12
    assert values == pytest.approx(used, rel=1e-12)
    assert at == [step / 4 for step in range(12)]


def test_of_a_long_run_fewer_steps_are_computed_and_the_shape_is_the_same() -> None:
    recipe, rows = replace(RECIPE, epochs=4), [{"loss": 1.0}] * 4
    at, values = rates(recipe, 5000, rows)
    assert len(at) == curves.MOST
    short = dict(zip(*rates(recipe, 1000, rows), strict=True))
    for where, value in list(zip(at, values, strict=True))[:: curves.MOST // 8]:
        assert value == pytest.approx(short[round(where, 9)], rel=0.01)


def test_the_command_draws_every_epoch_of_a_run_that_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stops(Silent):
        left = 6

        def step(self, step: object) -> None:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped):
        train(RECIPE, tmp_path / "run", show=Stops())
    assert not (tmp_path / "run" / NAMES[0]).exists()
    assert cnn_lab_(monkeypatch, "train", "--resume", tmp_path / "run") == 0
    whole = draw(RECIPE, train(RECIPE, tmp_path / "whole"), tmp_path / "whole")
    for path in whole:
        assert path.read_bytes() == (tmp_path / "run" / path.name).read_bytes()
    svg = whole[0].read_text()
    for title in ("training loss", "test accuracy", "learning rate"):
        assert title in svg
    assert not re.search(r"<dc:date>|20\d\d-\d\d-\d\d", svg)
    with Image.open(whole[1]) as image:
        assert np.asarray(image.convert("L")).std() > 10
        assert "Software" not in image.info


def test_other_results_are_another_picture(tmp_path: Path) -> None:
    rows = [{"epoch": n, "loss": 1 / n, "accuracy": 0.5} for n in (1, 2, 3)]
    result = {"history": rows, "steps_per_epoch": 4}
    first = draw(RECIPE, result, tmp_path)[0].read_bytes()
    assert draw(RECIPE, result, tmp_path)[0].read_bytes() == first
    for change in ({"loss": 0.9}, {"accuracy": 0.6}):
        other = {**result, "history": [*rows[:2], {**rows[2], **change}]}
        assert draw(RECIPE, other, tmp_path)[0].read_bytes() != first
    slower = replace(RECIPE, schedule=Schedule.constant)
    assert draw(slower, result, tmp_path)[0].read_bytes() != first


def test_a_result_of_before_is_drawn(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "loss": 1.0, "accuracy": 0.5}]
    assert all(path.exists() for path in draw(RECIPE, {"history": rows}, tmp_path))


def test_where_images_are_held_out_their_accuracy_is_drawn(tmp_path: Path) -> None:
    rows = [{"epoch": n, "loss": 1.0, "validation_accuracy": 0.5} for n in (1, 2)]
    rows[-1]["accuracy"] = 0.6  # tested once, at the end
    result = {"history": rows, "steps_per_epoch": 4}
    assert "validation accuracy" in draw(RECIPE, result, tmp_path)[0].read_text()


@pytest.mark.parametrize("why", ["no matplotlib", "no room"])
def test_a_run_ends_well_without_its_pictures(
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if why == "no matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        expected = "matplotlib is missing: pip install matplotlib"
    else:
        (tmp_path / "run" / NAMES[0] / "in").mkdir(parents=True)  # not to be replaced
        expected = "Is a directory"
    asked = ["train", TINY, "--size", "8", "--epochs", "1", "--batch-size", "600"]
    assert cnn_lab_(monkeypatch, *asked, "--out", tmp_path / "run") == 0
    told = capsys.readouterr()
    assert told.err.startswith("cnn-lab: the curves are not drawn: ")
    assert expected in told.err and told.err.count("\n") == 1
    assert "of 597 test images" in told.out
    assert json.loads((tmp_path / "run" / RESULT).read_text())["steps_per_epoch"] == 2
    assert not list((tmp_path / "run").glob(".curves*"))
