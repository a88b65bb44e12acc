"""Unstructured pruning: the weights of smallest magnitude become zero, and stay it.

Source: Han, Pool, Tran and Dally, "Learning both weights and connections for efficient
neural networks", NeurIPS 2015, arXiv:1506.02626: prune by magnitude, then train what is
left again.
Legend: O output and I input channels, k kernel size.
"""

# --8<-- [start:imports]
from typing import Literal

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
def prunable(network: nn.Module) -> dict[str, Tensor]:
    """The weights of convolutions and linear layers by name; no biases, no norms."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return {
        f"{name}.weight" if name else "weight": module.weight
        for name, module in network.named_modules()
        if isinstance(module, kinds)
    }


@torch.no_grad()
def magnitude_masks(
    network: nn.Module,
    sparsity: float,
    scope: Literal["global", "layer"] = "global",
) -> dict[str, Tensor]:
    """Which weights stay: all but the smallest in magnitude.

    Args:
        network: it is not changed.
        sparsity: the share that goes, from 0 to below 1; rounded to whole weights.
        scope: "global" compares the weights of all layers with each other, so that
            layers lose different shares; "layer" takes the share from each alone.

    Returns: name of a weight -> bool mask (O, I, k, k), True where it stays.
    Raises: ValueError for another sparsity or scope, or a network without such layers.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"expected a sparsity from 0 to below 1, got {sparsity}")
    if scope not in ("global", "layer"):
        raise ValueError(f"expected scope 'global' or 'layer', got {scope!r}")
    weights = prunable(network)
    if not weights:
        kind = type(network).__name__
        raise ValueError(f"{kind} has no convolution and no linear layer to prune")

    def smallest(magnitudes: Tensor) -> Tensor:
        # --8<-- [start:masks]
        keep = torch.ones_like(magnitudes, dtype=torch.bool)
        gone = round(sparsity * magnitudes.numel())
        keep[magnitudes.topk(gone, largest=False).indices] = False
        # --8<-- [end:masks]
        return keep

    flat = {name: weight.abs().flatten() for name, weight in weights.items()}
    if scope == "layer":
        kept = [smallest(magnitudes) for magnitudes in flat.values()]
    else:
        together = smallest(torch.cat(list(flat.values())))
        kept = list(torch.split(together, [m.numel() for m in flat.values()]))
    shapes = [weight.shape for weight in weights.values()]
    return {n: k.view(s) for n, k, s in zip(weights, kept, shapes, strict=True)}


@torch.no_grad()
def apply_masks(network: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set the weights that go to zero, in place; after every step of a training too.

    Raises: ValueError for a mask of another shape, or of a weight that is not there.
    """
    weights = prunable(network)
    for name, mask in masks.items():
        shape = tuple(weights[name].shape) if name in weights else None
        if shape != tuple(mask.shape):
            given = f"{name} {tuple(mask.shape)}"
            raise ValueError(f"a mask is of {given}, the network has {shape}")
        # --8<-- [start:apply]
        weights[name].masked_fill_(~mask, 0)  # a product would leave -0
        # --8<-- [end:apply]


def sparsity_of(masks: dict[str, Tensor]) -> float:
    """The share of weights that go, of all that have a mask."""
    total = sum(mask.numel() for mask in masks.values())
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / total


# --8<-- [end:module]
