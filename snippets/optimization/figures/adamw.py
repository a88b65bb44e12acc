import json

import matplotlib.pyplot as plt
import torch
from torch import nn

from cnn_lab.record import interval
from cnn_site import ROOT
from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.optimization import AdamW

STEPS, LR, DECAY = 1500, 0.01, 0.1


def shrinking(scale: float, l2: bool) -> list[float]:
    """The mean of 512 weights that start at 1 and see nothing but noise of a scale."""
    noise = torch.Generator().manual_seed(0)
    weights = nn.Parameter(torch.ones(512))
    optimizer = AdamW([weights], lr=LR, weight_decay=0.0 if l2 else DECAY)
    means = [1.0]
    for _ in range(STEPS):
        weights.grad = scale * torch.randn(512, generator=noise)
        if l2:
            weights.grad += DECAY * weights.detach()
        optimizer.step()
        means.append(weights.mean().item())
    return means


def decay_by_scale() -> str:
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots()
        ax.plot(shrinking(1.0, l2=False), label="AdamW, any scale")
        for scale in (10.0, 3.0, 0.1):
            ax.plot(shrinking(scale, l2=True), label=f"Adam + L2, scale {scale:g}")
        ax.set(xlabel="step", ylabel="mean weight", xlim=(0, STEPS), ylim=(-0.05, 1.35))
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
        ax.legend(loc="upper right", ncols=2, columnspacing=0.8, handlelength=1.5)
        return plot_svg(
            fig,
            "adamw",
            "How fast weights shrink when their gradients are noise of scale 10, 3 or 0.1",
            "With AdamW the mean weight falls along one curve whatever the scale of the "
            "gradients. With L2 in the gradient it hardly falls where gradients are large, "
            "falls slowly where their scale is 3, and at once where they are small.",
        )


def race(arms) -> str:
    """Training loss after each epoch, mean and 95 % interval over the seeds."""
    names = {
        "adamw": "AdamW, 0.001",
        "sgd": "SGD, 0.1",
        "adamw_high": "AdamW, 0.01",
        "sgd_high": "SGD, 1",
    }
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots()
        for arm, name in names.items():
            rows = [interval(epoch) for epoch in zip(*arms[arm]["curve"], strict=True)]
            epochs = range(1, len(rows) + 1)
            (line,) = ax.plot(epochs, [r["mean"] for r in rows], label=name)
            low, high = [max(r["low"], 1e-4) for r in rows], [r["high"] for r in rows]
            ax.fill_between(epochs, low, high, alpha=0.15, color=line.get_color(), lw=0)
        ax.set(xlabel="epoch", ylabel="training loss", yscale="log", ylim=(6e-4, 20))
        ax.set_xticks([1, 5, 10, 15, 20])
        ax.legend(ncols=2)
        return plot_svg(
            fig,
            "adamw-race",
            "Training loss of AdamW and of SGD with momentum",
            "Four falling curves over 20 epochs on a logarithmic scale, with their 95 % "
            "intervals over the seeds: AdamW ends highest at the rate 0.001 and lowest at 0.01; "
            "SGD with the rates 0.1 and 1 ends between.",
        )


svg = decay_by_scale()
record = json.loads((ROOT / "docs/evidence/optimization/adamw.json").read_text("utf-8"))
measured = record.get("measured", {})
figures = {"race": race(measured["digits"]["result"]["arms"])} if measured else {}
