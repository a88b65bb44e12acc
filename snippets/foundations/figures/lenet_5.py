import json

from cnn_site import ROOT
from cnn_site.figures import Figure, conv, data, pool, stack

figure = Figure(
    "lenet-5",
    "LeNet-5",
    "From top to bottom: an image of 32 by 32 pixels; a convolution to 6 maps of 28 by 28, max pooling to 14 by 14; "
    "a convolution to 16 maps of 10 by 10, max pooling to 5 by 5; three linear layers, 400 to 120 to 84 to 10.",
    stack(
        data("1 × 32 × 32"),
        conv("Conv 5×5, 6", "ReLU"),
        "C1: 6 × 28 × 28",
        pool("Max 2×2, stride 2"),
        "S2: 6 × 14 × 14",
        conv("Conv 5×5, 16", "ReLU"),
        "C3: 16 × 10 × 10",
        pool("Max 2×2, stride 2"),
        "S4: 16 × 5 × 5",
        conv("Linear 400→120", "ReLU"),
        "C5: 120",
        conv("Linear 120→84", "ReLU"),
        "F6: 84",
        conv("Linear 84→10"),
        data("10 logits"),
    ),
)


def module():  # what the figure is checked against
    from cnn_techniques.foundations import LeNet5

    return LeNet5()


record = ROOT / "docs/evidence/foundations/lenet-5.json"
measured = (
    json.loads(record.read_text(encoding="utf-8")).get("measured", {})
    if record.exists()
    else {}
)


def curves(arms):
    import matplotlib.pyplot as plt

    from cnn_site.figures.plots import STYLE, plot_svg

    with plt.rc_context(STYLE):
        fig, ax = plt.subplots()
        for marker, arm in zip("os", arms.values(), strict=True):
            runs = [[100 * right for right in run] for run in arm["curve"]]
            epochs = range(1, len(runs[0]) + 1)
            middle = [sum(right) / len(right) for right in zip(*runs, strict=True)]
            (line,) = ax.plot(
                epochs, middle, label=arm["name"], marker=marker, markersize=4
            )
            lowest, highest = (
                [f(right) for right in zip(*runs, strict=True)] for f in (min, max)
            )
            ax.fill_between(
                epochs, lowest, highest, color=line.get_color(), alpha=0.15, linewidth=0
            )
        ax.set(xlabel="Epoch", ylabel="Accuracy, %", ylim=(0, 102))
        ax.legend(loc="lower right")
        return plot_svg(
            fig,
            "lenet-5-curves",
            "Accuracy of the two networks after each epoch",
            "Two rising curves with narrow bands; both end close to the top.",
        )


def mistakes(arm):
    """The held-out digits that today's network, first seed, reads wrongly at the end."""
    from cnn_lab.data import digits
    from cnn_site.figures.pictures import pictures_svg

    images, labels = digits("test")
    wrong = [
        (f"{labels[i]} read as {guess}", images[i, 0])
        for i, guess in enumerate(arm["guesses"])
        if guess != labels[i]
    ]
    return pictures_svg(
        "lenet-5-mistakes",
        "Digits read wrongly",
        "Blurred scans of eight by eight pixels; many could be either digit.",
        wrong[:12],
        columns=4,
    )


if "training" in measured:
    arms = measured["training"]["result"]["arms"]
    figures = {"curves": curves(arms), "mistakes": mistakes(arms["today"])}
