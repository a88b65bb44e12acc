from cnn_site.figures import Figure, around, conv, data, norm, stack

figure = Figure(
    "convnext-v2",
    "ConvNeXt V2 block",
    "A depthwise 7×7 convolution, a layer norm over the channels, a linear map from 96 to 384 channels with a GELU, "
    "global response normalisation, and a linear map back to 96. Beside them a bare line carries the input to the sum.",
    stack(
        data("x, 96 × H × W"),
        around(
            stack(
                conv("Depthwise 7×7, 96"),
                norm("LN"),
                conv("Linear 96→384", "GELU"),
                norm("GRN"),
                conv("Linear 384→96"),
            )
        ),
        data("96 × H × W"),
        same=False,
    ),
)


def module():  # what the figure is checked against
    from cnn_techniques.modern import CNBlockV2

    return CNBlockV2(96)


def leaves():  # one box each
    from cnn_techniques.modern import GlobalResponseNorm

    return (GlobalResponseNorm,)
