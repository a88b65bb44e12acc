import json

from cnn_site import ROOT
from cnn_site.figures import Figure, conv, data, grid, link

level = data("P3 to P7", "each alone")
classes = conv("Class tower", "4 × conv 3×3,\ngroup norm, ReLU")
boxes = conv("Box tower", "4 × conv 3×3,\ngroup norm, ReLU")
logits = data("class", "K logits")
ltrb = data("l, t, r, b", "≥ 0, in strides")
centerness = data("centre-ness", "1 logit")
overview = Figure(
    "fcos",
    "The two heads of FCOS",
    "Each level of the feature pyramid, P3 to P7, is read by the same two towers of four "
    "convolutions with group norm and ReLU. The class tower ends in K logits per cell. "
    "The box tower ends in the four distances l, t, r, b and in the centre-ness.",
    grid(
        [None, classes, logits],
        [level],
        [None, boxes, ltrb],
        [None, None, centerness],
        hgap=30,
    ),
    [
        link(level, classes, "rl"),
        link(level, boxes, "rl"),
        link(classes, logits, "rl"),
        link(boxes, ltrb, "rl"),
        link(boxes, centerness, "rl"),
    ],
)
figure = overview


def predictions(result: dict) -> str:
    """Unseen scenes with what the recorded network of seed 0 finds in them."""
    from cnn_lab.scene_trial import trial_scenes
    from cnn_site.figures.pictures import Mark, Picture, pictures_svg

    first = result["arms"]["fcos"]["predictions"][:6]
    seen = trial_scenes(200, 0, "test")
    cells = []
    for image, labels, found in zip(seen.images, seen.labels, first, strict=False):
        marks = [
            Mark(box, str(label))
            for box, label in zip(found["boxes"], found["labels"], strict=True)
        ]
        wanted = " ".join(str(digit) for digit in sorted(labels.tolist()))
        cells.append(Picture(f"truth: {wanted}", image[0], marks))
    return pictures_svg(
        "fcos-predictions",
        "FCOS on scenes it has not seen",
        f"{len(first)} scenes composed of handwritten digits of the test part, with the "
        "boxes and classes found with a score above one half.",
        cells,
        columns=3,
    )


record = ROOT / "docs/evidence/detection/fcos.json"
measured = json.loads(record.read_text()).get("measured", {}) if record.exists() else {}
if "trial" in measured:
    figures = {"predictions": predictions(measured["trial"]["result"])}
