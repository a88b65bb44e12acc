from cnn_site.figures import Figure, conv, data, stack

figure = Figure(
    "modern/mobilenet-v2",
    "MobileNet v2",
    "One or two sentences that replace the picture.",
    stack(data("x, C × H × W"), conv("Conv 3×3, C"), data("y, C × H × W")),
)


def module():  # what the figure is held against
    from cnn_techniques.modern import MobileNetV2

    return MobileNetV2(64)
