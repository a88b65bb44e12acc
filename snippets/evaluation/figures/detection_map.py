import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.evaluation import precision_at_levels

HITS = [1, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0]  # surest first
OBJECTS = 10


def curve() -> str:
    """Fourteen detections of ten objects: precision and recall after each, and the 101 levels."""
    true = torch.tensor(HITS).bool()
    tp = true.cumsum(0).double()
    recall, precision = tp / OBJECTS, tp / torch.arange(1, len(HITS) + 1)
    best = precision_at_levels(true, ~true, torch.tensor(OBJECTS))
    levels = torch.arange(101) / 100
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(320 / 72, 270 / 72))
        ax.plot(recall, precision, "--", marker="o", markersize=4, label="after each detection")  # fmt: skip
        ax.plot(levels, best, ".", markersize=4, label="best from there on, 101 levels")
        tenth = slice(None, None, 10)
        ax.plot(levels[tenth], best[tenth], "s", fillstyle="none", markersize=8, label="11 levels")  # fmt: skip
        ax.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(0, 1.06))
        ax.legend(loc="lower left")
        return plot_svg(
            fig,
            "detection-map",
            "Precision over recall, and the best precision at 101 levels of recall",
            "Fourteen detections of ten objects, seven of which are found. Precision falls with "
            "every false positive and rises with every hit, in a sawtooth. The best precision "
            "from a recall on is a staircase, read at 101 levels; beyond the last recall, 0.7, "
            "it is 0. The mean of the 101 values is the average precision.",
        )


svg = curve()
