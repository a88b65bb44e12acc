import torch

from cnn_techniques.detection import (
    anchor_shapes,
    box_iou,
    decode_boxes,
    encode_boxes,
    grid_anchors,
    match_anchors,
)

# --8<-- [start:usage]
shapes = anchor_shapes(sizes=(32, 40, 50), ratios=(0.5, 1, 2))  # nine in each cell
anchors = grid_anchors(shapes, grid=(20, 30), stride=8)  # an image of 160 x 240
boxes = torch.tensor([[40.0, 30.0, 80.0, 70.0], [150.0, 60.0, 158.0, 100.0]])

match = match_anchors(boxes, anchors, low=0.4, high=0.5)
for index, meaning in (
    (-1, "background"),
    (-2, "neither"),
    (0, "first"),
    (1, "second"),
):
    print(f"{meaning}: {(match == index).sum():,} anchors")
print(
    "largest overlap:", [round(v, 2) for v in box_iou(boxes, anchors).amax(1).tolist()]
)

positive = match >= 0
targets = encode_boxes(boxes[match[positive]], anchors[positive])  # what to predict
print("spread of the targets:", [round(v, 2) for v in targets.std(dim=0).tolist()])
back = decode_boxes(targets, anchors[positive])
print("decoded again:", torch.allclose(back, boxes[match[positive]], atol=1e-3))
# --8<-- [end:usage]
