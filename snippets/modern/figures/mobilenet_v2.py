from cnn_site.figures import Figure, around, conv, data, maps, stack

figure = Figure(
    "mobilenet-v2",
    "Inverted residual block",
    "A 1×1 convolution from 24 to 144 channels, a depthwise 3×3 convolution, both with batch normalisation and ReLU6, and "
    "a 1×1 convolution back to 24 channels with batch normalisation alone. The input is added.",
    stack(
        data("x, 24 × H × W"),
        around(
            stack(
                conv("Conv 1×1, 144", "BN · ReLU6"),
                conv("Depthwise 3×3, 144", "BN · ReLU6"),
                conv("Conv 1×1, 24", "BN"),
            )
        ),
        data("24 × H × W"),
        same=False,
    ),
)

SIZES = [
    (224, 3, "image"),
    (112, 16, "1 block"),
    (56, 24, "2 blocks"),
    (28, 32, "3 blocks"),
    (14, 96, "7 blocks"),
    (7, 320, "4 blocks"),
]
stages = Figure(
    "mobilenet-v2-stages",
    "Feature maps of MobileNet v2",
    "Height and width halve from 224 to 7, while the channels between the blocks grow from 3 to 320 only.",
    maps(SIZES),
)

figures = {"stages": stages}


def module():  # what the figure is checked against
    from cnn_techniques.modern import InvertedResidual

    return InvertedResidual(24, 24)
