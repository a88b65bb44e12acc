from cnn_site.figures import (
    Figure,
    chain,
    conv,
    data,
    grid,
    link,
    maps,
    norm,
    op,
    pool,
    stack,
)


def layer():
    parts = norm("BN", "ReLU"), conv("Conv 1×1, 128", "BN · ReLU"), conv("Conv 3×3, 32")
    return list(parts)


x, first, join, second, end, y = (
    data("x₀, 64 × H × W"),
    layer(),
    op("Concatenate"),
    layer(),
    op("Concatenate"),
    data("128 × H × W"),
)
column = [x, *first, join, *second, end, y]
figure = Figure(
    "densenet",
    "Dense block of two layers",
    "Each layer is a batch norm, ReLU, a 1×1 convolution to 128 channels, batch norm, "
    "ReLU and a 3×3 convolution to 32. The second layer reads the concatenation of x and "
    "the first layer's output; the block returns x and both outputs, concatenated.",
    grid(*[[part] for part in column], vgap=16),
    [
        *chain(*column),
        link(x, join, "rr", reach=16),
        link(x, end, "rr", reach=32),
        link(first[-1], end, "ll", reach=16),
    ],
)

transition = Figure(
    "densenet-transition",
    "Transition",
    "A batch norm, ReLU, a 1×1 convolution that halves the channels, and average pooling "
    "that halves height and width.",
    stack(
        data("256 × H × W"),
        norm("BN", "ReLU"),
        conv("Conv 1×1, 128"),
        pool("Avg 2×2, stride 2"),
        data("128 × H/2 × W/2"),
    ),
)

SIZES = [
    (224, 3, "image"),
    (56, 64, "stem"),
    (56, 256, "6 layers"),
    (28, 512, "12 layers"),
    (14, 1024, "24 layers"),
    (7, 1024, "16 layers"),
]
stages = Figure(
    "densenet-stages",
    "Feature maps of DenseNet-121",
    "The stem leaves 56 × 56 pixels and 64 channels. Each dense block adds 32 channels a "
    "layer; each transition between two blocks halves channels, height and width.",
    maps(SIZES),
)

figures = {"transition": transition, "stages": stages}


def module():  # what the figure of the block is checked against
    from cnn_techniques.modern import DenseBlock

    return DenseBlock(2, 64, 32)
