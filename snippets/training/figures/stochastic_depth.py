import matplotlib.pyplot as plt

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.training import linear_drop_rates

BLOCKS, LAST = 16, 0.5  # as ResNet-50 has, and the paper's last rate
numbers = list(range(1, BLOCKS + 1))

with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    survival = [1 - rate for rate in linear_drop_rates(BLOCKS, LAST)]
    ax.bar(numbers, survival, width=0.7)
    ax.axhline(sum(survival) / BLOCKS, linestyle="--", color=STYLE["text.color"])
    ax.text(16.6, sum(survival) / BLOCKS + 0.02, "mean", ha="right")
    ax.set(
        xlabel="block",
        ylabel="probability of survival",
        xlim=(0.3, 16.7),
        ylim=(0, 1.05),
        xticks=(1, 4, 8, 12, 16),
    )
    svg = plot_svg(
        fig,
        "stochastic-depth",
        "The probability that the branch of each of 16 blocks survives",
        "Sixteen bars that fall evenly from 0.97 for the first block to 0.5 for the last. Their "
        "mean, a dashed line, is 0.73.",
    )
