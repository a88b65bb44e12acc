import torch
from torch import nn

from cnn_techniques.compression import fold_batch_norms, fold_into, norms_to_fold


# --8<-- [start:usage]
def block(i: int, o: int) -> list[nn.Module]:
    return [nn.Conv2d(i, o, 3, bias=False), nn.BatchNorm2d(o), nn.ReLU()]


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


torch.manual_seed(0)
head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
network = nn.Sequential(*block(3, 16), *block(16, 32), *head).double()
network(torch.randn(8, 3, 32, 32).double())  # statistics of its own
network.eval()
images = torch.randn(2, 3, 32, 32).double()

folded = fold_batch_norms(network, images)
before, after = network(images), folded(images)
print(f"batch norms: {norms(network)} before, {norms(folded)} after")
print("the same scores:", torch.allclose(before, after, rtol=1e-10))
# --8<-- [end:usage]
