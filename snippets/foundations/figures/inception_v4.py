from cnn_site.figures import Figure, act, around, conv, data, fan, maps, op, pool, stack


def unit(kernel: str, channels: int):
    return conv(f"Conv {kernel}", f"{channels} · BN\nReLU")


plain = Figure(
    "inception-v4",
    "Module A of Inception-v4",
    "Four branches leave the input of 384 maps: a 1×1 convolution; a 1×1 and a 3×3; a 1×1 and two 3×3; average pooling "
    "and a 1×1. Each ends with 96 maps, which are concatenated to 384.",
    stack(
        data("x, 384 × 35 × 35"),
        fan(
            unit("1×1", 96),
            stack(unit("1×1", 64), unit("3×3", 96)),
            stack(unit("1×1", 64), unit("3×3", 96), unit("3×3", 96)),
            stack(pool("Avg 3×3", "stride 1"), unit("1×1", 96)),
            merge=op("Concatenate"),
            gap=8,
        ),
        data("384 × 35 × 35"),
        same=False,
    ),
)

residual = Figure(
    "inception-v4-residual",
    "Module A of Inception-ResNet",
    "Three branches leave the input of 320 maps, with 32, 32 and 64 maps at their ends, which are concatenated to 128. A "
    "1×1 convolution without norm widens them to 320; they are multiplied by 0.17 and added to the input; a ReLU follows.",
    stack(
        data("x, 320 × 35 × 35"),
        around(
            stack(
                fan(
                    unit("1×1", 32),
                    stack(unit("1×1", 32), unit("3×3", 32)),
                    stack(unit("1×1", 32), unit("3×3", 48), unit("3×3", 64)),
                    merge=op("Concatenate"),
                    gap=8,
                ),
                conv("Conv 1×1, 320"),
                "0.17",
                op("×"),
                same=False,
            ),
        ),
        act("ReLU"),
        data("320 × 35 × 35"),
        same=False,
    ),
)

SIZES = [
    (299, 3, "image"),
    (35, 384, "stem"),
    (35, 384, "4 modules"),
    (17, 1024, "7 modules"),
    (8, 1536, "3 modules"),
]
stages = Figure(
    "inception-v4-stages",
    "Feature maps of Inception-v4",
    "An image of 299 pixels becomes maps of 35, 17 and 8 pixels with 384, 1024 and 1536 channels.",
    maps(SIZES, scale=7),
)

figure = plain
figures = {"residual": residual, "stages": stages}


def module():  # what the figure of the module is checked against
    from cnn_techniques.foundations import INCEPTION_V4_A, InceptionFork

    return InceptionFork(384, INCEPTION_V4_A)
