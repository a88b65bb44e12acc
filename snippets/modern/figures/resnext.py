from cnn_site.figures import (
    Figure,
    act,
    around,
    conv,
    data,
    fan,
    op,
    row,
    stack,
    tensor,
)

figure = Figure(
    "resnext",
    "ResNeXt block",
    "A 1×1 convolution narrows 256 channels to 128, a 3×3 convolution in 32 groups works on them, and a second 1×1 "
    "convolution widens to 256 again, each followed by batch normalisation. Beside them a bare line carries the input "
    "x past all three; branch and input are added, and a ReLU follows the sum.",
    stack(
        data("x, 256 × H × W"),
        around(
            stack(
                conv("Conv 1×1, 128", "BN · ReLU"),
                conv("Grouped 3×3, 128", "BN · ReLU"),
                conv("Conv 1×1, 256", "BN"),
            )
        ),
        act("ReLU"),
        data("256 × H × W"),
        same=False,
    ),
)


def one_path():
    return stack(
        conv("Conv 1×1, 4", "BN · ReLU"),
        conv("Conv 3×3, 4", "BN · ReLU"),
        conv("Conv 1×1, 256"),
    )


paths = Figure(
    "resnext-paths",
    "The same block as a sum of paths",
    "Three of the 32 paths side by side: each narrows the input x to four channels, convolves those, and widens them "
    "to 256. The results of the paths are added.",
    stack(
        data("x, 256 × H × W"),
        fan(one_path(), one_path(), one_path(), merge=op("add")),
        same=False,
    ),
)

STAGES = [
    (56, 256, 32, 4),
    (28, 512, 32, 8),
    (14, 1024, 32, 16),
    (7, 2048, 32, 32),
]
stages = Figure(
    "resnext-stages",
    "Feature maps of ResNeXt-50",
    "The four stages: maps of 56, 28, 14 and 7 pixels with 256 to 2048 channels. The paths stay 32; each is 4, 8, 16 "
    "and 32 channels wide.",
    row(
        *(
            tensor(
                f"{s}²",
                f"{c}\n{g} paths\nof {d}",
                size=14 + 8 * s**0.5,
                depth=2 + c**0.4,
                role="conv",
            )
            for s, c, g, d in STAGES
        ),
        gap=26,
    ),
)

figures = {"paths": paths, "stages": stages}


def module():  # what the figure of the block is checked against
    from cnn_techniques.modern import ResNeXtBlock

    return ResNeXtBlock(256, 64)
