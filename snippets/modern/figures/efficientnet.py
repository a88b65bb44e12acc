import json
from pathlib import Path

from cnn_site.figures import Figure, around, conv, data, gate, row, stack, tensor


def inside(activation, *gates):
    """The branch of a block of 24 channels, six times as wide inside."""
    return stack(
        conv("Conv 1×1, 144", f"BN · {activation}"),
        conv("Depthwise 3×3, 144", f"BN · {activation}"),
        *gates,
        conv("Conv 1×1, 24", "BN"),
    )


figure = Figure(
    "efficientnet",
    "MBConv block of EfficientNet",
    "A 1×1 convolution widens 24 channels to 144, a depthwise 3×3 convolution filters each of them by itself, "
    "squeeze-and-excitation scales them, and a 1×1 convolution narrows them to 24. Beside them a bare line carries "
    "the input to the sum; nothing follows the sum.",
    stack(
        data("x, 24 × H × W"),
        around(inside("SiLU", gate("SqueezeExcitation", "6 of 144"))),
        data("24 × H × W"),
        same=False,
    ),
)
