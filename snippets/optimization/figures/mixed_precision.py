import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.optimization import LossScaler

STEPS, LARGEST = 160, 65504.0


def scales() -> tuple[list[float], list[int]]:
    """The scale before every step, and the steps that were left out."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = LossScaler(init_scale=2.0**18, growth_interval=20)
    values, left_out = [], []
    for step in range(STEPS):
        values.append(scaler.get_scale())
        gradient = 3.0 if step < 70 else 0.7  # the largest; it falls in training
        scaled = torch.tensor([gradient * scaler.get_scale()]).half()
        weight.grad = scaled.float()  # infinite where float16 overflows
        if not scaler.step(optimizer):
            left_out.append(step)
        scaler.update()
    return values, left_out


with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    values, left_out = scales()
    ax.step(range(STEPS), values, where="post", label="scale")
    ax.plot(
        left_out,
        [values[step] for step in left_out],
        "x",
        label="overflow: no step",
    )
    limit = [LARGEST / (3.0 if step < 70 else 0.7) for step in range(STEPS)]
    ax.step(
        range(STEPS),
        limit,
        where="post",
        color="gray",
        linewidth=1,
        label="largest that fits",
    )
    ax.set_yscale("log", base=2)
    ax.set(xlabel="step", ylabel="scale", xlim=(0, STEPS), ylim=(2**12.5, 2**21.9))
    ax.legend(loc="upper right", ncols=2)
    svg = plot_svg(
        fig,
        "mixed-precision",
        "The scale over 160 steps, and the steps that are left out",
        "The scale starts at 2 to the 18 and is halved at each of four overflows until the "
        "gradients fit into float16. Every 20 steps it doubles, overflows once and falls back. "
        "When the gradients become smaller, it goes up and settles higher.",
    )
