import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_techniques.training import (
    coral_loss,
    domain_adversarial_loss,
    reversal_factor,
)

# --8<-- [start:usage]
torch.set_default_dtype(torch.float64)
PATTERNS = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def images(count: int, elsewhere: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Four patterns in noise; the other camera is brighter and has less contrast."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=draw)
    x = PATTERNS[labels] + 0.7 * torch.randn(count, 1, 8, 8, generator=draw)
    return (0.4 * x + 1.5 if elsewhere else x), labels


def train(weight: float, steps: int = 100) -> float:
    """The share of images from the other camera that are right."""
    (source, labels), (target, _) = images(128, False, 2), images(128, True, 3)
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 16))
    model = nn.Sequential(*layers, nn.Tanh(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(steps):
        scores = model(source)
        loss = F.cross_entropy(scores, labels)
        loss = loss + weight * coral_loss(scores, model(target))  # no label of it
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tests, truth = images(1000, True, 4)
    return (model(tests).argmax(dim=1) == truth).double().mean().item()


for weight in (0, 1):
    print(f"CORAL with weight {weight}: {train(weight):.0%} right elsewhere")

torch.manual_seed(0)
domains = nn.Linear(16, 1)  # DANN's other classifier
source, target = torch.randn(64, 16), torch.randn(64, 16).requires_grad_()
for factor in (reversal_factor(0), reversal_factor(0.2)):
    loss = domain_adversarial_loss(source, target, domains, factor)
    (slope,) = torch.autograd.grad(loss, [target])
    after = domain_adversarial_loss(source, target - 200 * slope, domains, factor)
    print(
        f"DANN, lambda {factor:.2f}: domain loss {loss:.2f}, a step later {after:.2f}"
    )
# --8<-- [end:usage]
