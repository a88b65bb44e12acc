import copy

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.training import FrozenBackbone, extract_features, freeze

STEPS = 60


def conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU()]


torch.manual_seed(0)
layers = [*conv(3, 16), *conv(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
trained = nn.Sequential(*layers).double()
for _ in range(40):
    trained(torch.rand(20, 3, 24, 24, dtype=torch.float64))
images = torch.rand(60, 3, 24, 24, dtype=torch.float64)
images = images * torch.rand(60, 1, 1, 1) + 0.3
labels = images.std(dim=(1, 2, 3)).argsort().argsort() // 20
features = extract_features(freeze(trained), [images])

far: dict[str, list[float]] = {"requires_grad=False alone": [], "frozen": []}
for kind, distances in far.items():
    backbone, head = copy.deepcopy(trained), nn.Linear(32, 3).double()
    whole = kind != "frozen"
    net = nn.Sequential(backbone, head) if whole else FrozenBackbone(backbone, head)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(STEPS):
        now = extract_features(copy.deepcopy(backbone).eval(), [images])
        distances.append(float(100 * (now - features).norm() / features.norm()))
        net.train()
        rows = torch.randperm(60)[:20]
        loss = F.cross_entropy(net(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    for name, values in far.items():
        ax.plot(values, label=name)
    ax.set(xlabel="step", ylabel="change of the features, %", xlim=(0, STEPS))
    ax.set_ylim(-3, 80)
    ax.legend(loc="upper left")
    svg = plot_svg(
        fig,
        "feature-extraction",
        "How far the features of the same images are from those of the trained network",
        "Over 60 training steps of the head. Frozen, the features do not change. With requires_grad=False "
        "alone, batch norm's statistics move, and the features change at every step, soon by half of their size.",
    )
