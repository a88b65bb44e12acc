import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.compression import round_to
from cnn_techniques.compression.half_precision import BFLOAT16, FLOAT16


def errors() -> str:
    """Largest relative error of rounding, over numbers of each size."""
    draw = torch.Generator().manual_seed(0)
    powers = torch.arange(-30, 20, dtype=torch.float64)
    numbers = 2 ** (powers[:, None] + torch.rand(len(powers), 500, generator=draw))
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(340 / 72, 230 / 72))
        for name, form, style in (
            ("float16", FLOAT16, "-"),
            ("bfloat16", BFLOAT16, "--"),
        ):
            error = ((round_to(numbers, form) - numbers).abs() / numbers).amax(1)
            ax.plot(2**powers, error.clamp(max=1), style, label=name)
        ax.set(xscale="log", yscale="log", xlabel="size of the number")
        ax.set(ylabel="largest relative error", ylim=(1e-4, 2))
        ax.legend(loc="lower left")
        return plot_svg(
            fig,
            "half-precision",
            "Relative error of rounding to float16 and bfloat16",
            "Largest relative error against the size of the number, both logarithmic. bfloat16 "
            "is flat at 0.004. float16 is flat at 0.0005 between 6e-5 and 65,504; below it grows "
            "until nothing is left at 3e-8, above it is infinite.",
        )


svg = errors()
