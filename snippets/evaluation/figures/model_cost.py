"""Where the cost of the small network of the example lies, layer by layer."""

import runpy
from pathlib import Path

import matplotlib.pyplot as plt

from cnn_site.figures.plots import SERIES, STYLE, plot_svg
from cnn_techniques.evaluation import cost_by_layer, model_cost

example = runpy.run_path(str(Path(__file__).parents[1] / "model_cost.py"))
network, image = example["network"], example["image"]
whole = model_cost(network, image)
rows = [row for row in cost_by_layer(network, image).values() if row.macs]
layers = dict(zip(("conv1", "conv2", "conv3", "fc1", "fc2"), rows, strict=True))
FIELDS = {
    "macs": ("MACs", "conv"),
    "params": ("parameters", "act"),
    "activations": ("activations", "pool"),
}

with plt.rc_context(STYLE | {"figure.figsize": (356 / 72, 300 / 72)}):
    fig, ax = plt.subplots()
    for n, (field, (label, role)) in enumerate(FIELDS.items()):
        shares = [
            100 * getattr(c, field) / getattr(whole, field) for c in layers.values()
        ]
        places = [k + 0.27 * (n - 1) for k in range(len(layers))]
        ax.barh(places, shares, height=0.23, color=SERIES[role], label=label)
        for place, share in zip(places, shares, strict=True):
            ax.text(
                share + 1.2,
                place,
                f"{share:.0f}"
                if share >= 0.5
                else f"{share:.1f}"
                if share >= 0.05
                else "< 0.1",
                va="center",
            )
    ax.set(
        xlabel="part of the whole network, %",
        xlim=(0, 100),
        ylim=(len(layers) - 0.45, -0.55),
    )
    ax.set_yticks(range(len(layers)), labels=list(layers))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper right")
    svg = plot_svg(
        fig,
        "model-cost",
        "Where the cost of a small network lies",
        "Five layers: the convolutions make nearly all multiply-adds and activations, the first linear layer "
        "holds most parameters.",
    )
