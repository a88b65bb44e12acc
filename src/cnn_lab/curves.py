"""A run as pictures: loss, accuracy and learning rate over its epochs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .checkpoint import written_whole
from .recipe import Recipe, make_optimizer, make_schedule
from .schedules import OnPlateau
from .show import measure_of

Json = dict[str, Any]
NAMES = ("curves.svg", "curves.png")
MOST = 10_000  # steps for which a rate is computed; a longer run has the same shape
STYLE: dict[Any, Any] = {  # that of the site's figures
    "font.size": 11,
    "svg.fonttype": "none",
    "svg.hashsalt": "cnn-lab",  # the same file each time
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.formatter.limits": (-3, 4),
    "grid.alpha": 0.12,
    "grid.color": "black",
    "grid.linewidth": 1.0,
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
}


def draw(recipe: Recipe, result: Json, folder: Path) -> list[Path]:
    """Draw a run that has ended, as SVG and PNG in its folder.

    Args:
        result: what `train` returned: all epochs, those before a stop too.

    Raises: ImportError without matplotlib; OSError.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    rows = result["history"]
    epochs = [row["epoch"] for row in rows]
    paths = [folder / name for name in NAMES]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 2.8), layout="constrained")
        loss, accuracy, rate = figure.subplots(1, 3)
        loss.plot(epochs, [row["loss"] for row in rows], ".-", color="#28557f")
        loss.set_title("training loss")
        loss.set_ylim(bottom=0)
        values = [measure_of(row)[1] for row in rows]
        accuracy.plot(epochs, values, ".-", color="#3f7a2c")
        name = measure_of(rows[0])[0]
        accuracy.set_title(name if name.startswith("validation") else f"test {name}")
        accuracy.yaxis.set_major_formatter(PercentFormatter(1))
        steps = result.get("steps_per_epoch", 100)  # older results do not tell
        at, heights = rates(recipe, steps, rows)
        rate.plot(at, heights, color="#a1391c")
        rate.set_title("learning rate")
        rate.set_ylim(bottom=0)
        for axes in (loss, accuracy, rate):
            axes.set_xlabel("epoch")
            axes.set_xlim(0, 1.02 * len(rows))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for path in paths:
            kind = path.suffix[1:]
            plain = {"Date": None} if kind == "svg" else {"Software": None}
            with written_whole(path) as part:
                figure.savefig(part, format=kind, dpi=150, metadata=plain)
    return paths


def rates(
    recipe: Recipe, per_epoch: int, rows: Sequence[Json]
) -> tuple[list[float], list[float]]:
    """The learning rate over the epochs of `rows`: where, in epochs, and the rate there.

    That of the classifier, which is the highest where rates differ between blocks. Of a
    long run fewer steps are computed.
    """
    per_epoch = min(per_epoch, max(1, MOST // recipe.epochs))
    optimizer = make_optimizer(recipe, [{"params": [torch.zeros(1)]}])
    schedule = make_schedule(recipe, optimizer, per_epoch)
    at, values = [], []
    for step in range(len(rows) * per_epoch):
        at.append(step / per_epoch)
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
        if isinstance(schedule, OnPlateau) and (step + 1) % per_epoch == 0:
            schedule.end_epoch(rows[step // per_epoch])
    return at, values
