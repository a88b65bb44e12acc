"""Makes one measured result of a technique again and holds it against its recorded spread.

    python .ci/again.py attention/squeeze-and-excitation [name]

Every recorded mean with a 95 % interval is compared: the new mean may differ by the width of that interval at most.
Nothing is written. Another processor or torch version rounds otherwise, so the numbers are not expected to be equal.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def intervals(result: Any, at: str = "") -> Iterator[tuple[str, dict[str, float]]]:
    """(where, interval) for each dictionary that has a mean, a low and a high end."""
    if isinstance(result, dict):
        if {"mean", "low", "high"} <= result.keys():
            yield at, result
        for key, value in result.items():
            yield from intervals(value, f"{at}.{key}" if at else str(key))
    elif isinstance(result, list):
        for n, value in enumerate(result):
            yield from intervals(value, f"{at}[{n}]")


def outside(old: Any, new: Any) -> list[str]:
    """A line for each mean that left its spread; ValueError if there was nothing to compare."""
    now = dict(intervals(new))
    before = dict(intervals(old))
    if not before:
        raise ValueError(
            "the record has no mean with an interval, so there is nothing to hold a new run against"
        )
    lines = []
    for where, was in before.items():
        if where not in now:
            lines.append(f"{where}: not made this time")
            continue
        allowed = max(was["high"] - was["low"], 1e-9)
        moved = abs(now[where]["mean"] - was["mean"])
        print(
            f"{where}: was {was['mean']:.6g} [{was['low']:.6g}, {was['high']:.6g}], now {now[where]['mean']:.6g}"
        )
        if moved > allowed:
            lines.append(
                f"{where}: moved by {moved:.3g}, more than the width {allowed:.3g} of its interval"
            )
    return lines


def main(slug: str, name: str = "") -> int:
    record = json.loads(
        (ROOT / f"docs/evidence/{slug}.json").read_text(encoding="utf-8")
    )
    measured = record.get("measured", {})
    if not measured or (name and name not in measured):
        print(
            f"docs/evidence/{slug}.json has no measured result {name!r}; it has {sorted(measured)}",
            file=sys.stderr,
        )
        return 1
    name = name or next(iter(measured))
    entry = measured[name]
    path, function = entry["made_by"].split("::")
    spec = importlib.util.spec_from_file_location("proof", ROOT / path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    sys.modules["proof"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(
        f"{slug}, {name}: {entry['made_by']} with {entry['arguments']}; recorded on {entry['environment']}"
    )
    start = time.monotonic()
    lines = outside(entry["result"], getattr(module, function)(**entry["arguments"]))
    print(f"{time.monotonic() - start:.0f} s")
    for line in lines:
        print(f"docs/evidence/{slug}.json: measured {name}: {line}", file=sys.stderr)
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
