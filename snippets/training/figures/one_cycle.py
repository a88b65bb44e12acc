import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.training import OneCycle

STEPS = 1000


def run(**options) -> tuple[list[float], list[float]]:
    """Rate and momentum before every step."""
    weights = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weights], lr=0.1, momentum=0.9)
    schedule = OneCycle(optimizer, 0.1, STEPS, **options)
    rates, momenta = [], []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        schedule.step()
    return rates, momenta


with plt.rc_context(STYLE):
    fig, (top, bottom) = plt.subplots(2, sharex=True, figsize=(356 / 72, 310 / 72))
    for label, options in {
        "two phases, cosine": {},
        "three phases, linear": {
            "three_phase": True,
            "anneal_strategy": "linear",
            "pct_start": 0.4,
        },
    }.items():
        rates, momenta = run(**options)
        top.plot(rates, label=label)
        bottom.plot(momenta)
    top.set(ylabel="learning rate", xlim=(0, STEPS), ylim=(0, 0.15))
    bottom.set(xlabel="step", ylabel="momentum", ylim=(0.84, 0.96))
    top.legend(loc="upper right")
    svg = plot_svg(
        fig,
        "one-cycle",
        "Learning rate and momentum over one cycle of 1,000 steps",
        "The rate rises from 0.004 to 0.1 and falls to nearly 0; momentum falls from 0.95 to 0.85 "
        "and rises again. In two phases along cosines the highest rate is at step 299, in three "
        "phases along straight lines at step 399; there the last 200 steps have rates below 0.004.",
    )
