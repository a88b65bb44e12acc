from cnn_site.figures import Figure, around, conv, data, frame, gate, norm, stack

context = frame(
    around(None, stack(conv("Conv 1×1, 1"), gate("Softmax")), "Matrix product"),
    "context",
)
transform = frame(
    stack(conv("Conv 1×1, 4"), norm("LN", "ReLU"), conv("Conv 1×1, 64")),
    "transform",
    pad=14,
)
figure = Figure(
    "global-context",
    "Global context block",
    "Beside the input of 64 channels, a 1×1 convolution to one channel and a softmax over all places give one weight "
    "for each place; the product with the input is one vector of 64 means. Two 1×1 convolutions, 64 to 4 to 64, with a "
    "layer norm and a ReLU between them turn it into 64 numbers, which are added to the input at every place.",
    stack(
        data("x, 64 × H × W"),
        around(None, stack(context, "64 × 1 × 1", transform, gap=14), "+"),
        data("z, 64 × H × W"),
    ),
)


def module():  # what the figure is checked against
    from cnn_techniques.attention import GlobalContext

    return GlobalContext(64, 4)
