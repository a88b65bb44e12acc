from cnn_site.figures import Figure, conv, data, row, stack, tensor

figure = Figure(
    "network-in-network",
    "A convolution and an mlpconv layer",
    "Two columns. Left, an ordinary layer: one 5×5 convolution to 96 channels and a ReLU. Right, an mlpconv layer: a 5×5 "
    "convolution to 192 channels, then 1×1 convolutions to 160 and to 96 channels, each followed by a ReLU.",
    row(
        stack(
            data("a layer: 3 × H × W"),
            conv("Conv 5×5, 96", "ReLU"),
            data("96 × H × W"),
        ),
        stack(
            data("mlpconv: 3 × H × W"),
            conv("Conv 5×5, 192", "ReLU"),
            conv("Conv 1×1, 160", "ReLU"),
            conv("Conv 1×1, 96", "ReLU"),
            data("96 × H × W"),
        ),
    ),
)

SIZES = [
    (32, 3, "image"),
    (32, 96, "mlpconv 1"),
    (16, 192, "mlpconv 2"),
    (8, 10, "mlpconv 3"),
    (1, 10, "mean"),
]
stages = Figure(
    "network-in-network-stages",
    "Maps of Network in Network",
    "An image of 32 by 32 pixels, 96 maps of 32 by 32, 192 maps of 16 by 16, a map of 8 by 8 for each of ten classes, and "
    "their ten means.",
    row(
        *(
            tensor(
                f"{s}²",
                f"{c}\n{name}",
                size=10 + 12 * s**0.5,
                depth=2 + 1.4 * c**0.45,
                role="pool" if s == 1 else "conv" if c > 3 else "data",
            )
            for s, c, name in SIZES
        ),
        gap=10,
    ),
)
figures = {"stages": stages}


def module():  # what the figure is checked against
    import torch
    from torch import nn

    from cnn_techniques.foundations import MlpConv

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Sequential(nn.Conv2d(3, 96, 5, padding=2), nn.ReLU())
            self.mlpconv = MlpConv(3, 5, (192, 160, 96))

        def forward(self, x):
            return self.layer(x), self.mlpconv(x)

    with torch.device("meta"):
        return Both()
