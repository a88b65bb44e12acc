import torch
from torch import nn

# --8<-- [start:usage]
from torchvision.models import resnet18

from cnn_techniques.compression import fold_batch_norms, fold_into, norms_to_fold

torch.manual_seed(0)
network = resnet18().double()
network(torch.randn(8, 3, 64, 64).double())  # statistics of its own
network.eval()
images = torch.randn(2, 3, 64, 64).double()

folded = fold_batch_norms(network, images)


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


before, after = network(images), folded(images)
print(f"batch norms: {norms(network)} before, {norms(folded)} after")
print("the same scores:", torch.allclose(before, after, rtol=1e-10))
# --8<-- [end:usage]
