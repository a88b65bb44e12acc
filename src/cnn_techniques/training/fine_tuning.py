"""Fine-tuning in parts: lower rates towards the image, and one part more each epoch.

Source: Howard and Ruder, "Universal Language Model Fine-tuning for Text
Classification", ACL 2018, arXiv:1801.06146, sections 3.2 (rates) and 3.3 (unfreezing).
Legend: L parts of a network; part l has depth l, from 1 at the image to L, the head.
"""

# --8<-- [start:imports]
from collections.abc import Sequence
from typing import Any

# --8<-- [end:imports]
from torch import nn

from .feature_extraction import freeze


# --8<-- [start:module]
def layer_groups(
    model: nn.Module,
    parts: Sequence[nn.Module],
    learning_rate: float,
    decay: float = 1 / 2.6,
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: a part has the next part's rate times `decay`.

    Args:
        model: the whole network.
        parts: its modules from the image to the head; several that belong together
            stand in an `nn.ModuleList`.
        learning_rate: eta of the last part, the head.
        decay: from above 0 to 1 (one rate for all); 1 / 2.6 in the paper.

    Returns a dict for each part, with "params" and "lr".
    Raises: ValueError for a rate or decay out of range, a parameter of the model that
    is in no part, in two, or frozen (`train_last` freezes later), one of another model,
    and a part that has none.
    """
    if not learning_rate > 0 or not 0 < decay <= 1:
        given = f"{learning_rate=}, {decay=}"
        raise ValueError(f"expected learning_rate > 0 and 0 < decay <= 1, got {given}")
    held = [parameter for part in parts for parameter in part.parameters()]
    for name, parameter in model.named_parameters():
        times = sum(parameter is other for other in held)
        if times != 1 or not parameter.requires_grad:
            state = "" if parameter.requires_grad else " and frozen"
            raise ValueError(f"expected {name} in one part, it is in {times}{state}")
    if len(held) != len(list(model.parameters())):
        raise ValueError("expected parts of the model, got a parameter of another one")
    if empty := [n for n, part in enumerate(parts) if not list(part.parameters())]:
        raise ValueError(f"expected parts with parameters, parts[{empty[0]}] has none")
    groups = []
    # --8<-- [start:rate]
    for depth, part in enumerate(parts, start=1):
        rate = learning_rate * decay ** (len(parts) - depth)
        groups.append({"params": list(part.parameters()), "lr": rate})
    # --8<-- [end:rate]
    return groups


def train_last(
    model: nn.Module, parts: Sequence[nn.Module], count: int, fixed_norms: bool = False
) -> None:
    """Make a network ready for an epoch that trains its last parts; freeze the others.

    Stands in place of `model.train()` before each epoch. What is in no part stays
    frozen and in evaluation mode: a dropout belongs to the part after it.

    Args:
        parts: as for `layer_groups`.
        count: how many of the last parts are trained; all, if there are no more.
        fixed_norms: batch norms of trained parts use and keep the statistics that they
            have; their weights and biases are trained all the same.

    Raises: ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"expected a count of at least 1, got {count=}")
    # --8<-- [start:unfreeze]
    freeze(model)
    for part in parts[-count:]:
        part.requires_grad_(True)
        part.train()
    # --8<-- [end:unfreeze]
    model.training = count >= len(parts)  # of the model itself, not of its modules
    if fixed_norms:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


# --8<-- [end:module]
