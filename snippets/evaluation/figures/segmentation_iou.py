"""The two images of the example: the same shift, and what it costs a large and a small object."""

import runpy
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from cnn_site.figures.plots import SERIES, STYLE, plot_svg
from cnn_techniques.evaluation import dice, iou

example = runpy.run_path(str(Path(__file__).parents[1] / "segmentation_iou.py"))
targets, predictions = example["targets"], example["predictions"]


def box(labels) -> tuple[int, int, int, int]:
    """Left, top, width and height of the pixels of class 1."""
    rows, columns = (labels == 1).nonzero(as_tuple=True)
    left, top = int(columns.min()), int(rows.min())
    return left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top


with plt.rc_context(
    STYLE | {"axes.grid": False, "figure.figsize": (356 / 72, 230 / 72)}
):
    fig, axes = plt.subplots(1, 2)
    for n, ax in enumerate(axes):
        matrix = example["matrices"][n]
        for labels, role, style in (
            (targets[n], "conv", "-"),
            (predictions[n], "loss", "--"),
        ):
            left, top, width, height = box(labels)
            ax.add_patch(
                Rectangle(
                    (left, top), width, height, color=SERIES[role], alpha=0.3, lw=0
                )
            )
            ax.add_patch(
                Rectangle(
                    (left, top), width, height, fill=False, edgecolor=SERIES[role],
                    lw=2, ls=style, label=("true", "predicted")[role == "loss"],
                )
            )  # fmt: skip
        ax.add_patch(
            Rectangle((60, 0), 4, 64, color=STYLE["text.color"], alpha=0.25, lw=0)
        )
        ax.set(xlim=(0, 64), ylim=(64, 0), aspect="equal")
        ax.set(xticks=[], yticks=[])
        ax.spines[["top", "right"]].set_visible(True)
        ax.set_xlabel(f"IoU {iou(matrix)[1]:.3f}\nDice {dice(matrix)[1]:.3f}")
    axes[1].legend(loc="lower left")
    svg = plot_svg(
        fig,
        "segmentation-iou",
        "The same shift of a large and of a small object",
        "Two images. In each the predicted square lies four pixels right of the true one. The large one has an "
        "IoU of 0.846, the small one of 0.333. A grey strip at the right is ignored.",
    )
