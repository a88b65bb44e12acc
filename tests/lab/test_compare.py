import contextlib
import dataclasses
import io
import json
import math
import shlex
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cnn_lab import cli, compare
from cnn_lab import train as training
from cnn_lab.recipe import Recipe
from cnn_lab.stop import Refused, Stopped
from cnn_site import ROOT

NETWORK = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
WIDER = "ResNet(BasicBlock, (1,), width=8, small_images=True)"
BASE = Recipe(NETWORK, size=8, epochs=1, batch_size=256)
MIXUP = dataclasses.replace(BASE, mixup=0.2)
SMOOTH = dataclasses.replace(BASE, label_smoothing=0.1)
PLANTED = {"": [0.90, 0.91, 0.92], "mixup": [0.92, 0.94, 0.93]}


def ran(recipe: Recipe, folder: Path, *_: Any, **__: Any) -> dict[str, Any]:
    """A run whose accuracy is planted; the arm takes 1.5 times as long."""
    accuracy = PLANTED["mixup" if recipe.mixup else ""][recipe.seed]
    return {
        "accuracy": accuracy,
        "loss": 1.0,
        "curve": [1.0],
        "images": 100,
        "seconds": 99.0,
        "processor_seconds": 3.0 if recipe.mixup else 2.0,
        "steps": 10,
        "environment": {"device": "cpu"},
    }


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["cnn-lab", "compare", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_difference_is_that_of_the_pairs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compare, "train", ran)
    result = compare.compare(BASE, [MIXUP], tmp_path, seeds=3)
    found = result["differences"]["mixup-0-2"]
    pairs = [0.02, 0.03, 0.01]  # mean 0.02, standard deviation 0.01, t(2) = 4.302653
    half = 4.302653 * statistics.stdev(pairs) / math.sqrt(3)
    assert found["difference"] == pytest.approx(0.02)
    assert found["low"] == pytest.approx(0.02 - half, abs=1e-6)
    assert found["high"] == pytest.approx(0.02 + half, abs=1e-6)
    assert found["detectable"] == pytest.approx(half, abs=1e-6)
    assert found["verdict"] == "no difference at this scale"
    assert result["arms"]["mixup-0-2"]["time"] == pytest.approx(1.5)
    assert result["arms"]["baseline"]["accuracy"]["values"] == PLANTED[""]
    assert json.loads((tmp_path / "compare.json").read_text()) == result
    assert "mixup=0.2" in (tmp_path / "compare.svg").read_text()


def test_seeds_are_the_outer_loop_and_what_is_done_is_not_done_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[tuple[int, float]] = []
    train_epochs = training._train_epochs  # the training itself

    def counted(run: Any, recipe: Recipe, *rest: Any) -> None:
        if len(made) == 3 and not stopped:
            stopped.append(True)
            raise Stopped("told to stop")
        made.append((recipe.seed, recipe.mixup))
        train_epochs(run, recipe, *rest)

    stopped: list[bool] = []
    monkeypatch.setattr(training, "_train_epochs", counted)
    with pytest.raises(Stopped, match=r"run 4 of 4.*the same command"):
        compare.compare(BASE, [MIXUP], tmp_path, seeds=2)
    assert not (tmp_path / "compare.json").exists()
    first = compare.compare(BASE, [MIXUP], tmp_path, seeds=2)
    assert made == [(0, 0.0), (0, 0.2), (1, 0.0), (1, 0.2)]
    written = (tmp_path / "compare.json").read_bytes()
    assert compare.compare(BASE, [MIXUP], tmp_path, seeds=2) == first
    assert len(made) == 4
    assert (tmp_path / "compare.json").read_bytes() == written


def test_the_same_comparison_twice_gives_the_same_accuracies(tmp_path: Path) -> None:
    found = [
        compare.compare(BASE, [MIXUP], tmp_path / name, seeds=2)["arms"]
        for name in ("a", "b")
    ]
    for key in ("baseline", "mixup-0-2"):
        for quantity in ("accuracy", "loss", "curve", "params", "macs"):
            assert found[0][key][quantity] == found[1][key][quantity]


def test_arms_of_one_seed_begin_with_the_same_weights_and_see_the_same_batches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []
    train_steps = training.train_steps

    def watched(model: Any, source: Any, **options: Any) -> Any:
        rows: list[torch.Tensor] = []
        take = source.take
        source.take = lambda r, d: rows.append(r) or take(r, d)
        seen.append(([p.detach().clone() for p in model.parameters()], rows))
        return train_steps(model, source, **options)

    monkeypatch.setattr(training, "train_steps", watched)
    compare.compare(BASE, [SMOOTH], tmp_path, seeds=2)
    (w0, r0), (w1, r1), (w2, r2), (w3, r3) = seen
    assert r0
    for a, b in ((w0, w1), (w2, w3), (r0, r1), (r2, r3)):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(w0[0], w2[0])
    assert not torch.equal(r0[0], r2[0])


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("mixup=.2", {"mixup": 0.2}),
        ("augment=basic-augmentation,cutout", {"augment": "basic-augmentation,cutout"}),
        (f"network={WIDER}", {"network": WIDER}),
        ("channels-last", {"channels-last": True}),
        (
            "optimizer=sgd-momentum and learning-rate=0.1",
            {"optimizer": "sgd-momentum", "learning-rate": 0.1},
        ),
    ],
)
def test_an_arm_changes_what_it_names_and_nothing_else(
    text: str, changed: dict[str, Any]
) -> None:
    assert compare.changes(cli._arm(BASE, text), BASE) == changed


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        (["mixpu=0.2"], "No such option: --mixpu"),
        (["mixup=much"], "'--mixup'"),
        (["mixup=-1"], "'--mixup'"),
        (["mixup"], "requires an argument"),
        (["augment=cutot"], "unknown augmentation 'cutot'"),
        (["mixup=1 and cutmix=1"], "cannot be combined"),
        (["mixup=0"], "changes nothing"),
        (["mixup=0.2", "mixup=.2"], "two arms are the same: mixup=0.2"),
        (["epochs=3"], "epochs has to be the same"),
        (["network=resnet19"], "no network 'resnet19'"),
        (["network=ResNet("], "is not a network"),
        ([], "nothing to compare"),
    ],
)
def test_what_cannot_be_compared_is_one_line_before_any_training(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arms: list[str],
    told: str,
) -> None:
    options = [part for arm in arms for part in ("--with", arm)]
    code = command(
        monkeypatch, NETWORK, "--size", "8", *options, "--out", str(tmp_path / "out")
    )
    out, line = capsys.readouterr()
    assert code in (1, 2)
    assert told in line
    assert line.count("\n") == 1
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_a_folder_with_another_comparison_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compare, "train", ran)
    compare.compare(BASE, [MIXUP], tmp_path, seeds=3)
    with pytest.raises(Refused, match="seeds 3 and not 2"):
        compare.compare(BASE, [MIXUP], tmp_path, seeds=2)
    with pytest.raises(Refused, match="arms"):
        compare.compare(BASE, [SMOOTH], tmp_path, seeds=3)


RECORDED = (
    "cnn-lab compare "
    '"ResNet(BasicBlock, (1, 1, 1), width=16, small_images=True)" '
    "--epochs 10 --batch-size 32 --learning-rate 0.01 "
    "--with mixup=0.2 --with cutmix=1.0 --with label-smoothing=0.1 "
    "--with weight-ema=0.99 "
    "--with augment=basic-augmentation --with augment=cutout "
    '--with "network=ResNet(BasicBlock, (1, 1, 1), width=16, small_images=True, '
    'attention=lambda c: SqueezeExcitation(c, c // 4))" '
    '--with "optimizer=sgd-momentum and learning-rate=0.1" '
    "--seeds 5 --out runs/techniques"
)


def compared(command: str) -> dict[str, Any]:
    """What the command gives; what it has done before, it does not do again."""
    arguments, shown = shlex.split(command), io.StringIO()
    kept = sys.argv
    sys.argv = arguments
    try:
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            cli.main()
    finally:
        sys.argv = kept
    folder = Path(arguments[arguments.index("--out") + 1])
    shutil.copy(folder / "compare.svg", ROOT / "docs/lab/compare.svg")
    result = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    table = [line for line in lines if not line.startswith("seed ")]
    return {**result, "command": command, "output": "\n".join(table).strip("\n")}


@pytest.mark.record
def test_techniques_on_digits(evidence) -> None:
    evidence.measured("techniques", arguments={"command": RECORDED}, run=compared)
