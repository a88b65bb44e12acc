"""The bench: one small network, one recipe, one set of images; an arm changes one thing.

Digits are learnt to 99 % by almost anything, and then no technique can be told from
none. The bench is harder and was fixed before its first run: 6,000 images of
Fashion-MNIST to train on, 10,000 to test, a residual network of 77,754 parameters. A
named handicap (wrong labels, few images, a longer run) shows what a technique is for.
Every run is tested on the test images as they are and on the same images moved.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cnn_techniques.modern.resnet import BasicBlock, ResNet

from .fit import (
    BatchTransform,
    Loss,
    Scheduler,
    SingleProcess,
    Update,
    accuracy,
    cross_entropy,
    fit,
    generator,
    one_step,
    steps,
)
from .record import interval, paired

Json = dict[str, Any]
SEEDS = tuple(range(10))  # of the baseline; an arm takes the first five or more
BATCH_SIZE = 64
PER_CLASS = 600  # training images of each of the ten classes
SHIFT = 3  # pixels, each way
# What is made harder, or longer; runs make about as many steps, the last twice as many.
HANDICAPS: Mapping[str, Json] = {
    "none": {"images": 6000, "wrong": 0.0, "epochs": 10},
    "wrong labels": {"images": 6000, "wrong": 0.4, "epochs": 10},
    "few images": {"images": 600, "wrong": 0.0, "epochs": 100},
    "longer run": {"images": 6000, "wrong": 0.0, "epochs": 20},
}


def network(attention: Callable[[int], nn.Module] | None = None) -> ResNet:
    """Three stages of one residual block, 16, 32 and 64 channels wide.

    The first convolution has stride 2, so that maps are 14, 7 and 4 pixels high.

    Args:
        attention: makes a module for a number of channels, the end of each of the three
            branches. It is made after the rest, which therefore begins as without it.
    """
    model = ResNet(BasicBlock, (1, 1, 1), 10, 16, in_channels=1, small_images=True)
    model.conv1.stride = (2, 2)
    if attention is not None:
        for block in model.modules():
            if isinstance(block, BasicBlock):
                block.attention = attention(block.conv2.out_channels)
    return model


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


def cosine(optimizer: torch.optim.Optimizer, steps: int) -> Scheduler | None:
    """From the full rate to nothing, step by step, without a warm-up."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


@dataclass(frozen=True)
class Arm:
    """What is run on the bench: the baseline, but for what is given.

    Args:
        name: on pages.
        network: makes the network; the seed is set before.
        optimizer: of the network's parameters.
        schedule: of the optimizer, for that many steps; None: the rate stays.
        loss, batch_transform: as for `fit`.
        update: makes what makes a step (it may count).
        handicap: one of `HANDICAPS`.
    """

    name: str
    network: Callable[[], nn.Module] = network
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = sgd
    schedule: Callable[[torch.optim.Optimizer, int], Scheduler | None] = cosine
    loss: Loss = cross_entropy
    batch_transform: BatchTransform | None = None
    update: Callable[[], Update] = lambda: one_step
    handicap: str = "none"


def run(arm: Arm, seed: int, root: Path = Path("data")) -> Json:
    """Train one arm with one seed and test it after the last epoch.

    Returns "accuracy" on the test images, "shifted" on the same images moved by up to
    three pixels, and the training loss by epoch ("curve"); or "diverged": True for a run
    whose loss left the finite numbers.
    Raises: ValueError for an unknown handicap, FileNotFoundError without the images.
    """
    if arm.handicap not in HANDICAPS:
        expected = ", ".join(map(repr, HANDICAPS))
        raise ValueError(f"unknown handicap {arm.handicap!r}; expected {expected}")
    handicap = HANDICAPS[arm.handicap]
    images, labels = garments("train", root)
    per_class = handicap["images"] // 10
    rows = torch.cat([torch.where(labels == k)[0][:per_class] for k in range(10)])
    images, labels = images[rows], wrong(labels[rows], handicap["wrong"], seed)
    torch.manual_seed(seed)
    model = arm.network()
    optimizer = arm.optimizer(model)
    budget = {"epochs": handicap["epochs"], "batch_size": BATCH_SIZE}
    try:
        history = fit(
            model,
            (images, labels),
            **budget,
            optimizer=optimizer,
            schedule=arm.schedule(optimizer, steps(len(images), **budget)),
            loss=arm.loss,
            batch_transform=arm.batch_transform,
            update=arm.update(),
            seed=seed,
        )
    except FloatingPointError:
        return {"diverged": True}
    tests, truth = garments("test", root)
    return {
        "accuracy": accuracy(model, tests, truth),
        "shifted": accuracy(model, shifted(tests), truth),
        "curve": [epoch["loss"] for epoch in history],
    }


def step(arm: Arm, count: int = BATCH_SIZE) -> Callable[[], None]:
    """One training step of an arm on a batch of noise, to be timed."""
    draw = generator(0)
    images = torch.randn(count, 1, 28, 28, generator=draw)
    labels = torch.randint(10, (count,), generator=draw)
    torch.manual_seed(0)
    model = arm.network().train()
    optimizer, update = arm.optimizer(model), arm.update()
    schedule = arm.schedule(optimizer, 10**6)
    accelerator = SingleProcess(torch.device("cpu"))

    def train_step() -> None:
        x, y = images, labels
        if arm.batch_transform is not None:
            x, y = arm.batch_transform(x, y, draw)
        update(lambda: arm.loss(model, x, y), optimizer, accelerator)
        if schedule is not None:
            schedule.step()

    return train_step


# ---------------------------------------------------------------- images


def garments(
    split: Literal["train", "test"], root: Path = Path("data")
) -> tuple[Tensor, Tensor]:
    """Fashion-MNIST as the bench has it, through torchvision.

    Returns float32 images (N, 1, 28, 28), less 0.2860 and through 0.3530, the mean and
    deviation of all 60,000 training images, and int64 labels (N,). "train" is the first
    600 images of each class, in the order of the file; "test" all 10,000.
    Raises: FileNotFoundError where `root/FashionMNIST/raw` has not the four files.
    """
    return _garments(split, root)


@cache
def _garments(split: str, root: Path) -> tuple[Tensor, Tensor]:
    from torchvision.datasets import FashionMNIST  # here: the rest needs torch alone

    try:
        data_set = FashionMNIST(str(root), train=split == "train")
    except RuntimeError:
        raise FileNotFoundError(
            f"{root / 'FashionMNIST/raw'} lacks the files of Fashion-MNIST; "
            "torchvision fetches them: FashionMNIST(root, download=True)"
        ) from None
    images, labels = data_set.data[:, None].float() / 255, data_set.targets.long()
    if split == "train":
        rows = [torch.where(labels == k)[0][:PER_CLASS] for k in range(10)]
        order = torch.cat(rows).sort().values
        images, labels = images[order], labels[order]
    return (images - 0.2860) / 0.3530, labels


def wrong(labels: Tensor, share: float, seed: int) -> Tensor:
    """That share of the labels, drawn anew from all ten classes."""
    draw = generator(seed, 5)
    chosen = torch.rand(len(labels), generator=draw) < share
    other = torch.randint(10, labels.shape, generator=draw)
    return torch.where(chosen, other, labels)


def shifted(images: Tensor) -> Tensor:
    """Each image moved by up to three pixels each way, drawn once; black comes in."""
    n, _, height, width = images.shape
    black = float(images.min())
    padded = nn.functional.pad(images, [SHIFT] * 4, value=black)
    top, left = torch.randint(2 * SHIFT + 1, (2, n), generator=generator(6))
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(n)[:, None, None, None], 0, rows, columns]


# ---------------------------------------------------------------- results


def row(name: str, runs: Sequence[Json]) -> Json:
    """All runs of an arm in the order of their seeds, as a row of a page."""
    diverged = sum("diverged" in result for result in runs)
    if diverged:
        return {"name": name, "diverged": diverged, "seeds": len(runs)}
    entry: Json = {"name": name}
    for quantity in ("accuracy", "shifted"):
        values = [result[quantity] for result in runs]
        entry[quantity] = {**interval(values), "values": values}
    entry["loss"] = interval([result["curve"][-1] for result in runs])
    entry["curve"] = [result["curve"] for result in runs]
    return entry


def against(arm: Json, baseline: Json) -> Json:
    """How much an arm is above the baseline, both rows, over the seeds both have."""
    if "diverged" in arm:
        return {"name": arm["name"], "diverged": arm["diverged"]}
    entry: Json = {"name": arm["name"]}
    for quantity in ("accuracy", "shifted"):
        mine, others = arm[quantity]["values"], baseline[quantity]["values"]
        entry[quantity] = paired(mine, others[: len(mine)])
    return entry


def smallest_difference(baseline: Json, seeds: int) -> float:
    """What a comparison of so many pairs could see, were their runs independent.

    Half of a 95 % interval of the difference of two means; pairs that go up and down
    together see smaller ones.
    """
    from scipy.special import stdtrit

    sd: float = baseline["accuracy"]["sd"]
    return float(stdtrit(seeds - 1, 0.975)) * sd * math.sqrt(2 / seeds)
