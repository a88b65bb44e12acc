from cnn_site.figures import Figure, conv, data, stack

figure = Figure(
    "modern/vision-transformer",
    "Vision Transformer",
    "One or two sentences that replace the picture.",
    stack(data("x, C × H × W"), conv("Conv 3×3, C"), data("y, C × H × W")),
)


def module():  # what the figure is held against
    from cnn_techniques.modern import VisionTransformer

    return VisionTransformer(64)
