from cnn_site.figures import (
    Figure,
    around,
    conv,
    data,
    fan,
    frame,
    gate,
    op,
    pool,
    stack,
)

split = fan(
    conv("Grouped 3×3, 64", "BN · ReLU"),
    conv("Grouped 3×3, 64", "dilation 2 · BN · ReLU"),
    merge=op("Stack"),
)
fuse = frame(
    stack(
        pool("Sum over paths"),
        pool("Mean over H, W"),
        conv("Conv 1×1, 32", "BN · ReLU"),
    ),
    "fuse",
)
select = frame(stack(conv("Conv 1×1, 128"), gate("Softmax over paths")), "select")
figure = Figure(
    "selective-kernel",
    "Selective kernel unit",
    "The input x, 64 channels, passes two grouped 3×3 convolutions, the second with dilation 2, each with batch "
    "normalisation and ReLU. Their sum is averaged to 64 numbers; a 1×1 convolution to 32 channels with batch "
    "normalisation and ReLU, and one to 128 channels, give two numbers per channel, which a softmax turns into the "
    "weights of the two paths. The weighted paths are added.",
    stack(
        data("x, 64 × H × W"),
        split,
        around(None, stack(fuse, "z, 32 × 1 × 1", select, gap=14), "×"),
        pool("Sum over paths"),
        data("V, 64 × H × W"),
        same=False,
    ),
)


def module():  # what the figure is checked against
    from cnn_techniques.attention import SelectiveKernel

    return SelectiveKernel(64)
