import json
from pathlib import Path

from cnn_site.figures import Figure, around, conv, data, gate, maps, stack


def branch(activation, *gates):
    """The branch of a block of 24 channels, six times as wide inside."""
    return stack(
        conv("Conv 1×1, 144", f"BN · {activation}"),
        conv("Depthwise 3×3, 144", f"BN · {activation}"),
        *gates,
        conv("Conv 1×1, 24", "BN"),
    )


figure = Figure(
    "efficientnet",
    "MBConv block of EfficientNet",
    "A 1×1 convolution widens 24 channels to 144, a depthwise 3×3 convolution filters "
    "each of them by itself, squeeze-and-excitation scales them, and a 1×1 convolution "
    "narrows them to 24. Beside them a bare line carries the input to the sum; nothing "
    "follows the sum.",
    stack(
        data("x, 24 × H × W"),
        around(branch("SiLU", gate("Squeeze-excitation"))),
        data("24 × H × W"),
        same=False,
    ),
)

lite = Figure(
    "efficientnet-lite",
    "Block of EfficientNet-Lite0",
    "The same block without squeeze-and-excitation, and with ReLU6 in place of SiLU.",
    stack(
        data("x, 24 × H × W"), around(branch("ReLU6")), data("24 × H × W"), same=False
    ),
)

SIZES = [
    (224, 3, "image"),
    (112, 16, "1 block"),
    (56, 24, "2 blocks"),
    (28, 40, "2 blocks"),
    (14, 112, "3 + 3 blocks"),
    (7, 1280, "4 + 1, 1×1"),
]
stages = Figure(
    "efficientnet-stages",
    "Feature maps of EfficientNet-B0",
    "Height and width halve from 224 to 7, while the channels grow from 3 to 1280.",
    maps(SIZES, gap=9),
)
figures = {"lite": lite, "stages": stages}


def module():  # what the figure of the block is checked against
    from cnn_techniques.modern import MBConv

    return MBConv(24, 24)


def leaves():
    from cnn_techniques.attention import SqueezeExcitation

    return (SqueezeExcitation,)


def photos(result, arguments):
    """The photos as the network sees them, each with its likeliest class."""
    import skimage.data
    from PIL import Image

    from cnn_site.figures.pictures import Picture, pictures_svg

    cells = []
    for name in arguments["photos"]:
        image = Image.fromarray(getattr(skimage.data, name)())
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        pixels = (arguments["pixels"], arguments["pixels"])
        seen = square.resize(pixels, Image.Resampling.BICUBIC)
        cells.append(Picture(result["arms"][name]["class1"], seen))
    return pictures_svg(
        "efficientnet-photos",
        "Three photos and the likeliest class of each",
        "A cat's face, a cup of coffee seen from above, and a rocket that lifts off, "
        "each over the class that EfficientNet-Lite0 finds likeliest.",
        cells,
        columns=3,
    )


RECORD = Path(__file__).parents[3] / "docs/evidence/modern/efficientnet.json"
record = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
if "photos" in record.get("measured", {}):
    found = record["measured"]["photos"]
    figures["photos"] = photos(found["result"], found["arguments"])
