import json

from cnn_site import ROOT
from cnn_site.figures import Figure, chain, conv, data, grid, link

given = {k: data(f"P{k} in", f"1/{2**k}", w=74) for k in (3, 4, 5, 6, 7)}
node = {k: conv(f"P{k} td", "fuse, conv", w=84) for k in (4, 5, 6)}
node[3] = conv("P3 node", "fuse, conv", w=84)
out = {k: conv(f"P{k} out", "fuse, conv", w=84) for k in (4, 5, 6, 7)}
out[3] = data("P3 out", w=84)
overview = Figure(
    "efficientdet",
    "One BiFPN layer on P3 to P7",
    "On the left the levels that come in. The middle column goes from the coarsest level "
    "to the finest: each node fuses its level with the coarser result, upsampled by two. "
    "The right column goes back: each node fuses its level as it came in, the node of the "
    "middle column, where there is one, and the finer result, max-pooled by two.",
    grid(
        [given[7], None, out[7]],
        *[
            row
            for k in (6, 5, 4)
            for row in ([given[k], node[k], None], [None, None, out[k]])
        ],
        [given[3], node[3], out[3]],
        hgap=40,
        vgap=20,
    ),
    [
        link(given[7], out[7], "rl"),
        link(given[7], node[6], "rt"),
        *chain(node[6], node[5], node[4], node[3], ports="bt"),
        *[link(given[k], node[k], "rl") for k in (6, 5, 4, 3)],
        *[link(given[k], out[k], "bl") for k in (6, 5, 4)],
        *[link(node[k], out[k], "rl") for k in (6, 5, 4, 3)],
        *chain(out[3], out[4], out[5], out[6], out[7], ports="tb"),
    ],
)
figure = overview


def predictions(result: dict) -> str:
    """Unseen scenes with what the recorded network of seed 0 finds in them."""
    from cnn_lab.scene_trial import trial_scenes
    from cnn_site.figures.pictures import Mark, Picture, pictures_svg

    first = result["arms"]["efficientdet"]["predictions"][:6]
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
        "efficientdet-predictions",
        "EfficientDet on scenes it has not seen",
        f"{len(first)} scenes composed of handwritten digits of the test part, with the "
        "boxes and classes found with a score above one half.",
        cells,
        columns=3,
    )


record = ROOT / "docs/evidence/detection/efficientdet.json"
measured = json.loads(record.read_text()).get("measured", {}) if record.exists() else {}
if "trial" in measured:
    figures = {"predictions": predictions(measured["trial"]["result"])}
