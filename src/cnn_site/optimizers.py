"""What an optimizer keeps between two steps, for the proof of each."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cnn_techniques.modern import resnet50

Make = Callable[..., Optimizer]  # of parameters and lr


def state_of_resnet50(optimizers: Mapping[str, tuple[str, Make]]) -> dict[str, Any]:
    """State after one step of ResNet-50, without values: numbers per parameter, and bytes.

    Args:
        optimizers: key of the row -> its name, and what makes the optimizer.

    Raises: ValueError where the numbers are no multiple of the parameters.
    """
    with torch.device("meta"):  # sizes without numbers
        net = resnet50()
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    params = sum(p.numel() for p in net.parameters())
    rows = {}
    for key, (name, make) in optimizers.items():
        optimizer = make(net.parameters(), lr=0.1)
        optimizer.step()
        kept = [
            value
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor) and value.ndim
        ]
        numbers = sum(value.numel() for value in kept)
        if numbers % params:
            raise ValueError(
                f"{name} keeps {numbers} numbers, expected a multiple of {params}"
            )
        rows[key] = {
            "name": name,
            "per_parameter": numbers // params,
            "resnet50_bytes": sum(v.numel() * v.element_size() for v in kept),
        }
    return rows
