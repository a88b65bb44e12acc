import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.compression.int4_quantization import int4_codes

draw = torch.Generator().manual_seed(5)
weight = torch.randn(1, 32, generator=draw, dtype=torch.float64)
weight[0, 16:] = 0.25 * weight[0, 16:] + 0.2  # a group of its own range
codes, scale, zero = int4_codes(weight, 16)

with plt.rc_context(STYLE):
    fig, ax = plt.subplots()
    for group in range(2):
        step, low = scale[0, group].item(), int(zero[0, group])
        for code in range(16):
            level = step * (code - low)
            left, right = 16 * group - 0.5, 16 * group + 15.5
            ax.plot([left, right], [level, level], "-", linewidth=0.6, color="#7a7a7a")
    rounded = [
        scale[0, i // 16].item() * (int(codes[0, i]) - int(zero[0, i // 16]))
        for i in range(32)
    ]
    ax.plot(range(32), weight[0], "o", label="weight")
    ax.plot(range(32), rounded, "x", label="rounded")
    ax.grid(visible=False)
    ax.set(xlabel="place in the row", ylabel="weight", xlim=(-1, 32))
    ax.legend(loc="upper right")
    svg = plot_svg(
        fig,
        "int4-quantization",
        "Two groups of sixteen weights, each on a grid of sixteen values",
        "Dots are weights, crosses what they are rounded to. The first group has a wide range "
        "and sixteen lines far apart; the second a narrow one and sixteen lines close together.",
    )
