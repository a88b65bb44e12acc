# What the three modules of the page's block import, once.
# --8<-- [start:imports]
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.detection import (
    DETR,
    DETRBackbone,
    detr_detections,
    detr_loss,
)
from cnn_techniques.modern import BasicBlock, ResNet

# --8<-- [start:usage]
# Rounding errors grow with every step: float32 would end elsewhere on other machines.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
body = ResNet(BasicBlock, (1, 1, 1), width=8, in_channels=1)  # 1/16 of the image
sizes = {"width": 32, "heads": 4, "layers": (1, 2), "hidden": 64, "dropout": 0.0}
detector = DETR(DETRBackbone(body), 32, num_classes=2, num_queries=5, **sizes)

image = torch.zeros(1, 1, 64, 96)
image[..., 10:30, 12:32] = 1.0  # a bright square, class 0
image[..., 28:52, 60:84] = 0.5  # a grey one, class 1
corners = torch.tensor([[12.0, 10.0, 32.0, 30.0], [60.0, 28.0, 84.0, 52.0]])
centre, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
boxes = torch.cat([centre, size], dim=1) / torch.tensor([96, 64, 96, 64])
target = {"boxes": boxes, "labels": torch.tensor([0, 1])}

optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
for step in range(90):  # one image only: to see the parts work together
    loss = detr_loss(detector(image), [target])
    if step % 30 == 0:
        print({name: round(value.item(), 2) for name, value in loss.items()})
    optimizer.zero_grad()
    sum(loss.values()).backward()
    optimizer.step()

found = detr_detections(detector(image), [(64, 96)], score_threshold=0.5)[0]
for box, label, score in zip(
    found["boxes"], found["labels"], found["scores"], strict=True
):
    print(
        f"class {label.item()} at {[round(v) for v in box.tolist()]}, score {score:.2f}"
    )
# --8<-- [end:usage]
