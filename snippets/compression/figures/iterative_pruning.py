import json

import matplotlib.pyplot as plt

from cnn_site import ROOT
from cnn_site.figures.plots import STYLE, plot_svg

RECORD = ROOT / "docs/evidence/compression/iterative-pruning.json"
WAYS = {
    "one_shot": ("in one round, trained again", ":"),
    "iterative": ("round by round", "--"),
    "rewound": ("round by round, rewound", "-"),
    "random": ("rewound, drawn masks", "-."),
}


def curves() -> str:
    """Accuracy against the weights left: the record of the page."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    arms = record["measured"]["garments"]["result"]["arms"]
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(340 / 72, 230 / 72))
        for way, (label, style) in WAYS.items():
            rounds = sorted(
                int(k.rpartition("_")[2]) for k in arms if k.rpartition("_")[0] == way
            )
            left = [100 * 0.5**r for r in rounds]
            means = [100 * arms[f"{way}_{r}"]["accuracy"]["mean"] for r in rounds]
            ax.plot(left, means, style, marker="o", markersize=3, label=label)
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
            "Accuracy against the weights that are left, four ways",
            "Accuracy on 10,000 garments, mean of five seeds, with 50 to 1.6 per cent of the "
            "weights left: pruned in one round, round by round, round by round from the weights "
            "of the start, and the last with drawn masks.",
        )


svg = curves()
