from cnn_site.figures import Figure, around, conv, data, pool, stack

figure = Figure(
    "efficient-channel-attention",
    "Efficient channel attention",
    "The input x, 64 channels, goes straight to a product. Beside it, each channel is averaged to one number; a "
    "one-dimensional convolution runs over the row of 64 means with a kernel of 3, and a sigmoid makes 64 gates of "
    "its result, which multiply the channels.",
    stack(
        data("x, 64 × H × W"),
        around(
            None,
            stack(
                pool("Mean over H, W"),
                "y, 64",
                conv("Conv1d 3, 1", "Sigmoid"),
                data("ω, 64 gates"),
            ),
            "×",
        ),
        data("scaled, 64 × H × W"),
    ),
)


def module():  # what the figure is checked against
    from cnn_techniques.attention import EfficientChannelAttention

    return EfficientChannelAttention(64)
