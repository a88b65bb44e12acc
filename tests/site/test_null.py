"""What a technique without its effect is, for each kind of thing: right examples are told from those that show nothing."""

import textwrap
from pathlib import Path

import pytest

from cnn_site.checks import printed_without_effect
from cnn_site.fences import CodeBlock

PREFIX = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
NETWORK = """
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
x, y = torch.randn(8, 4), torch.tensor([0, 1] * 4)
"""
MODULE = """
class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return x * self.fc(x).sigmoid()
"""
PLAIN_MODULE = """
class Squash(nn.Module):
    def forward(self, x):
        return x / (1 + x.norm())
"""
FACTORY = """
def squashed():
    return nn.Sequential(nn.Linear(4, 2), nn.Tanh())
"""
OPTIMIZER = """
class Descent(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad
"""
TWO_STEPS = """
class Sharp(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad
"""
SCHEDULE = """
class Halving(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self):
        return [base * 0.5**self.last_epoch for base in self.base_lrs]
"""
MADE_SCHEDULE = """
def halving(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 0.5 ** (n + 1))
"""
PLATEAU = """
class Plateau(torch.optim.lr_scheduler.LRScheduler):
    def __init__(self, optimizer):
        self.optimizer, self.best = optimizer, float("inf")

    def step(self, metric):
        for group in self.optimizer.param_groups:
            group["lr"] *= 1 if metric < self.best else 0.1
        self.best = min(self.best, metric)
"""
RATE = """
def rate(step):
    return 0.1 / (1 + step)
"""
RATES = """
def rates(steps):
    return lambda step: 0.1 * (1 - step / steps)
"""
METRIC = """
class Accuracy:
    def __init__(self):
        self.right = self.all = 0

    def update(self, guessed, labels):
        self.right += int((guessed == labels).sum())
        self.all += len(labels)

    def compute(self):
        return self.right / self.all
"""
METRIC_FUNCTION = """
def accuracy(guessed, labels):
    return (guessed == labels).float().mean()
"""
PRUNE = """
def prune_(network):
    with torch.no_grad():
        for p in network.parameters():
            p[p.abs() < 0.2] = 0
"""
PRUNED = """
import copy

def pruned(network):
    network = copy.deepcopy(network)
    with torch.no_grad():
        for p in network.parameters():
            p[p.abs() < 0.2] = 0
    return network
"""
PRUNED_TWO = """
import copy

def pruned(network):
    network = copy.deepcopy(network)
    with torch.no_grad():
        for p in network.parameters():
            p[p.abs() < 0.2] = 0
    return network, {"weights": sum(int(p.count_nonzero()) for p in network.parameters())}
"""
TRANSFORM = """
class Erase:
    def __call__(self, images):
        images = images.clone()
        images[..., :2, :2] = 0
        return images
"""
TRANSFORM_FUNCTION = """
def erase(images):
    images = images.clone()
    images[..., :2, :2] = 0
    return images
"""
IN_PLACE = """
def clip_(parameters, most):
    parameters = list(parameters)
    total = torch.stack([p.grad.norm() for p in parameters]).norm()
    for p in parameters:
        p.grad.mul_(min(1, most / total))
"""
LOSS = """
def smoothed(logits, labels):
    return F.cross_entropy(logits, labels, label_smoothing=0.1)
"""
AVERAGE = """
class Average:
    def __init__(self, model):
        import copy
        self.model = copy.deepcopy(model)

    @torch.no_grad()
    def update(self, model):
        for mine, new in zip(self.model.parameters(), model.parameters()):
            mine.lerp_(new, 0.5)
"""
REVERSAL = """
class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient
"""
TRAIN = """
for step in range(3):
    loss = F.cross_entropy(net(x), y)
    {optimizer}.zero_grad()
    loss.backward()
    {optimizer}.{step}()
print(f"{{loss:.4f}}")
"""
SCHEDULED = """
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
schedule = {make}(optimizer)
for step in range(3):
    optimizer.step()
    schedule.step({value})
"""
SPARSE = "print(sum(int((p == 0).sum()) for p in net.parameters()))"

# kind: definitions, example that shows the technique, example that does not
CASES = {
    "module": (
        MODULE,
        "print(f'{Gate()(x).mean():.3f}')",
        "print(tuple(Gate()(x).shape), sum(p.numel() for p in Gate().parameters()))",
    ),
    "module without parameters, identity": (
        PLAIN_MODULE,
        "print(f'{Squash()(x).norm():.3f}')",
        "print(bool((Squash()(x).sign() == x.sign()).all()))",
    ),
    "function that makes a module": (
        FACTORY,
        "print(f'{squashed()(x).norm():.3f}')",
        "print(tuple(squashed()(x).shape))",
    ),
    "optimizer": (
        OPTIMIZER,
        "optimizer = Descent(net.parameters(), 0.1)"
        + TRAIN.format(optimizer="optimizer", step="step"),
        "optimizer = Descent(net.parameters(), 0.1)\nprint(len(optimizer.param_groups))",
    ),
    "optimizer of two steps": (
        TWO_STEPS,
        "sharp = Sharp(net.parameters(), 0.1)"
        + TRAIN.format(optimizer="sharp", step="second_step"),
        "sharp = Sharp(net.parameters(), 0.1)\nprint(len(sharp.param_groups))",
    ),
    "schedule": (
        SCHEDULE,
        SCHEDULED.format(make="Halving", value="")
        + "print(schedule.get_last_lr(), optimizer.param_groups[0]['lr'])",
        SCHEDULED.format(make="Halving", value="") + "print(schedule.base_lrs)",
    ),
    "function that makes a schedule": (
        MADE_SCHEDULE,
        SCHEDULED.format(make="halving", value="") + "print(schedule.get_last_lr())",
        SCHEDULED.format(make="halving", value="") + "print(schedule.base_lrs)",
    ),
    "schedule that takes a metric": (
        PLATEAU,
        SCHEDULED.format(make="Plateau", value="1.0")
        + "print(optimizer.param_groups[0]['lr'])",
        SCHEDULED.format(make="Plateau", value="1.0") + "print(step)",
    ),
    "schedule as a function": (
        RATE,
        "print([round(rate(n), 3) for n in range(3)])",
        "print(len([rate(n) for n in range(3)]))",
    ),
    "function that makes a function": (
        RATES,
        "print([round(rates(3)(n), 3) for n in range(3)])",
        "print(callable(rates(3)))",
    ),
    "metric that collects": (
        METRIC,
        "metric = Accuracy()\nmetric.update(y, 1 - y.flip(0))\nprint(metric.compute())",
        "metric = Accuracy()\nmetric.update(y, y)\nprint(metric.all)",
    ),
    "metric as a function": (
        METRIC_FUNCTION,
        "print(f'{accuracy(y, y):.2f}')",
        "print(tuple(accuracy(y, y).shape))",
    ),
    "pruning in place": (
        PRUNE,
        f"prune_(net)\n{SPARSE}",
        "prune_(net)\nprint(tuple(net(x).shape))",
    ),
    "pruning that returns the network": (
        PRUNED,
        f"net = pruned(net)\n{SPARSE}",
        "net = pruned(net)\nprint(sum(p.numel() for p in net.parameters()))",
    ),
    "pruning that returns the network and a count": (
        PRUNED_TWO,
        f"net, left = pruned(net)\n{SPARSE}",
        "net, left = pruned(net)\nprint(list(left))",
    ),
    "transform": (
        TRANSFORM,
        "print(f'{Erase()(x.view(2, 1, 4, 4)).norm():.3f}')",
        "print(tuple(Erase()(x.view(2, 1, 4, 4)).shape), Erase()(x.view(2, 1, 4, 4))[0, 0, 3, 3].item())",
    ),
    "transform as a function": (
        TRANSFORM_FUNCTION,
        "print(f'{erase(x.view(2, 1, 4, 4)).norm():.3f}')",
        "print(f'{erase(x.view(2, 1, 4, 4))[..., 2:, :].norm():.3f}')",
    ),
    "transform of images that share their memory": (
        TRANSFORM_FUNCTION,
        "print(f'{erase(x[:1, None, None].expand(4, 1, 4, 4)).norm():.3f}')",
        "print(f'{erase(x[:1, None, None].expand(4, 1, 4, 4))[..., 2:, :].norm():.3f}')",
    ),
    "function and class": (
        MODULE + LOSS,
        "print(f'{smoothed(Gate()(x), y):.3f}')",
        "print(smoothed(Gate()(x), y).ndim)",
    ),
    "function whose zeros cannot be used, and a class that computes nothing": (
        """
import typing

class Sizes(typing.NamedTuple):
    width: int

def sizes(scale):
    return Sizes(4 * scale)
""",
        "print(1 / sizes(2).width)",
        "print(type(sizes(2)).__name__)",
    ),
    "change of gradients in place": (
        IN_PLACE,
        "net(x).square().mean().mul(99).backward()\nclip_(net.parameters(), 1.0)\n"
        "print(f'{torch.stack([p.grad.norm() for p in net.parameters()]).norm():.3f}')",
        "net(x).square().mean().backward()\nclip_(net.parameters(), 1.0)\n"
        "print(all(p.grad is not None for p in net.parameters()))",
    ),
    "loss": (
        LOSS,
        "loss = smoothed(net(x), y)\nprint(f'{loss:.3f}')",
        "loss = smoothed(net(x), y)\nprint(loss.ndim)",
    ),
    "average of weights": (
        AVERAGE,
        "average = Average(net)\nnet[0].bias.data += 1\naverage.update(net)\n"
        "print(f'{average.model(x).mean():.4f}')",
        "average = Average(net)\naverage.update(net)\nprint(f'{net(x).mean():.4f}')",
    ),
    "gradient of its own": (
        REVERSAL,
        "x.requires_grad_()\nReverse.apply(x).sum().backward()\nprint(x.grad[0, 0].item())",
        "print(f'{Reverse.apply(x).mean():.3f}')",
    ),
}


def block(text: str) -> CodeBlock:
    origins = tuple((None, n) for n, _ in enumerate(text.split("\n"), 1))
    return CodeBlock("py", (), "", text, origins, 1)


def survives(kind: str, example: str) -> bool:
    definitions = textwrap.dedent(CASES[kind][0])
    names = [
        line.split()[1].split("(")[0].rstrip(":")
        for line in definitions.split("\n")
        if line.startswith(("class ", "def "))
    ]
    head, tail = block(PREFIX + definitions), block(NETWORK + example)
    page = Path("page.md")
    return printed_without_effect(head, tail, [], page) == printed_without_effect(
        head, tail, names, page
    )


@pytest.mark.parametrize("kind", CASES)
def test_an_example_that_shows_the_technique_prints_something_else_without_it(
    kind: str,
) -> None:
    assert not survives(kind, CASES[kind][1])


@pytest.mark.parametrize("kind", CASES)
def test_an_example_that_does_not_depend_on_the_technique_prints_the_same(
    kind: str,
) -> None:
    assert survives(kind, CASES[kind][2])
