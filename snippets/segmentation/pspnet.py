import torch

from cnn_techniques.modern import Bottleneck, ResNet
from cnn_techniques.segmentation import PSPNet, pspnet_loss

# --8<-- [start:usage]
torch.manual_seed(0)
images = torch.randn(2, 3, 89, 41)  # sides of 8 k + 1
masks = torch.randint(0, 5, (2, 89, 41))

network = PSPNet(ResNet(Bottleneck, (1, 1, 1, 1), width=8), num_classes=5)
output = network(images)  # in training mode: batch norms look at these two images
print(tuple(images.shape), "->", tuple(output.out.shape))
print(f"loss before training {pspnet_loss(output, masks):.3f}")

before, last = network.backbone.features(images)[-2:]
print("features", tuple(last.shape), "with context", tuple(network.pyramid(last).shape))
# --8<-- [end:usage]
