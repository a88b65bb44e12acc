import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.optimization import LAMB, AdamW

NAMES = ["conv 1", "conv 2", "conv 3", "linear 1", "linear 2"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.ReLU(),
        nn.Conv2d(8, 32, 3, stride=2, padding=1, bias=False), nn.ReLU(),
        nn.Conv2d(32, 128, 3, stride=2, padding=1, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 64, bias=False), nn.ReLU(),
        nn.Linear(64, 10, bias=False),
    ).double()  # fmt: skip


def relative_steps(kind: type, lr: float, images: Tensor, labels: Tensor) -> list:
    net = network()
    optimizer = kind(net.parameters(), lr=lr)
    for _ in range(3):
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        before = [p.detach().clone() for p in net.parameters()]
        optimizer.step()
    pairs = zip(net.parameters(), before, strict=True)
    return [100 * ((p - b).norm() / b.norm()).item() for p, b in pairs]


with plt.rc_context(STYLE):
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(64) % 10
    adamw = relative_steps(AdamW, 1e-3, images.double(), labels)
    lamb = relative_steps(LAMB, 1e-2, images.double(), labels)
    fig, ax = plt.subplots()
    at = torch.arange(len(NAMES))
    ax.bar(at - 0.2, adamw, 0.4, label="AdamW, rate 0.001")
    ax.bar(at + 0.2, lamb, 0.4, label="LAMB, rate 0.01")
    ax.set(ylabel="change in one step, % of the norm")
    ax.set_xticks(at.tolist(), NAMES)
    ax.legend(loc="upper left")
    svg = plot_svg(
        fig,
        "lamb",
        "Relative change of each weight of a small network in its third step, with AdamW and with LAMB",
        "Bars for three convolutions and two linear layers. Those of AdamW differ from layer to "
        "layer; those of LAMB are all at 1 per cent.",
    )
