import json

import torch

from cnn_site import ROOT
from cnn_site.figures import Figure, chain, conv, data, grid, link, op

levels = data("P3 to P7", "pyramid")
p3 = data("P3", "256 ch · 1/8")
proto = conv("Protonet", "3 × conv 3×3,\n2×, conv 3×3,\nconv 1×1")
head = conv("Head", "conv 3×3, then\nthree conv 3×3")
prototypes = data("Prototypes", "32 ch · 1/4")
detections = data("Detections", "class, box,\n32 coefficients")
nms = op("Fast NMS", w=80)
mixed = op("Σ")
masks = data("Masks", "σ, then cropped\nwith the boxes")
overview = Figure(
    "yolact",
    "YOLACT",
    "P3 of the feature pyramid is read by the protonet, which gives 32 prototypes at a "
    "quarter of the image's height and width. All levels are read by one head, which "
    "gives each anchor a class, a box and 32 coefficients. After Fast NMS, each "
    "detection's mask is the sum of the prototypes with its coefficients.",
    grid(
        [p3, levels],
        [proto, head],
        [prototypes, detections],
        [mixed, nms],
        [masks, None],
        hgap=40,
        same=False,
    ),
    chain(p3, proto, prototypes, mixed, masks, ports="bt")
    + chain(levels, head, detections, nms, ports="bt")
    + [link(nms, mixed, "lr")],
)
figure = overview


def predictions(result: dict) -> str:
    """Unseen scenes with the masks that the recorded network of seed 0 finds in them."""
    from cnn_lab.scene_trial import trial_scenes, unpacked
    from cnn_site.figures.pictures import Mark, Picture, label_map, pictures_svg

    found = result["arms"]["yolact"]["predictions"][:6]
    seen = trial_scenes(len(found), 0, "test")
    cells = []
    for image, labels, one in zip(seen.images, seen.labels, found, strict=True):
        masks = unpacked(one["masks"], -1, *image.shape[1:])
        colours = torch.zeros(image.shape[1:], dtype=torch.int64)
        for n in reversed(range(len(masks))):  # the surest lies above the others
            colours[masks[n] > 0] = one["labels"][n] + 1
        marks = [
            Mark(box, str(label))
            for box, label in zip(one["boxes"], one["labels"], strict=True)
        ]
        wanted = " ".join(str(digit) for digit in sorted(labels.tolist()))
        picture = label_map(colours, over=image[0])
        cells.append(Picture(f"truth: {wanted}", picture, marks))
    return pictures_svg(
        "yolact-predictions",
        "YOLACT on scenes it has not seen",
        f"{len(found)} scenes composed of handwritten digits of the test part, with the "
        "masks, boxes and classes found with a score above one half.",
        cells,
        columns=3,
    )


record = ROOT / "docs/evidence/segmentation/yolact.json"
measured = json.loads(record.read_text()).get("measured", {}) if record.exists() else {}
if "trial" in measured:
    figures = {"predictions": predictions(measured["trial"]["result"])}
