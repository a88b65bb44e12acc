from cnn_site.figures import Figure, conv, data, fan, maps, op, stack

figure = Figure(
    "squeezenet",
    "Fire module",
    "A 1×1 convolution squeezes 96 channels to 16. From these, a 1×1 and a 3×3 "
    "convolution side by side make 64 channels each; their results are concatenated "
    "to 128.",
    stack(
        data("x, 96 × H × W"),
        conv("Conv 1×1, 16", "ReLU"),
        fan(
            conv("Conv 1×1, 64"),
            conv("Conv 3×3, 64"),
            merge=op("Concatenate", "ReLU"),
        ),
        data("128 × H × W"),
        same=False,
    ),
)

SIZES = [
    (227, 3, "image"),
    (111, 96, "conv1"),
    (55, 256, "fire2–4"),
    (27, 512, "fire5–8"),
    (13, 512, "fire9"),
]
stages = Figure(
    "squeezenet-stages",
    "Feature maps of SqueezeNet 1.0",
    "Height and width fall from 227 to 13, while the channels grow from 3 to 512.",
    maps(SIZES, gap=12),
)
figures = {"stages": stages}


def module():  # what the figure of the block is checked against
    from cnn_techniques.modern import Fire

    return Fire(96, 16, 64)
