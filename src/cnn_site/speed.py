"""A network's speed beside its reference's, with the same weights, in CPU seconds.

Three processes of seven alternating pairs each, because a process's memory layout alone moves small networks by several per
cent. `python -m cnn_site.speed JSON` is one such process.
"""

import copy
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from .trees import flatten
from .variants import Variant, reference, without_drawing

Json = dict[str, Any]
PHASES = {
    "forward": "Forward",
    "channels_last": "Forward, channels_last",
    "training": "Training step",
}
PROCESSES, PAIRS = 3, 7
LEAST = 0.15  # seconds that one timing lasts at least


def beside_its_reference(variant: Variant, shape: list[int]) -> Json:
    """Time `variant` and its reference on images of `shape`, one thread, dropout and drop path at rate 0.

    Returns arms (forward, forward with channels_last, training step with SGD) with `ratio`, the reference's time through
    ours, median of pairs, then of three processes (above 1: ours is faster), the range over them, and our seconds; `gain`, what
    channels_last buys our forward pass; by how much one training step raises the
    peak memory of a fresh process, in MiB.
    """
    task = {
        "ours": [variant.make.__module__, variant.make.__name__],
        "reference": variant.reference,
        "options": dict(variant.options),
        "match": variant.match,
        "shape": shape,
    }
    found = [_process({**task, "first": n % 2}) for n in range(PROCESSES)]
    memory = {
        side: _process({**task, "memory": side})["peak"]
        for side in ("ours", "reference")
    }
    arms = {}
    for phase, title in PHASES.items():
        ratios = [f[phase]["ratio"] for f in found]
        arms[phase] = {
            "name": title,
            "ratio": statistics.median(ratios),
            "range": f"{min(ratios):.2f} to {max(ratios):.2f}",
            "seconds": statistics.median(f[phase]["ours"] for f in found),
        }
    gains = [f["forward"]["ours"] / f["channels_last"]["ours"] for f in found]
    return {
        "arms": arms,
        "gain": statistics.median(gains),
        "slower": [p for p in PHASES if all(f[p]["ratio"] < 1 / 1.08 for f in found)],
        "memory": {**memory, "ratio": memory["ours"] / memory["reference"]},
        "processes": found,
    }


def _process(task: Json) -> Json:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Blocks of 64 KiB and more go back at once: the peak is what was in use.
    if "memory" in task:
        environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    command = [sys.executable, "-m", "cnn_site.speed", json.dumps(task)]
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise RuntimeError(
            f"the timing process ended with {run.returncode}:\n{run.stderr}"
        )
    result: Json = json.loads(run.stdout.splitlines()[-1])
    return result


def _one(task: Json) -> Json:
    """What one process does: `task` is what `beside_its_reference` made."""
    torch.manual_seed(0)
    module, name = task["ours"]
    images = torch.randn(task["shape"])
    make: dict[str, Callable[[], nn.Module]] = {
        "ours": lambda: getattr(importlib.import_module(module), name)(),
        "reference": lambda: reference(task["reference"], **task["options"]),
    }
    if "memory" in task:
        for library in (module, task["reference"].rpartition(".")[0]):
            importlib.import_module(library)  # code is not what is measured
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _step(_still(make[task["memory"]]()), images)()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak": round((peak - before) / 1024)}
    order = sorted(make, reverse=bool(task["first"]))  # who lies first in memory
    networks = {side: _still(make[side]()) for side in order}
    theirs = networks["reference"].state_dict()
    names = theirs if task["match"] == "name" else networks["ours"].state_dict()
    networks["ours"].load_state_dict(
        dict(zip(names, theirs.values(), strict=True)), strict=True
    )
    result = {}
    for phase in PHASES:
        runs = {
            side: _phase(phase, network, images) for side, network in networks.items()
        }
        result[phase] = _alternating(runs)
    return result


def _still(network: nn.Module) -> nn.Module:
    without_drawing(network)
    return network


def _phase(phase: str, network: nn.Module, images: Tensor) -> Callable[[], None]:
    network = copy.deepcopy(network)
    if phase == "training":
        return _step(network, images)
    network.eval()
    if phase == "channels_last":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.to(memory_format=torch.channels_last)

    def forward() -> None:
        with torch.no_grad():
            network(images)

    return forward


def _step(network: nn.Module, images: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    network.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = sum(out.square().mean() for out in flatten(network(images)).values())
        loss.backward()  # type: ignore[union-attr, no-untyped-call]
        optimizer.step()

    return step


def _alternating(runs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median CPU seconds of each, and median ratio of the pairs, which change who is first."""
    once = [_seconds(run, 1) for _, run in product(range(2), runs.values())]
    repeats = max(1, round(LEAST / min(once[2:])))
    times: dict[str, list[float]] = {side: [] for side in runs}
    for pair in range(PAIRS):
        for side in sorted(runs, reverse=bool(pair % 2)):
            times[side].append(_seconds(runs[side], repeats) / repeats)
    pairs = zip(times["reference"], times["ours"], strict=True)
    ratio = statistics.median(theirs / ours for theirs, ours in pairs)
    return {**{s: statistics.median(t) for s, t in times.items()}, "ratio": ratio}


def _seconds(run: Callable[[], None], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        run()
    return time.process_time() - start


if __name__ == "__main__":
    print(json.dumps(_one(json.loads(sys.argv[1]))))
