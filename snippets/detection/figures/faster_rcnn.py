import json

from cnn_site import ROOT
from cnn_site.figures import Figure, chain, conv, data, grid, link

image = data("image", "1/1", w=104)
body = conv("ResNet-50", "C2 to C5 · 1/4 to 1/32", w=148)
pyramid = conv("Feature pyramid", "P2 to P6 · 256 ch", w=148)
rpn = conv("RPN head", "3×3, then 1×1", w=130)
proposals = data("1,000 proposals", "NMS at 0.7", w=130)
pool = conv("RoIAlign", "256 × 7 × 7 each", w=148)
mlp = conv("Two linear layers", "1024 features", w=148)
classes = data("K + 1 logits", w=130)
boxes = data("K + 1 boxes", w=130)
overview = Figure(
    "faster-rcnn",
    "Faster R-CNN on a feature pyramid",
    "The backbone's maps become five pyramid levels. A small head reads every level and "
    "gives an objectness and four offsets for each anchor; the best boxes that remain "
    "after suppression are the proposals. Of each, 7 × 7 positions of the level that "
    "suits its size are read, and two linear layers end in class logits and boxes.",
    grid(
        [image, None],
        [body, None],
        [pyramid, rpn],
        [pool, proposals],
        [mlp, classes],
        [None, boxes],
        hgap=44,
        same=False,
    ),
    [
        *chain(image, body, pyramid),
        link(pyramid, rpn, "rl"),
        link(rpn, proposals, "bt"),
        link(pyramid, pool, "bt", "P2–P5"),
        link(proposals, pool, "lr"),
        link(pool, mlp, "bt"),
        link(mlp, classes, "rl"),
        link(mlp, boxes, "bl"),
    ],
)
figure = overview


def predictions(result: dict) -> str:
    """Unseen scenes with what the recorded network of seed 0 finds in them."""
    from cnn_lab.scene_trial import trial_scenes
    from cnn_site.figures.pictures import Mark, Picture, pictures_svg

    first = result["arms"]["faster_rcnn"]["predictions"][:6]
    seen = trial_scenes(len(first), 0, "test")
    cells = []
    for image, labels, found in zip(seen.images, seen.labels, first, strict=True):
        marks = [
            Mark(box, str(label))
            for box, label in zip(found["boxes"], found["labels"], strict=True)
        ]
        wanted = " ".join(str(digit) for digit in sorted(labels.tolist()))
        cells.append(Picture(f"truth: {wanted}", image[0], marks))
    return pictures_svg(
        "faster-rcnn-predictions",
        "Faster R-CNN on scenes it has not seen",
        f"{len(first)} scenes composed of handwritten digits of the test part, with the "
        "boxes and classes found with a score above one half.",
        cells,
        columns=3,
    )


record = ROOT / "docs/evidence/detection/faster-rcnn.json"
measured = json.loads(record.read_text()).get("measured", {}) if record.exists() else {}
if "trial" in measured:
    figures = {"predictions": predictions(measured["trial"]["result"])}
