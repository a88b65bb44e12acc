from cnn_site.figures import Figure, around, conv, data, maps, pool, stack

figure = Figure(
    "xception",
    "Xception block of the entry flow",
    "Twice a ReLU, a depthwise 3×3 convolution and a 1×1 convolution with batch normalisation; the first ReLU is left "
    "out in the first block. Max pooling halves the maps. Beside it a 1×1 convolution with stride 2 is the shortcut.",
    stack(
        data("x, 64 × H × W"),
        around(
            stack(
                conv("Depthwise 3×3, 64"),
                conv("Conv 1×1, 128", "BN · ReLU"),
                conv("Depthwise 3×3, 128"),
                conv("Conv 1×1, 128", "BN"),
                pool("Max 3×3", "stride 2"),
            ),
            conv("Conv 1×1, 128", "stride 2 · BN"),
        ),
        data("128 × H/2 × W/2"),
        same=False,
    ),
)

SIZES = [
    (299, 3, "image"),
    (147, 64, "stem"),
    (19, 728, "entry flow"),
    (19, 728, "middle flow"),
    (10, 1024, "exit flow"),
    (10, 2048, "last maps"),
]
stages = Figure(
    "xception-stages",
    "Feature maps of Xception",
    "From an image of 299 pixels the stem makes maps of 147, the entry flow of 19; eight middle blocks keep them; the "
    "exit flow ends with 2048 maps of 10 pixels.",
    maps(SIZES, scale=7, gap=9),
)
figures = {"stages": stages}


def module():  # what the figure is checked against
    from cnn_techniques.modern import XceptionBlock

    return XceptionBlock((64, 128, 128), stride=2, relu_first=False)
