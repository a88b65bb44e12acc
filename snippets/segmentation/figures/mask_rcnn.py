import json

import torch

from cnn_site import ROOT
from cnn_site.figures import Figure, chain, conv, data, grid, link

image = data("image", "1/1", w=104)
pyramid = conv("Feature pyramid", "P2 to P5 · 256 ch", w=148)
proposals = data("proposals", "RPN", w=120)
first = conv("RoIAlign", "256 × 7 × 7 each", w=148)
boxes = conv("Second stage", "Faster R-CNN", w=148)
found = data("boxes, labels", "at most 100", w=120)
second = conv("RoIAlign", "256 × 14 × 14 each", w=148)
head = conv("4 × conv 3×3", "ReLU · 256 ch", w=148)
up = conv("Up-conv 2×2", "ReLU · 28 × 28", w=148)
logits = conv("conv 1×1", "K + 1 ch", w=148)
masks = data("masks", "28 × 28 each", w=120)
figure = Figure(
    "mask-rcnn",
    "Mask R-CNN",
    "Faster R-CNN finds boxes and labels on a feature pyramid. In evaluation each of these "
    "boxes is read from the pyramid once more, at 14 × 14 positions. Four 3×3 convolutions, "
    "an up-convolution and a 1×1 convolution give 28 × 28 logits for each class; of them "
    "the channel of the box's label is the mask.",
    grid(
        [image, None],
        [pyramid, proposals],
        [first, None],
        [boxes, found],
        [second, None],
        [head, None],
        [up, None],
        [logits, masks],
        hgap=34,
        same=False,
    ),
    [
        *chain(image, pyramid, first, boxes),
        link(pyramid, proposals, "rl"),
        link(proposals, first, "br"),
        link(boxes, found, "rl"),
        link(found, second, "br"),
        link(pyramid, second, "ll"),
        *chain(second, head, up, logits),
        link(logits, masks, "rl"),
        link(found, masks, "bt", "label"),
    ],
)


def predictions(result: dict) -> str:
    """Unseen scenes with the masks that the recorded network of seed 0 draws in them."""
    from cnn_lab.scene_trial import trial_scenes, unpacked
    from cnn_site.figures.pictures import Mark, Picture, label_map, pictures_svg

    found = result["arms"]["mask_rcnn"]["predictions"][:6]
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
        "mask-rcnn-predictions",
        "Mask R-CNN on scenes it has not seen",
        f"{len(found)} scenes composed of handwritten digits of the test part, with the "
        "masks, boxes and classes found with a score above one half.",
        cells,
        columns=3,
    )


record = ROOT / "docs/evidence/segmentation/mask-rcnn.json"
measured = json.loads(record.read_text()).get("measured", {}) if record.exists() else {}
if "trial" in measured:
    figures = {"predictions": predictions(measured["trial"]["result"])}
