import matplotlib.pyplot as plt

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.optimization import rectification

STEPS = range(1, 10_001)

with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    for beta2 in (0.9, 0.99, 0.999):
        factors = [rectification(t, beta2) for t in STEPS]
        ax.plot(STEPS, factors, label=f"{beta2}")  # None leaves a gap
    ax.set(xlabel="step", ylabel="factor of the rate, r", xscale="log")
    ax.set(xlim=(1, STEPS[-1]), ylim=(0, 1.05))
    ax.axvspan(1, 6, color="#010203", alpha=0.08, lw=0)
    ax.text(1.15, 0.5, "momentum", rotation=90, va="center")
    ax.legend(title="beta2", loc="lower right")
    svg = plot_svg(
        fig,
        "radam",
        "The factor r of RAdam's learning rate over the first 10,000 steps",
        "Three curves over a logarithmic axis of steps. None has a value in the first five "
        "steps, which are momentum. Then all rise from below 0.3 to 1; they are at 0.9 after "
        "about 30 steps for beta2 = 0.9, 280 for 0.99 and 2,700 for 0.999.",
    )
