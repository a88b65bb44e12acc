"""How a step is made of a batch: in parts, with a bounded gradient, with two gradients."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cnn_techniques.optimization import SAM, clip_gradient_norm

from .fit import AcceleratorLike, BatchLoss, Loss, Update, one_step
from .recipe import Recipe


def make_update(recipe: Recipe) -> Update:
    """What `recipe` asks for by clip, accumulate and sam; else the usual step."""
    if not recipe.clip and not recipe.sam and recipe.accumulate == 1:
        return one_step
    return GradientStep(recipe.accumulate, recipe.clip)


class GradientStep:
    """A step with the gradient of `AccumulatedStep`, clipped; of SAM, with two of them.

    Both gradients of SAM are clipped; the length of the first one does not matter.

    Args:
        parts: at most, of a process's share of the batch.
        norm: of all gradients together, which are shortened to it; 0: as they are.
    """

    def __init__(self, parts: int = 1, norm: float = 0.0) -> None:
        self.accumulated, self.norm = AccumulatedStep(parts), norm

    def __call__(
        self,
        loss: Callable[[], Tensor],
        optimizer: torch.optim.Optimizer,
        accelerator: AcceleratorLike,
    ) -> None:
        assert isinstance(loss, BatchLoss)

        def gradient() -> Tensor:
            self.accumulated(loss, _WithoutStep(optimizer), accelerator)  # type: ignore[arg-type]
            if self.norm:
                # Accelerate takes the scale of float16 out, where there is one.
                getattr(accelerator, "unscale_gradients", lambda: None)()
                parameters = [p for g in optimizer.param_groups for p in g["params"]]
                clip_gradient_norm(parameters, self.norm)
            return torch.tensor(loss.values[-1])

        if isinstance(optimizer, SAM):
            optimizer.step(gradient)
        else:  # a closure would be called inside of the scaler of float16
            gradient()
            optimizer.step()


class _WithoutStep:
    """An optimizer whose gradients are cleared and whose step waits."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.zero_grad = optimizer.zero_grad

    def step(self) -> None:
        pass


class AccumulatedStep:
    """A step whose gradient is added up over parts of the batch, and then clipped.

    The gradient is that of the whole batch: each part's mean loss counts by its share of
    the images, so that parts of unequal size are no matter. What a network takes from a
    batch as a whole (the statistics of a batch norm, the draws of a dropout) is the
    part's.

    Args:
        parts: at most, of a process's share of the batch.
        norm: of all gradients together, which are shortened to it (Pascanu et al. 2013,
            algorithm 1); 0: as they are.
    """

    def __init__(self, parts: int = 1, norm: float = 0.0) -> None:
        self.parts, self.norm = parts, norm

    def __call__(
        self,
        loss: Callable[[], Tensor],
        optimizer: torch.optim.Optimizer,
        accelerator: AcceleratorLike,
    ) -> None:
        assert isinstance(loss, BatchLoss)
        parts = list(self._split(loss))
        optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(parts, 1):
            # Of several processes: gradients are exchanged once, with the last part.
            waits = getattr(loss.model, "no_sync", nullcontext)
            with waits() if number < len(parts) else nullcontext():
                accelerator.backward(part())
        loss.values.append(sum(part.values[0] for part in parts))
        if self.norm:
            parameters = [p for g in optimizer.param_groups for p in g["params"]]
            # Accelerate's takes the scale of float16 out first.
            clip = getattr(accelerator, "clip_grad_norm_", nn.utils.clip_grad_norm_)
            clip(parameters, self.norm)
        optimizer.step()

    def _split(self, loss: BatchLoss) -> Iterator[BatchLoss]:
        """The losses of the parts, whose sum is that of the batch."""
        images = loss.inputs
        count = self.parts
        if loss.accelerator.num_processes == 1:
            count = min(count, len(images))
        rows = torch.arange(len(images), device=images.device).tensor_split(count)
        for part_rows in rows:
            share = len(part_rows) / len(images)
            # As many parts in every process: one that is empty is lent an image, of no weight.
            if not len(part_rows):
                part_rows = torch.zeros(1, dtype=torch.long, device=images.device)
            yield BatchLoss(
                _times(loss.loss, share),
                loss.model,
                images[part_rows],
                loss.targets[part_rows],
                loss.accelerator,
                loss.share,
            )


def _times(loss: Loss, share: float) -> Loss:
    def scaled(model: nn.Module, inputs: Tensor, targets: Any) -> Tensor:
        return share * loss(model, inputs, targets)

    return scaled
