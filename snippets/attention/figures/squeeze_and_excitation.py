from cnn_site.figures import Figure, around, conv, data, frame, gate, pool, stack

squeeze = frame(pool("Mean over H, W"), "squeeze")
excite = frame(
    stack(conv("Conv 1×1, 4", "ReLU"), gate("Conv 1×1, 64", "Sigmoid")), "excite"
)
figure = Figure(
    "squeeze-and-excitation",
    "Squeeze-and-excitation block",
    "The input u, 64 maps, goes straight to a product. Beside it, each map is averaged to one number; a bottleneck of "
    "two 1×1 convolutions, 64 to 4 to 64, turns the 64 means into 64 gates between 0 and 1, which multiply the maps.",
    stack(
        data("u, 64 × H × W"),
        around(None, stack(squeeze, "z, 64 × 1 × 1", excite, gap=14), "×"),
        data("scaled, 64 × H × W"),
    ),
)


def module():  # what the figure is checked against
    from cnn_techniques.attention import SqueezeExcitation

    return SqueezeExcitation(64, 4)
