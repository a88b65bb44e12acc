"""The measures of a checkpoint as tables, as JSON and as a picture."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from . import objects
from .checkpoint import written_whole
from .evaluate import SCORES, evaluate, refuse_overwriting
from .predictions import measured
from .recipe import Settings
from .saved import write_json
from .show import bar

Json = dict[str, Any]


def print_measures(result: Json) -> None:
    """The measures on stdout; the same text wherever that is no terminal."""
    low, high = result["interval"]
    if "predictions" in result:
        print(f"{result['images']} images of {result['predictions']}\n")
    else:
        images = f"{result['images']} test images of {result['data']}"
        print(f"{result['network']} on {images}\n")
    if result["changed"]:
        print(f"since the run began {result['changed']}; new ones are not tested\n")
    print(
        f"accuracy           {result['accuracy']:.2%}  (95% interval {low:.2%} to {high:.2%})"
    )
    if "top5" in result:
        print(f"top-5 accuracy     {result['top5']:.2%}")
    names = ("mean precision", "mean recall", "mean F1", "mean AUC")
    for name, score in zip(names, SCORES, strict=True):
        print(f"{name:<18} {_number(result[score])}")
    print(f"calibration error  {_number(result['calibration_error'])}")
    print(f"loss               {_number(result['loss'])}\n")

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("class", overflow="fold")
    for head in ("images", "precision", "recall", "F1", "AUC"):
        table.add_column(head, justify="right")
    for row in result["classes"]:
        numbers = [_number(row[score]) for score in SCORES]
        table.add_row(row["name"], str(row["images"]), *numbers)
    longest = max(len(row["name"]) for row in result["classes"])
    width = None if sys.stdout.isatty() else longest + 60
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)
    if none := [row["name"] for row in result["classes"] if not row["images"]]:
        print(f"\nno test image, and not in the means: {', '.join(none)}")


def print_objects(result: Json) -> None:
    """The measures of a detector or segmenter on stdout, and the first for each class."""
    print(f"{result['network']} on {result['images']} images of {result['data']}\n")
    names = {
        **{"ap": "AP", "ap50": "AP at IoU 0.5", "ap75": "AP at IoU 0.75"},
        **{"mean_iou": "mean IoU", "pixel_accuracy": "pixel accuracy"},
    }
    for key, name in names.items():
        if key in result:
            print(f"{name:<15} {result[key]:.2%}")
    measure = "ap" if "ap" in result else "mean_iou"
    width = max(len(row["name"]) for row in result["classes"])
    print(f"\n{'class':<{width}}  {'AP' if measure == 'ap' else 'IoU'}")
    for row in result["classes"]:
        value = row[measure]
        print(f"{row['name']:<{width}}  {'-' if value is None else f'{value:.2%}'}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def draw(result: Json, path: Path) -> None:
    """The confusion matrix as a picture: counts, coloured by their share of the row."""
    import matplotlib
    from matplotlib.figure import Figure

    names = [row["name"] for row in result["classes"]]
    counts = torch.tensor(result["confusion"])
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    # A cell holds its count down to 0.3 inches; a picture has at most 45.
    cell = 0.5 if len(names) <= 20 else min(0.3, 45 / len(names))
    side, font = cell * len(names) + 2, 18 * cell + 1.5
    style: dict[Any, Any] = {
        "font.size": font,
        "text.parse_math": False,
        "svg.hashsalt": "cnn-lab",
        "svg.fonttype": "none",
    }
    with matplotlib.rc_context(style), written_whole(path) as part:
        figure = Figure(figsize=(side, side))
        axes = figure.add_subplot()
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        what = result.get("predictions") or f"{result['network']} on {result['data']}"
        axes.set_title(f"{what}: {result['accuracy']:.2%}")
        for row, column in counts.nonzero().tolist() if cell >= 0.3 else ():
            axes.text(
                column,
                row,
                str(int(counts[row, column])),
                ha="center",
                va="center",
                color="white" if shares[row, column] > 0.5 else "black",
            )
        kind = path.suffix[1:]
        dated = {"Date": None} if kind == "svg" else None
        figure.savefig(part, format=kind, bbox_inches="tight", dpi=100, metadata=dated)


def report(
    path: Path,
    data: str,
    settings: Settings,
    as_json: Path | None,
    confusion: Path | None,
    network: str = "",
) -> None:
    """Evaluate, and show it: on stdout, as JSON (`-`: on stdout instead), as a picture.

    Args:
        path: a checkpoint, or a CSV file of predictions.
    """
    if confusion and confusion.suffix not in (".png", ".svg"):
        raise ValueError(f"--confusion {confusion} must end in .png or .svg")
    for out in (as_json, confusion):
        refuse_overwriting(out, path)
    shown = print_measures
    if path.suffix.lower() == ".csv":
        if data:
            raise ValueError(f"--data {data}: {path} holds the true classes itself")
        result = measured(path)
    elif objects.task_of(path) is not None:
        if confusion:
            raise ValueError(f"--confusion {confusion} is of classifiers alone")
        with bar("testing", sys.stderr) as progress:
            result = objects.evaluate(path, data, settings, progress)
        shown = print_objects
    else:
        with bar("testing", sys.stderr) as progress:
            result = evaluate(path, data, settings, progress, network=network)
    if as_json == Path("-"):
        print(json.dumps(result, indent=1))
    else:
        shown(result)
        if as_json:
            write_json(as_json, result)
    if confusion:
        draw(result, confusion)
