from cnn_site.figures import Figure, chain, conv, data, grid, link, op
from cnn_site.figures.scenes import labelled_scenes

image, scores = (
    data("image", "3 × 500 × 500", w=104),
    data("scores", "21 × 500 × 500", w=156),
)
downward = [
    conv("pool3", "256 × 88 × 88", w=104),
    conv("pool4", "512 × 44 × 44", w=104),
    conv("fc7", "4096 × 16 × 16", w=104),
]
sums = [op("+"), op("+"), data("score", "21 × 16 × 16")]
figure = Figure(
    "fcn",
    "FCN-8s",
    "VGG-16 made of convolutions runs down the left side, to pool3, pool4 and fc7. A 1×1 convolution turns each of the "
    "three into one score per class. The coarsest scores are doubled in size and those of pool4 added, doubled again "
    "and those of pool3 added, and enlarged eightfold to the image.",
    grid(
        [image, scores],
        *[[left, right] for left, right in zip(downward, sums, strict=True)],
        hgap=74,
        vgap=34,
        same=False,
    ),
    [
        *chain(image, *downward),
        link(downward[0], sums[0], "rl", "1×1, crop 9"),
        link(downward[1], sums[1], "rl", "1×1, crop 5"),
        link(downward[2], sums[2], "rl", "1×1"),
        *chain(sums[2], sums[1], sums[0], ports="tb", label="2×"),
        *chain(sums[0], scores, ports="tb", label="8×, crop 31"),
    ],
)

pixels = data("image", "3 × 520 × 520", w=116)
stages = [
    conv("layer2", "512 × 65 × 65", w=116),
    conv("layer3, dilated", "1024 × 65 × 65", w=116),
    conv("layer4, dilated", "2048 × 65 × 65", w=116),
]
heads = [conv("head", "21 × 65 × 65", w=104), conv("head", "21 × 65 × 65", w=104)]
outs = [data("aux", "8×"), data("out", "8×")]
dilated = Figure(
    "fcn-dilated",
    "FCN on a dilated ResNet-50",
    "The image passes the stem and the first two stages of ResNet-50, which end at an eighth of its sides. The last "
    "two stages keep that size. A head on the last stage gives the scores, one on the stage before the auxiliary "
    "scores; both are enlarged eightfold to the image.",
    grid(
        [pixels],
        [stages[0]],
        [stages[1], heads[0], outs[0]],
        [stages[2], heads[1], outs[1]],
        hgap=28,
        vgap=26,
        same=False,
    ),
    chain(pixels, *stages)
    + [link(a, b, "rl") for a, b in zip(stages[1:], heads, strict=True)]
    + [link(a, b, "rl") for a, b in zip(heads, outs, strict=True)],
)
figures = {"dilated": dilated, **labelled_scenes("segmentation/fcn", "FCN")}
