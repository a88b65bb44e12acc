"""The bench's network, trained: what all pages that make networks smaller begin with.

The network is the bench's baseline: 77,754 parameters, 6,000 images of Fashion-MNIST, ten
epochs. Every method of the category gets the same ones, a network for each seed, and is
tested on the same 10,000 images. What has to learn again does so by the bench's recipe.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cnn_techniques.compression import apply_masks

from . import bench
from .checkpoint import written_whole
from .fingerprint import fingerprint_of
from .fit import AcceleratorLike, Update, accuracy, fit, one_step, steps

SEEDS = tuple(range(5))
EPOCHS = 10  # of the first training
AGAIN_EPOCHS, AGAIN_RATE = 4, 0.02  # after a change: a fifth of the first rate


def train(
    model: nn.Module,
    seed: int,
    *,
    epochs: int = EPOCHS,
    rate: float = 0.1,
    update: Update = one_step,
    root: Path = Path("data"),
) -> nn.Module:
    """Train a network in place as the bench does, from the weights that it has.

    Args:
        seed: of the order of the images.
        rate: the first; it goes to nothing along a half cosine.
        update: makes a step; `keeping` keeps pruned weights at zero.

    Returns: the same network, in evaluation mode.
    """
    images, labels = bench.garments("train", root)
    count = steps(len(images), epochs=epochs, batch_size=bench.BATCH_SIZE)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4
    )
    schedule = bench.cosine(optimizer, count)
    fit(
        model,
        (images, labels),
        epochs=epochs,
        batch_size=bench.BATCH_SIZE,
        optimizer=optimizer,
        schedule=schedule,
        update=update,
        seed=seed,
    )
    return model.eval()


def keeping(model: nn.Module, masks: dict[str, Tensor]) -> Update:
    """A step of `train` after which what was pruned is zero again."""

    def update(
        loss: Callable[[], Tensor],
        optimizer: torch.optim.Optimizer,
        accelerator: AcceleratorLike,
    ) -> None:
        one_step(loss, optimizer, accelerator)
        apply_masks(model, masks)

    return update


def untrained(seed: int) -> nn.Module:
    """The network that the training of a seed begins with."""
    torch.manual_seed(seed)
    return bench.network()


def trained(
    seed: int, root: Path = Path("data"), kept: Path = Path(".cache/trained")
) -> nn.Module:
    """The bench's baseline as it is after its last epoch, in evaluation mode.

    A network that was trained by the same code is read from `kept` instead.

    Raises: FileNotFoundError without the images.
    """
    path = kept / f"{fingerprint_of(_weights, {'seed': seed})}-{seed}.safetensors"
    model = bench.network()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            save_file(_weights(seed, root), part)
    model.load_state_dict(load_file(path))
    return model.eval()


def _weights(seed: int, root: Path) -> dict[str, Tensor]:
    return train(untrained(seed), seed, root=root).state_dict()


def score(model: nn.Module, root: Path = Path("data")) -> float:
    """The share of the 10,000 test images that is right."""
    return accuracy(model, *bench.garments("test", root))


def calibration_images(count: int = 500, root: Path = Path("data")) -> Tensor:
    """The first of the training images, in the order of the file: none is a test image."""
    return bench.garments("train", root)[0][:count]


def file_bytes(state: Mapping[str, Tensor]) -> int:
    """The size of a safetensors file with these tensors, each whole and its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(
            {key: value.clone().contiguous() for key, value in state.items()}, path
        )
        return path.stat().st_size


def milliseconds(
    calls: Mapping[str, Callable[[], object]], rounds: int = 30
) -> dict[str, float]:
    """The median time of each call in ms of wall time; they take turns, round by round."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in taken.items()}
