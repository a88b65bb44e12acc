"""Iterative pruning: prune a little, train, and again; or go back to early weights.

Source: Han et al., arXiv:1506.02626, prune and retrain; Frankle and Carbin, "The
lottery ticket hypothesis", ICLR 2019, arXiv:1803.03635: the mask of the trained network
on the weights of the start.
Legend: s is the sparsity at the end, R the number of rounds.
"""

# --8<-- [start:imports]
from collections.abc import Callable

import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from cnn_techniques.compression.unstructured_pruning import apply_masks, magnitude_masks


# --8<-- [start:module]
def pruning_rounds(sparsity: float, rounds: int) -> list[float]:
    """The sparsity after each round, when each takes the same share of what is left.

    Raises: ValueError for a sparsity outside [0, 1), or no round.
    """
    if not 0 <= sparsity < 1 or rounds < 1:
        given = f"{sparsity=}, {rounds=}"
        raise ValueError(
            f"expected a sparsity from 0 to below 1 and a round, got {given}"
        )
    # --8<-- [start:schedule]
    return [1 - (1 - sparsity) ** (r / rounds) for r in range(1, rounds + 1)]
    # --8<-- [end:schedule]


def prune_iteratively(
    network: nn.Module,
    train: Callable[[nn.Module, dict[str, Tensor]], object],
    sparsity: float,
    rounds: int,
    rewind_to: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Prune a trained network in place, round by round.

    Args:
        train: trains a network; it must call `apply_masks(network, masks)` after every
            step, and leaves nothing else changed.
        sparsity: at the end, of all layers together.
        rewind_to: a state of the same network; every round trains from these weights
            instead of those that the round before left.

    Returns: the masks of the last round.
    Raises: ValueError for a sparsity outside [0, 1), or no round.
    """
    masks: dict[str, Tensor] = {}
    # --8<-- [start:rounds]
    for share in pruning_rounds(sparsity, rounds):
        masks = magnitude_masks(network, share)  # what is zero already stays it
        if rewind_to is not None:
            network.load_state_dict(rewind_to)
        apply_masks(network, masks)
        train(network, masks)
    # --8<-- [end:rounds]
    return masks


def shuffled(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Masks that keep as many weights of each layer, but drawn ones."""
    return {
        name: mask.flatten()[torch.randperm(mask.numel())].view_as(mask)
        for name, mask in masks.items()
    }


# --8<-- [end:module]
