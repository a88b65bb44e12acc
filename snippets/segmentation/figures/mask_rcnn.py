import torch

from cnn_site.figures import Figure, chain, conv, data, grid, link
from cnn_site.figures.scenes import found_in_scenes

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
figures = found_in_scenes("segmentation/mask-rcnn", "Mask R-CNN")
