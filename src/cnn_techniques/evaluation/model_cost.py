"""Model cost: count parameters, multiply-adds and activations of a network; time it.

Source: Radosavovic et al., "Designing Network Design Spaces", CVPR 2020, arXiv:2003.13678, section 4
(activations: the sizes of the output tensors of all convolutions; here of all that is counted as MACs).
Legend: a MAC is one multiplication with its addition; N images, C channels, H x W pixels.

Counted as MACs: convolutions (grouped, dilated, transposed, deformable), matrix products, and the two
products inside attention. Not counted: biases, norms, activations, pooling, resampling, softmax.
"""

# --8<-- [start:imports]
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

# --8<-- [end:imports]


# --8<-- [start:module]
# --8<-- [start:macs]
def _convolution_macs(out: Tensor, x: Tensor, weight: Tensor, *args: Any) -> int:
    # One place of the kernel uses each weight once. A transposed convolution (the fifth argument after
    # the weight) places its kernel at the pixels of the input, every other at those of the output.
    places = x if len(args) > 4 and args[4] is True else out
    return places.numel() // places.shape[1] * weight.numel()


def _product_macs(out: Tensor, *factors: Tensor) -> int:
    return out.numel() * factors[-2].shape[-1]  # each entry is a sum over the shared dimension


def _attention_macs(out: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    queries = query.numel() // query.shape[-1]  # over all images and heads
    return queries * key.shape[-2] * (query.shape[-1] + value.shape[-1])


_MODEL_COST_MACS: dict[str, Callable[..., int]] = {
    "aten.convolution": _convolution_macs,
    "torchvision.deform_conv2d": lambda out, x, weight, *_: _convolution_macs(out, x, weight),
    "aten.mm": _product_macs,
    "aten.bmm": _product_macs,
    "aten.mv": _product_macs,
    "aten.dot": _product_macs,
    "aten.addmm": _product_macs,  # its first argument, the bias, costs nothing
    "aten.addmv": _product_macs,
    "aten.baddbmm": _product_macs,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention_macs,
    "aten._scaled_dot_product_flash_attention": _attention_macs,
    "aten._scaled_dot_product_efficient_attention": _attention_macs,
    "aten._scaled_dot_product_cudnn_attention": _attention_macs,
}
# --8<-- [end:macs]


@dataclass(frozen=True)
class ModelCost:
    """What one forward pass costs.

    Attributes:
        params: entries of all parameters, a shared one counted once.
        macs: multiply-adds of convolutions and matrix products; a layer used twice counts twice.
        activations: entries in the outputs of those operations.
        saved_bytes: memory autograd holds for the backward pass, parameters and buffers not included.
    """

    params: int
    macs: int
    activations: int
    saved_bytes: int


class _ModelCostCounter(TorchDispatchMode):
    """Sees every operation below autograd; `layer` is the name of the innermost module that runs."""

    def __init__(self, module: nn.Module, own: set[int]) -> None:
        super().__init__()
        self.running = [""]
        self.macs = {name: 0 for name, _ in module.named_modules()}
        self.activations = dict(self.macs)
        self.saved = dict(self.macs)
        self.seen: dict[int, Any] = {}  # storages are kept, so that no address is used again
        self.own = own

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        macs = _MODEL_COST_MACS.get(str(func.overloadpacket))
        if macs is not None:
            result = out if isinstance(out, Tensor) else out[0]
            self.macs[self.running[-1]] += macs(result, *args)
            self.activations[self.running[-1]] += result.numel()
        return out

    def save(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen and storage._cdata not in self.own:
            self.seen[storage._cdata] = storage
            self.saved[self.running[-1]] += storage.nbytes()
        return tensor

    def enter(self, name: str, *_: Any) -> None:
        self.running.append(name)

    def leave(self, *_: Any) -> None:
        self.running.pop()


def cost_by_layer(module: nn.Module, *inputs: Any) -> dict[str, ModelCost]:
    """Run the module once and return the cost of each submodule itself, without its children.

    The module runs as it is (mode, device, dtype) on the given inputs; its parameters, buffers and mode
    are not changed. On the meta device nothing is computed and nothing is allocated.

    Raises: TypeError for what is not a module; ValueError for a lazy module that has not seen an input, and
        for tensors made under `torch.inference_mode()`, of which autograd keeps nothing.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(module).__name__}")
    if any(nn.parameter.is_lazy(p) for p in module.parameters()):
        raise ValueError("expected a module with known shapes, got a lazy one: run it once before")
    tensors = [*module.parameters(), *module.buffers(), *(x for x in inputs if isinstance(x, Tensor))]
    if any(tensor.is_inference() for tensor in tensors):
        raise ValueError("expected tensors made outside torch.inference_mode(), got some made inside")
    # Copies of the buffers: a batch norm in training mode would change its running statistics.
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    kept = [*module.parameters(), *buffers.values()]
    counter = _ModelCostCounter(module, {tensor.untyped_storage()._cdata for tensor in kept})
    hooks = []
    for name, part in module.named_modules():
        hooks.append(part.register_forward_pre_hook(partial(counter.enter, name)))
        hooks.append(part.register_forward_hook(counter.leave, always_call=True))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused kernel would hide its products
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(counter.save, lambda tensor: tensor),
            counter,
        ):
            torch.func.functional_call(module, buffers, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    layers: dict[str, ModelCost] = {}
    counted: set[int] = set()
    for name, part in module.named_modules():
        own = {id(p): p.numel() for p in part.parameters(recurse=False) if id(p) not in counted}
        counted |= own.keys()
        params = sum(own.values())
        layers[name] = ModelCost(params, counter.macs[name], counter.activations[name], counter.saved[name])
    return layers


def model_cost(module: nn.Module, *inputs: Any) -> ModelCost:
    """Run the module once on the inputs (batch size 1 by convention) and return what that costs.

    See `cost_by_layer`, whose rows this adds up.
    """
    rows = cost_by_layer(module, *inputs).values()
    return ModelCost(
        params=sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        activations=sum(row.activations for row in rows),
        saved_bytes=sum(row.saved_bytes for row in rows),
    )


# --8<-- [start:latency]
@dataclass(frozen=True)
class Latency:
    """Seconds of one forward pass: the median of all runs, and the quarter marks below and above it."""

    median: float
    low: float
    high: float


def latency(module: nn.Module, *inputs: Any, repeats: int = 30, warmup: int = 10) -> Latency:
    """Time the forward pass of a module in evaluation mode on the device where it and the inputs are.

    Args:
        repeats: timed runs, at least 2.
        warmup: runs before them, which fill caches, choose kernels and raise the clock.

    Raises: ValueError in training mode, on the meta device, or for too few runs.
    """
    if module.training:
        raise ValueError("expected a module in evaluation mode, got training mode: call .eval()")
    if repeats < 2 or warmup < 0:
        raise ValueError(f"expected repeats >= 2 and warmup >= 0, got {repeats=}, {warmup=}")
    tensors = [*module.parameters(), *(x for x in inputs if isinstance(x, Tensor))]
    devices = {tensor.device for tensor in tensors}
    if any(device.type == "meta" for device in devices):
        raise ValueError("expected tensors that hold values, got the meta device, where nothing runs")
    seconds = []
    with torch.inference_mode():
        for run in range(warmup + repeats):
            start = time.perf_counter()
            module(*inputs)
            for device in devices:
                if device.type != "cpu":
                    torch.accelerator.synchronize(device)  # a GPU call returns before the work is done
            if run >= warmup:
                seconds.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Latency(median, low, high)


# --8<-- [end:latency]


# --8<-- [end:module]
