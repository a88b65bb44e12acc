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
from cnn_techniques.detection import (
    FCOS,
    FeaturePyramidNetwork,
    RetinaNetBackbone,
    fcos_detections,
    fcos_loss,
    fcos_match,
)
from cnn_techniques.modern import BasicBlock, ResNet

# --8<-- [start:usage]
# Rounding errors grow with every step: float32 would end elsewhere on other machines.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
body = ResNet(BasicBlock, (1, 1, 1, 1), width=8, in_channels=1)
pyramid = FeaturePyramidNetwork([16, 32, 64], 16)  # P3, P4, P5
strides, bounds = (8, 16, 32), (24, 40)  # of the levels; between them, in pixels
detector = FCOS(
    RetinaNetBackbone(body, pyramid), 16, 2, strides, bounds, groups=4, first_side=1.0
)

image = torch.zeros(1, 1, 64, 96)
image[..., 10:30, 12:32] = 1.0  # a bright square, class 0
image[..., 20:60, 48:88] = 0.5  # a larger grey one, class 1
boxes = torch.tensor([[12.0, 10.0, 32.0, 30.0], [48.0, 20.0, 88.0, 60.0]])
target = {"boxes": boxes, "labels": torch.tensor([0, 1])}

output = detector(image)
match = fcos_match(boxes, output.points)
for level, part in enumerate(match.split(output.level_sizes), start=3):
    learn = [int((part == m).sum()) for m in (0, 1)]
    print(f"P{level}: {learn[0]} and {learn[1]} of {len(part)} points learn a square")

optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-2)
for step in range(60):  # one image only: to see the parts work together
    loss = fcos_loss(detector(image), [target])
    if step % 20 == 0:
        print({name: round(value.item(), 2) for name, value in loss.items()})
    optimizer.zero_grad()
    sum(loss.values()).backward()
    optimizer.step()

found = fcos_detections(detector(image), score_threshold=0.5)[0]
for box, label, score in zip(
    found["boxes"], found["labels"], found["scores"], strict=True
):
    print(f"class {label.item()} at {[round(v) for v in box.tolist()]}, {score:.1f}")
# --8<-- [end:usage]
