import matplotlib.pyplot as plt
import torch
from torch.optim.lr_scheduler import LRScheduler

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.training import CosineAnnealing, CosineWarmRestarts

STEPS = 700


def rates(make, lr: float = 0.1) -> list[float]:
    """The rate before every step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule: LRScheduler = make(optimizer)
    out = []
    for _ in range(STEPS):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return out


with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    ax.plot(rates(lambda o: CosineAnnealing(o, STEPS)), label="once")
    ax.plot(
        rates(lambda o: CosineWarmRestarts(o, 100, 2)),
        label="restarts, T_0=100, T_mult=2",
    )
    ax.set(xlabel="step", ylabel="learning rate", xlim=(0, STEPS), ylim=(0, 0.119))
    ax.legend(loc="upper right", ncols=2)
    svg = plot_svg(
        fig,
        "cosine-annealing",
        "The learning rate of 700 steps, annealed once and with two warm restarts",
        "Two curves from 0.1 to 0. One falls once along half a cosine. The other falls in 100 "
        "steps, jumps back to 0.1, falls in 200 steps, jumps back again and falls in 400 steps.",
    )
