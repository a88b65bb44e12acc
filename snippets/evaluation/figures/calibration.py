"""Reliability of the recorded networks before and after temperature scaling, five seeds together."""

import json
from pathlib import Path

import matplotlib.pyplot as plt

from cnn_site.figures.plots import SERIES, STYLE, plot_svg

ROOT = Path(__file__).parents[3]
RECORD = ROOT / "docs" / "evidence" / "evaluation" / "calibration.json"
LEAST = (
    100  # images in a bin that is drawn: its accuracy is then known to 0.1 or better
)
arms = json.loads(RECORD.read_text())["measured"]["garments"]["result"]["arms"]
DRAWN = {
    "training": ("T of training images", "loss", "^:"),
    "none": ("T = 1", "act", "s--"),
    "held_out": ("T of held-out images", "conv", "o-"),
}

with plt.rc_context(STYLE | {"figure.figsize": (356 / 72, 400 / 72)}):
    fig, (top, below) = plt.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]}
    )
    top.plot([0, 1], [0, 1], color=STYLE["text.color"], lw=1, ls="-", alpha=0.6)
    for n, (arm, (label, role, line)) in enumerate(DRAWN.items()):
        row = arms[arm]
        full = [b for b, count in enumerate(row["counts"]) if count >= LEAST]
        confidence = [row["sums"][b] / row["counts"][b] for b in full]
        accuracy = [row["hits"][b] / row["counts"][b] for b in full]
        top.plot(confidence, accuracy, line, color=SERIES[role], label=label)
        images, bins = sum(row["counts"]), len(row["counts"])
        places = [(b + 0.5 + 0.28 * (n - 1)) / bins for b in range(bins)]
        shares = [100 * count / images for count in row["counts"]]
        below.bar(places, shares, width=0.28 / bins, color=SERIES[role])
    top.set(ylabel="accuracy", xlim=(0.2, 1.005), ylim=(0.2, 1.02))
    top.legend(loc="upper left")
    below.set(xlabel="confidence", ylabel="images, %")
    below.set_yticks([0, 40, 80])
    svg = plot_svg(
        fig,
        "calibration",
        "Reliability before and after temperature scaling",
        "Accuracy in bins of confidence, with the diagonal. At temperature 1 the points lie below it, with the "
        "temperature of held-out images on it, with that of the training images far below it. Bars below: most "
        "images are in the last bin.",
    )
