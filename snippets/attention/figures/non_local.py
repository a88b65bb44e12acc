from cnn_site.figures import Figure, chain, conv, data, gate, grid, link, op

x, z = data("x, 64 × H × W"), data("z, 64 × H × W")
theta = conv("Conv 1×1, 32")
phi = conv("Conv 1×1, 32")
g = conv("Conv 1×1, 32")
scores, weights = op("Matrix product"), gate("Softmax")
mean, out, total = op("Matrix product"), conv("Conv 1×1, 64", "BN"), op("+")

figure = Figure(
    "non-local",
    "Non-local block",
    "Three 1×1 convolutions turn 64 channels into 32. The product of the first two compares every place with every "
    "other; a softmax makes weights of it, and their product with the third is a mean over all places for each place. "
    "A 1×1 convolution back to 64 channels and a batch norm follow, and the input is added.",
    grid(
        [None, None, x],
        [theta, phi, g],
        [scores, None, None],
        [weights, None, None],
        [None, None, mean],
        [None, None, out],
        [None, None, total],
        [None, None, z],
        hgap=8,
        same=False,
    ),
    [
        link(x, theta, "lt"),
        link(x, phi, "lt"),
        *chain(x, g, mean),
        link(theta, scores, "bt", "θ"),
        link(phi, scores, "br", "φ"),
        *chain(scores, weights),
        link(weights, mean, "bl", "H·W × H·W"),
        *chain(mean, out, total, z),
        link(x, total, "rr", reach=12),
    ],
)


def module():  # what the figure is checked against
    from cnn_techniques.attention import NonLocal

    return NonLocal(64, 32)
