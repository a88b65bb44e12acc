"""What the loop of the lab costs over one that is written for the occasion."""

import io
import math
import random
import statistics
import time
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab import checkpoint, fit, networks, tasks
from cnn_lab.data import digits
from cnn_lab.fit import InMemory, generator
from cnn_lab.recipe import Recipe
from cnn_lab.saved import LAST
from cnn_lab.show import Lines
from cnn_lab.train import train
from cnn_site.evidence import Evidence
from cnn_techniques.optimization import AdamW
from cnn_techniques.training import OneCycle


class Clock(Lines):
    """The lines of a run, and the CPU seconds from its first step to its last."""

    seconds = 0.0

    def begin(self, *told: Any) -> None:
        super().begin(*told)
        self.seconds = -time.process_time()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds += time.process_time()


def of_the_lab(network: str, epochs: int, **options: Any) -> tuple[float, nn.Module]:
    """CPU seconds of a run with all that it does on the way, and its network."""
    clock = Clock()
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        train(
            Recipe(network, epochs=epochs, **options), Path(folder) / "run", show=clock
        )
        state = checkpoint.load(Path(folder) / "run" / LAST)["model"]
    model = networks.build(network, 10)
    model.load_state_dict(state)
    return clock.seconds, model


def by_hand(network: str, epochs: int) -> tuple[float, nn.Module]:
    """The same training as one would write it for this network and these images.

    With what it takes to go on after a stop, saved by `torch.save` after every epoch.
    """
    torch.manual_seed(0)
    model = networks.build(network, 10)
    (images, labels), (tests, truth) = prepared(networks.channels(model))
    many = [p for p in model.parameters() if p.ndim > 1]
    one = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = AdamW(
        [{"params": many}, {"params": one, "weight_decay": 0.0}],
        lr=1e-3,
        weight_decay=0.01,
    )
    total = epochs * math.ceil(len(images) / 64)
    schedule = OneCycle(optimizer, 1e-3, total_steps=total + 1)
    folder = TemporaryDirectory()
    seconds = -time.process_time()
    for epoch in range(1, epochs + 1):
        model.train()
        lost = 0.0
        order = torch.randperm(len(images), generator=generator(0, epoch))
        for rows in order.split(64):
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            lost += loss.item() * len(rows)
        model.eval()
        with torch.no_grad():
            right = sum(
                int((model(x).argmax(1) == y).sum())
                for x, y in zip(tests.split(256), truth.split(256), strict=True)
            )
        assert math.isfinite(lost / len(images) + right / len(tests))
        parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**states, "epoch": epoch}, Path(folder.name) / "last.pt")
    seconds += time.process_time()
    folder.cleanup()
    return seconds, model


def prepared(channels: int) -> list[tuple[Tensor, Tensor]]:
    """Digits as the lab gives them to a network, made ready before the first step."""
    parts = [digits(part, 32) for part in ("train", "test")]
    scans = [(images * 255).round() / 255 for images, _ in parts]
    mean, std = scans[0].double().mean(), scans[0].double().std(correction=0)
    ready = [(x.sub(mean).div(std)).repeat(1, channels, 1, 1) for x in scans]
    return [(x.float(), y) for x, (_, y) in zip(ready, parts, strict=True)]


def alternating(
    networks: dict[str, dict[str, Any]], pairs: int, augment: str
) -> dict[str, Any]:
    """CPU seconds of the two loops in turn, on one thread, and the ratio of each pair."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measured = {
            name: pairs_of(**given, pairs=pairs, augment=augment)
            for name, given in networks.items()
        }
    finally:
        torch.set_num_threads(threads)
    return {"threads": 1, "networks": measured}


def pairs_of(
    name: str, network: str, epochs: int, pairs: int, augment: str
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"lab": [], "bare": [], "augmented": []}
    runs = {
        "lab": lambda: of_the_lab(network, epochs),
        "bare": lambda: by_hand(network, epochs),
        "augmented": lambda: of_the_lab(network, epochs, augment=augment),
    }
    for run in runs.values():  # once for nothing: caches, and what is imported late
        run()
    for pair in range(pairs):  # now one is first, now the other
        for kind in sorted(runs, reverse=bool(pair % 2)):
            seconds[kind].append(runs[kind]()[0])
    steps = epochs * math.ceil(1200 / 64)
    return {
        "name": name,
        "network": network,
        "epochs": epochs,
        "steps": steps,
        "milliseconds": {
            k: 1000 * statistics.median(v) / steps for k, v in seconds.items()
        },
        "ratio": ratio(seconds["lab"], seconds["bare"]),
        "augmentation": ratio(seconds["augmented"], seconds["lab"]),
    }


def ratio(a: list[float], b: list[float]) -> dict[str, Any]:
    """Median of a / b over the pairs, with its 95 % interval by order statistics.

    The interval from the k-th smallest to the k-th largest of n holds the median with
    a probability of 1 - 2 P(B < k), B binomial with n draws of a half.
    """
    values = [x / y for x, y in zip(a, b, strict=True)]
    ordered, n = sorted(values), len(values)
    k = max(int(binom.ppf(0.025, n, 0.5)), 1)
    return {
        "median": statistics.median(values),
        "low": ordered[k - 1],
        "high": ordered[n - k],
        "n": n,
        "values": values,
    }


def test_the_loop_by_hand_and_that_of_the_lab_train_the_same_network() -> None:
    (_, lab), (_, hand) = of_the_lab("LeNet5", 1), by_hand("LeNet5", 1)
    for name, weight in hand.state_dict().items():
        torch.testing.assert_close(
            lab.state_dict()[name], weight, rtol=1e-3, atol=1e-4, msg=name
        )


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    draw = random.Random(0)
    held = 0
    for _ in range(2000):
        found = ratio([draw.lognormvariate(0, 1) for _ in range(20)], [1.0] * 20)
        held += found["low"] <= 1 <= found["high"]
    assert 0.95 <= held / 2000 < 0.975  # 20 values: the k for 95 % gives 95.9 %


def test_nothing_that_costs_time_is_done_more_often_than_it_has_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What costs time in a run, counted: two epochs of 19 steps, then a test each."""
    made: Counter[str] = Counter()

    def counted(place: Any, name: str) -> None:
        plain = getattr(place, name)

        def call(*given: Any, **options: Any) -> Any:
            made[name] += 1
            return plain(*given, **options)

        monkeypatch.setattr(place, name, call)

    counted(InMemory, "take")
    counted(checkpoint, "save")
    counted(tasks, "accuracies")
    counted(AdamW, "step")
    counted(fit, "generator")
    counted(fit, "seed_of")
    counted(torch, "manual_seed")
    train(Recipe("LeNet5", epochs=2), tmp_path)
    assert made["step"] == 2 * 19
    assert made["take"] == 2 * (19 + 3)  # 597 test images, 256 at a time
    assert made["save"] == made["accuracies"] == 2
    assert made["generator"] == 2  # the order of an epoch
    assert made["seed_of"] == 2 * (1 + 19)  # its seed, and one a step
    assert made["manual_seed"] == 1  # of the weights; it seeds every kind of device


@pytest.mark.record
def test_record_what_the_loop_costs_over_one_written_by_hand(
    evidence: Evidence,
) -> None:
    result = evidence.measured(
        "overhead",
        arguments={
            "networks": {
                "resnet": {
                    "name": "ResNet, one block a stage, 16 channels",
                    "network": "ResNet(BasicBlock, (1, 1, 1), width=16, "
                    "small_images=True)",
                    "epochs": 2,
                },
                "lenet": {"name": "LeNet-5", "network": "LeNet5", "epochs": 6},
            },
            "pairs": 20,
            "augment": "basic-augmentation",
        },
        run=alternating,
    )
    assert all(row["ratio"]["n"] >= 20 for row in result["networks"].values())
