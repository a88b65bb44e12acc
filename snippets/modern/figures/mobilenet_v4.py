from cnn_site.figures import Figure, around, conv, data, maps, stack

figure = Figure(
    "mobilenet-v4",
    "Universal inverted bottleneck with both depthwise convolutions",
    "A depthwise 5×5 convolution on 128 channels with batch normalisation alone, a 1×1 convolution to 512 channels and a "
    "depthwise 5×5 convolution, both with batch normalisation and ReLU, and a 1×1 convolution back to 128 channels with "
    "batch normalisation. The input is added.",
    stack(
        data("x, 128 × H × W"),
        around(
            stack(
                conv("Depthwise 5×5, 128", "BN"),
                conv("Conv 1×1, 512", "BN · ReLU"),
                conv("Depthwise 5×5, 512", "BN · ReLU"),
                conv("Conv 1×1, 128", "BN"),
            )
        ),
        data("128 × H × W"),
        same=False,
    ),
)

SIZES = [
    (224, 3, "image"),
    (112, 32, "stem"),
    (56, 32, "fused"),
    (28, 64, "fused"),
    (14, 96, "6 blocks"),
    (7, 128, "6 blocks"),
]
stages = Figure(
    "mobilenet-v4-stages",
    "Feature maps of MobileNet v4, Conv-Small",
    "Height and width halve from 224 to 7, while the channels between the blocks grow from 3 to 128.",
    maps(SIZES),
)

figures = {"stages": stages}


def module():  # what the figure is checked against
    from cnn_techniques.modern import UniversalInvertedBottleneck

    return UniversalInvertedBottleneck(128, 512, 128, 5, 5)
