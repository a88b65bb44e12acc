# What the two modules of the page's block import, once.
# --8<-- [start:imports]
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# --8<-- [end:imports]
from cnn_techniques.detection import (
    distribution_focal_loss,
    expected_distance,
    task_aligned_assignment,
)

# --8<-- [start:usage]
torch.manual_seed(0)
y, x = torch.meshgrid(torch.arange(4, 64, 8), torch.arange(4, 64, 8), indexing="ij")
points = torch.stack([x, y], dim=-1).view(-1, 2).float()  # (64, 2), of a stride of 8
boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [30.0, 30.0, 60.0, 60.0]])
labels = torch.tensor([0, 2])

scores = torch.rand(64, 3) * 0.5  # what a network says at first: of three classes,
predicted = torch.cat([points - 16, points + 16], dim=1)  # and boxes of 32 pixels

found = task_aligned_assignment(scores, predicted, points, boxes, labels, m=3)
for point in (found.objects >= 0).nonzero()[:, 0].tolist():
    place, index = points[point].int().tolist(), found.objects[point].item()
    print(f"at {place}: object {index}, score to learn {found.score[point]:.2f}")

target = torch.tensor([2.25])  # a side lies 2.25 strides from a point
logits = torch.zeros(1, 17, requires_grad=True)  # of 0 to 16 strides
print(f"first: {expected_distance(logits).item():.2f} strides")
optimizer = torch.optim.SGD([logits], lr=2.0)
for _ in range(500):
    optimizer.zero_grad()
    distribution_focal_loss(logits, target).sum().backward()
    optimizer.step()
print(f"learned: {expected_distance(logits).item():.2f} strides,", end=" ")
print("shares of 2 and 3:", [round(p, 2) for p in logits.softmax(1)[0, 2:4].tolist()])
# --8<-- [end:usage]
