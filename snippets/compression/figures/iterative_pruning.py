import json

import matplotlib.pyplot as plt

from cnn_site import ROOT
from cnn_site.figures.plots import STYLE, plot_svg

RECORD = ROOT / "docs/evidence/compression/iterative-pruning.json"
WAYS = {
    "one_shot": ("one round, trained again", ":"),
    "iterative": ("rounds, trained again", "--"),
    "once_rewound": ("one round, from the start", (0, (1, 3))),
    "rewound": ("rounds, from the start", "-"),
    "random": ("random masks, from the start", "-."),
}


def curves() -> str:
    """Accuracy against the weights left: the record of the page."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    arms = record["measured"]["garments"]["result"]["arms"]
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(340 / 72, 230 / 72))
        rounds = range(1, len(arms) + 1)
        left = [100 * 0.5**r for r in rounds]
        for way, (label, style) in WAYS.items():
            means = [100 * arms[f"round_{r}"][way]["mean"] for r in rounds]
            ax.plot(left, means, linestyle=style, marker="o", markersize=3, label=label)
        ax.set(xscale="log", xlabel="weights left, %", ylabel="accuracy, %")
        ax.set_xticks(
            [50, 25, 12.5, 6.25, 3.1, 1.6], ["50", "25", "12", "6", "3", "1.6"]
        )
        ax.minorticks_off()
        ax.invert_xaxis()
        ax.legend(loc="lower left")
        return plot_svg(
            fig,
            "iterative-pruning",
            "Accuracy against the weights that are left, five ways",
            "Accuracy on 10,000 garments, mean of five seeds, with 50 to 1.6 per cent of the "
            "weights left: pruned in one round or round by round and trained again, in one round "
            "or round by round and trained from the weights of the start, and with drawn masks.",
        )


svg = curves()
