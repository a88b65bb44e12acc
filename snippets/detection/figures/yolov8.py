import json

from cnn_site import ROOT
from cnn_site.figures import Figure, chain, conv, data, grid, link, pool

c = {k: conv(f"C{k}", f"C2f, 1/{2**k}") for k in (3, 4, 5)}
sppf = pool("SPPF")
m = {k: conv("C2f", f"1/{2**k}", w=58) for k in (4, 3)}
n = {5: conv("C2f", "1/32", w=58), 4: conv("C2f", "1/16", w=58), 3: data("P3", w=58)}
image = data("image")
heads = conv("Box and\nclass\nheads", "own ones\nper level", rows=3)
overview = Figure(
    "yolov8",
    "YOLOv8",
    "The backbone's stages C3 to C5 are C2f blocks behind convolutions of stride 2. SPPF "
    "follows the last. On the way down, each level is upsampled by two, concatenated "
    "with the stage of its size and read by a C2f block; on the way up, strided "
    "convolutions lead back. Two heads of its own read each level of 1/8, 1/16 and 1/32.",
    grid(
        [c[5], sppf, n[5], heads],
        [c[4], m[4], n[4]],
        [c[3], m[3], n[3]],
        [image],
        hgap=24,
        vgap=34,
    ),
    chain(image, c[3], c[4], c[5], ports="tb")
    + chain(sppf, m[4], m[3], ports="bt", label="2×")
    + chain(n[3], n[4], n[5], ports="tb", label="/2")
    + [link(c[5], sppf, "rl"), link(sppf, n[5], "rl")]
    + [link(c[k], m[k], "rl") for k in m]
    + [link(m[k], n[k], "rl") for k in m]
    + [link(n[k], heads, "rl") for k in n],
)
figure = overview


def predictions(result: dict) -> str:
    """Unseen scenes with what the recorded network of seed 0 finds in them."""
    from cnn_lab.scene_trial import trial_scenes
    from cnn_site.figures.pictures import Mark, Picture, pictures_svg

    first = result["arms"]["yolov8"]["predictions"][:6]
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
        "yolov8-predictions",
        "YOLOv8 on scenes it has not seen",
        f"{len(first)} scenes composed of handwritten digits of the test part, with the "
        "boxes and classes found with a score above one half.",
        cells,
        columns=3,
    )


record = ROOT / "docs/evidence/detection/yolov8.json"
measured = json.loads(record.read_text()).get("measured", {}) if record.exists() else {}
if "trial" in measured:
    figures = {"predictions": predictions(measured["trial"]["result"])}
