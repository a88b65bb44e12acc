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


def perceptron(pooling):
    return stack(pooling, conv("Conv 1×1, 4", "ReLU"), conv("Conv 1×1, 64"), gap=12)


channels = frame(
    stack(
        fan(
            perceptron(pool("Mean over H, W")),
            perceptron(pool("Max over H, W")),
            merge=op("+"),
        ),
        gate("Sigmoid"),
        gap=12,
    ),
    "channels",
)
places = frame(
    stack(
        fan(pool("Mean over C"), pool("Max over C"), merge=op("Concatenate")),
        conv("Conv 7×7, 1", "BN"),
        gate("Sigmoid"),
        gap=12,
    ),
    "places",
)
figure = Figure(
    "cbam",
    "CBAM",
    "The feature map F of 64 channels goes straight down through two products. Beside the first, its mean and its "
    "maximum over all places pass the same two 1×1 convolutions, 64 to 4 to 64, and are added; a sigmoid makes 64 "
    "gates, one per channel. Beside the second, the mean and the maximum over the channels are concatenated; a 7×7 "
    "convolution, batch norm and a sigmoid make one gate per place.",
    stack(
        data("F, 64 × H × W"),
        around(None, channels, "×"),
        "F′",
        around(None, places, "×"),
        data("F″, 64 × H × W"),
        same=False,
    ),
)


def module():  # what the figure is checked against
    from cnn_techniques.attention import CBAM

    return CBAM(64)
