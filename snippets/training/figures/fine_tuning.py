import matplotlib.pyplot as plt
from torch import nn

from cnn_site.figures.plots import SERIES, STYLE, plot_svg
from cnn_techniques.training import layer_groups

EPOCHS, PARTS = 8, 5
layers = nn.ModuleList(nn.Linear(1, 1) for _ in range(PARTS))
rates = [group["lr"] for group in layer_groups(layers, list(layers), 0.001)]

with plt.rc_context({**STYLE, "axes.grid": False}):
    fig, ax = plt.subplots()
    for part, rate in enumerate(rates, start=1):
        first = PARTS - part  # epochs that it is frozen in
        colour = {"color": SERIES["conv"], "linewidth": 0}
        ax.barh(part, EPOCHS - first, left=first, alpha=0.15 + 0.1 * part, **colour)
        ax.text(first + 0.15, part, f"{rate:.6f}".rstrip("0"), va="center")
        if first > 1:
            ax.text(first - 0.15, part, "frozen", va="center", ha="right")
    names = ["1, image", *map(str, range(2, PARTS)), f"{PARTS}, head"]
    ax.set(yticks=range(1, PARTS + 1), yticklabels=names, ylabel="part")
    ax.set(xlim=(0, EPOCHS), xlabel="epoch")
    ax.set_xticks([n + 0.5 for n in range(EPOCHS)], [str(n + 1) for n in range(EPOCHS)])
    ax.tick_params(length=0)
    svg = plot_svg(
        fig,
        "fine-tuning",
        "Which of five parts are trained in which epoch, and their rates",
        "The head is trained from the first epoch on at the rate 0.001, the part before it from the second "
        "on at 0.001 / 2.6, and so on; the part at the image from the fifth on at 0.001 / 2.6^4.",
    )
