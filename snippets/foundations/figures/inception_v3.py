from cnn_site.figures import Figure, conv, data, fan, maps, op, pool, stack


def unit(kernel, width, stride=""):
    return conv(f"Conv {kernel}", f"{width} · {stride}BN\nReLU")


at_17 = Figure(
    "inception-v3",
    "Inception module on maps of 17 × 17",
    "Four branches: a 1×1 convolution; a 1×1, then 1×7 and 7×1; a 1×1, then 7×1, 1×7, 7×1 and 1×7; average pooling and "
    "a 1×1. Every convolution has a batch norm and a ReLU. The four maps of 192 channels are concatenated.",
    stack(
        data("x, 768 × H × W"),
        fan(
            unit("1×1", 192),
            stack(unit("1×1", 128), unit("1×7", 128), unit("7×1", 192)),
            stack(
                unit("1×1", 128),
                unit("7×1", 128),
                unit("1×7", 128),
                unit("7×1", 128),
                unit("1×7", 192),
            ),
            stack(pool("Avg 3×3", "stride 1"), unit("1×1", 192)),
            merge=op("Concatenate"),
            gap=8,
        ),
        data("768 × H × W"),
        same=False,
    ),
)

at_35 = Figure(
    "inception-v3-at-35",
    "Inception module on maps of 35 × 35",
    "Four branches: a 1×1 convolution; a 1×1, then 5×5; a 1×1, then two 3×3; average pooling and a 1×1. Every "
    "convolution has a batch norm and a ReLU. The maps are concatenated to 256 channels.",
    stack(
        data("x, 192 × H × W"),
        fan(
            unit("1×1", 64),
            stack(unit("1×1", 48), unit("5×5", 64)),
            stack(unit("1×1", 64), unit("3×3", 96), unit("3×3", 96)),
            stack(pool("Avg 3×3", "stride 1"), unit("1×1", 32)),
            merge=op("Concatenate"),
            gap=8,
        ),
        data("256 × H × W"),
        same=False,
    ),
)

reduction = Figure(
    "inception-v3-reduction",
    "Reduction of the grid from 35 × 35 to 17 × 17",
    "Three branches: a 3×3 convolution with stride 2; a 1×1, a 3×3 and a 3×3 with stride 2; maximum pooling with "
    "stride 2. Their maps are concatenated to 768 channels.",
    stack(
        data("x, 288 × 35 × 35"),
        fan(
            conv("Conv 3×3", "384\nstride 2\nBN · ReLU"),
            stack(
                conv("Conv 1×1", "64\nBN · ReLU"),
                conv("Conv 3×3", "96\nBN · ReLU"),
                conv("Conv 3×3", "96\nstride 2\nBN · ReLU"),
            ),
            pool("Max 3×3", "stride 2"),
            merge=op("Concatenate"),
            gap=8,
        ),
        data("768 × 17 × 17"),
        same=False,
    ),
)

SIZES = [
    (299, 3, "image"),
    (73, 64, "stem"),
    (35, 192, "stem"),
    (35, 288, "5b-5d"),
    (17, 768, "6a-6e"),
    (8, 1280, "7a"),
    (8, 2048, "7b, 7c"),
]
stages = Figure(
    "inception-v3-stages",
    "Feature maps of Inception-v3",
    "Height and width fall from 299 to 8 while the channels grow from 3 to 2048: after the two poolings of the stem, "
    "after modules 5b to 5d, after 6a to 6e, after 7a and after 7b and 7c.",
    maps(SIZES, least=12, scale=6, gap=7),
)

figure = at_17
figures = {"at-35": at_35, "reduction": reduction, "stages": stages}


def module():  # what the figure of the module at 17 x 17 is checked against
    from cnn_techniques.foundations import FactorisedInception, inception_v3_at_17

    return FactorisedInception(768, inception_v3_at_17(128))
