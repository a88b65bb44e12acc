# What the four modules of the page's block import, once.
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
    FeaturePyramidNetwork,
    RetinaNet,
    RetinaNetBackbone,
    retinanet_detections,
    retinanet_loss,
)
from cnn_techniques.modern import BasicBlock, ResNet

# --8<-- [start:usage]
# Rounding errors grow with every step: float32 would end elsewhere on other machines.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
body = ResNet(BasicBlock, (1, 1, 1, 1), width=8, in_channels=1)
pyramid = FeaturePyramidNetwork([16, 32, 64], 16)  # P3, P4, P5
backbone = RetinaNetBackbone(body, pyramid)
sizes, strides = (12, 20, 32), (8, 16, 32)  # of each level, in pixels
detector = RetinaNet(backbone, 16, 2, sizes, strides, tower_std=0.12)

image = torch.zeros(1, 1, 64, 96)
image[..., 10:30, 12:32] = 1.0  # a bright square, class 0
image[..., 28:52, 60:84] = 0.5  # a grey one, class 1
boxes = torch.tensor([[12.0, 10.0, 32.0, 30.0], [60.0, 28.0, 84.0, 52.0]])
target = {"boxes": boxes, "labels": torch.tensor([0, 1])}

optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-3)
for step in range(60):  # one image only: to see the parts work together
    loss = retinanet_loss(detector(image), [target])
    if step % 20 == 0:
        print({name: round(value.item(), 3) for name, value in loss.items()})
    optimizer.zero_grad()
    sum(loss.values()).backward()
    optimizer.step()

found = retinanet_detections(detector.train()(image), score_threshold=0.5)[0]
for box, label, score in zip(
    found["boxes"], found["labels"], found["scores"], strict=True
):
    print(
        f"class {label.item()} at {[round(v) for v in box.tolist()]}, score {score:.2f}"
    )
# --8<-- [end:usage]
