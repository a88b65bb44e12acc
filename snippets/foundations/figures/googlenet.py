from cnn_site.figures import Figure, conv, data, fan, maps, op, pool, stack

module_3a = Figure(
    "googlenet",
    "Inception module 3a of GoogLeNet",
    "Four branches leave the input: a 1×1 convolution to 64 channels; a 1×1 to 96 and a 3×3 to 128; a 1×1 to 16 and "
    "a second 3×3 to 32; max pooling and a 1×1 to 32. Every convolution has a batch norm and a ReLU. The four maps "
    "are concatenated to 256 channels.",
    stack(
        data("x, 192 × H × W"),
        fan(
            conv("Conv 1×1", "64 · BN\nReLU"),
            stack(
                conv("Conv 1×1", "96 · BN\nReLU"), conv("Conv 3×3", "128 · BN\nReLU")
            ),
            stack(conv("Conv 1×1", "16 · BN\nReLU"), conv("Conv 3×3", "32 · BN\nReLU")),
            stack(pool("Max 3×3", "stride 1"), conv("Conv 1×1", "32 · BN\nReLU")),
            merge=op("Concatenate"),
            gap=8,
        ),
        data("256 × H × W"),
        same=False,
    ),
)

SIZES = [
    (224, 3, "image"),
    (56, 64, "stem"),
    (28, 192, "stem"),
    (14, 480, "3a, 3b"),
    (7, 832, "4a-4e"),
    (7, 1024, "5a, 5b"),
]
stages = Figure(
    "googlenet-stages",
    "Feature maps of GoogLeNet",
    "Height and width fall from 224 to 7 while the channels grow from 3 to 1024. Each map is the one after the pooling "
    "that ends a group: the stem, modules 3a and 3b, modules 4a to 4e; the last one comes out of modules 5a and 5b.",
    maps(SIZES),
)

figure = module_3a
figures = {"stages": stages}


def module():  # what the figure of the module is checked against
    from cnn_techniques.foundations import Inception

    return Inception(192, (64, 96, 128, 16, 32, 32))
