# What the five modules of the page's block import, once.
# --8<-- [start:imports]
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, roi_align

# --8<-- [end:imports]
from cnn_techniques.detection import (
    FasterRCNNBackbone,
    FeaturePyramidNetwork,
    FeaturePyramidPool,
)
from cnn_techniques.modern import BasicBlock, ResNet
from cnn_techniques.segmentation import (
    MaskRCNN,
    mask_rcnn_detections,
    mask_rcnn_loss,
)

# --8<-- [start:usage]
# Rounding errors grow with every step: float32 would end elsewhere on other machines.
torch.set_default_dtype(torch.float64)
torch.manual_seed(1)
body = ResNet(BasicBlock, (1, 1, 1, 1), width=8, in_channels=1)
pyramid = FeaturePyramidNetwork([8, 16, 32, 64], 16, FeaturePyramidPool())  # P2 to P6
network = MaskRCNN(
    FasterRCNNBackbone(body, pyramid),
    channels=16,
    num_classes=2,  # the background is not counted
    anchor_sizes=(12, 20, 32, 48, 64),  # of each level, in pixels
    width=64,
    proposals=(50, 50),
    samples=16,
    canonical_size=56,
    mask_width=16,
)

y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
disc = (x - 22) ** 2 + (y - 20) ** 2 < 11**2  # class 0
ring = ((x - 70) ** 2 + (y - 38) ** 2 - 170).abs() < 90  # class 1
image = (disc + 0.5 * ring)[None, None]
boxes = torch.tensor([[12.0, 10.0, 33.0, 31.0], [54.0, 22.0, 87.0, 55.0]])
masks = torch.stack([disc, ring])  # (M, H, W), whole image, true where the object is
targets = [{"boxes": boxes, "labels": torch.tensor([0, 1]), "masks": masks}]

optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
for step in range(60):  # one image only: to see the parts work together
    losses = mask_rcnn_loss(network(image, targets), targets, samples=32)
    if step % 20 == 0:
        total = sum(losses.values())
        print(f"loss {total:.2f}, of which masks {losses['loss_mask']:.2f}")
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()

found = mask_rcnn_detections(network(image))[0]  # without targets
for n in found["labels"].argsort():
    mask, label, score = found["masks"][n], found["labels"][n], found["scores"][n]
    if score > 0.5:
        true = masks[label]
        iou = (mask & true).sum() / (mask | true).sum()
        print(f"class {label}: mask {tuple(mask.shape)}, IoU with the truth {iou:.1f}")
# --8<-- [end:usage]
