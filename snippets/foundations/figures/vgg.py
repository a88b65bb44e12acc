from cnn_site.figures import Figure, conv, data, pool, row, stack, tensor


def stage(title, after):
    return stack(
        data(title),
        conv("Conv 3×3, 256", after),
        conv("Conv 3×3, 256", after),
        conv("Conv 3×3, 256", after),
        pool("Max 2×2, stride 2"),
        data("256 × H/2 × W/2"),
    )


figure = Figure(
    "vgg",
    "The third stage of VGG-16 and of VGG-16-BN",
    "Two columns. Left: three 3×3 convolutions to 256 channels, each followed by a ReLU, then max pooling of 2×2 with "
    "stride 2. Right: the same with batch normalisation between each convolution and its ReLU.",
    row(
        stage("vgg16: 128 × H × W", "ReLU"),
        stage("vgg16_bn: 128 × H × W", "BN · ReLU"),
    ),
)

SIZES = [
    (224, 3, "image"),
    (224, 64, "2 conv"),
    (112, 128, "2 conv"),
    (56, 256, "3 conv"),
    (28, 512, "3 conv"),
    (14, 512, "3 conv"),
    (7, 512, "pooled"),
]
stages = Figure(
    "vgg-stages",
    "Feature maps of VGG-16",
    "Height and width stay within a stage and halve between stages, from 224 to 7, while the channels grow from 3 to 512.",
    row(
        *(
            tensor(
                f"{s}²",
                f"{c}\n{name}",
                size=14 + 5.2 * s**0.5,
                depth=2 + 0.8 * c**0.4,
                role="conv" if c > 3 else "data",
            )
            for s, c, name in SIZES
        ),
        gap=7,
    ),
)
figures = {"stages": stages}


def module():  # what the figure is checked against
    import torch
    from torch import nn

    from cnn_techniques.foundations import vgg16, vgg16_bn

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain, self.normed = (
                vgg16().features[10:17],
                vgg16_bn().features[14:24],
            )

        def forward(self, x):
            return self.plain(x), self.normed(x)

    with torch.device("meta"):
        return Both()
