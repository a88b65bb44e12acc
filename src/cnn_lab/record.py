"""Results worth printing: several seeds, an interval, and what they were made with."""

import json
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .fingerprint import fingerprint_of

Json = dict[str, Any]


def environment(device: str = "cpu") -> Json:
    """With what a number was made: date (UTC), versions, processor, threads, device."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device)
        if device.startswith("cuda")
        else "cpu",
    }


def interval(values: Sequence[float]) -> Json:
    """Mean, sample standard deviation and 95 % Student-t interval of the mean.

    Raises: ValueError for fewer than two values, or one that is not finite.
    """
    from scipy.special import stdtrit  # here: the rest works beside a bare torch

    n = len(values)
    if n < 2 or not all(math.isfinite(v) for v in values):
        raise ValueError(f"need at least two finite values, got {list(values)}")
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n}


def paired(a: Sequence[float], b: Sequence[float]) -> Json:
    """How much a is above b, pair by pair (the same seeds in the same order).

    Returns the difference (mean of a - b) with the low and high end of its 95 %
    interval, the number of pairs n, the smallest difference that these runs could have
    told from none (the interval's half-width), and the verdict: "higher" or "lower" (a
    than b), or "no difference at this scale" when the interval holds zero.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs must be complete, got {len(a)} and {len(b)} values")
    difference = interval([x - y for x, y in zip(a, b, strict=True)])
    if difference["low"] <= 0 <= difference["high"]:
        verdict = "no difference at this scale"
    else:
        verdict = "higher" if difference["mean"] > 0 else "lower"
    return {
        "difference": difference["mean"],
        "low": difference["low"],
        "high": difference["high"],
        "n": difference["n"],
        "detectable": (difference["high"] - difference["low"]) / 2,
        "verdict": verdict,
    }


def repeat(
    run: Callable[..., Json],
    arms: Mapping[str, Json],
    seeds: Iterable[int],
    cache: Path,
) -> dict[str, list[Json]]:
    """Run every arm with every seed, and go on where an earlier call stopped.

    Calls `run(**arguments, seed=seed)`; returns for each arm its results in the order
    of the seeds. Seeds are the outer loop, so that after a stop all arms have got
    equally far. A finished result is a line of JSON in `cache` and is not made again.
    Its key holds the arguments, the seed, and the fingerprint of `run`: a result of other
    code is not taken for this one's.

    Args:
        run: returns what JSON can hold.
        arms: name -> keyword arguments of `run` that JSON can hold.

    Raises: ValueError for a `run` whose code cannot be followed: one that is written in
        no file, or holds in a closure what JSON cannot.
    """
    seeds = list(seeds)
    codes = {arm: fingerprint_of(run, arguments) for arm, arguments in arms.items()}
    done = dict(_lines(cache))
    results: dict[str, list[Json]] = {arm: [] for arm in arms}
    for seed in seeds:
        for arm, arguments in arms.items():
            key = json.dumps({"code": codes[arm], "seed": seed})
            if key not in done:
                # Through JSON, so that a fresh result and one read back are the same.
                done[key] = json.loads(json.dumps(run(**arguments, seed=seed)))
                cache.parent.mkdir(parents=True, exist_ok=True)
                with cache.open("a", encoding="utf-8") as file:
                    file.write(
                        "\n" + json.dumps({"arm": arm, "key": key, "result": done[key]})
                    )
            results[arm].append(done[key])
    return results


def _lines(cache: Path) -> Iterator[tuple[str, Json]]:
    """What the cache holds, without a line that a killed process left half written."""
    for line in (
        cache.read_text(encoding="utf-8").splitlines() if cache.exists() else []
    ):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        yield entry["key"], entry["result"]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
