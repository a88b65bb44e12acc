import matplotlib.pyplot as plt
import torch
from torch.optim.lr_scheduler import LRScheduler

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.training import CosineAnnealing, LinearWarmUp, MultiStepDecay

STEPS, WARM = 900, 100


def rates(make, lr: float = 0.1) -> list[float]:
    """The rate before every step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule: LRScheduler = LinearWarmUp(optimizer, WARM, make)
    out = []
    for _ in range(STEPS):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return out


with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    ax.plot(rates(lambda o: CosineAnnealing(o, STEPS - WARM)), label="then a cosine")
    ax.plot(rates(lambda o: MultiStepDecay(o, [350, 600])), label="then step decay")
    ax.axvspan(0, WARM, color="#8884", linewidth=0)
    ax.set(xlabel="step", ylabel="learning rate", xlim=(0, STEPS), ylim=(0, 0.119))
    ax.legend(loc="upper right")
    svg = plot_svg(
        fig,
        "warmup",
        "The learning rate of 900 steps, the first 100 of them a linear warm-up",
        "Both curves rise along one straight line from 0.001 to 0.1 in 100 steps. Then one falls "
        "along half a cosine, the other by a factor of ten after 350 and 600 further steps.",
    )
