# What the four modules of the page's block import, once.
# --8<-- [start:imports]
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.modern import Bottleneck, ResNet
from cnn_techniques.segmentation import DeepLabV3Plus

# --8<-- [start:usage]
# Rounding errors grow with every step: float32 would end elsewhere on other machines.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)


def narrow(output_stride: int = 16, dilate_first: bool = False) -> DeepLabV3Plus:
    resnet = ResNet(Bottleneck, (1, 1, 2, 2), width=8)
    rates = [r * 16 // output_stride for r in (1, 2, 3)]  # the image is small
    options = {"channels": 32, "dropout": 0.0, "dilate_first": dilate_first}
    return DeepLabV3Plus(resnet, 3, output_stride, rates, **options)


images, labels = 0.1 * torch.randn(4, 3, 64, 96), torch.zeros(4, 64, 96).long()
for i in range(4):
    labels[i, 8:32, 8 + 6 * i : 32 + 6 * i] = 1  # a square
    labels[i, 40:56, 30 : 80 - 6 * i] = 2  # a wider and brighter rectangle
images += labels[:, None]

network = narrow()
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
for step in range(16):
    loss = F.cross_entropy(network(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 5 == 0:
        right = (network(images).argmax(dim=1) == labels).double().mean()
        print(f"step {step}: loss {loss:.3f}, pixels right {right:.2f}")

network.eval()
fine = narrow(output_stride=8).eval()
fine.load_state_dict(network.state_dict())  # the same weights, twice the resolution
for name, net in (("16", network), ("8", fine)):
    low, *_, last = net.encoder.features(images)
    print(f"stride {name}: {tuple(low.shape[1:])} and {tuple(last.shape[1:])}", end="")
    print(" ->", tuple(net(images).shape[1:]))
# --8<-- [end:usage]
