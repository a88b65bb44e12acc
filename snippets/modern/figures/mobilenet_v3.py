from cnn_site.figures import Figure, around, conv, data, gate, maps, stack

figure = Figure(
    "mobilenet-v3",
    "Block of MobileNet v3",
    "A 1×1 convolution from 40 to 240 channels and a depthwise 5×5 convolution, both with batch normalisation and hard "
    "swish; squeeze-and-excitation; a 1×1 convolution back to 40 channels with batch normalisation. The input is added.",
    stack(
        data("x, 40 × H × W"),
        around(
            stack(
                conv("Conv 1×1, 240", "BN · Hardswish"),
                conv("Depthwise 5×5, 240", "BN · Hardswish"),
                gate("SqueezeExcitation"),
                conv("Conv 1×1, 40", "BN"),
            )
        ),
        data("40 × H × W"),
        same=False,
    ),
)

SIZES = [
    (224, 3, "image"),
    (112, 16, "1 block"),
    (56, 24, "2 blocks"),
    (28, 40, "3 blocks"),
    (14, 112, "6 blocks"),
    (7, 160, "3 blocks"),
]
stages = Figure(
    "mobilenet-v3-stages",
    "Feature maps of MobileNet v3, Large",
    "Height and width halve from 224 to 7, while the channels between the blocks grow from 3 to 160.",
    maps(SIZES),
)

figures = {"stages": stages}


def module():  # what the figure is checked against
    from torch import nn

    from cnn_techniques.modern import InvertedResidualV3

    return InvertedResidualV3(40, 240, 40, 5, gate=True, activation=nn.Hardswish)


def leaves():
    from cnn_techniques.attention import SqueezeExcitation

    return (SqueezeExcitation,)
