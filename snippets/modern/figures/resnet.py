import json
from pathlib import Path

from cnn_site.figures import Figure, act, around, conv, data, maps, stack

basic = Figure(
    "resnet",
    "Basic residual block",
    "Two 3×3 convolutions, each followed by batch normalisation, with a ReLU between them. Beside them a bare line "
    "carries the input x past both; branch and input are added, and a ReLU follows the sum.",
    stack(
        data("x, 64 × H × W"),
        around(stack(conv("Conv 3×3, 64", "BN · ReLU"), conv("Conv 3×3, 64", "BN"))),
        act("ReLU"),
        data("64 × H × W"),
        same=False,
    ),
)

bottleneck = Figure(
    "resnet-bottleneck",
    "Bottleneck block with a projection",
    "A 1×1 convolution to 128 channels, a 3×3 convolution with stride 2, and a 1×1 convolution to 512 channels, each "
    "followed by batch normalisation. Beside them a 1×1 convolution with stride 2 brings the input to the same shape.",
    stack(
        data("x, 256 × H × W"),
        around(
            stack(
                conv("Conv 1×1, 128", "BN · ReLU"),
                conv("Conv 3×3, 128", "stride 2 · BN · ReLU"),
                conv("Conv 1×1, 512", "BN"),
            ),
            conv("Conv 1×1, 512", "stride 2 · BN"),
        ),
        act("ReLU"),
        data("512 × H/2 × W/2"),
        same=False,
    ),
)

SIZES = [
    (224, 3, "image"),
    (112, 64, "stem"),
    (56, 256, "3 blocks"),
    (28, 512, "4 blocks"),
    (14, 1024, "6 blocks"),
    (7, 2048, "3 blocks"),
]
stages = Figure(
    "resnet-stages",
    "Feature maps of ResNet-50",
    "Height and width halve from stage to stage, from 224 to 7, while the channels grow from 3 to 2048.",
    maps(SIZES),
)

figure = basic
figures = {"bottleneck": bottleneck, "stages": stages}


def module():  # what the figure of the basic block is checked against
    from cnn_techniques.modern import BasicBlock

    return BasicBlock(64, 64)


def curves(record):
    """Training loss of the four networks of the record, mean over its seeds."""
    import matplotlib.pyplot as plt

    from cnn_site.figures.plots import STYLE, plot_svg

    with plt.rc_context(STYLE):
        fig, ax = plt.subplots()
        for arm in record["measured"]["digits"]["result"]["arms"].values():
            means = [
                sum(losses) / len(losses) for losses in zip(*arm["curve"], strict=True)
            ]
            ax.plot(range(1, len(means) + 1), means, label=arm["name"])
        ax.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
        ax.legend()
        return plot_svg(
            fig,
            "resnet-training",
            "Training loss of plain and residual networks on the digits",
            "Four curves over the epochs, means over the seeds: plain and residual networks of 20 and of 56 layers.",
        )


RECORD = Path(__file__).parents[3] / "docs/evidence/modern/resnet.json"
record = json.loads(RECORD.read_text(encoding="utf-8"))
if "measured" in record:
    figures["training"] = curves(record)
