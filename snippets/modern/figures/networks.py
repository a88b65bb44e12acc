"""Accuracy of all networks against parameters and MACs: one plot for each recipe of the weights."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from cnn_site.figures.plots import SERIES, STYLE, plot_svg

EVIDENCE = Path(__file__).parents[3] / "docs/evidence"
# Weights V1 that were made with the newer recipe, or that followed it.
LATER = {"convnext", "vision-transformer"}
LATER_VARIANTS = {
    "resnext101_64x4d",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "efficientnet_v2_s",
    "efficientnet_v2_m",
}
TITLES = {
    "alexnet": "AlexNet",
    "convnext": "ConvNeXt",
    "densenet": "DenseNet",
    "efficientnet": "EfficientNet",
    "efficientnet-v2": "EfficientNetV2",
    "googlenet": "GoogLeNet",
    "inception-v3": "Inception-v3",
    "mobilenet-v2": "MobileNetV2",
    "mobilenet-v3": "MobileNetV3",
    "regnet": "RegNet",
    "resnet": "ResNet",
    "resnext": "ResNeXt",
    "shufflenet-v2": "ShuffleNetV2",
    "squeezenet": "SqueezeNet",
    "vgg": "VGG",
    "vision-transformer": "ViT",
    "wide-resnet": "Wide ResNet",
}


LABELS = {  # which end of the line, and how far from it, where names would collide
    ("first", "ResNet"): (0, 4, -9),
    ("first", "Inception-v3"): (-1, 4, -9),
    ("first", "GoogLeNet"): (-1, 4, 2),
    ("first", "ResNeXt"): (-1, 4, -1),
    ("first", "Wide ResNet"): (-1, 4, -8),
    ("first", "RegNetY"): (-1, 4, 7),
    ("later", "ResNeXt"): (-2, 4, 8),
    ("later", "ResNet"): (0, -4, 0),
    ("later", "Wide ResNet"): (-1, 4, -5),
    ("later", "RegNetX"): (-1, 4, -3),
    ("first", "DenseNet", 0): (0, 4, -8),
    ("first", "DenseNet", 1): (0, -4, -8),
}


def points(recipe: str) -> dict[str, list[tuple[float, float, float]]]:
    """Family -> (parameters in millions, MACs in billions, top-1 accuracy) of its variants, smallest first."""
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    with (EVIDENCE / "published.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            r for r in csv.DictReader(file) if r["quantity"] in ("top1_v1", "top1_v2")
        ]
    for r in rows:
        family = r["technique"].split("/")[1]
        later = (
            r["quantity"] == "top1_v2" or family in LATER or r["row"] in LATER_VARIANTS
        )
        if later != (recipe == "later"):
            continue
        path = EVIDENCE / f"{r['technique']}.json"
        record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        cost = record.get("computed", {}).get("cost", {}).get(r["row"])
        if cost:
            name = TITLES[family]
            if family == "vgg" and r["row"].endswith("_bn"):
                name = "VGG, batch norm"
            if family == "vision-transformer":
                name = f"ViT/{r['row'].rpartition('_')[2]}"
            if family == "regnet":
                name = f"RegNet{r['row'][7].upper()}"
            found[name].append(
                (cost["params"] / 1e6, cost["macs"] / 1e9, float(r["value"]))
            )
    return {name: sorted(rows) for name, rows in found.items()}


def plot(recipe: str, against: int, unit: str, words: str) -> str:
    with plt.rc_context({**STYLE, "figure.figsize": (356 / 72, 330 / 72)}):
        fig, ax = plt.subplots()
        colours = list(SERIES.values())
        for n, (family, rows) in enumerate(
            sorted(points(recipe).items(), key=lambda f: f[1][-1][2])
        ):
            x, y = [r[against] for r in rows], [r[2] for r in rows]
            order = sorted(range(len(x)), key=lambda i: x[i])
            x, y = [x[i] for i in order], [y[i] for i in order]
            line = {
                "color": colours[n % len(colours)],
                "linestyle": "-",
                "linewidth": 1.2,
            }
            ax.plot(x, y, marker="o", markersize=3.5, **line)
            end, dx, dy = LABELS.get(
                (recipe, family, against), LABELS.get((recipe, family), (-1, 4, 0))
            )
            ax.annotate(
                family,
                (x[end], y[end]),
                (dx, dy),
                textcoords="offset points",
                fontsize=9,
                va="center",
                ha="left" if dx > 0 else "right",
            )
        ax.set(xscale="log", xlabel=unit, ylabel="top-1 accuracy, %")
        ax.margins(x=0.1)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        key = f"networks-{recipe}-{('parameters', 'macs')[against]}"
        desc = f"Top-1 accuracy on ImageNet against {words}, logarithmic, a line for each family from its smallest to its largest variant."
        return plot_svg(fig, key, f"Accuracy against {words}, {recipe} recipes", desc)


figures = {
    f"{recipe}-{name}": plot(recipe, against, unit, words)
    for recipe in ("first", "later")
    for name, against, unit, words in (
        ("parameters", 0, "parameters, millions", "parameters"),
        ("macs", 1, "MACs, billions", "multiply-accumulates"),
    )
    if points(recipe)
}
