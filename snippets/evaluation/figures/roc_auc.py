import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.evaluation import roc_auc, roc_curve


def curves() -> str:
    """2,000 scores of each class, positives higher by 0, 1 and 2 standard deviations."""
    draw = torch.Generator().manual_seed(0)
    positive = torch.arange(4000) < 2000
    noise = torch.randn(4000, generator=draw, dtype=torch.float64)
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(300 / 72, 270 / 72))
        for apart, style in ((0, ":"), (1, "--"), (2, "-")):
            scores = noise + apart * positive
            fpr, tpr, _ = roc_curve(scores, positive)
            area = float(roc_auc(scores, positive))
            every = slice(None, None, 20)
            ax.plot(
                fpr[every], tpr[every], style, label=f"{apart} apart: AUC {area:.2f}"
            )
        ax.set(xlabel="negatives called positive", ylabel="positives found")
        ax.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
        ax.legend(loc="lower right")
        return plot_svg(
            fig,
            "roc-auc",
            "Three ROC curves",
            "Positives found against negatives called positive, as the threshold falls. Scores "
            "of both classes that are alike give the diagonal and an area of about one half; "
            "scores one and two standard deviations apart give curves further up.",
        )


svg = curves()
