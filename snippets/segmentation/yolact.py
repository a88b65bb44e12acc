# What the four modules of the page's block import, once.
# --8<-- [start:imports]
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.modern import BasicBlock, ResNet
from cnn_techniques.segmentation import YOLACT, yolact_detections, yolact_loss

# --8<-- [start:usage]
# Rounding errors grow with every step: float32 would end elsewhere on other machines.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
body = ResNet(BasicBlock, (1, 1, 1, 1), width=8, in_channels=1)
network = YOLACT(body, 16, num_classes=2, prototypes=4, anchor_sizes=(16, 24, 32))

image = torch.zeros(1, 1, 64, 96)
y, x = torch.arange(64)[:, None], torch.arange(96)
disc = (x - 24) ** 2 + (y - 24) ** 2 < 14**2  # class 0
square = ((x - 66).abs() < 14) & ((y - 40).abs() < 14)  # class 1
image[0, 0, disc], image[0, 0, square] = 1.0, 0.5
masks = torch.stack([disc, square])
boxes = torch.tensor([[11.0, 11.0, 38.0, 38.0], [53.0, 27.0, 80.0, 54.0]])
target = {"boxes": boxes, "labels": torch.tensor([0, 1]), "masks": masks}

optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
for step in range(41):  # one image only: to see the parts work together
    loss = yolact_loss(network(image), [target])
    if step % 20 == 0:
        print({name: round(value.item(), 2) for name, value in loss.items()})
    optimizer.zero_grad()
    sum(loss.values()).backward()
    optimizer.step()

found = yolact_detections(network(image), score_threshold=0.5)[0]
for label, score, box, mask in zip(
    found["labels"], found["scores"], found["boxes"], found["masks"], strict=True
):
    truth = masks[label]
    iou = (mask & truth).sum() / (mask | truth).sum()
    place = [round(v) for v in box.tolist()]
    print(f"class {label.item()} at {place}, score {score:.2f}, mask IoU {iou:.2f}")
# --8<-- [end:usage]
