import json

from cnn_site import ROOT
from cnn_site.figures import Figure, chain, conv, data, grid, link, loss

image, positions, queries = data("image"), data("positions"), data("100 queries")
backbone, projection = conv("ResNet", "2,048 ch · 1/32"), conv("1×1", "256 ch")
encoder = conv("Encoder", "6 layers")
decoder = conv("Decoder", "6 layers")
heads = conv("Class and\nbox heads", "the same for\nevery query")
found, objects = data("100 boxes"), data("objects")
matching = loss("Matching,\nloss")
overview = Figure(
    "detr",
    "DETR on ResNet-50",
    "The map of a ResNet is projected to 256 channels; its cells, with their positions, "
    "go through an encoder of six layers. A decoder of six layers reads them with 100 "
    "learned queries. Two heads make a class and a box of each query; in training these "
    "are matched one to one with the objects of the image.",
    grid(
        [None, objects, matching],
        [None, None, found],
        [None, None, heads],
        [positions, encoder, decoder],
        [None, projection, queries],
        [None, backbone],
        [None, image],
        hgap=26,
    ),
    [
        *chain(image, backbone, projection, encoder, ports="tb"),
        link(positions, encoder, "rl"),
        link(encoder, decoder, "rl"),
        link(queries, decoder, "tb"),
        *chain(decoder, heads, found, matching, ports="tb"),
        link(objects, matching, "rl"),
    ],
)
figure = overview


def predictions(result: dict) -> str:
    """Scenes learnt by heart, with what the recorded network of seed 0 finds in them."""
    from cnn_lab.scene_trial import trial_scenes
    from cnn_site.figures.pictures import Mark, Picture, pictures_svg

    first = result["arms"]["detr"]["predictions"][:6]
    seen = trial_scenes(len(first), 0)
    cells = []
    for image, labels, found in zip(seen.images, seen.labels, first, strict=True):
        marks = [
            Mark(box, str(label))
            for box, label in zip(found["boxes"], found["labels"], strict=True)
        ]
        wanted = " ".join(str(digit) for digit in sorted(labels.tolist()))
        cells.append(Picture(f"truth: {wanted}", image[0], marks))
    return pictures_svg(
        "detr-predictions",
        "DETR on scenes that it has learnt by heart",
        f"{len(first)} of the training scenes, composed of handwritten digits, with the "
        "boxes and classes found with a score above one half.",
        cells,
        columns=3,
    )


record = ROOT / "docs/evidence/detection/detr.json"
measured = json.loads(record.read_text()).get("measured", {}) if record.exists() else {}
if "trial" in measured:
    figures = {"predictions": predictions(measured["trial"]["result"])}
