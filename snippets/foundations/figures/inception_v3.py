from cnn_site.figures import Figure, conv, data, stack

figure = Figure(
    "foundations/inception-v3",
    "Inception-v2 and v3",
    "One or two sentences that replace the picture.",
    stack(data("x, C × H × W"), conv("Conv 3×3, C"), data("y, C × H × W")),
)


def module():  # what the figure is held against
    from cnn_techniques.foundations import InceptionV2AndV3

    return InceptionV2AndV3(64)
