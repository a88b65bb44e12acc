import json

from cnn_site import ROOT
from cnn_site.figures import Figure, conv, data, fan, op, pool, stack

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


def predictions(row: dict) -> str:
    """Four unseen scenes, their classes, and those that the recorded network of seed 0 gives."""
    from cnn_lab.scene_trial import trial_scenes, unpacked
    from cnn_site.figures.pictures import Picture, label_map, pictures_svg

    unseen = trial_scenes(4, 0, "test")
    predicted = unpacked(row["first"], 4, 96, 96).numpy()
    rows = [
        [Picture("image", image[0].numpy()) for image in unseen.images],
        [Picture("truth", label_map(mask)) for mask in unseen.masks],
        [Picture("prediction", label_map(mask)) for mask in predicted],
    ]
    return pictures_svg(
        "pspnet-predictions",
        "Four unseen scenes, their true classes and those predicted",
        "Three rows of four pictures: scenes of handwritten digits, the class of every pixel in one colour per digit, "
        "and the classes that a trained PSPNet predicts.",
        [picture for row in rows for picture in row],
        columns=4,
        classes=["", *"0123456789"],
    )


record = ROOT / "docs/evidence/segmentation/pspnet.json"
measured = json.loads(record.read_text()).get("measured", {}) if record.exists() else {}
figures = (
    {"predictions": predictions(measured["trial"]["result"]["arms"]["pspnet"])}
    if "trial" in measured
    else {}
)
