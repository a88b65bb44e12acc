from cnn_site.figures import Figure, conv, data, pool, row, stack


def column(title, widths, groups, after):
    """One network: `widths` of its convolutions, `groups` as drawn, `after` the first two ReLUs."""
    kinds = ["Grouped" if g > 1 else "Conv" for g in groups]
    return stack(
        data(title),
        conv(f"{kinds[0]} 11×11, {widths[0]}", f"stride 4 · ReLU{after}"),
        pool("Max 3×3, stride 2"),
        conv(f"{kinds[1]} 5×5, {widths[1]}", f"ReLU{after}"),
        pool("Max 3×3, stride 2"),
        conv(f"{kinds[2]} 3×3, {widths[2]}", "ReLU"),
        conv(f"{kinds[3]} 3×3, {widths[3]}", "ReLU"),
        conv(f"{kinds[4]} 3×3, {widths[4]}", "ReLU"),
        pool("Max 3×3, stride 2"),
        pool("Mean to 6×6"),
        conv("Linear 9216→4096", "ReLU"),
        conv("Linear 4096→4096", "ReLU"),
        conv("Linear 4096→1000"),
        data("1000 scores"),
    )


figure = Figure(
    "alexnet",
    "AlexNet twice: the paper's network and torchvision's",
    "Two columns of the same five convolutions and three linear layers. Left, 2012: 96, 256, 384, 384 and 256 filters, "
    "the second, fourth and fifth convolution in two groups, response normalisation after the first two. Right, "
    "torchvision: 64, 192, 384, 256 and 256 filters, no groups, no normalisation.",
    row(
        column(
            "alexnet_paper, 2012",
            (96, 256, 384, 384, 256),
            (1, 2, 1, 2, 2),
            " · ResponseNorm",
        ),
        column("alexnet, torchvision", (64, 192, 384, 256, 256), (1,) * 5, ""),
        gap=12,
    ),
)


def module():  # what the figure is checked against
    import torch
    from torch import nn

    from cnn_techniques.foundations import alexnet, alexnet_paper

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.paper, self.torchvision = alexnet_paper(), alexnet()

        def forward(self, x):
            return self.paper(x), self.torchvision(x)

    with torch.device("meta"):
        return Both()


def leaves():
    from cnn_techniques.foundations import ResponseNorm

    return (ResponseNorm,)
