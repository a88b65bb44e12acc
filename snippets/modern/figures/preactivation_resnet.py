from cnn_site.figures import Figure, act, around, conv, data, stack

basic = Figure(
    "preactivation-resnet",
    "Basic block with pre-activation",
    "Twice batch normalisation, ReLU and a 3×3 convolution. Beside them a bare line carries the input x to the sum, "
    "and nothing follows it.",
    stack(
        data("x, 64 × H × W"),
        around(
            stack(
                act("BN", "ReLU"),
                conv("Conv 3×3, 64", "BN · ReLU"),
                conv("Conv 3×3, 64"),
            )
        ),
        data("64 × H × W"),
        same=False,
    ),
)

before = Figure(
    "preactivation-resnet-before",
    "ResNet's basic block",
    "Two 3×3 convolutions, each followed by batch normalisation, with a ReLU between them. Beside them a bare line "
    "carries the input to the sum, and a ReLU follows the sum.",
    stack(
        data("x, 64 × H × W"),
        around(stack(conv("Conv 3×3, 64", "BN · ReLU"), conv("Conv 3×3, 64", "BN"))),
        act("ReLU"),
        data("64 × H × W"),
        same=False,
    ),
)

bottleneck = Figure(
    "preactivation-resnet-bottleneck",
    "Bottleneck with pre-activation and a projection",
    "Batch normalisation and ReLU come first; from there one way goes through a 1×1 convolution to 128 channels, a 3×3 "
    "convolution with stride 2 and a 1×1 convolution to 512 channels, the other through a 1×1 convolution with stride "
    "2. Both are added.",
    stack(
        data("x, 256 × H × W"),
        act("BN", "ReLU"),
        around(
            stack(
                conv("Conv 1×1, 128", "BN · ReLU"),
                conv("Conv 3×3, 128", "stride 2 · BN · ReLU"),
                conv("Conv 1×1, 512"),
            ),
            conv("Conv 1×1, 512", "stride 2"),
        ),
        data("512 × H/2 × W/2"),
        same=False,
    ),
)

figure = basic
figures = {"before": before, "bottleneck": bottleneck}


def module():  # what the figure of the basic block is checked against
    from cnn_techniques.modern import PreActivationBasicBlock

    return PreActivationBasicBlock(64, 64)
