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

channel = frame(
    stack(
        pool("Mean over H, W"),
        conv("Conv 1×1, 4", "BN · ReLU"),
        conv("Conv 1×1, 64", "BN"),
        gap=12,
    ),
    "channel",
)
spatial = frame(
    stack(
        conv("Conv 1×1, 4", "BN · ReLU"),
        conv("Conv 3×3, 4,\ndilation 4", "BN · ReLU"),
        conv("Conv 3×3, 4,\ndilation 4", "BN · ReLU"),
        conv("Conv 1×1, 1", "BN"),
        gap=12,
    ),
    "spatial",
)
gates = stack(fan(channel, spatial, merge=op("+")), gate("Sigmoid"))
figure = Figure(
    "bam",
    "BAM",
    "The feature map F of 64 channels goes straight to a sum. Beside it, two branches: the channel branch averages each "
    "channel and passes the means through two 1×1 convolutions, 64 to 4 to 64; the spatial branch narrows F to four "
    "channels, passes two 3×3 convolutions of dilation 4 and ends in one channel. Their sum passes a sigmoid, which "
    "gives one gate per channel and place; F times the gates is added to F.",
    stack(
        data("F, 64 × H × W"),
        around(around(None, gates, "×"), None, "+", side="left"),
        data("F′, 64 × H × W"),
        same=False,
    ),
)


def module():  # what the figure is checked against
    from cnn_techniques.attention import BAM

    return BAM(64)
