import matplotlib.pyplot as plt
import torch

from cnn_site.figures.plots import STYLE, plot_svg
from cnn_techniques.optimization import accumulate_gradients, clip_gradient_norm

SIZES = range(1, 17)


def weight(last: int, right: bool) -> float:
    """What an image of the last micro-batch counts, over what an image should; the others have 16 images."""
    each = torch.nn.Parameter(torch.zeros(48 + last))
    parts = [(rows,) for rows in torch.arange(48 + last).split(16)]
    counts = None if right else [1] * len(parts)  # the mean of the means
    accumulate_gradients(lambda rows: each[rows].mean(), parts, counts)
    return each.grad[-1].item() * len(each)


def after(norm: float) -> float:
    gradient = torch.nn.Parameter(torch.zeros(1))
    gradient.grad = torch.tensor([norm])
    clip_gradient_norm([gradient], 1.0)
    return gradient.grad.item()


with plt.rc_context(STYLE):
    fig, (left, right) = plt.subplots(1, 2, figsize=(356 / 72, 190 / 72))
    left.plot(SIZES, [weight(k, right=True) for k in SIZES], label="by images")
    left.plot(SIZES, [weight(k, right=False) for k in SIZES], label="mean of means")
    left.set(xlabel="images in the last part", ylabel="weight of each", ylim=(0, 18))
    left.set(xticks=[1, 4, 8, 12, 16], yticks=[1, 5, 10, 15])
    left.legend()
    norms = [n / 10 for n in range(0, 41)]
    right.plot(norms, norms, label="as it is", color="gray", linewidth=1)
    right.plot(norms, [after(n) for n in norms], label="clipped at 1")
    right.set(xlabel="norm before", ylabel="norm after", xlim=(0, 4), ylim=(0, 5.6))
    right.legend()
    svg = plot_svg(
        fig,
        "gradient-accumulation-and-clipping",
        "What an image of the last micro-batch counts, and the norm of a gradient before and after clipping",
        "Left: three micro-batches have 16 images, the last one has 1 to 16. Weighted by images, each of its images "
        "counts 1; in the mean of the means a single image counts twelve times as much, and 16 count 1. Right: a norm "
        "up to 1 stays, a larger one becomes 1.",
    )
