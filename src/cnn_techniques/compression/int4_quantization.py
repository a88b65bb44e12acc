"""INT4 weight-only quantisation: TODO the idea in one sentence.

Source: TODO authors, "title", venue year, arXiv:id, section.
Legend: O output and C input channels of a convolution.
"""

# --8<-- [start:imports]
import torch
from torch import nn

# --8<-- [end:imports]


# --8<-- [start:module]
@torch.no_grad()
def int4_quantization_(network: nn.Module, share: float) -> None:
    """TODO what it changes, in place.

    Args:
        network: its convolutions are changed.
        share: of the weights of each, from 0 (nothing) to 1.

    Raises: ValueError for a share outside [0, 1], or a network without convolutions.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share from 0 to 1, got {share=}")
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    if not layers:
        raise ValueError(f"{type(network).__name__} has no convolution")
    for layer in layers:
        # --8<-- [start:step]
        flat = layer.weight.flatten()  # TODO the steps
        flat[flat.abs().argsort()[: round(share * len(flat))]] = 0
        layer.weight.copy_(flat.view_as(layer.weight))
        # --8<-- [end:step]


# --8<-- [end:module]
