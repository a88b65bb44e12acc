# --8<-- [start:imports]
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.modern.resnet import Bottleneck, ResNet
from cnn_techniques.segmentation import PSPNet, pspnet_loss

# --8<-- [start:usage]
torch.manual_seed(0)
images = torch.randn(2, 3, 89, 41).double()  # sides of 8 k + 1
masks = torch.randint(0, 5, (2, 89, 41))  # the class of every pixel
masks[0, :20] = 255  # no label

resnet = ResNet(Bottleneck, (1, 1, 1, 1), width=8)
network = PSPNet(resnet, num_classes=5).double()
output = network.eval()(images)
print(tuple(images.shape), "->", tuple(output.out.shape))
print(f"loss before training {pspnet_loss(output, masks):.3f}")
last = network.backbone.features(images)[-1]
print("feature map", tuple(last.shape), "->", tuple(network.pyramid(last).shape))

images[..., 80:, 32:] += 1  # one corner changes; what does the other one see of it?
moved = network(images).out - output.out
print(f"score of the far corner moved by {moved[:, :, 0, 0].abs().max():.5f}")
# --8<-- [end:usage]
