import matplotlib.pyplot as plt
import torch
from torch import Tensor

from cnn_site.figures.plots import STYLE, plot_svg

RHO = 0.3


def loss(w: Tensor) -> Tensor:
    """A flat minimum near -1 and a sharp one, a little lower, near 1."""
    flat = 0.9 * torch.exp(-((w + 1) ** 2) / (2 * 0.7**2))
    sharp = 1.05 * torch.exp(-((w - 1) ** 2) / (2 * 0.12**2))
    return 1.2 - flat - sharp


with plt.rc_context(STYLE):
    w = torch.linspace(-2.5, 2, 361, dtype=torch.float64)
    near = w[:, None] + torch.linspace(-RHO, RHO, 121, dtype=torch.float64)
    here, highest = loss(w), loss(near).amax(1)
    fig, ax = plt.subplots()
    for values, name in ((here, "loss"), (highest, f"highest within {RHO}")):
        (line,) = ax.plot(w, values, label=name)
        least = values.argmin()
        ax.plot(w[least], values[least], marker="o", color=line.get_color())
    ax.set(xlabel="weight", ylabel="loss", xlim=(-2.5, 2), ylim=(0, 1.6))
    ax.legend(loc="upper left", ncols=2)
    svg = plot_svg(
        fig,
        "sam",
        "A loss with a flat and a sharp minimum, and the highest loss within a distance of 0.3",
        "The loss has its least value, marked with a dot, in a narrow dip. The curve of the "
        "highest loss nearby is flat there and has its least value in the wide dip.",
    )
