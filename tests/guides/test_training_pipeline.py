"""The program of the guide does what its page says, and each line's absence costs what the page shows."""

import contextlib
import hashlib
import io
import re
import tempfile
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from cnn_lab import bench
from cnn_lab.record import interval, paired, repeat
from cnn_site import ROOT
from cnn_site.evidence import load

PROGRAM = ROOT / "snippets/guides/training_pipeline.py"
# What stands in the program -> what stands there instead.
ARMS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "whole": ("the program as it stands", []),
    "eval": ("no `model.eval()`", [("    model.eval()\n", "")]),
    "eval_one": (
        "no `model.eval()`, tested one image at a time",
        [("    model.eval()\n", ""), ("batch_size=256", "batch_size=1")],
    ),
    "train": ("no `model.train()`", [("    model.train()\n", "")]),
    "zero_grad": ("no `optimizer.zero_grad()`", [("        optimizer.zero_grad()\n", "")]),
    "schedule": (
        "no schedule: the rate stays",
        [
            (
                "OneCycleLR(optimizer, RATE, total_steps=steps)",
                "ConstantLR(optimizer, 1.0)",
            )
        ],
    ),
    "shuffle": ("no `shuffle`, images sorted by class", [("shuffle=True", "shuffle=False")]),
    "scaled": ("images from 0 to 255", []),
    "resumed": (
        "gone on after epoch 4 with the weights alone",
        [
            (
                "        for name, part in parts.items():\n",
                "        for name, part in [('model', model)]:\n",
            )
        ],
    ),
}  # fmt: skip


def program(edits: list[tuple[str, str]]) -> dict[str, object]:
    """The names of the guide's program with some of its lines changed."""
    code = PROGRAM.read_text(encoding="utf-8")
    for old, new in edits:
        assert code.count(old) == 1, f"{old!r} does not stand in the program once"
        code = code.replace(old, new)
    space: dict[str, object] = {"__name__": "training_pipeline"}
    exec(compile(code, str(PROGRAM), "exec"), space)
    return space


def garments(sort: bool, scale: bool) -> list[TensorDataset]:
    images, labels = bench.garments("train")
    tests, truth = bench.garments("test")
    if sort:
        order = labels.argsort(stable=True)
        images, labels = images[order], labels[order]
    if scale:
        images, tests = ((x * 0.3530 + 0.2860) * 255 for x in (images, tests))
    held, rest = slice(None, 2000), slice(2000, None)
    return [
        TensorDataset(images, labels),
        TensorDataset(tests[held], truth[held]),
        TensorDataset(tests[rest], truth[rest]),
    ]


def printed(space: dict[str, object]) -> list[float]:
    """What `main` printed: the accuracies of the epochs, and the last."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        space["main"]()
    return [float(n) / 100 for n in re.findall(r"([\d.]+)%", out.getvalue())]


def learn(arm: str, edits: list[list[str]], program_hash: str, seed: int) -> dict:
    space = program([(old, new) for old, new in edits])
    parts = garments(arm == "shuffle", arm == "scaled")
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder) / "last.pt"
        space |= {"data": lambda: parts, "SEED": seed, "LAST": last, "DEVICE": "cpu"}
        if (
            arm == "resumed"
        ):  # the file that a run stopped after its fourth epoch leaves
            save = space["save"]

            def stop(path: Path, done: int, **state: object) -> None:
                save(path, done=done, **state)
                if done == 4:
                    raise KeyboardInterrupt

            space["save"] = stop
            with contextlib.suppress(KeyboardInterrupt):
                printed(space)
            space["save"] = save
        *epochs, tested = printed(space)
    return {"accuracy": tested, "epochs": epochs}


def without_a_line(
    arms: dict[str, list[list[str]]], seeds: list[int], program_hash: str
) -> dict:
    cache = ROOT / ".cache/record/training_pipeline.jsonl"
    arguments = {
        arm: {"arm": arm, "edits": edits, "program_hash": program_hash}
        for arm, edits in arms.items()
    }
    runs = repeat(learn, arguments, seeds, cache)
    rows = {}
    whole = [r["accuracy"] for r in runs["whole"]]
    for arm in arms:
        values = [r["accuracy"] for r in runs[arm]]
        rows[arm] = {
            "name": ARMS[arm][0],
            "accuracy": {**interval(values), "values": values},
            "loss_of_accuracy": paired(values, whole),
        }
    best = [max(r["epochs"]) for r in runs["whole"]]
    last = [r["epochs"][-1] for r in runs["whole"]]
    return {"seeds": len(seeds), "arms": rows, "best_epoch": paired(best, last)}


def hash_of_program() -> str:
    """Of its lines, without the marks of its section."""
    lines = PROGRAM.read_text(encoding="utf-8").splitlines()
    shown = "\n".join(line for line in lines if not line.startswith("# --8<--"))
    return hashlib.sha256(shown.encode()).hexdigest()[:12]


@pytest.mark.record
def test_record_what_the_absence_of_a_line_costs(evidence) -> None:
    arguments = {
        "arms": {arm: [list(edit) for edit in edits] for arm, (_, edits) in ARMS.items()},
        "seeds": [0, 1, 2, 3, 4],
        "program_hash": hash_of_program(),
    }  # fmt: skip
    evidence.measured("absent", arguments=arguments, run=without_a_line)


def test_the_record_is_of_the_program_that_the_page_shows() -> None:
    recorded = load("guides/training-pipeline")["measured"]["absent"]["arguments"]
    assert recorded["program_hash"] == hash_of_program()


@pytest.mark.parametrize("arm", ARMS)
def test_every_change_of_the_record_is_one_of_lines_that_there_are(arm: str) -> None:
    assert callable(program(ARMS[arm][1])["main"])


def test_a_file_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    save, path = program([])["save"], tmp_path / "last.pt"
    save(path, done=1)
    with pytest.raises(Exception, match="pickle"):
        save(path, done=lambda: None)
    assert torch.load(path, weights_only=True) == {"done": 1}


def test_two_of_five_runs_without_train_mode_end_at_chance_as_the_page_says() -> None:
    arms = load("guides/training-pipeline")["measured"]["absent"]["result"]["arms"]
    values = arms["train"]["accuracy"]["values"]
    assert sorted(v < 0.15 for v in values) == 3 * [False] + 2 * [True]
    assert min(v for v in values if v > 0.15) > 0.75
