import json
from pathlib import Path

from cnn_site.figures import Figure, act, around, conv, data, gate, maps, stack

figure = Figure(
    "regnet",
    "RegNetY block",
    "A 1×1 convolution, a grouped 3×3 convolution, squeeze-and-excitation and a 1×1 "
    "convolution, all of 104 channels. A bare line carries the input past them; both are "
    "added, and a ReLU follows the sum.",
    stack(
        data("x, 104 × H × W"),
        around(
            stack(
                conv("Conv 1×1, 104", "BN · ReLU"),
                conv("Grouped 3×3, 104", "BN · ReLU"),
                gate("Squeeze-excitation"),
                conv("Conv 1×1, 104", "BN"),
            ),
        ),
        act("ReLU"),
        data("104 × H × W"),
        same=False,
    ),
)

SIZES = [
    (224, 3, "image"),
    (112, 32, "stem"),
    (56, 48, "1 block"),
    (28, 104, "3 blocks"),
    (14, 208, "6 blocks"),
    (7, 440, "6 blocks"),
]
stages = Figure(
    "regnet-stages",
    "Feature maps of RegNetY-400MF",
    "The stem and each of the four stages halve height and width; the stages have 48, "
    "104, 208 and 440 channels, in 1, 3, 6 and 6 blocks.",
    maps(SIZES),
)

figures = {"stages": stages}


def module():  # what the figure of the block is checked against
    from cnn_techniques.modern import RegNetBlock

    return RegNetBlock(104, 104, group_width=8, se_ratio=0.25)


def leaves():  # drawn as one box
    from cnn_techniques.attention import SqueezeExcitation

    return (SqueezeExcitation,)


def widths(rule):
    """The line of equation 2 and the widths of the blocks, for three networks."""
    import matplotlib.pyplot as plt

    from cnn_site.figures.plots import STYLE, plot_svg

    with plt.rc_context(STYLE):
        fig, ax = plt.subplots()
        for arm in rule.values():
            blocks = range(len(arm["u"]))
            (steps,) = ax.plot(
                blocks, arm["w"], drawstyle="steps-mid", label=arm["name"]
            )
            ax.plot(blocks, arm["u"], color=steps.get_color(), linewidth=1, alpha=0.6)
        ax.set(xlabel="block j", ylabel="width", ylim=(0, None))
        ax.legend()
        return plot_svg(
            fig,
            "regnet-widths",
            "Widths of the blocks of three RegNets",
            "For each network a straight line of the width over the block number, and "
            "the widths of its blocks: steps that follow the line, one for each stage.",
        )


RECORD = Path(__file__).parents[3] / "docs/evidence/modern/regnet.json"
if RECORD.exists():
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    if "rule" in record["computed"]:
        figures["widths"] = widths(record["computed"]["rule"])
