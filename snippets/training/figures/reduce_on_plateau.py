import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.training import ReduceOnPlateau

EPOCHS, PATIENCE = 60, 4

optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
schedule = ReduceOnPlateau(optimizer, factor=0.3, patience=PATIENCE, threshold=0.01)
loss, losses, rates, falls = 1.0, [], [], []
for epoch in range(EPOCHS):
    rate = optimizer.param_groups[0]["lr"]
    loss += 0.3 * (0.1 + 4 * rate - loss)  # settles at a level that the rate decides
    losses.append(loss)
    rates.append(rate)
    schedule.step(loss)
    if optimizer.param_groups[0]["lr"] < rate:
        falls.append(epoch + 1)

with plt.rc_context(STYLE):
    fig, (top, bottom) = plt.subplots(2, sharex=True, figsize=(356 / 72, 310 / 72))
    top.plot(losses, color="C0")
    bottom.plot(rates, color="C1", linestyle="-", drawstyle="steps-post")
    for epoch in falls:
        top.axvline(epoch, color="C1", linestyle=":", linewidth=1)
    top.set(ylabel="measure", xlim=(0, EPOCHS), ylim=(0, 1))
    bottom.set(xlabel="epoch", ylabel="learning rate", yscale="log", ylim=(4e-3, 0.2))
    svg = plot_svg(
        fig,
        "reduce-on-plateau",
        "A measure that settles several times, and the rate that is reduced each time",
        "Above, a measure that falls and levels off, again and again, each time lower. Below, the "
        "rate on a logarithmic scale, which falls by a factor each time the measure was level for "
        "five epochs.",
    )
