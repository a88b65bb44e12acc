"""The gradient of a large batch from small ones, and a bound on its norm.

Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural
networks", ICML 2013, arXiv:1211.5063, section 3.2, algorithm 1, for clipping.
Legend: g a gradient, n_i the images of micro-batch i, n those of all, p a norm's order.
"""

# --8<-- [start:imports]
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
def accumulate_gradients(
    loss: Callable[..., Tensor],
    micro_batches: Sequence[Sequence[Tensor]],
    counts: Sequence[float] | None = None,
) -> Tensor:
    """Add to every `.grad` the gradient of the mean loss over all micro-batches.

    Each is sent forward and backward by itself, so that the activations of one are in
    memory at a time. Gradients that are there already are added to.

    Args:
        loss: `loss(*micro_batch)`, the mean over that micro-batch, a scalar.
        micro_batches: what `loss` takes, the images first; of any sizes.
        counts: n_i, what each mean is over, where that is not the images: pixels that
            have a label, for one. A micro-batch that counts 0 is left out.

    Returns: the mean loss, without a graph.
    Raises: ValueError for no micro-batches, or counts that are negative, add up to 0,
        or are not as many.
    """
    if counts is None:
        counts = [len(micro_batch[0]) for micro_batch in micro_batches]
    n = sum(counts)
    if len(counts) != len(micro_batches) or not (min(counts, default=-1) >= 0 < n):
        raise ValueError(
            f"expected a count of 0 or more for each of {len(micro_batches)} "
            f"micro-batches, and not all 0, got {list(counts)}"
        )
    # --8<-- [start:accumulate]
    means = []
    for micro_batch, n_i in zip(micro_batches, counts, strict=True):
        if n_i:  # the mean over nothing is not a number
            part = n_i / n * loss(*micro_batch)
            torch.autograd.backward(part)  # adds to .grad
            means.append(part.detach())
    # --8<-- [end:accumulate]
    return torch.stack(means).sum()


@torch.no_grad()
def gradient_norm(
    parameters: nn.Parameter | Iterable[nn.Parameter], norm_type: float = 2.0
) -> Tensor:
    """The p-norm of all gradients, as if they were one vector.

    Args:
        parameters: those without a gradient are left out; a single one will do.
        norm_type: p, above 0; `math.inf` for the largest entry.

    Returns: a scalar; 0 where there is no gradient.
    Raises: ValueError for p of 0 or less.
    """
    if not norm_type > 0:
        raise ValueError(f"expected a norm_type above 0, got {norm_type=}")
    gradients = [p.grad for p in _clipped_tensors(parameters) if p.grad is not None]
    if not gradients:
        return torch.tensor(0.0)
    norms = [torch.linalg.vector_norm(g, norm_type) for g in gradients]
    there = norms[0].device
    return torch.linalg.vector_norm(
        torch.stack([v.to(there) for v in norms]), norm_type
    )


@torch.no_grad()
def clip_gradient_norm(
    parameters: nn.Parameter | Iterable[nn.Parameter],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Shorten all gradients together to a norm of max_norm, if theirs is above it.

    Call it between `backward` (the last one, if gradients are accumulated) and `step`.

    Args:
        parameters: whose `.grad` is changed in place; a single one will do.
        max_norm: the bound; `math.inf` measures and changes no finite gradient.
        norm_type: p, above 0; `math.inf` for the largest entry.
        error_if_nonfinite: refuse a norm that is infinite or no number. Else finite
            entries become 0 beside infinite ones, and all become NaN beside NaN.

    Returns: the norm before.
    Raises: ValueError for a bound below 0 or p of 0 or less, RuntimeError for a norm
        that is not finite, if asked for; before anything is changed.
    """
    if not max_norm >= 0:
        raise ValueError(f"expected a max_norm of 0 or more, got {max_norm=}")
    tensors = _clipped_tensors(parameters)
    norm = gradient_norm(tensors, norm_type)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(
            f"expected a finite norm of the gradients, got {norm.item()}"
        )
    # --8<-- [start:clip]
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parameter in tensors:
        if parameter.grad is not None:
            parameter.grad *= scale.to(parameter.grad.device)
    # --8<-- [end:clip]
    return norm


def _clipped_tensors(
    parameters: nn.Parameter | Iterable[nn.Parameter],
) -> list[nn.Parameter]:
    """A list, because a generator can be gone through only once."""
    if isinstance(parameters, Tensor):  # would be gone through row by row
        return [parameters]  # type: ignore[list-item]
    return list(parameters)


# --8<-- [end:module]
