import json
from pathlib import Path

import matplotlib.pyplot as plt

from cnn_lab.data import digits
from cnn_lab.record import interval
from cnn_site.figures.pictures import pictures_svg
from cnn_site.figures.plots import STYLE, plot_svg

RECORD = Path(__file__).parents[3] / "docs" / "evidence" / "training" / "mixup.json"


def blends():
    """A 0 and a 1, blended by the technique itself: (share of the 0 in picture and label, picture)."""
    import torch

    from cnn_techniques.training import mixup_batch

    images, names = digits("train")
    pair = images[[int((names == digit).nonzero()[0]) for digit in (0, 1)]]
    for share in (1.0, 0.75, 0.5, 0.25, 0.0):
        x, y = mixup_batch(
            pair, torch.eye(2), torch.tensor(share), torch.tensor([1, 0])
        )
        yield f"λ = {y[0, 0].item():g}", 1 - x[0, 0].numpy()


svg = pictures_svg(
    "mixup",
    "Two digits and three blends of them",
    "A handwritten 0 fades into a 1 in five steps. Its label fades with it: the share of the 0 is 1, "
    "three quarters, one half, one quarter and 0, the rest is that of the 1.",
    list(blends()),
    columns=5,
)


def curves(arms):
    """Accuracy on the test digits after each epoch, with half of the labels random."""
    names = {
        "plain_wrong": "plain",
        "cifar_wrong": "Mixup, α = 1",
        "strong_wrong": "Mixup, α = 8",
    }
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots()
        for arm, name in names.items():
            seeds = arms[arm]["curve"]
            rows = [
                interval([100 * v for v in epoch]) for epoch in zip(*seeds, strict=True)
            ]
            epochs = range(1, len(rows) + 1)
            (line,) = ax.plot(epochs, [r["mean"] for r in rows], label=name)
            low, high = [r["low"] for r in rows], [r["high"] for r in rows]
            ax.fill_between(epochs, low, high, alpha=0.15, color=line.get_color(), lw=0)
            ax.text(
                len(rows),
                rows[-1]["mean"] + 3,
                name,
                ha="right",
                color=line.get_color(),
            )
        ax.set(xlabel="epoch", ylabel="accuracy, %", ylim=(20, 102))
        return plot_svg(
            fig,
            "mixup-curves",
            "Accuracy with half of the training labels random",
            "Three curves over the epochs, with their 95 % intervals: plain training is best after four epochs and ends lowest, "
            "Mixup with a share of 1 above it and Mixup with 8 highest.",
        )


measured = json.loads(RECORD.read_text("utf-8")).get("measured", {})
figures = {"curves": curves(measured["digits"]["result"]["arms"])} if measured else {}
