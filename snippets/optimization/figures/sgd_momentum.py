import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.optimization import SGD

STEPS = 150
CURVATURE = torch.tensor([1.0, 100.0], dtype=torch.float64)


def distances(**settings) -> list[float]:
    """How far from the bottom of a bowl that is 100 times as steep along one axis."""
    weights = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = SGD([weights], lr=0.01, **settings)
    out = [weights.norm().item()]
    for _ in range(STEPS):
        weights.grad = CURVATURE * weights.detach()
        optimizer.step()
        out.append(weights.norm().item())
    return out


with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    ax.plot(distances(momentum=0.0), label="no momentum")
    ax.plot(distances(momentum=0.9), label="0.9")
    ax.plot(distances(momentum=0.9, nesterov=True), label="0.9, Nesterov")
    ax.set(xlabel="step", ylabel="distance from the minimum", xlim=(0, STEPS))
    ax.set(yscale="log", ylim=(1e-4, 20))
    ax.legend(loc="upper center", ncols=3, columnspacing=0.8, handlelength=1.5)
    svg = plot_svg(
        fig,
        "sgd-momentum",
        "Distance from the minimum of a bowl with curvatures 1 and 100, at the rate 0.01",
        "Three curves on a logarithmic scale. Without momentum the distance falls along a line, "
        "to 0.2 after 150 steps. With momentum 0.9 it falls below a thousandth, trembling; with "
        "Nesterov's momentum it falls a little further, in long waves without the trembling.",
    )
