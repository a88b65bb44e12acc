import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.attention import SimAM

LAMBDAS = (1e-4, 1.0, 10.0)


def curves() -> str:
    """The gates of one channel, a normal sample of mean 0 and variance 1, by the block itself."""
    entries = torch.special.ndtri((torch.arange(10_000).double() + 0.5) / 10_000)
    x = entries.reshape(1, 1, 100, 100)
    shown = torch.searchsorted(entries, torch.linspace(-3, 3, 60).double())
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots()
        for lambda_ in LAMBDAS:
            gates = (SimAM(lambda_)(x) / x).flatten()
            ax.plot(entries[shown], gates[shown], label=f"λ = {lambda_:g}")
        ax.set(xlabel="distance from the mean, in standard deviations", ylabel="gate")
        ax.set(xlim=(-3, 3), ylim=(0.5, 1))
        ax.legend(loc="upper center")
        return plot_svg(
            fig,
            "simam",
            "The gate against the distance of an entry from the mean of its channel",
            "Three curves, symmetric about the mean, where all gates are about 0.62. The gate rises on both sides: "
            "steeply for λ = 0.0001, where it nears 1 at three standard deviations, less for λ = 1, and hardly for "
            "λ = 10.",
        )


svg = curves()
