"""Gradients of a batch in parts are those of the batch, and clipped ones have the norm."""

import dataclasses
import signal
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab import checkpoint, update
from cnn_lab import train as training
from cnn_lab.fit import BatchLoss, SingleProcess, cross_entropy, one_step
from cnn_lab.recipe import Recipe
from cnn_lab.saved import LAST
from cnn_lab.show import Silent
from cnn_lab.stop import Stopped
from cnn_lab.train import train
from cnn_lab.update import AccumulatedStep, GradientStep, make_update
from cnn_techniques.optimization import SAM

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def problem(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4))
    return model, 3 * torch.randn(count, 6), torch.arange(count) % 4


def slopes(
    update: Callable[..., object], count: int, targets: str = "classes"
) -> tuple[list[Tensor], float]:
    """The gradients of a step, and the loss that is told of it."""
    model, x, y = problem(count)
    if targets == "shares":
        y = torch.rand(count, 4).softmax(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = BatchLoss(cross_entropy, model, x, y, SingleProcess(CPU))
    update(loss, optimizer, SingleProcess(CPU))
    return [p.grad for p in model.parameters()], loss.values[0]  # type: ignore[misc]


@pytest.mark.parametrize("targets", ["classes", "shares"])
@pytest.mark.parametrize(
    ("count", "parts"), [(12, 3), (13, 3), (7, 5), (5, 5), (3, 8), (1, 2)]
)
def test_gradients_of_parts_add_up_to_those_of_the_batch(
    count: int, parts: int, targets: str
) -> None:
    expected, loss = slopes(one_step, count, targets)
    found, told = slopes(AccumulatedStep(parts), count, targets)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)
    assert told == pytest.approx(loss, rel=1e-14)


def test_the_mean_of_means_is_something_else() -> None:
    """What a step would be that counted parts of unequal size alike."""

    def of_means(loss: BatchLoss, optimizer: Any, accelerator: Any) -> None:
        optimizer.zero_grad()
        for x, y in zip(
            loss.inputs.tensor_split(3), loss.targets.tensor_split(3), strict=True
        ):
            (F.cross_entropy(loss.model(x), y) / 3).backward()
        loss()

    expected, found = slopes(one_step, 13)[0], slopes(of_means, 13)[0]
    assert (expected[0] - found[0]).norm() > 1e-3 * expected[0].norm()


@pytest.mark.parametrize("kind", [AccumulatedStep, GradientStep])
@pytest.mark.parametrize("parts", [1, 3])
def test_longer_gradients_are_shortened_and_others_are_not(
    kind: type[AccumulatedStep] | type[GradientStep], parts: int
) -> None:
    plain, _ = slopes(one_step, 13)
    norm = torch.stack([g.norm() for g in plain]).norm().item()
    for share in (0.3, 0.999, 1.001, 50):
        found, _ = slopes(kind(parts, share * norm), 13)
        for ours, theirs in zip(found, plain, strict=True):
            wanted = min(share, 1.0) * theirs
            torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=0)
        length = torch.stack([g.norm() for g in found]).norm().item()
        assert length == pytest.approx(min(share, 1) * norm, rel=1e-5)


@dataclasses.dataclass
class OfMany:
    """One of several processes, which are computed one after the other."""

    process_index: int
    num_processes: int
    seen: list[float]
    device: torch.device = CPU

    autocast = SingleProcess.autocast
    backward = SingleProcess.backward

    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        assert reduction == "mean"
        self.seen.append(tensor.item() / self.num_processes)
        return tensor


@pytest.mark.parametrize(("count", "processes"), [(13, 2), (12, 3), (5, 4)])
def test_parts_in_several_processes_add_up_too(count: int, processes: int) -> None:
    """DDP takes the mean of the gradients; a process that has fewer images lends one."""
    expected, loss = slopes(one_step, count)
    model, x, y = problem(count)
    total = [torch.zeros_like(g) for g in expected]
    seen: list[float] = []
    for rank in range(processes):
        accelerator, mine = OfMany(rank, processes, seen), slice(rank, None, processes)
        own = deepcopy(model)
        part = len(x[mine]) * processes / count
        batch = BatchLoss(cross_entropy, own, x[mine], y[mine], accelerator, part)
        before = len(seen)
        AccumulatedStep(4)(batch, torch.optim.SGD(own.parameters(), 0.1), accelerator)
        assert len(seen) - before == 4  # as often in every process
        for whole, p in zip(total, own.parameters(), strict=True):
            whole += p.grad / processes
    for ours, theirs in zip(total, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)
    assert sum(seen) == pytest.approx(loss, rel=1e-14)


def test_a_loss_that_is_not_finite_in_a_later_part_changes_no_weight() -> None:
    model, x, y = problem(9)
    x[8] = float("nan")
    start = deepcopy(model.state_dict())
    loss = BatchLoss(cross_entropy, model, x, y, SingleProcess(CPU))
    with pytest.raises(FloatingPointError):
        AccumulatedStep(3)(
            loss, torch.optim.SGD(model.parameters(), 0.1), SingleProcess(CPU)
        )
    assert all(v.equal(start[n]) for n, v in model.state_dict().items())


@pytest.mark.parametrize(("parts", "norm"), [(1, 0.0), (3, 0.0), (3, 0.2)])
def test_a_step_of_sam_takes_the_gradient_uphill_and_is_told_of_by_the_loss_before(
    parts: int, norm: float
) -> None:
    model, x, y = problem(13)
    optimizer = SAM(model, torch.optim.SGD(model.parameters(), 0.1), rho=0.3)
    loss = BatchLoss(cross_entropy, model, x, y, SingleProcess(CPU))
    GradientStep(parts, norm)(loss, optimizer, SingleProcess(CPU))
    by_hand, x, y = problem(13)
    first = F.cross_entropy(by_hand(x), y)
    slope = torch.autograd.grad(first, [*by_hand.parameters()])
    length = torch.stack([g.norm() for g in slope]).norm()
    uphill = deepcopy(by_hand)
    for p, g in zip(uphill.parameters(), slope, strict=True):
        p.data += 0.3 * g / length
    second = torch.autograd.grad(F.cross_entropy(uphill(x), y), [*uphill.parameters()])
    length = torch.stack([g.norm() for g in second]).norm()
    assert length > 0.2  # it is clipped where that is asked for
    short = min(1, norm / (length + 1e-6)) if norm else 1
    for ours, p, g in zip(
        model.parameters(), by_hand.parameters(), second, strict=True
    ):
        torch.testing.assert_close(ours, p - 0.1 * short * g, rtol=1e-12, atol=1e-14)
    assert loss.values[0] == pytest.approx(first.item(), rel=1e-14)
    assert len(loss.values) == 2


# --- in a run ------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 170, "learning_rate": 0.01}


def test_a_run_in_parts_is_the_run_of_the_whole_batches(tmp_path: Path) -> None:
    """8 steps an epoch, the last of 10 images; with targets that are shares."""
    for more in ({}, {"mixup": 0.2, "clip": 0.5, "label_smoothing": 0.1}):
        rows = [
            train(
                Recipe("LeNet5", accumulate=parts, **OPTIONS, **more),
                tmp_path / f"{len(more)}-{parts}",
            )["history"]
            for parts in (1, 4)
        ]
        for ours, theirs in zip(*rows, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-9)
    first = checkpoint.load(tmp_path / "0-1" / LAST)["history"]
    clipped = checkpoint.load(tmp_path / "3-1" / LAST)["history"]
    assert first != clipped


def test_the_usual_step_is_made_where_nothing_is_asked_for() -> None:
    assert make_update(Recipe("LeNet5")) is one_step


class StopsAfter(Silent):
    left = 3

    def step(self, step: object) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_run_in_parts_goes_on_to_the_same_bytes(
    precision: str, tmp_path: Path
) -> None:
    torch.set_default_dtype(torch.float32)
    network = "VisionTransformer(4, 1, 2, 8, 16, image_size=8, dropout=0.2)"
    options = {"size": 8, "epochs": 2, "batch_size": 500, "clip": 0.3, "accumulate": 3}
    recipe = Recipe(network, mixed_precision=precision, **options)  # type: ignore[arg-type]
    train(recipe, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "run", show=StopsAfter())
    train(recipe, tmp_path / "run", resume=True)
    kept = [(tmp_path / name / LAST).read_bytes() for name in ("whole", "run")]
    assert kept[0] == kept[1]


def test_scaled_gradients_are_clipped_after_the_scale_is_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float16 needs a GPU; that Accelerate is asked, which knows the scale, does not.

    In full precision nothing is scaled, and Accelerate not asked.
    """
    asked: list[object] = []
    clip = update.clip_gradient_norm

    def unscale(self: Any) -> None:
        asked.append("unscaled")

    def clipped(parameters: Any, norm: float) -> Tensor:
        asked.append(norm)
        return clip(parameters, norm)

    monkeypatch.setattr(training.accelerate.Accelerator, "unscale_gradients", unscale)
    monkeypatch.setattr(update, "clip_gradient_norm", clipped)
    options = {"epochs": 1, "batch_size": 400, "clip": 0.25, "accumulate": 2}
    train(Recipe("LeNet5", mixed_precision="bf16", **options), tmp_path / "half")
    assert asked == ["unscaled", 0.25] * 3
    asked.clear()
    train(Recipe("LeNet5", **options), tmp_path / "full")
    assert asked == [0.25] * 3
