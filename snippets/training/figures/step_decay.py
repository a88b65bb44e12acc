import matplotlib.pyplot as plt
import torch
from torch.optim.lr_scheduler import LRScheduler

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.training import MultiStepDecay, StepDecay

EPOCHS = 90


def rates(make, lr: float = 0.1) -> list[float]:
    """The rate in every epoch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule: LRScheduler = make(optimizer)
    out = []
    for _ in range(EPOCHS):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return out


with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    for make, label in (
        (lambda o: StepDecay(o, 30), "StepDecay, step_size=30"),
        (lambda o: MultiStepDecay(o, [45, 68]), "MultiStepDecay, [45, 68]"),
    ):
        ax.plot(range(EPOCHS), rates(make), drawstyle="steps-post", label=label)
    ax.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    ax.set(xlim=(0, EPOCHS), ylim=(5e-4, 0.9))
    ax.legend(loc="upper right")
    svg = plot_svg(
        fig,
        "step-decay",
        "The learning rate of 90 epochs that falls by a factor of ten twice",
        "Two staircases from 0.1 to 0.001 on a logarithmic scale. One falls after epochs 30 and "
        "60, the other after epochs 45 and 68.",
    )
