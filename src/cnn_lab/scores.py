"""The scores of a network on images, and how many of them are right, in any number of processes."""

import torch
from torch import Tensor, nn

from .fit import AcceleratorLike, EvaluationBatches, Source, load_batches
from .show import ProgressCallback


def scores(
    model: nn.Module,
    source: Source,
    accelerator: AcceleratorLike,
    workers: int = 0,
    progress: ProgressCallback | None = None,
) -> tuple[Tensor, Tensor]:
    """The scores and classes of this process's share, in evaluation mode, on the CPU.

    Every module gets its mode back. `progress(done, total)` is called before the first batch
    and after each, with the images of this share.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    outputs, targets = [], []
    planned, done = EvaluationBatches(source, 256, accelerator), 0
    total = sum(map(len, planned.batches))
    if progress is not None:
        progress(0, total)
    try:
        with torch.no_grad():
            for x, y in load_batches(planned, workers):
                with accelerator.autocast():
                    outputs.append(model(x.to(accelerator.device)).float().cpu())
                targets.append(y)
                done += len(y)
                if progress is not None:
                    progress(done, total)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(outputs), torch.cat(targets)


def accuracies(
    model: nn.Module,
    source: Source,
    accelerator: AcceleratorLike,
    workers: int = 0,
    progress: ProgressCallback | None = None,
) -> dict[str, float]:
    """The share of all images whose largest score is their class's: "accuracy".

    With more than 5 classes also "top5", of those whose class is among the 5 largest.
    """
    outputs, truth = scores(model, source, accelerator, workers, progress)
    rights = {"accuracy": outputs.argmax(dim=1) == truth}
    if outputs.shape[1] > 5:
        rights["top5"] = (outputs.topk(5).indices == truth[:, None]).any(dim=1)
    counts = torch.stack([right.sum() for right in rights.values()])
    counts = accelerator.reduce(counts.to(accelerator.device))
    return {k: n / len(source) for k, n in zip(rights, counts.tolist(), strict=True)}


def accuracy(
    model: nn.Module,
    source: Source,
    accelerator: AcceleratorLike,
    workers: int = 0,
) -> float:
    """The share of all images whose largest score is their class's."""
    return accuracies(model, source, accelerator, workers)["accuracy"]
