from cnn_site.figures import Figure, around, conv, data, maps, op, stack

figure = Figure(
    "shufflenet-v2",
    "ShuffleNet v2 unit",
    "The channels are split. One half goes past on a bare line; the other passes a 1×1 "
    "convolution, a 3×3 depthwise convolution and a 1×1 convolution, all of 58 channels. "
    "Both halves are concatenated and shuffled.",
    stack(
        data("x, 116 × H × W"),
        op("Split"),
        around(
            stack(
                conv("Conv 1×1, 58", "BN · ReLU"),
                conv("Depthwise 3×3, 58", "BN"),
                conv("Conv 1×1, 58", "BN · ReLU"),
            ),
            merge="Concatenate, shuffle",
        ),
        data("116 × H × W"),
        same=False,
    ),
)

down = Figure(
    "shufflenet-v2-down",
    "ShuffleNet v2 unit with stride 2",
    "Both branches see all 24 channels and halve height and width in a depthwise "
    "convolution; each gives 58 channels, which are concatenated and shuffled.",
    stack(
        data("x, 24 × H × W"),
        around(
            stack(
                conv("Conv 1×1, 58", "BN · ReLU"),
                conv("Depthwise 3×3, 58", "stride 2 · BN"),
                conv("Conv 1×1, 58", "BN · ReLU"),
            ),
            stack(
                conv("Depthwise 3×3, 24", "stride 2 · BN"),
                conv("Conv 1×1, 58", "BN · ReLU"),
            ),
            merge="Concatenate, shuffle",
        ),
        data("116 × H/2 × W/2"),
        same=False,
    ),
)

SIZES = [
    (224, 3, "image"),
    (56, 24, "stem"),
    (28, 116, "4 units"),
    (14, 232, "8 units"),
    (7, 464, "4 units"),
    (7, 1024, "conv5"),
]
stages = Figure(
    "shufflenet-v2-stages",
    "Feature maps of ShuffleNet v2 1×",
    "The stem leaves 56 × 56 pixels and 24 channels; the three stages halve height and "
    "width and have 116, 232 and 464 channels; a 1×1 convolution makes 1,024 of them.",
    maps(SIZES),
)

figures = {"down": down, "stages": stages}


def module():  # what the figure of the unit is checked against
    from cnn_techniques.modern import ShuffleUnit

    return ShuffleUnit(116, 116)
