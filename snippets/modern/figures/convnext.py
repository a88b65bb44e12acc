from cnn_site.figures import Figure, act, around, conv, data, maps, norm, stack

figure = Figure(
    "convnext",
    "ConvNeXt block",
    "A depthwise 7×7 convolution, a layer norm over the channels, a linear map from 96 to 384 channels with a GELU, "
    "a linear map back to 96, and a factor for each channel. Beside them a bare line carries the input to the sum.",
    stack(
        data("x, 96 × H × W"),
        around(
            stack(
                conv("Depthwise 7×7, 96"),
                norm("LN"),
                conv("Linear 96→384", "GELU"),
                conv("Linear 384→96"),
                act("Layer scale"),
            )
        ),
        data("96 × H × W"),
        same=False,
    ),
)

SIZES = [
    (224, 3, "image"),
    (56, 96, "3 blocks"),
    (28, 192, "3 blocks"),
    (14, 384, "9 blocks"),
    (7, 768, "3 blocks"),
]
stages = Figure(
    "convnext-stages",
    "Feature maps of ConvNeXt-T",
    "The stem divides height and width by four, from 224 to 56; each further stage halves them, down to 7, while the "
    "channels grow from 96 to 768.",
    maps(SIZES),
)
figures = {"stages": stages}


def module():  # what the figure is checked against
    from cnn_techniques.modern import CNBlock

    block = CNBlock(96)
    # One box stands for parameter and product, so the trace shall see a number here.
    del block.layer_scale
    block.layer_scale = 1e-6
    return block
