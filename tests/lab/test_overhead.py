"""What the loop of the lab costs over one that is written for the occasion."""

import io
import math
import multiprocessing
import statistics
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import pytest
import torch
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
    networks: dict[str, dict[str, Any]], processes: int, pairs: int, augment: str
) -> dict[str, Any]:
    """CPU seconds of the two loops in turn, on one thread, in several processes.

    Pairs of one process agree with each other better than with those of the next: what
    lies where in memory is drawn once for a process.
    """
    context = multiprocessing.get_context("spawn")
    measured = {}
    for name, given in networks.items():
        found = []
        for _ in range(processes):
            with ProcessPoolExecutor(1, context) as pool:
                found.append(pool.submit(in_a_process, given, pairs, augment).result())
        measured[name] = {
            **given,
            "steps": steps(given),
            "pairs": pairs,
            "milliseconds": {
                kind: statistics.median(f["milliseconds"][kind] for f in found)
                for kind in KINDS
            },
            "ratio": over_processes([f["ratio"] for f in found]),
            "augmentation": over_processes([f["augmentation"] for f in found]),
        }
    return {"threads": 1, "networks": measured}


KINDS = ("lab", "bare", "augmented")


def steps(given: dict[str, Any]) -> int:
    return int(given["epochs"] * math.ceil(1200 / 64))


def in_a_process(given: dict[str, Any], pairs: int, augment: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    network, epochs = given["network"], given["epochs"]
    runs = {
        "lab": lambda: of_the_lab(network, epochs),
        "bare": lambda: by_hand(network, epochs),
        "augmented": lambda: of_the_lab(network, epochs, augment=augment),
    }
    for run in runs.values():  # once for nothing: caches, and what is imported late
        run()
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for pair in range(pairs):  # now one is first, now the other
        for kind in sorted(KINDS, reverse=bool(pair % 2)):
            seconds[kind].append(runs[kind]()[0])

    def ratio(a: str, b: str) -> float:
        shares = [x / y for x, y in zip(seconds[a], seconds[b], strict=True)]
        return statistics.median(shares)

    return {
        "milliseconds": {
            kind: 1000 * statistics.median(s) / steps(given)
            for kind, s in seconds.items()
        },
        "ratio": ratio("lab", "bare"),
        "augmentation": ratio("augmented", "lab"),
    }


def over_processes(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
        "values": values,
    }


def test_the_loop_by_hand_and_that_of_the_lab_train_the_same_network() -> None:
    (_, lab), (_, hand) = of_the_lab("LeNet5", 1), by_hand("LeNet5", 1)
    for name, weight in hand.state_dict().items():
        torch.testing.assert_close(
            lab.state_dict()[name], weight, rtol=1e-3, atol=1e-4, msg=name
        )


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
            "processes": 5,
            "pairs": 6,
            "augment": "basic-augmentation",
        },
        run=alternating,
    )
    assert all(row["ratio"]["n"] == 5 for row in result["networks"].values())
