import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import STYLE, plot_svg

u = torch.linspace(0.1, 1, 181, dtype=torch.float64)

with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    for t in (0.01, 0.05, 0.2):  # s of the points that are as good as one another
        s = t / u**6
        shown = s <= 1
        ax.plot(u[shown], s[shown], label=f"t = {t:g}")
    ax.set(
        xlabel="overlap u of the predicted box with the object",
        ylabel="score s of its class",
        xlim=(0.1, 1),
        ylim=(0, 1),
    )
    ax.legend(loc="upper left")
    svg = plot_svg(
        fig,
        "task-aligned-assignment",
        "Scores and overlaps that give one alignment",
        "Three falling curves of equal alignment with exponents 1 and 6: for 0.2, a score of 0.75 with an overlap of "
        "0.8 is worth as much as a score of 0.2 with an overlap of 1. With a lower alignment the curves lie further "
        "to the lower left.",
    )
