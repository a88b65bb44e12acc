from cnn_site.figures import Figure, conv, data, maps, stack

figure = Figure(
    "mobilenet-v1",
    "Separable block of MobileNet v1",
    "A depthwise 3×3 convolution with stride 2 on 64 channels, then a 1×1 convolution to 128 channels, each followed by "
    "batch normalisation and ReLU6.",
    stack(
        data("x, 64 × H × W"),
        conv("Depthwise 3×3, 64", "stride 2 · BN · ReLU6"),
        conv("Conv 1×1, 128", "BN · ReLU6"),
        data("128 × H/2 × W/2"),
        same=False,
    ),
)

SIZES = [
    (224, 3, "image"),
    (112, 64, "1 block"),
    (56, 128, "2 blocks"),
    (28, 256, "2 blocks"),
    (14, 512, "6 blocks"),
    (7, 1024, "2 blocks"),
]
stages = Figure(
    "mobilenet-v1-stages",
    "Feature maps of MobileNet v1",
    "Height and width halve from stage to stage, from 224 to 7, while the channels grow from 3 to 1024.",
    maps(SIZES),
)

figures = {"stages": stages}


def module():  # what the figure is checked against
    from cnn_techniques.modern import SeparableBlock

    return SeparableBlock(64, 128, stride=2)
