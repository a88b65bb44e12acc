import torch
from torch import nn

# --8<-- [start:usage]
from torchvision.models import resnet18

from cnn_techniques.compression import prune_filters, tied_filters

torch.manual_seed(0)
network = resnet18().eval()
image = torch.randn(1, 3, 64, 64)

smaller = prune_filters(network, 0.5, image)


def millions(model: nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


print("one choice for", " and ".join(tied_filters(network, image)[0]))
print(f"{millions(network):.2f} M parameters before, {millions(smaller):.2f} M after")
print(smaller.layer1[0].conv1, smaller.fc, sep="\n")
# --8<-- [end:usage]
