import json

import matplotlib.pyplot as plt

from cnn_site import ROOT
from cnn_site.figures.plots import STYLE, plot_svg

RECORD = ROOT / "docs/evidence/compression/quantization-aware-training.json"
ROWS = ("fast_8", "fast_4", "slow_3", "slow_2")
BITS = (8, 4, 3, 2)
WAYS = {
    "aware": ("trained with rounding", "-"),
    "again": ("trained again, then rounded", "--"),
    "after": ("rounded after training", ":"),
}


def accuracies() -> str:
    """Accuracy against bits: the record of the page."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    result = record["measured"]["garments"]["result"]
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(340 / 72, 210 / 72))
        ax.axhline(100 * result["float32"]["mean"], linewidth=0.8, color="#6f777e")
        for way, (label, style) in WAYS.items():
            means = [100 * result["arms"][row][way]["mean"] for row in ROWS]
            ax.plot(BITS, means, style, marker="o", markersize=4, label=label)
        ax.set(xlabel="bits of weights and inputs", ylabel="accuracy, %")
        ax.set_xticks(BITS)
        ax.invert_xaxis()
        ax.legend(loc="lower left")
        return plot_svg(
            fig,
            "quantization-aware-training",
            "Accuracy against bits, three ways",
            "Accuracy on 10,000 garments, mean of five seeds, with 8, 4, 3 and 2 bits: rounded "
            "after training, trained again in float and then rounded, and trained with rounding; "
            "the line is float32. At 3 and 2 bits the first rate is a quarter of that at 8 and 4.",
        )


svg = accuracies()
