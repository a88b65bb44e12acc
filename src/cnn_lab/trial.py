"""Does a network learn? One recipe for all of them, small enough for two cores.

It shows that a network learns, and ranks nothing: the recipe is nobody's best, the
images are few, and 32 pixels are not what these networks were made for.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import digits
from .fit import accuracy, fit, predict, steps
from .record import interval, repeat

Json = dict[str, Any]


def score_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of a network's scores, the first where it returns several."""
    out = model(inputs)
    return F.cross_entropy(out[0] if isinstance(out, tuple) else out, targets)


def learn_digits(
    model: nn.Module,
    *,
    pixels: int = 32,
    epochs: int = 3,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Json:
    """Train on the 1,200 digits, in three equal colours, and test on the 597 others.

    AdamW, weight decay 0.01, a one-cycle schedule. At the end one pass over the training
    images sets the batch norms' statistics: with the momentum of 0.01 that some networks
    have, so few steps would leave them near their start.

    Args:
        model: of 3 channels and 10 classes; its scores, or a tuple of which they are
            the first, are trained with cross-entropy.
        pixels: height and width that the scans are resized to.

    Returns: accuracy on the test images after the last epoch, and the loss by epoch.
    """
    images, labels = digits("train", pixels)
    images = images.expand(-1, 3, -1, -1)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=0.01
    )
    total = steps(len(images), epochs=epochs, batch_size=batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=total + 1
    )

    history = fit(
        model,
        (images, labels),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        schedule=schedule,
        loss=score_loss,
        seed=seed,
    )
    torch.optim.swa_utils.update_bn(torch.split(images, 100), model)
    tests, truth = digits("test", pixels)
    return {
        "accuracy": accuracy(model, tests.expand(-1, 3, -1, -1), truth),
        "curve": [epoch["loss"] for epoch in history],
    }


def learn_by_heart(
    model: nn.Module,
    *,
    pixels: int,
    steps: int = 40,
    learning_rate: float = 1e-4,
    seed: int = 0,
) -> Json:
    """Train on one batch of 32 digits, for networks too heavy for `learn_digits`.

    Returns: accuracy on that same batch, in evaluation mode, and the loss by step.
    """
    images, labels = (part[:32] for part in digits("train", pixels))
    images = images.expand(-1, 3, -1, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)

    history = fit(
        model,
        (images, labels),
        epochs=steps,
        batch_size=32,
        optimizer=optimizer,
        loss=score_loss,
        seed=seed,
    )
    torch.optim.swa_utils.update_bn([images], model)
    right = predict(model, images).argmax(dim=1) == labels
    return {
        "accuracy": float(right.double().mean()),
        "curve": [epoch["loss"] for epoch in history],
    }


def trials(
    run: Callable[..., Json],
    seeds: Sequence[int],
    cache: Path,
    arms: Mapping[str, tuple[str, Json]],
) -> Json:
    """Run every arm with every seed, resumable, as the rows that pages show.

    Args:
        run: `run(**arguments, seed=seed)` returns "accuracy" and "curve".
        arms: key -> name on the page, arguments of `run`.
    """
    results = repeat(
        run, {key: arguments for key, (_, arguments) in arms.items()}, seeds, cache
    )
    rows = {}
    for key, (name, _) in arms.items():
        accuracies = [result["accuracy"] for result in results[key]]
        rows[key] = {
            "name": name,
            "accuracy": {**interval(accuracies), "values": accuracies},
            "loss": interval([result["curve"][-1] for result in results[key]]),
            "curve": [result["curve"] for result in results[key]],
        }
    return {"seeds": len(seeds), "arms": rows}
