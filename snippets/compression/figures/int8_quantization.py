import json

import matplotlib.pyplot as plt

from cnn_site import ROOT
from cnn_site.figures.plots import STYLE, plot_svg

RECORD = ROOT / "docs/evidence/compression/int8-quantization.json"


def accuracies() -> str:
    """Accuracy against bits: the record of the page."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    arms = record["measured"]["garments"]["result"]["arms"]
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(340 / 72, 210 / 72))
        dense = 100 * arms["float32"]["accuracy"]["mean"]
        ax.axhline(dense, linewidth=0.8, color="#6f777e")
        for ending, label, style in (
            ("", "a scale for each channel", "-"),
            ("_tensor", "one scale for a layer", "--"),
        ):
            rows = [
                arms[f"bits_{bits}{ending}"]["accuracy"]["mean"] for bits in (8, 6, 4)
            ]
            ax.plot((8, 6, 4), [100 * r for r in rows], style, marker="o", label=label)
        ax.set(xlabel="bits of weights and activations", ylabel="accuracy, %")
        ax.set_xticks((8, 6, 4))
        ax.invert_xaxis()
        ax.legend(loc="lower left")
        return plot_svg(
            fig,
            "int8-quantization",
            "Accuracy against bits",
            "Accuracy on 10,000 garments, mean of five seeds, with 8, 6 and 4 bits, with a scale "
            "for each channel and with one for a layer; the line is float32.",
        )


svg = accuracies()
