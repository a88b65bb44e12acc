# What the modules of the page's block import, once.
# --8<-- [start:imports]
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

# --8<-- [end:imports]
from cnn_techniques.detection import (
    BiFPN,
    EfficientDet,
    EfficientNetMaps,
    fusion_shares,
    retinanet_detections,
    retinanet_loss,
)
from cnn_techniques.modern import EfficientNet, efficientnet_stages

# --8<-- [start:usage]
# Rounding errors grow with every step: float32 would end elsewhere on other machines.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
stages = efficientnet_stages(width=0.3, depth=0.3)  # one block in most stages
narrow = EfficientNet(stages, stem=16, head=8, drop_path=0.0, in_channels=1)
bifpn = BiFPN([16, 32, 96], 16, layers=1, levels=3)  # P3, P4, P5
sizes = (12, 20, 32)  # of each level's smallest square anchor, in pixels
detector = EfficientDet(EfficientNetMaps(narrow), bifpn, 16, 2, 1, sizes)

image = torch.zeros(1, 1, 64, 96)
image[..., 10:30, 12:32] = 1.0  # a bright square, class 0
image[..., 28:52, 60:84] = 0.5  # a grey one, class 1
boxes = torch.tensor([[12.0, 10.0, 32.0, 30.0], [60.0, 28.0, 84.0, 52.0]])
target = {"boxes": boxes, "labels": torch.tensor([0, 1])}

optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-2)
for step in range(40):  # one image only: to see the parts work together
    loss = retinanet_loss(detector(image), [target], gamma=1.5)
    if step % 20 == 0:
        print({name: round(value.item(), 2) for name, value in loss.items()})
    optimizer.zero_grad()
    sum(loss.values()).backward()
    optimizer.step()

found = retinanet_detections(detector(image), score_threshold=0.5)[0]
for box, label, score in zip(
    found["boxes"], found["labels"], found["scores"], strict=True
):
    print(f"class {label.item()} at {[round(v) for v in box.tolist()]}, {score:.1f}")
for level, node in enumerate(bifpn.layers[0].up, start=4):
    shares = [round(w, 2) for w in fusion_shares(node.weights).tolist()]
    print(f"P{level}: the shares of what meets there are {shares}")
# --8<-- [end:usage]
