"""What a technique is worth: a baseline, and arms that differ from it in one choice.

All arms have the same budget: data, epochs, batch size. They are paired by seed: with
one seed they see the same images in the same order and, where the network is the same,
start from the same weights. A difference is then that of the technique, not of the draw.
"""

import ast
import dataclasses
import json
import os
import re
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cnn_techniques.evaluation import model_cost

from .fit import Step
from .prepare import check_supported, prepared
from .recipe import Recipe, Settings
from .record import interval, paired
from .saved import CONFIG, write_json
from .show import Silent
from .sources import DataSet
from .stop import Refused, Stopped
from .train import train

Json = dict[str, Any]
RESULT, PLOT = "compare.json", "compare.svg"
# The same for all arms.
BUDGET = ("data", "epochs", "batch_size", "validate", "patience", "seed")
BASELINE = "baseline"


def compare(
    baseline: Recipe,
    arms: Sequence[Recipe],
    out: Path,
    settings: Settings | None = None,
    *,
    seeds: int = 5,
    console: Console | None = None,
) -> Json:
    """Train the baseline and every arm with seeds 0 to `seeds` - 1, and compare.

    Seeds are the outer loop: after a stop all arms have got equally far. Called again,
    it goes on; what is done is not done again.

    Args:
        arms: recipes that differ from the baseline, and from one another.
        out: folder of the comparison; the runs are in folders of their own in it.
        seeds: 2 or more.
        console: where progress is told.

    Returns what it writes to `compare.json`: "seeds"; "arms", the baseline first, with
    accuracy and loss of the last epoch, the loss of every epoch ("curve"), the cost;
    "differences", of each arm's accuracy less the baseline's; "environment".
    Raises: Refused before any training for what cannot be compared, or for a folder
    that holds another comparison; Stopped; and what `train` raises.
    """
    settings = settings or Settings()
    console = console or Console(highlight=False)
    _check(baseline, arms, seeds)
    names = {BASELINE: BASELINE, **_arm_names(baseline, arms)}
    recipes = dict(zip(names, [baseline, *arms], strict=True))
    _same_as_before(out, baseline, arms, seeds)
    costs = {key: _cost(names[key], recipes[key], settings) for key in recipes}
    config = {**_config(baseline, arms, seeds), "root": str(settings.root)}
    write_json(out / CONFIG, {**config, "workers": settings.workers})
    results: dict[str, list[Json]] = {key: [] for key in recipes}
    count, total = 0, seeds * len(recipes)
    with _bar(console, total * baseline.epochs) as bar:
        for seed in range(seeds):
            for key, recipe in recipes.items():
                folder, count = out / f"seed-{seed}" / key, count + 1
                run = f"seed {seed}, {names[key]}"
                new = not (folder / "result.json").exists()
                bar.begins(run)
                try:
                    result = train(
                        dataclasses.replace(recipe, seed=seed),
                        folder,
                        settings,
                        resume=(folder / CONFIG).exists(),
                        show=bar,
                    )
                except (Stopped, KeyboardInterrupt) as error:
                    raise Stopped(
                        f"stopped in run {count} of {total}, all of which is saved; "
                        "go on with the same command",
                        getattr(error, "number", signal.SIGINT),
                    ) from None
                except FloatingPointError as error:
                    raise FloatingPointError(f"{run}: {error}") from None
                results[key].append(result)
                bar.ended(count * baseline.epochs)
                if new:
                    console.print(
                        f"{run}: accuracy {result['accuracy']:.2%} ({count}/{total})",
                        soft_wrap=True,
                    )
    result = summary(names, results, costs)
    plot(result, out / PLOT)
    write_json(out / RESULT, result)
    return result


def summary(
    names: dict[str, str], results: dict[str, list[Json]], costs: dict[str, Json]
) -> Json:
    """What the runs say; of each arm, one result of `train` a seed, in their order."""
    base = results[BASELINE]
    accuracy = {key: [r["accuracy"] for r in runs] for key, runs in results.items()}
    loss = {key: [r["loss"] for r in runs] for key, runs in results.items()}
    return {
        "seeds": len(base),
        "images": base[0]["images"],
        "arms": {
            key: {
                "name": name,
                "accuracy": {"values": accuracy[key], **interval(accuracy[key])},
                "loss": {"values": loss[key], **interval(loss[key])},
                "curve": [r["curve"] for r in results[key]],
                "time": _time(results[key], base),
                **costs[key],
            }
            for key, name in names.items()
        },
        "differences": {
            key: {"name": name, **paired(accuracy[key], accuracy[BASELINE])}
            for key, name in names.items()
            if key != BASELINE
        },
        "environment": base[0]["environment"],
    }


def _time(runs: list[Json], base: list[Json]) -> float | None:
    """The time of a step relative to the baseline's: the median over the seeds.

    Processor time on a CPU, which may be busy with other things. Of a run that was
    interrupted, time and steps are those after the stop.
    """
    on_cpu = base[0]["environment"]["device"] == "cpu"
    clock = "processor_seconds" if on_cpu else "seconds"
    ratios = [
        (run[clock] / run["steps"]) / (other[clock] / other["steps"])
        for run, other in zip(runs, base, strict=True)
        if run["steps"] and other["steps"] and other[clock]
    ]
    return statistics.median(ratios) if ratios else None


# --- what is compared ----------------------------------------------------------------


def changes(arm: Recipe, baseline: Recipe) -> Json:
    """The options in which an arm differs, as on the command line, and their values."""
    fields = [field.name for field in dataclasses.fields(Recipe)]
    return {
        name.replace("_", "-"): getattr(arm, name)
        for name in fields
        if getattr(arm, name) != getattr(baseline, name)
    }


def _check(baseline: Recipe, arms: Sequence[Recipe], seeds: int) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise Refused("a comparison runs in one process; train runs in several")
    if not arms:
        raise Refused("nothing to compare: name at least one arm, --with OPTION=VALUE")
    if seeds < 2:
        raise Refused(f"an interval needs at least 2 seeds, got {seeds}")
    check_supported(baseline)
    for number, arm in enumerate(arms):
        name = _text(changes(arm, baseline))
        if not name:
            raise Refused(f"arm {number + 1} is the baseline: it changes nothing")
        if arm in arms[:number]:
            raise Refused(f"two arms are the same: {name}")
        fixed = [o for o in BUDGET if getattr(arm, o) != getattr(baseline, o)]
        if fixed:
            raise Refused(f"{name}: {fixed[0]} has to be the same for all arms")
        check_supported(arm)


def _text(options: Json) -> str:
    return " and ".join(o if v is True else f"{o}={v}" for o, v in options.items())


def _arm_names(baseline: Recipe, arms: Sequence[Recipe]) -> dict[str, str]:
    """A key for folders and records, and a name for readers, of each arm."""
    long = [changes(arm, baseline) for arm in arms]
    names = [_text(options) for options in long]
    short = [
        _text({**o, "network": _differing_arguments(o["network"], baseline.network)})
        if "network" in o
        else _text(o)
        for o in long
    ]
    if len(set(short)) == len(short):
        names = short
    keyed: dict[str, str] = {}
    for number, name in enumerate(names):
        key = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80]
        keyed[f"{key}-{number}" if key in (*keyed, BASELINE) else key] = name
    return keyed


def _differing_arguments(network: str, baseline: str) -> str:
    """Of a call like the baseline's with other arguments, these; else all of it."""
    try:
        new, old = (ast.parse(n.strip(), mode="eval").body for n in (network, baseline))
    except SyntaxError:  # building it tells what is wrong
        return network
    if not isinstance(new, ast.Call) or not isinstance(old, ast.Call):
        return network
    arguments = [
        {ast.unparse(part): None for part in (*call.args, *call.keywords)}
        for call in (new, old)
    ]
    keeps_all = {k.arg for k in old.keywords} <= {k.arg for k in new.keywords}
    differing = [part for part in arguments[0] if part not in arguments[1]]
    same = ast.unparse(new.func) == ast.unparse(old.func)
    return f"…{', '.join(differing)}" if same and keeps_all and differing else network


def _config(baseline: Recipe, arms: Sequence[Recipe], seeds: int) -> Json:
    """As the command's own options, so that --config gives them back."""
    options = {k: v for k, v in baseline.to_json().items() if k != "seed"}
    return {
        **options,
        "arms": [_text(changes(arm, baseline)) for arm in arms],
        "seeds": seeds,
    }


def _same_as_before(
    out: Path, baseline: Recipe, arms: Sequence[Recipe], seeds: int
) -> None:
    path = out / CONFIG
    if not path.exists():
        return
    saved = json.loads(path.read_text(encoding="utf-8"))
    # A comparison that was begun before there was such an option did without.
    saved = {**{f.name: f.default for f in dataclasses.fields(Recipe)}, **saved}
    for name, value in _config(baseline, arms, seeds).items():
        if name not in saved or saved[name] != value:
            raise Refused(
                f"{out} holds something else, with {name} {saved.get(name)!r} and not "
                f"{value!r}: choose another folder with --out"
            )


def _cost(name: str, recipe: Recipe, settings: Settings) -> Json:
    """Parameters and MACs of one image; Refused for an arm that cannot be built."""
    try:
        model, data = prepared(recipe, settings)
        image = torch.zeros(1, *data.image, device="meta")
        cost = model_cost(model.to("meta").eval(), image)
    except (ValueError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise Refused(f"{name}: {first}") from None
    return {"params": cost.params, "macs": cost.macs}


# --- what is shown -------------------------------------------------------------------


class _Bar(Silent):
    """One bar for all runs, in epochs."""

    def __init__(self, progress: Progress, epochs: int) -> None:
        self.progress = progress
        self.task = progress.add_task("", total=epochs, run="")

    def begins(self, run: str) -> None:
        self.progress.update(self.task, run=run)

    def begin(self, recipe: Recipe, data: DataSet, step: int, per_epoch: int) -> None:
        self.progress.advance(self.task, step / per_epoch)

    def step(self, step: Step) -> None:
        self.progress.advance(self.task, 1 / step.steps)

    def ended(self, epochs: int) -> None:
        self.progress.update(self.task, completed=epochs)


@contextmanager
def _bar(console: Console, epochs: int) -> Iterator[_Bar]:
    """A bar on a terminal; nothing elsewhere."""
    progress = Progress(
        TextColumn("{task.fields[run]}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with progress:
        yield _Bar(progress, epochs)


def table(result: Json) -> Table:
    """For people; a difference whose ± reaches over zero is none at this scale."""
    shown = Table(box=box.SIMPLE_HEAD, caption_justify="left", pad_edge=False)
    shown.add_column("arm", overflow="fold", max_width=30)
    for head in ("accuracy, %", "difference"):
        shown.add_column(head, justify="right", no_wrap=True)
    shown.add_column("verdict", overflow="fold", max_width=13)
    for head in ("time", "parameters", "MACs"):
        shown.add_column(head, justify="right", no_wrap=True)
    for key, arm in result["arms"].items():
        accuracy = arm["accuracy"]
        difference = result["differences"].get(key)
        shown.add_row(
            arm["name"],
            f"{100 * accuracy['mean']:.2f} ± {50 * (accuracy['high'] - accuracy['low']):.2f}",
            f"{100 * difference['difference']:+.2f} ± {100 * difference['detectable']:.2f}"
            if difference
            else "",
            difference["verdict"] if difference else "",
            "?" if arm["time"] is None else f"{arm['time']:.2f}",
            f"{arm['params']:,}",
            f"{arm['macs'] / 1e6:,.2f} M",
        )
    shown.caption = (
        f"Mean of {result['seeds']} seeds ± half of the 95 % interval; {result['images']}"
        " test images. Differences are in points, paired by seed; the number after ± is "
        "the smallest that these runs could have told from none. Each interval is its "
        "own: of 20 arms that do nothing, one seems to. Time: of training, relative to "
        "the baseline."
    )
    return shown


def plot(result: Json, path: Path) -> None:
    """Each arm's difference from the baseline with its interval, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    rows = list(result["differences"].values())[::-1]  # the first on top
    middle = [100 * row["difference"] for row in rows]
    half = [100 * row["detectable"] for row in rows]
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.6", linewidth=1)
    axes.errorbar(
        middle, range(len(rows)), xerr=half, fmt="o", capsize=3, color="#0072b2"
    )
    names = [re.sub(r"(.{36}\S*) ", r"\1\n", row["name"]) for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    base = result["arms"][BASELINE]["accuracy"]["mean"]
    axes.set_xlabel(
        f"accuracy less the baseline's {base:.2%}, in points\n"
        f"(mean and 95 % interval of {result['seeds']} pairs)"
    )
    axes.spines[["top", "right"]].set_visible(False)
    part = path.with_name(f".{path.name}.part")
    with matplotlib.rc_context({"svg.hashsalt": path.name}):  # the same file each time
        figure.savefig(part, format="svg", metadata={"Date": None}, bbox_inches="tight")
    os.replace(part, path)


def print_result(result: Json, out: Path, stream: Any = None) -> None:
    """Print the table; as wide as its content where there is no terminal to fit."""
    stream = stream or sys.stdout
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        console = Console(file=stream, highlight=False, width=200)
    console.print(table(result))
    console.print(f"{out / RESULT}, {out / PLOT}", soft_wrap=True)
