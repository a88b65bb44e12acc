"""Arms of the bench beside its recorded baseline: what a technique's proof asks for.

A proof names its arms, `cnn_lab.bench` runs them, the baseline is read from its record.
"""

import hashlib
import json
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cnn_lab import bench
from cnn_lab.record import repeat
from cnn_site import ROOT  # no relative imports: a process that times runs this file
from cnn_site.evidence import load
from cnn_site.speed import side_by_side
from cnn_techniques.evaluation import model_cost

Json = dict[str, Any]
Arms = Callable[[str], bench.Arm]
Step = Callable[[], None]
BASELINE = "lab/bench"
CACHE = ROOT / ".cache" / "record" / "bench.jsonl"


def runs(arms: Arms, keys: Sequence[str], seeds: Sequence[int]) -> dict[str, Json]:
    """Run each arm with each seed, resumable; a row of the record for each arm."""

    def run(arm: str, seed: int) -> Json:
        return bench.run(arms(arm), seed, ROOT / "data")

    results = repeat(run, {key: {"arm": key} for key in keys}, seeds, CACHE)
    return {key: bench.row(arms(key).name, results[key]) for key in keys}


def arguments(seeds: int = 5) -> Json:
    """Of a comparison with the baseline: the seeds, and which baseline it is."""
    return {"seeds": seeds, "baseline": baseline_hash()}


def baseline_hash() -> str:
    """Of the baseline's accuracies: an arm beside another baseline is stale."""
    text = json.dumps(
        {k: v["accuracy"]["values"] for k, v in _baseline()["arms"].items()}
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def beside_the_baseline(
    arms: Arms, keys: Sequence[str], *, seeds: int, baseline: str
) -> Json:
    """Run a technique's arms, and say what they differ by from the baseline.

    Args:
        arms: the arm of a key.
        seeds: so many of the baseline's, from the first.
        baseline: what `baseline_hash` was when this was asked for.

    Returns "seeds", "arms" (rows, the baseline of each handicap first), "paired" (by
    key, the difference in accuracy and in accuracy on shifted images, with interval),
    "detectable" (the smallest difference that so many seeds could see, known before).
    Raises: ValueError for seeds that the baseline has not, or for another baseline.
    """
    baselines = _baseline()["arms"]
    if baseline != baseline_hash():
        raise ValueError(
            f"the baseline is {baseline_hash()}, expected {baseline}: run this again"
        )
    most = len(bench.SEEDS)
    if not 2 <= seeds <= most:
        raise ValueError(
            f"expected 2 to {most} seeds, as the baseline has, got {seeds}"
        )
    handicaps = {key: arms(key).handicap for key in keys}
    rows = runs(arms, keys, bench.SEEDS[:seeds])
    bases = {
        h: _first_seeds(baselines[h], seeds) for h in dict.fromkeys(handicaps.values())
    }
    return {
        "seeds": seeds,
        "arms": {**{f"baseline, {h}": row for h, row in bases.items()}, **rows},
        "paired": {
            key: {
                **bench.against(row, baselines[handicaps[key]]),
                "handicap": handicaps[key],
            }
            for key, row in rows.items()
        },
        "detectable": {
            h: bench.smallest_difference(baselines[h], seeds) for h in bases
        },
    }


def _baseline() -> Json:
    measured: Json = load(BASELINE).get("measured", {})
    if "baseline" not in measured:
        raise ValueError(
            "the bench has no baseline yet; make it: "
            "pytest --update-evidence -m record tests/lab/test_bench.py"
        )
    result: Json = measured["baseline"]["result"]
    return result


def _first_seeds(row: Json, seeds: int) -> Json:
    """A row of the baseline with the seeds that an arm has."""
    runs = [
        {"accuracy": a, "shifted": s, "curve": c}
        for a, s, c in zip(
            row["accuracy"]["values"],
            row["shifted"]["values"],
            row["curve"],
            strict=True,
        )
    ]
    return bench.row(row["name"], runs[:seeds])


# ---------------------------------------------------------------- cost


def cost_beside_the_baseline(arms: Arms, keys: Sequence[str]) -> dict[str, Json]:
    """Parameters, MACs and memory of a training step of 64 images, without values.

    Rows of the baseline and of each arm; "saved_bytes" is what is kept for the backward
    pass; "more_..." is the arm's part above the baseline's.
    """
    named = {"baseline": bench.Arm("Baseline"), **{key: arms(key) for key in keys}}
    rows: dict[str, Json] = {}
    for key, arm in named.items():
        with torch.device("meta"):
            images = torch.empty(bench.BATCH_SIZE, 1, 28, 28)
            cost = model_cost(arm.network().train(), images)
        rows[key] = {
            "name": arm.name,
            "params": cost.params,
            "macs": cost.macs,
            "saved_bytes": cost.saved_bytes,
        }
        for quantity in ("params", "macs", "saved_bytes"):
            base = rows["baseline"][quantity]
            rows[key][f"more_{quantity}"] = rows[key][quantity] / base - 1
    return rows


def time_beside_the_baseline(arms: Arms, keys: Sequence[str]) -> Json:
    """CPU time of an arm's training step over that of the baseline's step, by key.

    Three processes of alternating pairs for each arm: the median, and the range over the
    processes.
    """
    proof = Path(arms.__code__.co_filename).resolve().relative_to(ROOT).as_posix()
    times = {}
    for key in keys:
        task = {"proof": proof, "function": arms.__name__, "key": key}
        timed = side_by_side(steps, against="arm", arguments=task)["arms"]
        times[key] = {
            "name": arms(key).name,
            "ratio": timed["baseline"]["ratio"],
            "range": timed["baseline"]["range"],
            "seconds": timed["arm"]["seconds"],
        }
    return times


def steps(proof: str, function: str, key: str) -> dict[str, Callable[[], Step]]:
    """What makes a training step of the baseline, and of the arm of a proof."""
    arm = runpy.run_path(str(ROOT / proof))[function](key)
    return {
        "arm": lambda: bench.step(arm),
        "baseline": lambda: bench.step(bench.Arm("baseline")),
    }
