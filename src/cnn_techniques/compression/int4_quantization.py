"""INT4 weights: each weight becomes one of sixteen steps between the smallest and the
largest of its group, and two of them share a byte; activations stay as they are.

Source: Frantar et al., "GPTQ", ICLR 2023, arXiv:2210.17323, section 5: the asymmetric
min-max grid, rounding to nearest on it, and groups of consecutive weights.
Legend: O filters or outputs, K weights of each, g weights of a group, G = ceil(K / g).
"""

# --8<-- [start:imports]
import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
def int4_codes(
    weight: Tensor, group: int, dtype: torch.dtype = torch.float16
) -> tuple[Tensor, Tensor, Tensor]:
    """Round weights to a grid of sixteen values for each group of consecutive ones.

    Args:
        weight: of a layer; its input channels and kernel are one row per output.
        group: g; the last group of a row may be shorter.
        dtype: of the scales.

    Returns: codes from 0 to 15 (uint8), scales, and zero points from 0 to 15 (uint8).

    Shape: (O, ...) with K numbers for each O -> (O, K), (O, G), (O, G).
    Raises: ValueError for a group below 1, or weights that no scale can hold.
    """
    if group < 1:
        raise ValueError(f"expected a group of at least 1 weight, got {group}")
    rows = weight.detach().flatten(1)  # (O, K)
    group = min(group, rows.shape[1])
    # Zero is in the range of every group, so that zeros at the end change none.
    padded = F.pad(rows, (0, -rows.shape[1] % group))
    grouped = padded.view(rows.shape[0], -1, group)  # (O, G, g)
    # --8<-- [start:step]
    low, high = grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=0)  # (O, G)
    scale = ((high - low) / 15).to(dtype)
    step = torch.where(scale > 0, scale, 1).to(weight.dtype)  # a group of zeros: any
    zero = (-low / step).round().clamp(0, 15)
    codes = ((grouped / step[..., None]).round() + zero[..., None]).clamp(0, 15)
    # --8<-- [end:step]
    if not scale.isfinite().all():
        raise ValueError(f"expected weights of a range that {dtype} holds, got {scale}")
    codes = codes.flatten(1)[:, : rows.shape[1]]
    return codes.to(torch.uint8), scale, zero.to(torch.uint8)


def pack_int4(codes: Tensor) -> Tensor:
    """Two codes a byte, the first in its lower half.

    Shape: any, n numbers -> (ceil(n / 2),).
    Raises: ValueError for a code that is no byte from 0 to 15.
    """
    if codes.dtype != torch.uint8 or (codes > 15).any():
        raise ValueError(f"expected bytes from 0 to 15, got {codes.dtype}: {codes}")
    # --8<-- [start:pack]
    flat = F.pad(codes.flatten(), (0, codes.numel() % 2))
    return flat[0::2] | flat[1::2] << 4
    # --8<-- [end:pack]


def unpack_int4(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The codes of `pack_int4` again.

    Shape: (ceil(n / 2),) -> shape, of n numbers.
    """
    # --8<-- [start:unpack]
    codes = torch.stack((packed & 15, packed >> 4), dim=1).flatten()
    return codes[: torch.Size(shape).numel()].view(shape)
    # --8<-- [end:unpack]


def _int4_weight(layer: Any) -> Tensor:
    """The weight of a layer of `quantize_int4`, made from its half bytes."""
    rows, columns = layer.shape[0], torch.Size(layer.shape[1:]).numel()  # O, K
    codes = unpack_int4(layer.codes, (rows, columns))
    zero = unpack_int4(layer.zero, tuple(layer.scale.shape))
    # --8<-- [start:restore]
    zero = zero.repeat_interleave(layer.group, 1)[:, :columns]  # (O, K)
    scale = layer.scale.repeat_interleave(layer.group, 1)[:, :columns]
    return (scale.float() * (codes.float() - zero.float())).view(layer.shape)
    # --8<-- [end:restore]


class Int4Conv2d(nn.Conv2d):
    """A convolution of `quantize_int4`; its weight is made anew at every reading."""

    weight: Any = property(_int4_weight)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight.to(x.dtype), self.bias)


class Int4Linear(nn.Linear):
    """A linear layer of `quantize_int4`; its weight is made anew at every reading."""

    weight: Any = property(_int4_weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias)


def quantize_int4(model: nn.Module, group: int = 32) -> nn.Module:
    """A copy whose convolutions and linear layers have weights of four bits.

    Layers of a subclass are left as they are, and so are biases and norms.

    Args:
        group: weights that share a scale and a zero point; fewer are more exact, and
            take more bytes. As large as a row: one scale per output channel.

    Raises: ValueError for a group below 1, weights not finite, or no such layer.
    """
    kinds = {nn.Conv2d: Int4Conv2d, nn.Linear: Int4Linear}
    names = [name for name, m in model.named_modules() if type(m) in kinds]
    if not names:
        raise ValueError(f"{type(model).__name__} has no nn.Conv2d or nn.Linear")
    for name in names:
        given = model.get_submodule(name)._parameters.get("weight")
        if given is None or not given.isfinite().all():
            raise ValueError(f"expected a finite parameter, got {name}.weight={given}")
    quantized = copy.deepcopy(model)
    for name in names:
        layer: Any = quantized.get_submodule(name)
        weight = layer._parameters.pop("weight")
        layer.__class__ = kinds[type(layer)]
        layer.group, layer.shape = min(group, weight[0].numel()), tuple(weight.shape)
        codes, scale, zero = int4_codes(weight, group)
        layer.register_buffer("codes", pack_int4(codes))
        layer.register_buffer("scale", scale)
        layer.register_buffer("zero", pack_int4(zero))
    return quantized


# --8<-- [end:module]
