"""Accuracy of all networks against parameters and MACs: a pair of plots for each group of training recipes."""

import csv
from collections import defaultdict

from cnn_site import pages
from cnn_site.figures.scatter import Dot, Mark, scatter_svg

MARKS = {  # the same in every plot
    "AlexNet": Mark("data", "square"),
    "ConvNeXt": Mark("gate", "diamond"),
    "DenseNet": Mark("pool", "square"),
    "EfficientNet": Mark("loss", "circle"),
    "EfficientNet, timm's": Mark("loss", "circle"),
    "EfficientNet, Google's": Mark("loss", "square"),
    "EfficientNetV2": Mark("loss", "diamond"),
    "GoogLeNet": Mark("data", "up"),
    "Inception-v3": Mark("data", "down"),
    "MobileNetV2": Mark("pool", "up"),
    "MobileNetV3": Mark("pool", "diamond"),
    "RegNetX": Mark("norm", "square"),
    "RegNetY": Mark("norm", "circle"),
    "ResNet": Mark("conv", "circle"),
    "ResNeXt": Mark("conv", "diamond"),
    "ShuffleNetV2": Mark("gate", "up"),
    "SqueezeNet": Mark("act", "diamond"),
    "VGG": Mark("act", "square"),
    "VGG, batch norm": Mark("act", "circle"),
    "ViT/16": Mark("gate", "square"),
    "ViT/32": Mark("gate", "circle"),
    "Wide ResNet": Mark("conv", "square"),
}
FAMILIES = {
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
AXES = {  # name in the file -> (key and unit of the record, axis, words)
    "parameters": ("params", 1e6, "parameters, millions", "parameters"),
    "macs": ("macs", 1e9, "MACs, billions", "multiply-adds"),
}
GROUPS = {
    "simple": "torchvision's simple recipe",
    "long": "torchvision's long recipe",
    "own": "recipes of their own",
}


def line_of(row: dict[str, str], group: str, recipe: str) -> str:
    """The line that a variant belongs to: its family, and whose recipe where a family has two."""
    family, variant = FAMILIES[row["technique"].split("/")[1]], row["row"]
    if family == "RegNet":
        return f"RegNet{variant[7].upper()}"
    if family == "ViT":
        return f"ViT/{variant.rpartition('_')[2]}"
    if family == "VGG" and variant.endswith("_bn"):
        return "VGG, batch norm"
    if family == "EfficientNet" and group == "own":
        return f"EfficientNet, {recipe}"
    return family


def plotted() -> list[tuple[dict[str, str], dict[str, str], dict[str, object]]]:
    """(published accuracy, its recipe, cost of the network) of each of torchvision's weights V1 and V2."""
    found = []
    path = pages.DOCS / "evidence/published.csv"
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["quantity"] not in ("top1_v1", "top1_v2"):
                continue
            record = pages.load(row["technique"])
            cost = record.get("computed", {}).get("cost", {}).get(row["row"])
            recipe = pages.recipe(row["technique"], row["row"], row["quantity"])
            if recipe is None:
                raise ValueError(
                    f"docs/evidence/recipes.csv has no line for {row['quantity']} of {row['row']}"
                )
            if cost:
                found.append((row, recipe, cost))
    return found


def plot(group: str, axis: str) -> str:
    key, per, xlabel, words = AXES[axis]
    lines = defaultdict(list)
    for row, recipe, cost in plotted():
        if recipe["group"] != group:
            continue
        own = "" if group != "own" else f", recipe {recipe['recipe']}"
        says = (
            f"{cost['name']}: {float(row['value']):.1f} %, {cost['params'] / 1e6:.2f} M parameters, "
            f"{cost['macs'] / 1e9:.2f} G MACs at {cost['pixels']} px{own}"
        )
        dot = Dot(cost[key] / per, float(row["value"]), row["row"], says)
        lines[line_of(row, group, recipe["recipe"])].append(dot)
    return scatter_svg(
        f"networks-{group}-{axis}",
        f"Accuracy against {words}, {GROUPS[group]}",
        f"Top-1 accuracy on ImageNet against {words} on a logarithmic axis, a line for each family from its smallest to its "
        "largest variant. Every value is in the table below.",
        {name: sorted(dots, key=lambda d: d.x) for name, dots in lines.items()},
        MARKS,
        xlabel,
        "top-1 accuracy, %",
    )


figures = {f"{group}-{axis}": plot(group, axis) for group in GROUPS for axis in AXES}
