from cnn_site.figures import Figure, around, conv, data, maps, stack

figure = Figure(
    "efficientnet-v2",
    "Fused-MBConv block of EfficientNetV2",
    "A full 3×3 convolution widens 48 channels to 192, and a 1×1 convolution narrows "
    "them to 48. Beside them a bare line carries the input to the sum; nothing follows "
    "the sum.",
    stack(
        data("x, 48 × H × W"),
        around(stack(conv("Conv 3×3, 192", "BN · SiLU"), conv("Conv 1×1, 48", "BN"))),
        data("48 × H × W"),
        same=False,
    ),
)

SIZES = [
    (384, 3, "image"),
    (192, 24, "2 fused"),
    (96, 48, "4 fused"),
    (48, 64, "4 fused"),
    (24, 160, "6 + 9"),
    (12, 1280, "15,\n1×1"),
]
stages = Figure(
    "efficientnet-v2-stages",
    "Feature maps of EfficientNetV2-S",
    "Height and width halve from 384 to 12, while the channels grow from 3 to 1280.",
    maps(SIZES, least=12, scale=6),
)
figures = {"stages": stages}


def module():  # what the figure of the block is checked against
    from cnn_techniques.modern import FusedMBConv

    return FusedMBConv(48, 48)
