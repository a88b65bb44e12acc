"""Quantisation-aware training: round weights and inputs in the forward pass and let the
gradient pass the rounding as if it were not there.

Source: Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", arXiv:1712.05877, section 3; the gradient: Bengio et
al., arXiv:1308.3432, the straight-through estimator.
Legend: O output and I input channels, k kernel size, b bits.
"""

# --8<-- [start:imports]
import copy
from typing import Any

import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from cnn_techniques.compression.int8_quantization import (
    QuantizedLayer,
    input_ranges,
    to_integers,
    weight_scales,
)


# --8<-- [start:module]
class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero: Tensor | int, low: int, high: int
    ) -> Tensor:
        # --8<-- [start:mask]
        q = (x / scale).round() + zero
        ctx.save_for_backward((q >= low) & (q <= high))
        # --8<-- [end:mask]
        return scale * (to_integers(x, scale, zero, low, high) - zero)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        # --8<-- [start:gradient]
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None, None
        # --8<-- [end:gradient]


def fake_quantize(
    x: Tensor, scale: Tensor, zero: Tensor | int, low: int, high: int
) -> Tensor:
    """The numbers that the nearest integers stand for, with a gradient for x.

    Args:
        scale: of one step; no gradient reaches it, nor `zero`.
        low: the smallest integer.
        high: the largest.

    Shape: any, with a scale that broadcasts -> the same.
    """
    quantized: Tensor = _StraightThrough.apply(x, scale, zero, low, high)
    return quantized


def _qat_grid(layer: Any) -> tuple[Tensor, Tensor]:
    """Step and zero point of a layer's inputs, from the range that it keeps."""
    low, high = layer.low.clamp(max=0), layer.high.clamp(min=0)
    largest = 2**layer.bits - 1
    step = ((high - low) / largest).clamp(min=1e-12)
    return step, (-low / step).round().clamp(0, largest)


def _qat_pair(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The input and the weight that a layer of integers would compute with."""
    # --8<-- [start:ranges]
    if layer.training:
        with torch.no_grad():
            layer.low.lerp_(x.min().to(layer.low), 1 - layer.smoothing)
            layer.high.lerp_(x.max().to(layer.high), 1 - layer.smoothing)
    # --8<-- [end:ranges]
    # --8<-- [start:forward]
    step, zero = _qat_grid(layer)
    x = fake_quantize(x, step, zero, 0, 2**layer.bits - 1)
    scale = weight_scales(layer.weight.detach(), layer.bits, layer.per_channel)
    largest = 2 ** (layer.bits - 1) - 1
    weight = fake_quantize(layer.weight, scale, 0, -largest, largest)  # (O, I, k, k)
    # --8<-- [end:forward]
    return x, weight


class QatConv2d(nn.Conv2d):
    """A convolution of `prepare_qat`; its weight is a float, and rounded when used."""

    def forward(self, x: Tensor) -> Tensor:
        x, weight = _qat_pair(self, x)
        return self._conv_forward(x, weight, self.bias)


class QatLinear(nn.Linear):
    """A linear layer of `prepare_qat`; its weight is a float, and rounded when used."""

    def forward(self, x: Tensor) -> Tensor:
        x, weight = _qat_pair(self, x)
        return nn.functional.linear(x, weight, self.bias)


def prepare_qat(
    network: nn.Module,
    images: Tensor,
    *,
    bits: int = 8,
    per_channel: bool = True,
    percentile: float = 100.0,
    smoothing: float = 0.99,
) -> nn.Module:
    """A copy to be trained, whose convolutions and linear layers round what they use.

    Layers of a subclass are left as they are, and so are biases and norms.

    Args:
        network: in evaluation mode, its batch norms folded; it stays as it is.
        images: to find the first ranges of the inputs with.
        bits: from 2 to 8, of weights and inputs.
        per_channel: a scale for each output channel of the weight, or one for all.
        percentile: of the inputs that lie between the ends of the first ranges.
        smoothing: of the ranges: what a step of training keeps of them; 1 keeps all.

    Raises: ValueError for bits or a smoothing out of range, and as `input_ranges`.
    """
    if bits not in range(2, 9):
        raise ValueError(f"expected 2 to 8 bits, got {bits}")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"expected a smoothing from 0 to 1, got {smoothing}")
    ranges = input_ranges(network, images, percentile)
    prepared = copy.deepcopy(network)
    for name, ends in ranges.items():
        layer: Any = prepared.get_submodule(name)
        layer.__class__ = QatLinear if type(layer) is nn.Linear else QatConv2d
        layer.bits, layer.per_channel, layer.smoothing = bits, per_channel, smoothing
        for end, value in zip(("low", "high"), ends, strict=True):
            layer.register_buffer(end, layer.weight.new_tensor(value))
    return prepared


def convert_qat(network: nn.Module) -> nn.Module:
    """A copy of a network of `prepare_qat` with weights in integers, to be used.

    Raises: ValueError for a network without a layer of `prepare_qat`.
    """
    converted = copy.deepcopy(network)
    kinds = QatConv2d, QatLinear
    names = [n for n, m in converted.named_modules() if isinstance(m, kinds)]
    if not names:
        kind = type(network).__name__
        raise ValueError(f"expected a network of prepare_qat, got {kind} without it")
    for name in names:
        layer: Any = converted.get_submodule(name)
        low, high, (step, zero) = layer.low.item(), layer.high.item(), _qat_grid(layer)
        del layer.low, layer.high
        layer.__class__ = nn.Linear if type(layer) is QatLinear else nn.Conv2d
        made = QuantizedLayer(layer, low, high, layer.bits, layer.per_channel)
        # Computed in double precision there: an ulp could move a rounding.
        made.step, made.zero = step, zero.long()
        if not name:  # the network is one layer
            return made.eval()
        for other, module in [*converted.named_modules(remove_duplicate=False)]:
            if module is layer:  # under every name that it has
                converted.set_submodule(other, made)
    return converted.eval()


# --8<-- [end:module]
