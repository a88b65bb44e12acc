from cnn_site.figures import Figure, act, around, conv, data, norm, row, stack, tensor

figure = Figure(
    "repvgg",
    "RepVGG block while it trains",
    "Three branches from the input x: a 3×3 convolution and a 1×1 convolution, each followed by batch normalisation, "
    "and batch normalisation alone. Their results are added, and a ReLU follows.",
    stack(
        data("x, 48 × H × W"),
        around(
            around(conv("Conv 3×3, 48", "BN"), conv("Conv 1×1, 48", "BN")), norm("BN")
        ),
        act("ReLU"),
        data("48 × H × W"),
        same=False,
    ),
)

folded = Figure(
    "repvgg-folded",
    "The same block after folding",
    "One 3×3 convolution with a bias, followed by a ReLU.",
    stack(
        data("x, 48 × H × W"),
        conv("Conv 3×3, 48"),
        act("ReLU"),
        data("48 × H × W"),
        same=False,
    ),
)

SIZES = [(112, 48, 1), (56, 48, 2), (28, 96, 4), (14, 192, 14), (7, 1280, 1)]
stages = Figure(
    "repvgg-stages",
    "Feature maps of RepVGG-A0",
    "Five stages: maps of 112, 56, 28, 14 and 7 pixels with 48, 48, 96, 192 and 1280 channels, made by 1, 2, 4, 14 and "
    "1 blocks.",
    row(
        *(
            tensor(
                f"{s}²",
                f"{c}\n{n} block" + "s" * (n > 1),
                size=14 + 8 * s**0.5,
                depth=2 + c**0.4,
                role="conv",
            )
            for s, c, n in SIZES
        ),
        gap=18,
    ),
)

figures = {"folded": folded, "stages": stages}


def module():  # what the figure of the block is checked against
    from cnn_techniques.modern import RepVGGBlock

    return RepVGGBlock(48, 48)
