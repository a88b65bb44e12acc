"""The norms of the pages, by name, in place of the batch norms of a network."""

from collections.abc import Callable

import torch
from torch import nn

from cnn_techniques.optimization import BatchNorm2d, GroupNorm

from .options import Norm


def group_norm(norm: nn.BatchNorm2d) -> GroupNorm:
    """32 groups as in the paper, fewer where one would have less than two channels."""
    channels = norm.num_features
    most = min(32, max(1, channels // 2))
    groups = max(g for g in range(1, most + 1) if channels % g == 0)
    return GroupNorm(groups, channels, norm.eps, norm.affine)


def batch_norm(norm: nn.BatchNorm2d) -> BatchNorm2d:
    return BatchNorm2d(
        norm.num_features,
        norm.eps,
        norm.momentum,
        norm.affine,
        norm.track_running_stats,
    )


# Makes what stands in the place of a batch norm, with parameters of the same names.
NORMS: dict[str, Callable[[nn.BatchNorm2d], nn.Module]] = {
    Norm.batch_normalization: batch_norm,
    Norm.group_and_layer_normalization: group_norm,
}
MADE = (BatchNorm2d, GroupNorm)


def replace_norms(model: nn.Module, norm: str) -> None:
    """Put `norm` in place of every `nn.BatchNorm2d`, which hands on its scale and shift.

    Running averages are handed on where both have them.

    Raises: ValueError for a network without batch norms.
    """
    if norm == Norm.network:
        return
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.BatchNorm2d)
    ]
    if not found and any(isinstance(m, MADE) for m in model.modules()):
        return  # by a run before this one, with the same model
    if not found:
        raise ValueError(
            f"norm {norm}: expected a network with nn.BatchNorm2d to replace, got "
            f"{type(model).__name__} without"
        )
    made: dict[nn.BatchNorm2d, nn.Module] = {}  # one may stand in several places
    for parent, name, child in found:
        if child not in made:
            with torch.device(_device(child)):
                new = NORMS[norm](child)
            own = new.state_dict()
            new.load_state_dict(
                {k: v for k, v in child.state_dict().items() if k in own}
            )
            made[child] = new.train(child.training)
        setattr(parent, name, made[child])


def _device(norm: nn.BatchNorm2d) -> torch.device:
    held = [*norm.parameters(), *norm.buffers()]
    return held[0].device if held else torch.device("cpu")
