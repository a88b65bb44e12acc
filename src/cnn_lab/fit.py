"""One plain training loop for every task: what differs is the loss.

The order of the images depends on (seed, epoch) alone, everything drawn for a batch on
(seed, epoch, step) alone: no draw depends on how many were made before it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Targets = Any  # a tensor, or a sequence with one entry an image
Loss = Callable[[nn.Module, Tensor, Targets], Tensor]
BatchTransform = Callable[[Tensor, Targets, torch.Generator], tuple[Tensor, Targets]]


class Schedule(Protocol):
    """Any scheduler of torch.optim.lr_scheduler."""

    def step(self) -> object: ...


def cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The default loss, of logits (N, K) or (N, K, H, W).

    Targets are classes (N,) or (N, H, W), or probabilities of the logits' shape.
    """
    return F.cross_entropy(model(inputs), targets)


def fit(
    model: nn.Module,
    data: tuple[Tensor, Targets],
    *,
    epochs: int,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    loss: Loss = cross_entropy,
    schedule: Schedule | None = None,
    batch_transform: BatchTransform | None = None,
    evaluate: Callable[[nn.Module], dict[str, Any]] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> list[dict[str, Any]]:
    """Train the model in place, and tell of every epoch.

    Returns a dict for each epoch: "epoch" (from 1), "loss" (the mean), and what
    `evaluate` returned. The model comes back in evaluation mode, torch's global random
    state as it was.

    Args:
        data: inputs (N, ...) and their targets: a tensor (N, ...) or a list of N, of
            which a batch is a shorter list.
        batch_size: images a step; the last batch of an epoch holds what is left.
        optimizer: over the model's parameters.
        loss: `loss(model, inputs, targets)`, a scalar, the mean over the batch.
        schedule: stepped after every batch; `steps` says how many there will be.
        batch_transform: `batch_transform(inputs, targets, generator)` returns what the
            loss sees. It runs on the CPU and draws from the generator only.
        evaluate: called with the model after every epoch, in evaluation mode and
            without gradients.
        seed: of the order, of `batch_transform` and of the model's own draws (dropout);
            not of its initial weights.

    Raises: ValueError for unequal lengths or numbers below 1; FloatingPointError for a
    loss that is not finite.
    """
    inputs, targets = data
    count = len(inputs)
    if len(targets) != count or count == 0:
        raise ValueError(
            f"need as many targets as inputs, got {len(targets)} and {count}"
        )
    if epochs < 1 or batch_size < 1:
        raise ValueError(
            f"epochs and batch_size must be at least 1, got {epochs=}, {batch_size=}"
        )
    device = torch.device(device)
    model.to(device)
    history = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for epoch in range(1, epochs + 1):
            model.train()
            total = 0.0
            order = torch.randperm(count, generator=generator(seed, epoch))
            for step, rows in enumerate(torch.split(order, batch_size)):
                x, y = inputs[rows], _take(targets, rows)
                if batch_transform is not None:
                    x, y = batch_transform(x, y, generator(seed, epoch, step))
                torch.manual_seed(
                    generator(seed, epoch, step, 1).initial_seed()
                )  # for the model's own draws
                value = loss(model, x.to(device), _to(y, device))
                if not math.isfinite(value.item()):
                    rates = [group["lr"] for group in optimizer.param_groups]
                    raise FloatingPointError(
                        f"the loss is {value.item()} in epoch {epoch}, step {step} "
                        f"(learning rates {rates}): lower the learning rate, "
                        "or look for a division by zero in the loss"
                    )
                optimizer.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if schedule is not None:
                    schedule.step()
                total += value.item() * len(rows)
            model.eval()
            with torch.no_grad():
                found = evaluate(model) if evaluate is not None else {}
            history.append({"epoch": epoch, "loss": total / count, **found})
    return history


def steps(count: int, *, epochs: int, batch_size: int) -> int:
    """How many steps `fit` makes with `count` images; a schedule needs to know it."""
    return epochs * math.ceil(count / batch_size)


def predict(model: nn.Module, inputs: Tensor, batch_size: int = 256) -> Any:
    """The model's outputs in evaluation mode and without gradients.

    Runs on the model's device; every module gets its mode back.

    Returns a tensor on the CPU where the model returns tensors, one list where it
    returns lists (one entry an image).
    Raises: TypeError for other outputs.
    """
    where = next((p.device for p in model.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            parts = [
                model(batch.to(where)) for batch in torch.split(inputs, batch_size)
            ]
    finally:
        for module, mode in modes.items():
            module.training = mode
    if all(isinstance(part, Tensor) for part in parts):
        return torch.cat(parts).cpu()
    if all(isinstance(part, list) for part in parts):
        return [_to(entry, torch.device("cpu")) for part in parts for entry in part]
    raise TypeError(
        f"the model must return a tensor or a list, got {type(parts[0]).__name__}"
    )


def accuracy(
    model: nn.Module, inputs: Tensor, targets: Tensor, batch_size: int = 256
) -> float:
    """The share of inputs, or pixels, whose largest logit (dim 1) is their target's."""
    right = predict(model, inputs, batch_size).argmax(dim=1) == targets.cpu()
    return float(right.double().mean())


def generator(*key: int) -> torch.Generator:
    """A CPU generator made from the key alone; other keys give unrelated streams."""
    return torch.Generator().manual_seed(
        int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    )


def _take(targets: Targets, rows: Tensor) -> Targets:
    return (
        targets[rows]
        if isinstance(targets, Tensor)
        else [targets[row] for row in rows.tolist()]
    )


def _to(value: Any, device: torch.device) -> Any:
    """Tensors in lists, tuples and dicts, moved."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to(v, device) for key, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return type(value)(_to(v, device) for v in value)  # type: ignore[call-arg]
    return value
