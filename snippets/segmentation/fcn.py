# --8<-- [start:imports]
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.foundations.vgg import VGG
from cnn_techniques.modern.resnet import BasicBlock, ResNet
from cnn_techniques.segmentation import FCN, FCN8s, fcn_loss

# --8<-- [start:usage]
torch.manual_seed(0)
image, labels = torch.zeros(1, 3, 64, 64).double(), torch.zeros(1, 64, 64).long()
image[..., 8:32, 8:40], labels[..., 8:32, 8:40] = 1, 1
image[..., 40:56, 24:56], labels[..., 40:56, 24:56] = -1, 2
labels[..., 32:40, :] = 255  # no label

network = FCN(ResNet(BasicBlock, (1, 1, 1, 1), width=8), num_classes=3).double()
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
print("loss", f"{fcn_loss(network.eval()(image), labels):.3f}", end=" -> ")
network.train()
for _ in range(40):
    optimizer.zero_grad()
    loss = fcn_loss(network(image), labels)
    loss.backward()
    optimizer.step()
scores = network.eval()(image).out
print("below 0.2:", bool(fcn_loss(network(image), labels) < 0.2))
print(scores.argmax(dim=1)[0, 4::8, 4::8])

paper = FCN8s(VGG((1, 1, 1, 1, 1), hidden=16), num_classes=3).eval()
scores = paper(image.float())  # zero, until the layers of scores are trained
print(tuple(scores.shape), f"{F.cross_entropy(scores, labels, ignore_index=255):.4f}")
# --8<-- [end:usage]
