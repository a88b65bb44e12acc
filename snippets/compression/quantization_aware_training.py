import torch
from torch import Tensor, nn

from cnn_techniques.compression import convert_qat, prepare_qat, quantize_int8

# --8<-- [start:usage]
torch.manual_seed(0)
labels = torch.arange(320) % 10
prototypes = torch.randn(10, 1, 8, 8, dtype=torch.float64)
images = prototypes[labels] + 1.2 * torch.randn(320, 1, 8, 8, dtype=torch.float64)
network = nn.Sequential(
    nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
    nn.Flatten(), nn.Linear(32, 10),
).double()  # fmt: skip


def train(model: nn.Module, rate: float) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    model.train()
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


def right(model: nn.Module) -> Tensor:
    return (model(images).argmax(dim=1) == labels).double().mean()


train(network, rate=0.1)
rounded = quantize_int8(network, images, bits=2)
model = train(prepare_qat(network, images, bits=2), rate=0.02)
small = convert_qat(model)  # the weights are integers now
print(f"above 80 %: in float {right(network) > 0.8}, ", end="")
print(f"rounded after {right(rounded) > 0.8}, trained with it {right(small) > 0.8}")
print(f"integers of the first layer: {small[0].weight.unique().tolist()}")
# --8<-- [end:usage]
