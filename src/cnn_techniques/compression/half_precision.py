"""Half precision: weights and activations in 16 bits, for a network that is trained.

Source: IEEE 754-2019, "Standard for floating-point arithmetic", binary16; bfloat16 is
the upper half of a float32, rounded.
Legend: E bits of exponent, M of mantissa; b = 2^(E-1) - 1, the bias.
"""

# --8<-- [start:imports]
import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

# --8<-- [end:imports]


# --8<-- [start:module]
class FloatFormat(NamedTuple):
    """How many bits a number's exponent and mantissa have; one more is its sign."""

    exponent: int
    mantissa: int

    @property
    def bias(self) -> int:
        return 2 ** (self.exponent - 1) - 1

    @property
    def largest(self) -> float:
        return (2 - 2.0**-self.mantissa) * 2.0**self.bias

    @property
    def smallest(self) -> float:
        """Above zero."""
        return 2.0 ** (1 - self.bias - self.mantissa)


FLOAT16, BFLOAT16 = FloatFormat(5, 10), FloatFormat(8, 7)


def round_to(x: Tensor, form: FloatFormat) -> Tensor:
    """The nearest number of a format, of two equally near the even one, in float64.

    Shape: (*) -> (*).
    """
    x = x.double()
    # --8<-- [start:round]
    exponent = torch.frexp(x).exponent - 1  # |x| = f * 2^exponent, 1 <= f < 2
    exponent = exponent.clamp(min=1 - form.bias)  # below, all steps are equal
    step = torch.ldexp(torch.ones_like(x), exponent - form.mantissa)
    y = (x / step).round() * step
    y = torch.where(y.abs() > form.largest, y.sign() * torch.inf, y)
    # --8<-- [end:round]
    return torch.where(x.isfinite(), y, x)


class HalfPrecision(nn.Module):
    """A network in 16 bits that takes and gives float32.

    Args:
        network: a trained one, of which a copy is made; it stays as it is.
        dtype: torch.float16 or torch.bfloat16.

    Raises: ValueError for another dtype, or a number that becomes infinite.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        if dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(f"expected torch.float16 or torch.bfloat16, got {dtype}")
        for name, value in network.state_dict().items():
            if value.is_floating_point() and value.isfinite().all():
                largest = float(value.abs().max()) if value.numel() else 0.0
                if not torch.tensor(largest, dtype=torch.float64).to(dtype).isfinite():
                    raise ValueError(f"{name} holds {largest:g}, too much for {dtype}")
        self.network, self.dtype = copy.deepcopy(network).to(dtype), dtype

    def forward(self, *inputs: Any) -> Any:
        def cast(value: Any, dtype: torch.dtype) -> Any:
            floating = isinstance(value, Tensor) and value.is_floating_point()
            return value.to(dtype) if floating else value

        # --8<-- [start:forward]
        halves = tree_map(lambda value: cast(value, self.dtype), inputs)
        return tree_map(lambda value: cast(value, torch.float32), self.network(*halves))
        # --8<-- [end:forward]


# --8<-- [end:module]
