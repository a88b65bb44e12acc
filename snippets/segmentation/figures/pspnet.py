from cnn_site.figures import Figure, conv, data, fan, op, pool, stack
from cnn_site.figures.scenes import labelled_scenes

BINS = (1, 2, 3, 6)
levels = [pool(f"Mean\n{n} × {n}", "2048 ch", w=68) for n in BINS]
reduced = [conv("Conv 1×1", "512 · BN\nReLU", w=68) for _ in BINS]
enlarged = [pool("Bilinear", "60 × 60", w=68) for _ in BINS]
stages = [
    conv("Stem, layer1, layer2", "512 × 60 × 60"),
    conv("layer3, dilated", "1024 × 60 × 60"),
    conv("layer4, dilated", "2048 × 60 × 60"),
]
figure = Figure(
    "pspnet",
    "PSPNet on ResNet-50",
    "ResNet-50 with dilation in its last two stages makes 2048 channels at an eighth of the image's sides. They are "
    "averaged over 1, 4, 9 and 36 parts of the image; of each a 1×1 convolution makes 512 channels, which are "
    "enlarged to the size before. The feature map and the four results are concatenated to 4096 channels; a 3×3 "
    "convolution, a 1×1 convolution and an eightfold enlargement give the scores. Auxiliary scores leave after layer3.",
    stack(
        data("image, 3 × 473 × 473"),
        stages[0],
        stages[1],
        "to the auxiliary head",
        stages[2],
        fan(
            data("itself", w=46),
            *[stack(*level) for level in zip(levels, reduced, enlarged, strict=True)],
            merge=op("Concatenate"),
            gap=8,
        ),
        "4096 × 60 × 60",
        conv("Conv 3×3", "512 · BN · ReLU · dropout"),
        conv("Conv 1×1", "21 × 60 × 60"),
        pool("Bilinear, 8×"),
        data("scores, 21 × 473 × 473"),
        same=False,
    ),
)
figures = labelled_scenes("segmentation/pspnet", "PSPNet")
