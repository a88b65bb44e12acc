import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.optimization import SGD, Adam

STEPS, LR = 150, 0.01


def paths(kind, scale: float) -> list[float]:
    """The mean of 512 weights whose gradients are 1 with noise, times a scale."""
    noise = torch.Generator().manual_seed(0)
    weights = torch.nn.Parameter(torch.zeros(512, dtype=torch.float64))
    optimizer = kind([weights], lr=LR)
    out = [0.0]
    for _ in range(STEPS):
        draw = torch.randn(512, generator=noise, dtype=torch.float64)
        weights.grad = -scale * (1 + draw)
        optimizer.step()
        out.append(weights.mean().item())
    return out


with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    ax.plot(paths(Adam, 1.0), label="Adam, any scale")
    for scale in (1.0, 0.1, 0.01):
        ax.plot(paths(SGD, scale), label=f"SGD, scale {scale:g}")
    ax.set(xlabel="step", ylabel="mean distance moved", xlim=(0, STEPS), ylim=(0, 3))
    ax.legend(loc="upper right")
    svg = plot_svg(
        fig,
        "adam",
        "How far weights move under gradients of mean 1, with noise, times a scale",
        "With Adam the weights move about 1 in 150 steps of the rate 0.01, whatever the scale of "
        "the gradients. With SGD and momentum they move 1.4 at the scale 0.1, ten times as far "
        "at the scale 1 and a tenth of it at 0.01.",
    )
