import skimage.data
import torch

from cnn_site.figures.pictures import CLASSES, Mark, Picture, pictures_svg
from cnn_techniques.detection import (
    anchor_shapes,
    box_iou,
    encode_boxes,
    grid_anchors,
    match_anchors,
)

photo = torch.tensor(skimage.data.coffee())[::2, ::2].permute(2, 0, 1) / 255
cup = torch.tensor([[86.0, 9.0, 204.0, 154.0]])
anchors = grid_anchors(anchor_shapes((80, 101, 127), (0.5, 1.0, 2.0)), (13, 19), 16)
iou = box_iou(cup, anchors)[0]
matched = anchors[match_anchors(cup, anchors, 0.3, 0.7) == 0]
cell, best = anchors.view(13, 19, 9, 4)[6, 9], anchors[iou.argmax()]
code = encode_boxes(cup, best[None])[0].tolist()


def marks(boxes, colour=CLASSES[1]):
    return [Mark(box.tolist(), colour=colour) for box in boxes]


truth = marks(cup, CLASSES[2])
cells = [
    Picture("the nine anchors of one cell", photo, marks(cell)),
    Picture(f"matched to the cup, of {len(anchors):,}: {len(matched)}", photo, marks(matched) + truth),
    Picture("code of the cup: " + ", ".join(f"{t:.2f}" for t in code), photo, marks([best]) + truth),
]  # fmt: skip
svg = pictures_svg(
    "anchors-and-box-coding",
    "Anchors on a photo of a cup: those of one cell, those matched to the cup, and the best one",
    "Three copies of a photo of a cup on a table. On the first are nine boxes of three forms and three sizes around "
    "one point. On the second are the boxes of all cells that overlap the cup's box by 0.7 or more, and that box. On "
    "the third are the one that overlaps it most, and the cup's own box, which differs from it a little.",
    cells,
    columns=1,
    quality=30,
)
