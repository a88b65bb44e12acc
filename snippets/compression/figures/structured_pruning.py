import json
from pathlib import Path

from cnn_site.figures import Figure, act, around, conv, data, stack

figure = Figure(
    "structured-pruning",
    "A residual block without half of its filters",
    "A residual block: a convolution with 32 filters, another with 48, and a bare line past "
    "both. Before pruning each had 64. The first convolution's number of filters is its own, "
    "32; the second's is that of the line it is added to, 48, and with it that of every block "
    "on this line.",
    stack(
        data("x, 48 of 64 channels"),
        around(
            stack(
                conv("Conv 3×3, 32 of 64", "BN · ReLU"),
                conv("Conv 3×3, 48 of 64", "BN"),
            )
        ),
        act("ReLU"),
        data("48 of 64 channels"),
        same=False,
    ),
)

CHOICES = {
    "weakest": "weakest filters",
    "random": "random filters",
    "inner": "first of each block",
}


def accuracy(record):
    """Accuracy after training again against the MACs that are left."""
    import matplotlib.pyplot as plt

    from cnn_site.figures.plots import STYLE, plot_svg

    result = record["measured"]["garments"]["result"]
    whole = record["computed"]["cost"]["bench_0"]["macs"]
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots()
        for choice, label in CHOICES.items():
            rows = [r for key, r in result["arms"].items() if key.startswith(choice)]
            x = [100.0] + [100 * row["macs"] / whole for row in rows]
            y = [result["whole"]["mean"]] + [row["accuracy"]["mean"] for row in rows]
            ax.plot(x, [100 * v for v in y], marker="o", label=label)
        ax.set(
            xlabel="multiply-accumulates left, %", ylabel="accuracy, %", ylim=(80, 88)
        )
        ax.legend(loc="lower right")
        return plot_svg(
            fig,
            "structured-pruning-accuracy",
            "Accuracy after pruning and training again, against the arithmetic left",
            "Three curves that fall as less arithmetic is left. The weakest and random filters "
            "lie together; taking filters from the first convolution of each block alone lies above.",
        )


RECORD = Path(__file__).parents[3] / "docs/evidence/compression/structured-pruning.json"
figures = {}
record = json.loads(RECORD.read_text(encoding="utf-8"))
if "measured" in record:
    figures["accuracy"] = accuracy(record)
