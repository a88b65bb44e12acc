# What the four modules of the page's block import, once.
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
    FasterRCNN,
    FasterRCNNBackbone,
    FeaturePyramidNetwork,
    FeaturePyramidPool,
    faster_rcnn_detections,
    faster_rcnn_loss,
)
from cnn_techniques.modern import BasicBlock, ResNet

# --8<-- [start:usage]
# Rounding errors grow with every step: float32 would end elsewhere on other machines.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
body = ResNet(BasicBlock, (1, 1, 1, 1), width=8, in_channels=1)
pyramid = FeaturePyramidNetwork([8, 16, 32, 64], 16, FeaturePyramidPool())  # P2 to P6
detector = FasterRCNN(
    FasterRCNNBackbone(body, pyramid),
    channels=16,
    num_classes=2,  # the background is not counted
    anchor_sizes=(12, 20, 32, 48, 64),  # of each level, in pixels
    width=64,
    proposals=(50, 50),
    samples=16,
    canonical_size=56,
)

image = torch.zeros(1, 1, 64, 96)
image[..., 10:30, 12:32] = 1.0  # a bright square, class 0
image[..., 28:52, 60:84] = 0.5  # a grey one, class 1
boxes = torch.tensor([[12.0, 10.0, 32.0, 30.0], [60.0, 28.0, 84.0, 52.0]])
targets = [{"boxes": boxes, "labels": torch.tensor([0, 1])}]

optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-3)
for step in range(60):  # one image only: to see the parts work together
    losses = faster_rcnn_loss(detector(image, targets), targets, samples=32)
    if step % 20 == 0:
        print(", ".join(f"{name} {loss:.2f}" for name, loss in losses.items()))
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()

output = detector.train()(image)  # without targets: all proposals are classified
print(f"{len(output.proposals[0])} proposals from {len(output.rpn.anchors)} anchors")
found = faster_rcnn_detections(output, score_threshold=0.5)[0]
for box, label, score in zip(
    found["boxes"], found["labels"], found["scores"], strict=True
):
    print(f"class {label} at {[round(v) for v in box.tolist()]}, score {score:.2f}")
# --8<-- [end:usage]
