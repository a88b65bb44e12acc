"""Model cost: count a network's parameters, multiply-adds and activations; time it.

Source: Radosavovic et al., "Designing Network Design Spaces", CVPR 2020,
arXiv:2003.13678, section 4 (activations: the sizes of the output tensors of all
convolutions; here of all operations that are counted as MACs).
Legend: a MAC is a multiplication with its addition; N images, C channels, H x W pixels.

Counted as MACs: convolutions (grouped, dilated, transposed, deformable), products of
matrices, bilinear and recurrent layers, and the two products inside attention. Not
counted: biases, norms, activation functions, pooling, resampling, look-ups, softmax.
"""

# --8<-- [start:imports]
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# --8<-- [end:imports]


# --8<-- [start:module]
def _convolution_macs(out: Tensor, x: Tensor, weight: Tensor, *options: Any) -> int:
    # Each place of the kernel uses each weight once. A transposed convolution places
    # its kernel at the pixels of the input, every other one at those of the output.
    transposed = len(options) > 4 and options[4] is True
    places = x if transposed else out  # (N, C, H, W)
    return places.numel() // places.shape[1] * weight.numel()


def _product_macs(out: Tensor, *factors: Tensor) -> int:
    # Each entry of the result is a sum over the dimension that the factors share.
    return out.numel() * factors[-2].shape[-1]


def _attention_macs(out: Tensor, q: Tensor, k: Tensor, v: Tensor, *options: Any) -> int:
    queries = q.numel() // q.shape[-1]  # of all images and heads
    return queries * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _bilinear_macs(out: Tensor, x: Tensor, weight: Tensor, *options: Any) -> int:
    # For each output x W, I by I x J, and then its product with the other input, J.
    return out.numel() * (weight.shape[1] + 1) * weight.shape[2]


_MODEL_COST_MACS: dict[str, Callable[..., int]] = {
    "aten.convolution": _convolution_macs,
    "torchvision.deform_conv2d": lambda out, x, weight, *_: _convolution_macs(
        out, x, weight
    ),
    "aten.mm": _product_macs,
    "aten.bmm": _product_macs,
    "aten.mv": _product_macs,
    "aten.dot": _product_macs,
    "aten.addmm": _product_macs,  # its first argument, the bias, costs nothing
    "aten.addmv": _product_macs,
    "aten.baddbmm": _product_macs,
    "aten._trilinear": _bilinear_macs,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention_macs,
    "aten._scaled_dot_product_flash_attention": _attention_macs,
    "aten._scaled_dot_product_efficient_attention": _attention_macs,
    "aten._scaled_dot_product_cudnn_attention": _attention_macs,
}
# Layers of an LSTM or GRU in one kernel; other devices do their products one by one.
_MODEL_COST_RECURRENT = ("aten.mkldnn_rnn_layer", "aten._cudnn_rnn", "aten.miopen_rnn")


@dataclass(frozen=True)
class ModelCost:
    """What one forward pass costs.

    Attributes:
        params: entries of all parameters, a shared one counted once.
        macs: multiply-adds; a layer used twice counts twice.
        activations: entries in the outputs of the operations that have MACs.
        saved_bytes: what autograd keeps for the backward pass, without parameters; with
            a fused kernel, what that kernel keeps.
        bytes: of the state dict, parameters and buffers, as they are stored.
        nonzero: entries of the parameters that are not zero; None on the meta device.
    """

    params: int
    macs: int
    activations: int
    saved_bytes: int
    bytes: int
    nonzero: int | None


class _ModelCostCounter(TorchDispatchMode):
    """Sees every operation; `running[-1]` is the name of the module that calls it."""

    def __init__(self, module: nn.Module, kept: list[Tensor]) -> None:
        super().__init__()
        self.running = [""]
        self.macs = {name: 0 for name, _ in module.named_modules()}
        self.activations = dict(self.macs)
        self.saved = dict(self.macs)
        self.unknown: dict[str, str] = {}  # operation: its first layer
        self.weights = {t.untyped_storage()._cdata for t in kept if t.ndim > 1}
        # Storages, not addresses: one that was given back could be used again.
        self.seen = {t.untyped_storage()._cdata: t.untyped_storage() for t in kept}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        operation = str(func.overloadpacket)
        macs = _MODEL_COST_MACS.get(operation)
        if macs is not None:
            result = out if isinstance(out, Tensor) else out[0]
            self.macs[self.running[-1]] += macs(result, *args)
            self.activations[self.running[-1]] += result.numel()
        elif operation in _MODEL_COST_RECURRENT:
            steps = args[0].numel() // args[0].shape[-1]  # of all images
            weights = args[1] if isinstance(args[1], list | tuple) else args[1:3]
            for matrix in (weight for weight in weights if weight.ndim == 2):
                self.macs[self.running[-1]] += steps * matrix.numel()
                self.activations[self.running[-1]] += steps * matrix.shape[0]
        elif self.may_multiply(func, operation, tree_leaves((args, kwargs))):
            self.unknown.setdefault(operation, self.running[-1])
        return out

    def may_multiply(self, func: Any, operation: str, given: list[Any]) -> bool:
        """Whether weights meet other numbers in an operation without a rule."""
        tags = {torch.Tag.pointwise, torch.Tag.reduction} & set(func.tags)
        if func.is_view or tags or operation == "aten.cat" or "norm" in operation:
            return False  # no product of matrices
        numbers = [t for t in given if isinstance(t, Tensor) and t.is_floating_point()]
        read = [t.untyped_storage()._cdata in self.weights for t in numbers]
        packed = any(isinstance(t, torch.ScriptObject) for t in given)  # quantised
        return packed or "attention" in operation or (any(read) and not all(read))

    def save(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen[storage._cdata] = storage
            self.saved[self.running[-1]] += storage.nbytes()
        return tensor

    def enter(self, name: str, *_: Any) -> None:
        self.running.append(name)

    def leave(self, *_: Any) -> None:
        self.running.pop()


def cost_by_layer(module: nn.Module, *inputs: Any) -> dict[str, ModelCost]:
    """Run the module once: the cost of each submodule itself, without its children.

    The module runs as it is (mode, device, dtype); parameters, buffers and mode are not
    changed. On the meta device nothing is computed and nothing is allocated. A warning
    names the operations that read weights and have no rule here: they count as nothing.

    Raises: TypeError for what is not a module; ValueError for a lazy module without
        shapes, and for tensors made under inference mode: autograd keeps none of them.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(module).__name__}")
    if any(nn.parameter.is_lazy(p) for p in module.parameters()):
        raise ValueError("expected known shapes, got a lazy module: run it once before")
    # Copies: in training mode a batch norm changes its running statistics.
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    kept = [*module.parameters(), *buffers.values()]
    given = [*kept, *(x for x in inputs if isinstance(x, Tensor))]
    if any(tensor.is_inference() for tensor in given):
        raise ValueError("expected ordinary tensors, got some made in inference mode")
    counter = _ModelCostCounter(module, kept)
    hooks = []
    for name, part in module.named_modules():
        enter = partial(counter.enter, name)
        hooks.append(part.register_forward_pre_hook(enter))
        hooks.append(part.register_forward_hook(counter.leave, always_call=True))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would hide the products
    saving = torch.autograd.graph.saved_tensors_hooks(counter.save, lambda x: x)
    try:
        with torch.inference_mode(False), torch.enable_grad(), saving, counter:
            torch.func.functional_call(module, buffers, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    if counter.unknown:
        told = ", ".join(f"{op} (in {at!r})" for op, at in counter.unknown.items())
        warnings.warn(f"no MACs are counted for {told}", stacklevel=2)
    layers: dict[str, ModelCost] = {}
    counted: set[int] = set()
    for name, part in module.named_modules():
        stored = part.state_dict(keep_vars=True).items()  # of its children too
        own = {id(t): t for n, t in stored if "." not in n and isinstance(t, Tensor)}
        own = {key: tensor for key, tensor in own.items() if key not in counted}
        counted |= own.keys()
        weights = [t for t in own.values() if isinstance(t, nn.Parameter)]
        meta = any(weight.is_meta for weight in weights)
        layers[name] = ModelCost(
            params=sum(weight.numel() for weight in weights),
            macs=counter.macs[name],
            activations=counter.activations[name],
            saved_bytes=counter.saved[name],
            bytes=sum(tensor.nbytes for tensor in own.values()),
            nonzero=None if meta else sum(int(w.count_nonzero()) for w in weights),
        )
    return layers


def model_cost(module: nn.Module, *inputs: Any) -> ModelCost:
    """Run the module once on the inputs and return what that costs.

    The batch size is that of the inputs: 1 by convention. `cost_by_layer` has the rows
    that are added up here, and says what is refused.
    """
    rows = cost_by_layer(module, *inputs).values()
    nonzero = [row.nonzero for row in rows]
    return ModelCost(
        params=sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        activations=sum(row.activations for row in rows),
        saved_bytes=sum(row.saved_bytes for row in rows),
        bytes=sum(row.bytes for row in rows),
        nonzero=None if None in nonzero else sum(n for n in nonzero if n is not None),
    )


@dataclass(frozen=True)
class Latency:
    """Seconds of a forward pass: the median, and the quarter marks around it."""

    median: float
    low: float
    high: float


def latency(
    module: nn.Module, *inputs: Any, repeats: int = 30, warmup: int = 10
) -> Latency:
    """Time the forward pass in evaluation mode, on the device of module and inputs.

    Args:
        repeats: timed runs, at least 2.
        warmup: runs before them: caches fill, kernels are chosen, the clock rises.

    Raises: ValueError in training mode, on the meta device, or for too few runs.
    """
    if module.training:
        raise ValueError("expected evaluation mode, got training mode: call .eval()")
    if repeats < 2 or warmup < 0:
        told = f"{repeats=}, {warmup=}"
        raise ValueError(f"expected repeats >= 2 and warmup >= 0, got {told}")
    tensors = [*module.parameters(), *(x for x in inputs if isinstance(x, Tensor))]
    devices = {tensor.device for tensor in tensors}
    if any(device.type == "meta" for device in devices):
        raise ValueError("expected tensors with values, got the meta device")
    seconds = []
    with torch.inference_mode():
        for run in range(warmup + repeats):
            start = time.perf_counter()
            module(*inputs)
            for device in devices:
                if device.type != "cpu":  # the call returns before the work is done
                    torch.accelerator.synchronize(device)
            if run >= warmup:
                seconds.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Latency(median, low, high)


# --8<-- [end:module]
