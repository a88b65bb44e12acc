import matplotlib.pyplot as plt
import torch
from torch import nn

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.optimization import Lion

STEEP = torch.tensor([1.0, 30.0], dtype=torch.float64)
START = torch.tensor([4.0, 2.0], dtype=torch.float64)


def path(kind: type, lr: float, steps: int) -> list[list[float]]:
    weight = nn.Parameter(START.clone())
    optimizer = kind([weight], lr=lr)
    points = [START.tolist()]
    for _ in range(steps):
        weight.grad = STEEP * weight.detach()
        optimizer.step()
        points.append(weight.tolist())
    return list(map(list, zip(*points, strict=True)))


with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    x, y = torch.meshgrid(
        torch.linspace(-1, 4.5, 120), torch.linspace(-1.5, 2.5, 120), indexing="xy"
    )
    bowl = (STEEP[0] * x**2 + STEEP[1] * y**2) / 2
    levels = [0.5, 2, 5, 10, 20, 40, 80]
    ax.contour(x, y, bowl, levels, colors="#888888", alpha=0.5, linewidths=0.6)
    for kind, name, lr in (
        (torch.optim.SGD, "gradient descent", 0.01),
        (Lion, "Lion", 0.04),
    ):
        xs, ys = path(kind, lr, 100)
        ax.plot(xs, ys, marker="o", markersize=3, markevery=10, label=name)
    ax.set(xlabel="flat direction", ylabel="steep direction")
    ax.legend(loc="upper left")
    svg = plot_svg(
        fig,
        "lion",
        "Paths of gradient descent and of Lion down a bowl that is 30 times as steep in one direction",
        "Over contour lines of the bowl, gradient descent falls straight down the steep "
        "direction and then creeps along the floor. Lion goes along a diagonal past the "
        "floor, turns, and comes near the bottom along another diagonal.",
    )
