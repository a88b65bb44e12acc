"""Folding: in evaluation mode a batch norm is a scale and a shift of each channel,
which the convolution before it can do with other weights.

Source: Ioffe and Szegedy, "Batch normalization", ICML 2015, arXiv:1502.03167,
algorithm 2, line 11.
Legend: N images, C output channels, I input channels, k kernel size.
"""

# --8<-- [start:imports]
import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# --8<-- [end:imports]


# --8<-- [start:module]
@torch.no_grad()
def fold_into(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d) -> None:
    """Change a layer in place so that it gives what the norm behind it gave.

    Raises: ValueError for a norm of other channels, or that follows its batch.
    """
    mean, variance = norm.running_mean, norm.running_var
    if norm.training or mean is None or variance is None:
        raise ValueError(
            f"expected a norm in evaluation mode with running statistics, got {norm}"
        )
    channels = layer.weight.shape[0]
    if norm.num_features != channels:
        raise ValueError(f"expected a norm of {channels} channels, got {norm}")
    # --8<-- [start:step]
    scale = (variance + norm.eps).rsqrt()  # (C,)
    if norm.weight is not None:
        scale = norm.weight * scale
    shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias * scale
    weight = layer.weight * scale.view(
        -1, *[1] * (layer.weight.ndim - 1)
    )  # (C, I, k, k)
    # --8<-- [end:step]
    dtype = layer.weight.dtype  # a norm may be of a wider one
    layer.weight, layer.bias = (nn.Parameter(t.to(dtype)) for t in (weight, shift))


class _Reads(TorchFunctionMode):
    """Counts which functions read a tensor and make another of it."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self.of.update(id(leaf) for leaf in tree_leaves((args, kwargs)))
        return result


@torch.no_grad()
def norms_to_fold(network: nn.Module, *inputs: Any) -> dict[str, str]:
    """Which batch norm can become part of which layer: norm -> layer, by name.

    Found by running the network: the norm gets a layer's output as it is, nothing else
    reads that output, nor does the network give it out, and both run once. Not behind a
    linear layer on more than two dimensions, whose features are not what is normed.

    Raises: ValueError for a network of which a part is in training mode.
    """
    training = [name or "it" for name, m in network.named_modules() if m.training]
    if training:
        raise ValueError(
            f"expected a network in evaluation mode, got {training[0]} in training mode"
        )
    made: dict[int, tuple[str, Tensor]] = {}  # output -> layer; keeps the output alive
    pairs: dict[str, tuple[str, Tensor]] = {}
    runs: Counter[str] = Counter()

    def layer_ran(name: str) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> None:
            runs[name] += 1
            if output.ndim == module.weight.ndim:  # its channels are what is normed
                made[id(output)] = (name, output)
                reads.of[id(output)] = 0  # a tensor that is gone had this id

        return hook

    def norm_ran(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            runs[name] += 1
            if id(args[0]) in made:
                pairs[name] = made[id(args[0])]

        return hook

    reads, handles = _Reads(), []
    for name, module in network.named_modules():
        # No subclass, no weight that something makes anew at every run (pruning).
        plain = (
            type(module) in (nn.Conv2d, nn.Linear) and "weight" in module._parameters
        )
        if plain:
            handles.append(module.register_forward_hook(layer_ran(name)))
        if type(module) in (nn.BatchNorm2d, nn.BatchNorm1d):
            handles.append(module.register_forward_hook(norm_ran(name)))
    try:
        with reads:
            outputs = network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    reads.of.update(id(leaf) for leaf in tree_leaves(outputs))  # of who called
    return {
        norm: layer
        for norm, (layer, output) in pairs.items()
        if runs[norm] == runs[layer] == reads.of[id(output)] == 1
        and network.get_submodule(norm).running_mean is not None
    }


def fold_batch_norms(network: nn.Module, *inputs: Any) -> nn.Module:
    """A copy in which each batch norm that can be folded is part of the layer before.

    Args:
        network: in evaluation mode; it stays as it is.
        inputs: what it takes, an image at least; they are run through it once.

    Raises: ValueError for a part in training mode, or a network with nothing to fold.
    """
    pairs = norms_to_fold(network, *inputs)
    if not pairs:
        raise ValueError(
            f"{type(network).__name__} has no batch norm that can be folded"
        )
    folded = copy.deepcopy(network)
    named: dict[str, Any] = dict(folded.named_modules())
    for norm, layer in pairs.items():
        old = named[norm]
        fold_into(named[layer], old)
        for parent in list(folded.modules()):  # under every name that it has
            for key, child in parent._modules.items():
                if child is old:
                    parent._modules[key] = nn.Identity().eval()
    return folded


# --8<-- [end:module]
