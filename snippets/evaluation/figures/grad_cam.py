"""Two photos side by side and the maps of both classes, drawn from the record: no weights are needed."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from cnn_site.figures.pictures import pictures_svg, viridis

CLASSES = {"chelsea": "tiger cat", "coffee": "espresso", "rocket": "missile"}
LAYERS = ("last", "stage6", "stage5", "stage3")


def collage(left, right, pixels):
    """Both photos' central squares, as the recorded run saw them."""
    import skimage.data

    halves = []
    for name in (left, right):
        image = Image.fromarray(getattr(skimage.data, name)())
        side = min(image.size)
        x, y = (image.width - side) // 2, (image.height - side) // 2
        cut = image.crop((x, y, x + side, y + side))
        halves.append(cut.resize((pixels, pixels), Image.Resampling.BICUBIC))
    return Image.fromarray(np.concatenate([np.array(half) for half in halves], 1))


def laid_over(photo, packed):
    """The map in colours over the photo's greys."""
    raw = zlib.decompress(base64.b64decode(packed["bytes"]))
    levels = np.frombuffer(raw, np.uint8).reshape(packed["shape"])
    sized = Image.fromarray(levels).resize(photo.size, Image.Resampling.BILINEAR)
    grey = photo.convert("L").convert("RGB")
    return Image.blend(grey, viridis(np.array(sized), 0, 255), 0.6)


def both_classes(maps, pixels):
    cells = []
    for key in maps:
        *names, side = key.split()
        if side != "0":
            continue
        photo = collage(*names, pixels)
        cells.append(("image", photo))
        for number, name in enumerate(names):
            shown = laid_over(photo, maps[f"{names[0]} {names[1]} {number}"])
            cells.append((CLASSES[name], shown))
    return pictures_svg(
        "grad-cam",
        "Two photos side by side, and the map of each one's class",
        "Three rows: a cat and a cup, a cup and a rocket, a rocket and a cat. Beside each the map of the left photo's "
        "class is bright on the left photo, and that of the right photo's class on the right one.",
        cells,
        columns=3,
        quality=50,
    )


def layers(maps, arms, pixels):
    photo = collage("chelsea", "coffee", pixels)
    cells = [
        (f"{arms[name]['name']}, {arms[name]['size']}", laid_over(photo, maps[name]))
        for name in LAYERS
    ]
    return pictures_svg(
        "grad-cam-layers",
        "The map of one class at four layers",
        "A cat and a cup side by side, four times. At the last convolution the map of tiger cat is bright on the cat; at "
        "stages 5 and 3 it is bright in spots of both photos.",
        cells,
        columns=2,
        quality=50,
    )


RECORD = Path(__file__).parents[3] / "docs/evidence/evaluation/grad-cam.json"
found = json.loads(RECORD.read_text("utf-8"))["measured"]["collages"]
result, size = found["result"], found["arguments"]["pixels"]
pairs = {key: value for key, value in result["maps"].items() if " " in key}
svg = both_classes(pairs, size)
figures = {"layers": layers(result["maps"], result["arms"], size)}
