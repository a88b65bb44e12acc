import base64
import json
import zlib
from pathlib import Path

import numpy as np

from cnn_site.figures import Figure, chain, conv, data, grid, link

contracting = [
    conv(f"{64 << k} channels", f"{s} × {s}", w=104)
    for k, s in enumerate([568, 280, 136, 64])
]
expanding = [
    conv(f"{64 << k} channels", f"{s} × {s}", w=104)
    for k, s in enumerate([388, 196, 100, 52])
]
bottom = conv("1024 channels", "28 × 28")
image, scores = (
    data("image", "1 × 572 × 572", w=104),
    data("scores", "2 × 388 × 388", w=104),
)
figure = Figure(
    "u-net",
    "U-Net",
    "Four levels down, each with two 3×3 convolutions, halve height and width and double the channels, from 64 to 512; "
    "two more make 1024 at the bottom. Four levels up do the reverse, and each also gets the middle of its level's map "
    "from the way down. A 1×1 convolution ends in two scores for every pixel.",
    grid(
        [image, None, scores],
        *[[down, None, up] for down, up in zip(contracting, expanding, strict=True)],
        [None, bottom, None],
        hgap=10,
        same=False,
    ),
    chain(image, contracting[0])
    + chain(*contracting, label="pool")
    + chain(bottom, expanding[3], ports="rb", label="up")
    + chain(*expanding[::-1], ports="tb", label="up")
    + chain(expanding[0], scores, ports="tb", label="1×1")
    + [
        link(down, up, "rl", "crop and concat")
        for down, up in zip(contracting, expanding, strict=True)
    ]
    + [link(contracting[3], bottom, "bl", "pool")],
)


def predictions(result, arguments):
    """Four scenes of the recorded run: image, true classes, and the classes that the network of seed 0 gives."""
    from cnn_lab.data import scenes
    from cnn_site.figures.pictures import Picture, label_map, pictures_svg

    size = arguments["size"]
    kind = {"objects": tuple(arguments["objects"]), "side": tuple(arguments["side"])}
    unseen = scenes(4, size, seed=0, split="test", **kind)
    raw = zlib.decompress(base64.b64decode(result["first"]))
    predicted = np.frombuffer(raw, np.uint8).reshape(4, size, size)
    rows = [
        [Picture("image", image[0].numpy()) for image in unseen.images],
        [Picture("truth", label_map(mask)) for mask in unseen.masks],
        [Picture("prediction", label_map(mask)) for mask in predicted],
    ]
    return pictures_svg(
        "u-net-predictions",
        "Four unseen scenes, their true classes and those predicted",
        "Three rows of four pictures: scenes of handwritten digits, the class of every pixel in one colour a digit, "
        "and the classes that a trained network predicts.",
        [picture for row in rows for picture in row],
        columns=4,
        classes=["", *"0123456789"],
    )


RECORD = Path(__file__).parents[3] / "docs" / "evidence" / "segmentation" / "u-net.json"
measured = json.loads(RECORD.read_text("utf-8")).get("measured", {}).get("scenes")
figures = (
    {"predictions": predictions(measured["result"], measured["arguments"])}
    if measured
    else {}
)
