import json

from cnn_site import ROOT
from cnn_site.figures import Figure, chain, conv, data, grid, link, op

c = {k: conv(f"C{k}", f"{256 << (k - 2)} ch · 1/{2**k}") for k in (3, 4, 5)}
m = {5: data("M5", w=34), 4: op("+"), 3: op("+")}
p = {k: data(f"P{k}", f"1/{2**k}") for k in (3, 4, 5, 6, 7)}
image, heads = (
    data("image"),
    conv("Class and\nbox heads", "the same for\nevery level", rows=5),
)
overview = Figure(
    "retinanet",
    "RetinaNet on ResNet-50",
    "The last three stages of the backbone are projected to 256 channels and added to "
    "the upsampled coarser level; a 3×3 convolution makes P3 to P5. Strided "
    "convolutions make P6 and P7. The same two heads read every level.",
    grid(
        [None, None, p[7], heads],
        [None, None, p[6]],
        *[[c[k], m[k], p[k]] for k in (5, 4, 3)],
        [image],
        hgap=31,
    ),
    chain(image, c[3], c[4], c[5], ports="tb")
    + chain(m[5], m[4], m[3], label="2×")
    + [link(c[k], m[k], "rl", "1×1") for k in m]
    + [link(m[k], p[k], "rl", "3×3") for k in m]
    + [link(p[5], p[6], "tb", "3×3, /2"), link(p[6], p[7], "tb", "3×3, /2")]
    + [link(p[k], heads, "rl") for k in p],
)
figure = overview


def predictions(result: dict) -> str:
    """Unseen scenes with what the recorded network of seed 0 finds in them."""
    from cnn_lab.data import scenes
    from cnn_site.figures.pictures import Mark, Picture, pictures_svg

    first = result["predictions"]
    settings = result["size"], 0, "test", result["objects"], result["side"]
    seen = scenes(len(first), *settings)
    cells = []
    for image, truth, labels, found in zip(
        seen.images, seen.boxes, seen.labels, first, strict=True
    ):
        marks = [
            Mark(box, str(label))
            for box, label in zip(found["boxes"], found["labels"], strict=True)
        ]
        wanted = " ".join(str(digit) for digit in sorted(labels.tolist()))
        assert len(truth) == len(labels)
        cells.append(Picture(f"truth: {wanted}", image[0], marks))
    return pictures_svg(
        "retinanet-predictions",
        "RetinaNet on scenes it has not seen",
        f"{len(first)} scenes composed of handwritten digits of the test part, with the "
        "boxes and classes found with a score above one half.",
        cells,
        columns=3,
    )


record = ROOT / "docs/evidence/detection/retinanet.json"
measured = json.loads(record.read_text()).get("measured", {}) if record.exists() else {}
if "scenes" in measured:
    figures = {"predictions": predictions(measured["scenes"]["result"])}
