# What the modules of the page's block import, once.
# --8<-- [start:imports]
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

# --8<-- [end:imports]
from cnn_techniques.detection import YOLOv8, yolov8_detections, yolov8_loss

# --8<-- [start:usage]
# Rounding errors grow with every step: float32 would end elsewhere on other machines.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
detector = YOLOv8(2, depth=0.33, width=0.125, max_channels=512, in_channels=1, bins=8)

image = torch.zeros(1, 1, 64, 96)
image[..., 10:30, 12:32] = 1.0  # a bright square, class 0
image[..., 20:60, 48:88] = 0.5  # a larger grey one, class 1
boxes = torch.tensor([[12.0, 10.0, 32.0, 30.0], [48.0, 20.0, 88.0, 60.0]])
target = {"boxes": boxes, "labels": torch.tensor([0, 1])}

optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-3)
for step in range(60):  # one image only: to see the parts work together
    output = detector(image)
    loss = yolov8_loss(output, [target])
    if step % 20 == 0:
        print({name: round(value.item(), 2) for name, value in loss.items()})
    optimizer.zero_grad()
    sum(loss.values()).backward()
    optimizer.step()

output = detector(image)
print(f"{tuple(output.logits.shape)} logits, {tuple(output.bins.shape)} bins")
found = yolov8_detections(output)[0]
for box, label, score in zip(
    found["boxes"], found["labels"], found["scores"], strict=True
):
    print(f"class {label.item()} at {[round(v) for v in box.tolist()]}, {score:.2f}")
# --8<-- [end:usage]
