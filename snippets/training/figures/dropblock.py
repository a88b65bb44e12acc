import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle

from cnn_site.figures.plots import SERIES, STYLE, plot_svg
from cnn_techniques.training import drop_blocks

SIZE, BLOCK = 20, 5
TITLES = {1: "dropout", BLOCK: f"DropBlock, {BLOCK} × {BLOCK}"}

centres = torch.zeros(1, 1, SIZE - BLOCK + 1, SIZE - BLOCK + 1)
for row, column in ((0, 9), (6, 3), (9, 5), (12, 13)):
    centres[0, 0, row, column] = 1
blocks = drop_blocks(torch.ones(1, 1, SIZE, SIZE), centres, BLOCK)[0, 0] == 0
single = torch.zeros(SIZE * SIZE, dtype=torch.bool)
order = torch.rand(SIZE * SIZE, generator=torch.Generator().manual_seed(0)).argsort()
single[order[: int(blocks.sum())]] = True
masks = {1: single.reshape(SIZE, SIZE), BLOCK: blocks}

with plt.rc_context({**STYLE, "figure.figsize": (356 / 72, 200 / 72)}):
    fig, axes = plt.subplots(1, 2)
    for ax, (size, mask) in zip(axes, masks.items(), strict=True):
        for row in range(SIZE):
            start = None
            for column in range(SIZE + 1):
                gone = column < SIZE and bool(mask[row, column])
                if gone and start is None:
                    start = column
                if not gone and start is not None:
                    ax.add_patch(
                        Rectangle(
                            (start, row),
                            column - start,
                            1.06,
                            color=SERIES["conv"],
                            linewidth=0,
                        )
                    )
                    start = None
        ax.set(xlim=(0, SIZE), ylim=(SIZE, 0), aspect="equal", xticks=(), yticks=())
        ax.set_title(TITLES[size], fontsize=11)
        for spine in ax.spines.values():
            spine.set_visible(True)
    svg = plot_svg(
        fig,
        "dropblock",
        "What is dropped of one channel by dropout and by DropBlock",
        f"Two squares of 20 by 20 positions, {int(blocks.sum())} of which are dropped. Dropout has them "
        "strewn over the square, each beside ones that are kept; DropBlock has them in four squares "
        "of five by five, two of which overlap.",
    )
