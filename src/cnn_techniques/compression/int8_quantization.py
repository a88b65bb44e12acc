"""INT8 after training: weights and activations as integers, with a scale for each.

Source: Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", arXiv:1712.05877, equation 1: r = S (q - Z).
Legend: O output and I input channels, k kernel size, b bits.
"""

# --8<-- [start:imports]
import copy
from typing import Any

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
def to_integers(
    x: Tensor, scale: Tensor, zero: Tensor | int, low: int, high: int
) -> Tensor:
    """The nearest integers of x / scale + zero, cut to the range; of a float type."""
    # --8<-- [start:integers]
    return ((x / scale).round() + zero).clamp(low, high)
    # --8<-- [end:integers]


def weight_scales(weight: Tensor, bits: int, per_channel: bool = True) -> Tensor:
    """What one step is worth: the largest weight of a channel becomes 2^(b-1) - 1.

    Shape: (O, ...) -> (O, 1, ...), or (1, 1, ...) for one scale of all channels.
    """
    # --8<-- [start:weights]
    dims = list(range(1 if per_channel else 0, weight.ndim))
    largest = weight.abs().amax(dims, keepdim=True)  # (O, 1, 1, 1)
    return (largest / (2 ** (bits - 1) - 1)).clamp(min=1e-12)
    # --8<-- [end:weights]


class QuantizedLayer(nn.Module):
    """A convolution or linear layer whose weight is kept in integers.

    Args:
        layer: what it stands for.
        low: the smallest input that was seen.
        high: the largest.
        bits: from 2 to 8, of weights and inputs.
        per_channel: a scale for each output channel of the weight, or one for all.

    Raises: ValueError for bits outside 2 to 8.
    """

    weight: Tensor
    scale: Tensor
    step: Tensor
    zero: Tensor

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        low: float,
        high: float,
        bits: int = 8,
        per_channel: bool = True,
    ) -> None:
        super().__init__()
        if bits not in range(2, 9):
            raise ValueError(f"expected 2 to 8 bits, got {bits}")
        self.layer, self.bits = copy.deepcopy(layer), bits
        weight = self.layer.weight.detach()
        del self.layer.weight
        for name in ("in_channels", "out_channels", "in_features", "out_features"):
            if hasattr(layer, name):  # networks ask their layers for them
                setattr(self, name, getattr(layer, name))
        largest = 2 ** (bits - 1) - 1
        scale = weight_scales(weight, bits, per_channel)
        q = to_integers(weight, scale, 0, -largest, largest)
        self.register_buffer("weight", q.to(torch.int8))
        self.register_buffer("scale", scale)
        # --8<-- [start:inputs]
        low, high = min(low, 0.0), max(high, 0.0)  # zero must be exact: padding is zero
        step = max((high - low) / (2**bits - 1), 1e-12)
        zero = min(max(round(-low / step), 0), 2**bits - 1)
        # --8<-- [end:inputs]
        self.register_buffer("step", torch.tensor(step))
        self.register_buffer("zero", torch.tensor(zero))

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer: Any = self.layer
        if isinstance(layer, nn.Linear):
            return nn.functional.linear(x, weight, bias)
        return layer._conv_forward(x, weight, bias)

    def inputs(self, x: Tensor) -> Tensor:
        """Integers from 0 to 2^b - 1, less the zero point."""
        return to_integers(x, self.step, self.zero, 0, 2**self.bits - 1) - self.zero

    def sums(self, x: Tensor) -> Tensor:
        """What integer hardware adds up: exact in float64, below 2^31 in magnitude."""
        return self.run(self.inputs(x).double(), self.weight.double(), None)

    def forward(self, x: Tensor) -> Tensor:
        # --8<-- [start:forward]
        values = self.step * self.inputs(x)
        weight = self.scale * self.weight
        return self.run(values.to(x.dtype), weight.to(x.dtype), self.layer.bias)
        # --8<-- [end:forward]


@torch.no_grad()
def input_ranges(
    network: nn.Module, images: Tensor, percentile: float = 100.0
) -> dict[str, tuple[float, float]]:
    """The smallest and largest input of every convolution and linear layer.

    Args:
        images: (N, ...), what the network takes; like those to come.
        percentile: of the inputs that lie between; 100 for the extremes.

    Raises: ValueError for no image, another percentile, what is not finite or not run.
    """
    kind = type(network).__name__
    if any(module.training for module in network.modules()):
        raise ValueError(f"expected {kind} in evaluation mode, got training mode")
    if not images.numel():
        raise ValueError(
            f"expected images to calibrate with, got {tuple(images.shape)}"
        )
    if not 50 < percentile <= 100:
        raise ValueError(
            f"expected a percentile above 50, at most 100, got {percentile}"
        )
    found: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            values = args[0].flatten().float()
            if not values.isfinite().all():
                raise ValueError(f"the input of {name} is not finite")
            if not module.weight.isfinite().all():
                raise ValueError(f"the weight of {name} is not finite")
            last = values.numel() - 1
            cut = round(last * (100 - percentile) / 100)
            low = values.kthvalue(cut + 1).values.item() if cut else values.min().item()
            high = (
                values.kthvalue(last - cut + 1).values.item()
                if cut
                else values.max().item()
            )
            before = found.get(name, (low, high))
            found[name] = min(low, before[0]), max(high, before[1])

        return hook

    layers = {
        n: m for n, m in network.named_modules() if type(m) in (nn.Conv2d, nn.Linear)
    }
    if not layers:
        raise ValueError(f"{kind} has no convolution and no linear layer to quantise")
    handles = [m.register_forward_pre_hook(watch(n)) for n, m in layers.items()]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in layers if name not in found]
    if missing:
        raise ValueError(f"{missing[0]} does not run: its inputs cannot be calibrated")
    return found


def quantize_int8(
    network: nn.Module,
    images: Tensor,
    *,
    bits: int = 8,
    per_channel: bool = True,
    percentile: float = 100.0,
) -> nn.Module:
    """A copy in which every convolution and linear layer computes with integers.

    Layers of a subclass are left as they are, and so are biases and norms.

    Args:
        network: in evaluation mode, its batch norms folded; it stays as it is.
        images: to calibrate with, a few hundred of the training set.
        bits: from 2 to 8, of weights and inputs.
        per_channel: a scale for each output channel of the weight, or one for all.
        percentile: of the inputs that lie between the ends of the range.

    Raises: ValueError for bits outside 2 to 8, and as `input_ranges` does.
    """
    if bits not in range(2, 9):
        raise ValueError(f"expected 2 to 8 bits, got {bits}")
    ranges = input_ranges(network, images, percentile)
    quantized = copy.deepcopy(network)
    if "" in ranges:  # the network is one layer
        layer: Any = quantized
        return QuantizedLayer(layer, *ranges[""], bits, per_channel).eval()
    for name, (low, high) in ranges.items():
        layer = quantized.get_submodule(name)
        made = QuantizedLayer(layer, low, high, bits, per_channel).eval()
        for other, module in [*quantized.named_modules(remove_duplicate=False)]:
            if module is layer:  # under every name that it has
                quantized.set_submodule(other, made)
    return quantized


# --8<-- [end:module]
