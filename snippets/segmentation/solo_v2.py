# What the modules of the page's block import, once.
# --8<-- [start:imports]
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

# --8<-- [end:imports]
from cnn_techniques.detection import FeaturePyramidNetwork
from cnn_techniques.modern import BasicBlock, ResNet
from cnn_techniques.segmentation import (
    SOLOv2,
    SOLOv2Backbone,
    solo_v2_assign,
    solo_v2_detections,
    solo_v2_loss,
)

# --8<-- [start:usage]
# Rounding errors grow with every step: float32 would end elsewhere on other machines.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
body = ResNet(BasicBlock, (1, 1, 1), width=8, in_channels=1)
backbone = SOLOv2Backbone(body, FeaturePyramidNetwork([8, 16, 32], 16))
grids, ranges = (8, 6, 4), ((1, 24), (18, 36), (30, 1000))  # pixels, root of the area
segmenter = SOLOv2(backbone, 16, 2, grids, 16, 16, 8, convs=1, mask_levels=3, groups=4)

rows, columns = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
disc = (rows - 30) ** 2 + (columns - 64) ** 2 < 20**2  # class 1, partly hidden
square = (rows >= 20) & (rows < 44) & (columns >= 24) & (columns < 52)  # class 0
disc &= ~square
image = (1.0 * square + 0.5 * disc)[None, None]
boxes = torch.tensor([[24.0, 20.0, 52.0, 44.0], [45.0, 11.0, 84.0, 50.0]])
target = {
    "boxes": boxes,
    "labels": torch.tensor([0, 1]),
    "masks": torch.stack([square, disc]),
}

for level, learns in enumerate(
    solo_v2_assign(boxes, target["masks"], grids, ranges), start=2
):
    cells = [int((learns == i).sum()) for i in (0, 1)]
    print(f"P{level}: {cells[0]} and {cells[1]} of {learns.numel()} cells learn one")

optimizer = torch.optim.AdamW(segmenter.parameters(), lr=1e-2)
for step in range(60):  # one image only: to see the parts work together
    loss = solo_v2_loss(segmenter(image), [target], ranges)
    if step % 20 == 0:
        print({name: round(value.item(), 2) for name, value in loss.items()})
    optimizer.zero_grad()
    sum(loss.values()).backward()
    optimizer.step()

found = solo_v2_detections(segmenter(image), 0.3, strides=(8, 8, 16))[0]
for mask, label in zip(found["masks"][:2], found["labels"], strict=False):
    true = target["masks"][label]
    iou = (mask & true).sum() / (mask | true).sum()
    print(f"class {label}: IoU {iou:.1f}")
# --8<-- [end:usage]
