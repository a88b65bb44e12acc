import matplotlib.pyplot as plt
import torch
from torch import nn

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.training import WeightEMA

STEPS, DECAY = 300, 0.98
torch.manual_seed(0)
truth = torch.randn(1, 20, dtype=torch.float64)
net = nn.Linear(20, 1, bias=False).double()
nn.init.zeros_(net.weight)
optimizer = torch.optim.SGD(net.parameters(), lr=0.04)
means = {
    "average": WeightEMA(net, DECAY),
    "average without bias": WeightEMA(net, DECAY, debias=True),
}
far: dict[str, list[float]] = {"network": [], **{name: [] for name in means}}
for _ in range(STEPS):
    x = torch.randn(8, 20, dtype=torch.float64)
    y = x @ truth.T + torch.randn(8, 1, dtype=torch.float64)
    optimizer.zero_grad()
    (net(x) - y).square().mean().backward()
    optimizer.step()
    far["network"].append(float((net.weight.data - truth).norm()))
    for name, mean in means.items():
        mean.update_parameters(net)
        far[name].append(float((mean.module.weight - truth).norm()))

with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    for name, values in far.items():
        ax.plot(
            range(1, STEPS + 1),
            values,
            label=name,
            linewidth=1.2 if name == "network" else 2,
        )
    ax.set(
        xlabel="step",
        ylabel="distance from the best weights",
        yscale="log",
        xlim=(0, STEPS),
        yticks=(0.1, 0.3, 1, 3),
        yticklabels=("0.1", "0.3", "1", "3"),
    )
    ax.minorticks_off()
    ax.legend(loc="upper right")
    svg = plot_svg(
        fig,
        "weight-ema",
        "How far a network and its average are from the best weights over 300 steps",
        "The network gets near within about 60 steps and then goes on jumping. Both averages follow later; "
        "in the end they are nearer than the network. The one without bias comes down first.",
    )
