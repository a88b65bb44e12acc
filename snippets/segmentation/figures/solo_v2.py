import json

from cnn_site import ROOT
from cnn_site.figures import Figure, chain, conv, data, grid, link

image = data("image", "1/1", w=104)
body = conv("ResNet-50", "C2 to C5 · 1/4 to 1/32", w=148)
pyramid = conv("Feature pyramid", "P2 to P6 · 256 ch", w=148)
branch = conv("Mask branch", "P2 to P5, added at 1/4", w=148)
features = data("Mask features", "256 × H/4 × W/4", w=148)
cells = conv("Head on S × S cells", "S = 40, 36, 24, 16, 12", w=148)
kernels = data("S² × K logits", "and S² kernels of 256", w=148)
product = conv("1×1 convolution", "with those kernels", w=148)
masks = data("masks", "one per kernel", w=148)
figure = Figure(
    "solo-v2",
    "SOLOv2",
    "A pyramid is read twice. The mask branch adds its levels up at a quarter of the "
    "image; the head reads each level as a grid of cells, and gives for every cell the "
    "logits of the classes and the numbers of one kernel. The kernels of sure cells, "
    "applied to the mask features, are the masks.",
    grid(
        [image, None],
        [body, None],
        [pyramid, cells],
        [branch, kernels],
        [features, None],
        [product, None],
        [masks, None],
        hgap=40,
        same=False,
    ),
    [
        *chain(image, body, pyramid, branch, features, product, masks),
        link(pyramid, cells, "rl"),
        link(cells, kernels, "bt"),
        link(kernels, product, "lr", "of sure cells"),
    ],
)


def predictions(result: dict) -> str:
    """Unseen scenes with the masks that the recorded network of seed 0 finds."""
    import torch

    from cnn_lab.scene_trial import trial_scenes, unpacked
    from cnn_site.figures.pictures import Picture, label_map, pictures_svg

    first = result["arms"]["solo_v2"]["predictions"][:4]
    seen = trial_scenes(len(first), 0, "test")
    drawn = []
    for found in first:  # the surest is drawn last, over the others
        labels = torch.zeros(96, 96, dtype=torch.long)
        masks = unpacked(found["masks"], -1, 96, 96).bool()
        for mask, label in zip(masks.flip(0), found["labels"][::-1], strict=True):
            labels[mask] = label + 1
        drawn.append(labels)
    rows = [
        [Picture("image", image[0].numpy()) for image in seen.images],
        [Picture("truth", label_map(mask)) for mask in seen.masks],
        [Picture("found", label_map(mask.numpy())) for mask in drawn],
    ]
    return pictures_svg(
        "solo-v2-predictions",
        "SOLOv2 on scenes it has not seen",
        f"{len(first)} scenes composed of handwritten digits of the test part: the image, "
        "the true digit of every pixel, and the masks found with a score above one half.",
        [picture for row in rows for picture in row],
        columns=4,
        classes=["", *"0123456789"],
    )


record = ROOT / "docs/evidence/segmentation/solo-v2.json"
measured = json.loads(record.read_text()).get("measured", {}) if record.exists() else {}
if "trial" in measured:
    figures = {"predictions": predictions(measured["trial"]["result"])}
