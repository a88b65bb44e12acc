"""Speeds side by side, in CPU seconds: a network and its reference with the same weights, or any runs with names.

Three processes of seven alternating pairs each, because a process's memory layout alone moves small networks by several per
cent. `python -m cnn_site.speed JSON` is one such process.
"""

import copy
import importlib
import json
import os
import resource
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .trees import flatten
from .variants import Variant, dotted, reference, without_drawing

Json = dict[str, Any]
Run = Callable[[], object]
PHASES = {
    "forward": "Forward",
    "channels_last": "Forward, channels_last",
    "training": "Training step",
}
PROCESSES, PAIRS = 3, 7
LEAST = 0.15  # seconds that one timing lasts at least


def beside_its_reference(
    ours: str, reference: str, options: Json, match: str, shape: list[int]
) -> Json:
    """Time a network and its reference on images of `shape`, one thread, dropout and drop path at rate 0.

    The arguments are texts, as records hold them: `timing` makes them of a variant. Returns arms (forward, forward
    with channels_last, training step with SGD) with `ratio`, the reference's time through
    ours, median of pairs, then of three processes (above 1: ours is faster), the range over them, and our seconds; `gain`, what
    channels_last buys our forward pass; by how much one training step raises the
    peak memory of a fresh process, in MiB.
    """
    task = {
        "ours": ours,
        "reference": reference,
        "options": options,
        "match": match,
        "shape": shape,
    }
    results = [_start_process({**task, "first": n % 2}) for n in range(PROCESSES)]
    memory = {
        side: _start_process({**task, "memory": side})["peak"]
        for side in ("ours", "reference")
    }
    arms = {}
    for phase, title in PHASES.items():
        ratios = [f[phase]["ratio"] for f in results]
        arms[phase] = {
            "name": title,
            "ratio": statistics.median(ratios),
            "range": f"{min(ratios):.2f} to {max(ratios):.2f}",
            "seconds": statistics.median(f[phase]["ours"] for f in results),
        }
    gains = [f["forward"]["ours"] / f["channels_last"]["ours"] for f in results]
    return {
        "arms": arms,
        "gain": statistics.median(gains),
        "slower": [p for p in PHASES if all(f[p]["ratio"] < 1 / 1.08 for f in results)],
        "memory": {**memory, "ratio": memory["ours"] / memory["reference"]},
        "processes": results,
    }


def timing(variant: Variant, shape: Sequence[int]) -> Json:
    """The arguments of `beside_its_reference` for a variant."""
    return {
        "ours": dotted(variant.make),
        "reference": variant.reference,
        "options": dict(variant.options),
        "match": variant.match,
        "shape": list(shape),
    }


def side_by_side(
    build: Callable[..., Mapping[str, Callable[[], Run]]], against: str, arguments: Json
) -> Json:
    """Time runs with names in three processes: `build(**arguments)` makes name -> function that builds the run.

    Args:
        build: a function at the top level of a file; each process calls it anew, and the order in which the runs are
            built (who lies first in memory) changes from one to the next.
        against: the name that the others are compared with.

    Returns: arms with the median `seconds`, `ratio`, the time of `against` through that of the run (above 1: the run
        is faster), and its range over the processes; which names are `slower` or `faster` in all of them, by 8 %.
    """
    file = Path(build.__code__.co_filename).resolve()
    task = {"build": [str(file), build.__name__], "arguments": arguments}
    results = [
        _start_process({**task, "against": against, "first": n})
        for n in range(PROCESSES)
    ]
    arms = {}
    for name in results[0]["seconds"]:
        ratios = [f["ratio"][name] for f in results]
        arms[name] = {
            "name": name,
            "seconds": statistics.median(f["seconds"][name] for f in results),
            "ratio": statistics.median(ratios),
            "range": f"{min(ratios):.2f} to {max(ratios):.2f}",
        }
    return {
        "arms": arms,
        "slower": [n for n in arms if all(f["ratio"][n] < 1 / 1.08 for f in results)],
        "faster": [n for n in arms if all(f["ratio"][n] > 1.08 for f in results)],
        "processes": results,
    }


def _start_process(task: Json) -> Json:
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


def _run_task(task: Json) -> Json:
    """What one process does: `task` is what `beside_its_reference` or `side_by_side` made."""
    torch.manual_seed(0)
    if "build" in task:
        path, function = task["build"]
        build = runpy.run_path(path)[function](**task["arguments"])
        built = {name: build[name]() for name in _turned(build, task["first"])}
        return alternating({name: built[name] for name in build}, task["against"])
    module, _, name = task["ours"].rpartition(".")
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
    networks = {side: _still(make[side]()) for side in _turned(make, task["first"])}
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
        timed = alternating(runs, "reference")
        result[phase] = {**timed["seconds"], "ratio": timed["ratio"]["ours"]}
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


def alternating(runs: Mapping[str, Run], against: str) -> dict[str, dict[str, float]]:
    """Median CPU seconds of each run, and the median ratio of `against`'s time to its own.

    All runs in turn, seven times, each time another one first; one timing lasts 0.15 s or more.
    """
    if against not in runs:
        raise ValueError(f"expected one of {sorted(runs)}, got {against=}")
    once = [_seconds(run, 1) for _, run in product(range(2), runs.values())]
    repeats = max(1, round(LEAST / min(once[len(runs) :])))
    times: dict[str, list[float]] = {side: [] for side in runs}
    for pair in range(PAIRS):
        for side in _turned(runs, pair):
            times[side].append(_seconds(runs[side], repeats) / repeats)
    ratios = {
        side: [theirs / own for theirs, own in zip(times[against], spent, strict=True)]
        for side, spent in times.items()
    }
    return {
        "seconds": {side: statistics.median(spent) for side, spent in times.items()},
        "ratio": {side: statistics.median(ratio) for side, ratio in ratios.items()},
    }


def _turned(names: Iterable[str], by: int) -> list[str]:
    """Sorted, and begun at another one each time."""
    ordered = sorted(names)
    by %= len(ordered)
    return ordered[by:] + ordered[:by]


def _seconds(run: Run, repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        run()
    return time.process_time() - start


if __name__ == "__main__":
    print(json.dumps(_run_task(json.loads(sys.argv[1]))))
