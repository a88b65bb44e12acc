import json

import matplotlib.pyplot as plt

from cnn_site import ROOT
from cnn_site.figures.plots import STYLE, plot_svg

RECORD = ROOT / "docs/evidence/compression/unstructured-pruning.json"
WAYS = {
    "layer": ("share of each layer", ":"),
    "global": ("all layers together", "--"),
    "again": ("and trained again", "-"),
}


def curves() -> str:
    """Accuracy against sparsity: the record of the page."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    arms = record["measured"]["garments"]["result"]["arms"]
    dense = 100 * arms["dense"]["accuracy"]["mean"]
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(340 / 72, 230 / 72))
        ax.axhline(dense, linewidth=0.8, color="#6f777e")
        for way, (label, style) in WAYS.items():
            rows = {
                int(key.rpartition("_")[2]): arm["accuracy"]
                for key, arm in arms.items()
                if key.rpartition("_")[0] == way
            }
            shares = sorted(rows)
            means = [100 * rows[s]["mean"] for s in shares]
            ax.plot(shares, means, style, marker="o", markersize=3, label=label)
        ax.set(xlabel="weights that are zero, %", ylabel="accuracy, %")
        ax.legend(loc="lower left")
        return plot_svg(
            fig,
            "unstructured-pruning",
            "Accuracy against the share of pruned weights",
            "Accuracy on 10,000 garments, mean of five seeds, against the share of weights that "
            "are zero. Without further training it falls first slowly and then steeply, later "
            "where all layers are compared with each other. Trained again it stays near the "
            "line of the dense network much longer.",
        )


svg = curves()
