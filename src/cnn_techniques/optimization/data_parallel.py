"""Data parallelism: several processes share a batch and step along its one gradient.

Source: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel
Training", VLDB 2020, arXiv:2006.15704; the mean is over the images of all
processes, as in Goyal et al., 2017, arXiv:1706.02677, section 3, remark 3.
Legend: n_i the images of process i, n those of all, g_i the gradient of their mean.
"""

# --8<-- [start:imports]
import math

import torch
import torch.distributed.nn  # an optimizer loads it: after `init`, it keeps the group
from torch import Tensor, distributed, nn

# --8<-- [end:imports]


# --8<-- [start:module]
def own_share(batch: Tensor) -> Tensor:
    """The images of a batch (N, ...) that this process trains on.

    Of two processes the first takes images 0, 2, 4, ... and the second 1, 3, 5, ...:
    N need not be a multiple of the number of processes, and a share may be empty.
    """
    # --8<-- [start:share]
    return batch[distributed.get_rank() :: distributed.get_world_size()]
    # --8<-- [end:share]


@torch.no_grad()
def copy_from_first(module: nn.Module) -> None:
    """Give all processes the parameters and buffers of the first one, in place.

    Once before training: equal weights and equal steps stay equal.
    """
    for tensor in [*module.parameters(), *module.buffers()]:
        distributed.broadcast(tensor, src=0)


@torch.no_grad()
def average_gradients(module: nn.Module, count: float) -> None:
    """Make every `.grad` that of the mean loss over the images of all processes.

    Call it in all processes between `backward` and `step`, in one that has no images
    too. A parameter that one process did not use gets the gradient of the others; one
    that none has used keeps `None`.

    Args:
        module: has the same parameters in the same order in all processes.
        count: n_i, the images that this process's loss is the mean over; 0 for none,
            then its gradients are taken for zero, whatever they are.

    Changes `grad` of every parameter, in place.
    Raises: ValueError for a count below 0, for counts that are all 0 and for sparse
        gradients, in all processes, before anything is changed; for a module without
        parameters that learn.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"expected parameters that learn, got none in {module!r}")
    fit = math.isfinite(count) and count >= 0
    fit = fit and not any(p.grad is not None and p.grad.is_sparse for p in parameters)
    # All processes are told of a fault: else the others would wait for this one.
    facts = [count if fit else 0, not fit, *(p.grad is not None for p in parameters)]
    sums = torch.tensor(facts, dtype=torch.float64, device=parameters[0].device)
    distributed.all_reduce(sums)  # over all processes
    n, faults, used = sums[0], int(sums[1]), (sums[2:] > 0).tolist()
    if faults or not n:
        raise ValueError(
            "expected dense gradients and a count of 0 or more in each process, not "
            f"all 0, got {count=} here, faults in {faults} processes, {n:g} images"
        )
    for p, anywhere in zip(parameters, used, strict=True):
        if anywhere and p.grad is None:
            p.grad = torch.zeros_like(p)
    gradients = [p.grad for p in parameters if p.grad is not None]
    # --8<-- [start:average]
    for dtype in dict.fromkeys(g.dtype for g in gradients):  # one message for each
        same = [g for g in gradients if g.dtype == dtype]
        g_i = torch.cat([g.flatten() for g in same])
        g_i = g_i * (count / n).to(dtype) if count else torch.zeros_like(g_i)
        distributed.all_reduce(g_i)  # the sum over all processes
        parts = torch.split(g_i, [g.numel() for g in same])
        for g, part in zip(same, parts, strict=True):
            g.copy_(part.view_as(g))
    # --8<-- [end:average]


# --8<-- [end:module]
