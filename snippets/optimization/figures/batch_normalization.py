import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.optimization import BatchNorm2d

STEPS = 100


def variances(momentum: float | None) -> list[float]:
    """The running variance before the first batch and after each; the true one is 4."""
    draw = torch.Generator().manual_seed(0)
    norm = BatchNorm2d(1, momentum=momentum).double()
    out = [1.0]
    for _ in range(STEPS):
        norm(2 * torch.randn(8, 1, 3, 3, generator=draw, dtype=torch.float64))
        out.append(norm.running_var.item())
    return out


with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    ax.axhline(4, color="gray", linewidth=1)
    ax.plot(variances(0.1), label="momentum 0.1")
    ax.plot(variances(0.01), label="momentum 0.01")
    ax.plot(variances(None), label="momentum None")
    ax.set(xlabel="training batches", ylabel="running variance", xlim=(0, STEPS))
    ax.set_ylim(0, 5.6)
    ax.legend(loc="lower right")
    svg = plot_svg(
        fig,
        "batch-normalization",
        "The running variance over 100 training batches, for three settings of momentum",
        "Three curves that start at 1; the variance of the data is 4. With momentum 0.1 the curve is "
        "there after about 30 batches and then moves with the batches, with 0.01 it is still below 3 "
        "after 100, with None it is near 4 after the first batches and moves less and less.",
    )
