"""The race of the optimizers: equal tuning on images held out of the training part, then ten seeds with the best rate.

The proof of an optimizer says how its arm of the bench is made of a rate, and which five rates it tries; the first of
all, SGD with momentum, is what the others are held against.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cnn_lab import bench
from cnn_lab.fit import accuracy, fit, steps
from cnn_lab.record import paired, repeat
from cnn_site import ROOT
from cnn_site.bench import steps as bench_steps
from cnn_site.evidence import load
from cnn_site.speed import side_by_side

Json = dict[str, Any]
ArmOf = Callable[[float], bench.Arm]  # of a rate
FIRST = "optimization/sgd-momentum"
HELD_OUT = 100  # of the 600 training images of each class
TUNING_SEED = 100  # none of those that race
SEEDS = bench.SEEDS
CACHE = ROOT / ".cache" / "record" / "race.jsonl"


def arguments(rates: Sequence[float], slug: str) -> Json:
    """Of a race: the rates, the seeds, and against which runs of the first one; "" for the first one itself."""
    return {
        "rates": list(rates),
        "seeds": len(SEEDS),
        "against": "" if slug == FIRST else first_hash(),
    }


def first_hash() -> str:
    text = json.dumps(_first()["accuracy"]["values"])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def race(arm: ArmOf, *, rates: Sequence[float], seeds: int, against: str) -> Json:
    """Try each rate once on held-out images, then train with the best one and test once with each seed.

    Returns "arms" (a row per rate: "held_out", the accuracy, or "diverged"), "rate" (the best: the lowest of several),
    "seeds", and the row of the bench: "accuracy" and "shifted" with interval, "loss", "curve"; "paired": by how much it
    is above the first one.
    """
    tried = tune(arm, rates)
    rate = max(rates, key=lambda rate: (tried[f"{rate:g}"].get("held_out", -1), -rate))
    runs = finals(arm, rate, SEEDS[:seeds])
    row = bench.row(arm(rate).name, runs)
    result: Json = {"arms": tried, "rate": rate, "seeds": seeds, **row}
    if against and "diverged" not in row:
        result["paired"] = {
            quantity: paired(row[quantity]["values"], _first()[quantity]["values"])
            for quantity in ("accuracy", "shifted")
        }
    return result


def tune(arm: ArmOf, rates: Sequence[float]) -> dict[str, Json]:
    def run(rate: float, seed: int) -> Json:
        return held_out_run(arm(rate), seed)

    arms = {f"{rate:g}": {"rate": rate} for rate in rates}
    results = repeat(run, arms, [TUNING_SEED], CACHE)
    return {name: {"name": name, **results[name][0]} for name in arms}


def finals(arm: ArmOf, rate: float, seeds: Sequence[int]) -> list[Json]:
    def run(rate: float, seed: int) -> Json:
        return bench.run(arm(rate), seed, ROOT / "data")

    return repeat(run, {"best": {"rate": rate}}, seeds, CACHE)["best"]


def held_out_run(arm: bench.Arm, seed: int) -> Json:
    """Train on 500 images of each class, and see how many of the other 100 are right."""
    images, labels = bench.garments("train", ROOT / "data")
    rows = [torch.where(labels == k)[0] for k in range(10)]
    train = torch.cat([of[:-HELD_OUT] for of in rows])
    held_out = torch.cat([of[-HELD_OUT:] for of in rows])
    torch.manual_seed(seed)
    model = arm.network()
    optimizer = arm.optimizer(model)
    epochs: int = bench.HANDICAPS["none"]["epochs"]
    budget = {"epochs": epochs, "batch_size": bench.BATCH_SIZE}
    try:
        fit(
            model,
            (images[train], labels[train]),
            **budget,  # type: ignore[arg-type]
            optimizer=optimizer,
            schedule=arm.schedule(optimizer, steps(len(train), **budget)),
            loss=arm.loss,
            update=arm.update(),
            seed=seed,
        )
    except FloatingPointError:
        return {"diverged": True}
    return {"held_out": accuracy(model, images[held_out], labels[held_out])}


def time_of_a_step(arm: ArmOf) -> Json:
    """CPU time of a training step of 64 images over that of the bench's baseline; no rate changes it."""
    proof = Path(arm.__code__.co_filename).resolve().relative_to(ROOT).as_posix()
    task = {"proof": proof, "function": arm.__name__, "key": 1e-3}
    timed = side_by_side(bench_steps, against="arm", arguments=task)["arms"]
    return {
        "ratio": timed["baseline"]["ratio"],
        "range": timed["baseline"]["range"],
        "seconds": timed["arm"]["seconds"],
    }


def _first() -> Json:
    measured: Json = load(FIRST).get("measured", {})
    if "race" not in measured:
        raise ValueError(
            f"{FIRST} has not raced yet, and is what the others are held against; "
            "run: pytest --update-evidence -m record tests/optimization/test_sgd_momentum.py"
        )
    result: Json = measured["race"]["result"]
    return result
