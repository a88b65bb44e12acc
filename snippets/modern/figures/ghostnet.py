from cnn_site.figures import Figure, around, conv, data, op, row, stack, tensor

figure = Figure(
    "ghostnet",
    "Ghost module",
    "A 1×1 convolution makes 32 intrinsic maps. They go on unchanged, and beside them a depthwise 3×3 convolution "
    "makes one ghost of each. Intrinsic and ghost maps are concatenated to 64.",
    stack(
        data("x, C × H × W"),
        conv("Conv 1×1, 32", "BN · ReLU"),
        data("intrinsic, 32 × H × W"),
        around(None, conv("Depthwise 3×3, 32", "BN · ReLU"), "concat"),
        data("64 × H × W"),
        same=False,
    ),
)

bottleneck = Figure(
    "ghostnet-bottleneck",
    "Ghost bottleneck with stride 2",
    "A ghost module widens to 48 channels, a depthwise 3×3 convolution with stride 2 follows, and a second ghost module "
    "without ReLU narrows to 24. Beside them a depthwise convolution with stride 2 and a 1×1 convolution make the shortcut.",
    stack(
        data("x, 16 × H × W"),
        around(
            stack(
                op("GhostModule"),
                conv("Depthwise 3×3, 48", "stride 2 · BN"),
                op("GhostModule"),
            ),
            stack(
                conv("Depthwise 3×3, 16", "stride 2 · BN"),
                conv("Conv 1×1, 24", "BN"),
            ),
        ),
        data("24 × H/2 × W/2"),
        same=False,
    ),
)

SIZES = [
    (224, 3, "image"),
    (112, 16, "2 layers"),
    (56, 24, "2 blocks"),
    (28, 40, "2 blocks"),
    (14, 112, "6 blocks"),
    (7, 160, "5 blocks"),
]
stages = Figure(
    "ghostnet-stages",
    "Feature maps of GhostNet",
    "Height and width halve from stage to stage, from 224 to 7, while the channels grow from 3 to 160.",
    row(
        *(
            tensor(
                f"{s}²",
                f"{c}\n{name}",
                size=14 + 8 * s**0.5,
                depth=2 + c**0.5,
                role="conv" if c > 3 else "data",
            )
            for s, c, name in SIZES
        ),
        gap=11,
    ),
)
figures = {"bottleneck": bottleneck, "stages": stages}


def module():  # what the figure is checked against
    from cnn_techniques.modern import GhostModule

    return GhostModule(16, 64)
