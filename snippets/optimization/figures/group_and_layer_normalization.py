import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import SERIES, STYLE, plot_svg
from cnn_techniques.optimization import BatchNorm2d, GroupNorm

IMAGES, CHANNELS = 4, 6


def seen(norm: torch.nn.Module) -> list[list[bool]]:
    """By image and channel: whether it is normalised together with the first channel of the first image."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(IMAGES, CHANNELS, 3, 3, generator=draw, dtype=torch.float64)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(norm.double()(x)[0, 0].sin().sum(), x)
    found: list[list[bool]] = (slope.abs().amax(dim=(2, 3)) > 1e-12).tolist()
    return found


with plt.rc_context(STYLE):
    fig, axes = plt.subplots(1, 4, figsize=(356 / 72, 150 / 72))
    for ax, (title, norm) in zip(
        axes,
        {
            "batch": BatchNorm2d(CHANNELS),
            "1 group\n(layer)": GroupNorm(1, CHANNELS),
            "2 groups": GroupNorm(2, CHANNELS),
            "6 groups\n(instance)": GroupNorm(CHANNELS, CHANNELS),
        }.items(),
        strict=True,
    ):
        for n, row in enumerate(seen(norm)):
            for c, inside in enumerate(row):
                ax.add_patch(
                    plt.Rectangle(
                        (n + 0.06, c + 0.06),
                        0.88,
                        0.88,
                        facecolor=SERIES["conv"] if inside else "none",
                        edgecolor=SERIES["data"],
                        linewidth=1,
                    )
                )
        ax.set(
            xlim=(0, IMAGES), ylim=(CHANNELS, 0), aspect="equal", xticks=[], yticks=[]
        )
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("images")
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    axes[0].set_ylabel("channels")
    svg = plot_svg(
        fig,
        "group-and-layer-normalization",
        "Which feature maps share a mean and a variance, for four norms",
        "Four grids of four images by six channels; filled is what is normalised together with the "
        "first channel of the first image. Batch norm: that channel of all images. One group: all "
        "channels of that image. Two groups: its first three channels. Six groups: the channel alone.",
    )
