from cnn_site.figures import Figure, act, around, conv, data, row, stack, tensor

block = Figure(
    "wide-resnet",
    "Wide block",
    "Twice batch normalisation, ReLU and a 3×3 convolution, with dropout before the second convolution. Beside them a "
    "bare line carries the input x to the sum.",
    stack(
        data("x, 160 × H × W"),
        around(
            stack(
                act("BN", "ReLU"),
                conv("Conv 3×3, 160", "BN · ReLU"),
                "dropout",
                conv("Conv 3×3, 160"),
            )
        ),
        data("160 × H × W"),
        same=False,
    ),
)

bottleneck = Figure(
    "wide-resnet-bottleneck",
    "Wide bottleneck",
    "A 1×1 convolution to 128 channels, a 3×3 convolution among them, and a 1×1 convolution to 256 channels, each "
    "followed by batch normalisation. Beside them a bare line carries the input x to the sum, and a ReLU follows.",
    stack(
        data("x, 256 × H × W"),
        around(
            stack(
                conv("Conv 1×1, 128", "BN · ReLU"),
                conv("Conv 3×3, 128", "BN · ReLU"),
                conv("Conv 1×1, 256", "BN"),
            )
        ),
        act("ReLU"),
        data("256 × H × W"),
        same=False,
    ),
)

THIN = [(32, 16, "stem"), (32, 16, "k = 1"), (16, 32, "k = 1"), (8, 64, "k = 1")]
WIDE = [(32, 16, "stem"), (32, 160, "k = 10"), (16, 320, "k = 10"), (8, 640, "k = 10")]


def maps(sizes):
    return row(
        *(
            tensor(
                f"{s}²", f"{c}\n{name}", size=8 + 2 * s, depth=2 + c**0.6, role="conv"
            )
            for s, c, name in sizes
        ),
        gap=20,
    )


stages = Figure(
    "wide-resnet-stages",
    "Feature maps of a thin and of a wide network",
    "Above, the maps of a thin network: 16, 32 and 64 channels at 32, 16 and 8 pixels. Below, those of WRN-28-10: 160, "
    "320 and 640 channels at the same sizes.",
    stack(maps(THIN), maps(WIDE), arrows=False, same=False),
)

figure = block
figures = {"bottleneck": bottleneck, "stages": stages}


def module():  # what the figure of the block is checked against
    from cnn_techniques.modern import WideBlock

    return WideBlock(160, 160)
