from cnn_site.figures import Figure, act, chain, conv, data, grid, norm

x, y = data("x"), data("y")
layer, bn, relu = conv("Conv", "W, b"), norm("BatchNorm", "μ, σ², γ, β"), act("ReLU")
x2, y2 = data("x"), data("y")
folded, relu2 = conv("Conv", "sW, s(b − μ) + β"), act("ReLU")
figure = Figure(
    "batchnorm-folding",
    "Folding a batch norm into the convolution before it",
    "Left: an input goes through a convolution with weight W and bias b, a batch norm and "
    "an activation. Right: the same input goes through one convolution, whose weight is "
    "s times W and whose bias is s times (b - mu) plus beta, and the activation. Both give "
    "the same.",
    grid([x, x2], [layer, folded], [bn, None], [relu, relu2], [y, y2], hgap=30),
    chain(x, layer, bn, relu, y) + chain(x2, folded, relu2, y2),
)
