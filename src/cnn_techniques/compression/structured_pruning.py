"""Filter pruning: the convolution filters with the smallest weights are taken out of a
network, together with what carries their channels on and what reads them.

Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017,
arXiv:1608.08710, sections 3.1 and 3.3.
Legend: N images, O filters (output channels) and I input channels of a convolution,
k kernel size.
"""

# --8<-- [start:imports]
import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# --8<-- [end:imports]


# --8<-- [start:module]
# What these make has the channels of what they are given, each made of its like alone.
CHANNELWISE = """relu relu_ relu6 leaky_relu elu silu gelu hardtanh hardswish
hardsigmoid sigmoid dropout max_pool2d avg_pool2d adaptive_avg_pool2d interpolate
add add_ mul mul_"""


class _Follower(TorchFunctionMode):
    """Follows channels through a run of a network: who makes them, who reads them.

    The channels of a convolution have a number; those that meet in a sum have one
    number. Number 0: channels that stay, as those of images and outputs.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
        modules = network.named_modules()
        self.layers: dict[str, Any] = {n: m for n, m in modules if isinstance(m, kinds)}
        self.owner: dict[int, str] = {}
        for name, layer in self.layers.items():
            tensors = (*layer.parameters(), *layer.buffers())
            self.owner |= {id(t): name for t in tensors if t is not layer.bias}
        self.same = [0]  # a number -> the lowest one of the same channels
        self.of: dict[int, tuple[int, Any]] = {}  # a tensor's id -> number, tensor
        self.makes: dict[str, int] = {}  # a layer -> number of the channels it makes
        self.reads: dict[str, int] = {}  # and of those it reads

    def number(self, tensor: Any) -> int:
        return self.same[self.of[id(tensor)][0]] if id(tensor) in self.of else 0

    def tie(self, *numbers: int) -> int:
        alike = {self.same[number] for number in numbers}
        self.same = [min(alike) if n in alike else n for n in self.same]
        return min(alike)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs))
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        back = given[:1] if result is None else result  # x[:, 1:] = y: None
        made = [leaf for leaf in tree_leaves(back) if isinstance(leaf, Tensor)]
        layers = [self.owner[id(x)] for x in given if id(x) in self.owner]
        number = 0
        if layers and function.__name__ in ("conv2d", "linear", "batch_norm"):
            number = self.layer(layers[0], given[0])
        elif made and any(map(self.number, given)):
            number = self.passed(function.__name__, leaves, given, made[0])
        self.of[id(result)] = number, result
        return result

    def layer(self, name: str, x: Tensor) -> int:
        """The number of the channels that a layer makes of x."""
        layer, reads = self.layers[name], self.number(x)
        self.reads[name] = reads = self.tie(reads, self.reads.get(name, reads))
        if isinstance(layer, nn.BatchNorm2d) or _depthwise(layer):
            self.makes[name] = reads
        elif getattr(layer, "groups", 1) > 1 or x.ndim != layer.weight.ndim:
            self.makes[name] = self.tie(reads, 0)
        elif name not in self.makes:
            self.makes[name] = len(self.same) if isinstance(layer, nn.Conv2d) else 0
            self.same.append(len(self.same))
        return self.makes[name]

    def passed(self, name: str, leaves: Any, given: list[Tensor], made: Tensor) -> int:
        """The number of what a function without weights makes of channels."""
        x, many = given[0], [t for t in given if t.numel() > 1] or given
        widths = {(t.ndim, *t.shape[1:2]) for t in (*many, made)}
        alone = name in CHANNELWISE.split() and len(widths) == 1
        flat = name in ("flatten", "view", "reshape") and made.shape[:-1] == x.shape[:1]
        pooled = name == "mean" and [n for n in leaves if type(n) is int] == [2, 3]
        if alone or (x.ndim == 4 and (flat or pooled)):
            return self.tie(*map(self.number, many))
        return self.tie(*map(self.number, given), 0)  # unknown: these channels stay


def _depthwise(layer: Any) -> bool:
    """Whether each filter reads one channel, and makes it anew."""
    return 1 < getattr(layer, "groups", 1) == layer.in_channels == layer.out_channels


@torch.no_grad()
def _followed(network: nn.Module, inputs: Any) -> _Follower:
    network = copy.deepcopy(network).eval()
    follower = _Follower(network)
    with follower:
        leaves = tree_leaves(network(*inputs))
    if hidden := [x for x in leaves if not isinstance(x, Tensor | int | float | None)]:
        raise ValueError(f"expected tensors as outputs, got {type(hidden[0]).__name__}")
    follower.tie(0, *map(follower.number, leaves))
    if idle := follower.layers.keys() - follower.reads.keys():
        raise ValueError(f"what {min(idle)} reads is not known: it did not run")
    for numbers in (follower.makes, follower.reads):
        numbers.update({name: follower.same[n] for name, n in numbers.items()})
    return follower


def tied_filters(network: nn.Module, *inputs: Any) -> list[list[str]]:
    """The convolutions that can lose filters, in groups that must lose the same ones.

    Found by running a copy of the network once, in evaluation mode.

    Args:
        inputs: what the network takes, an image at least.

    Raises: ValueError for a layer that does not run, or outputs that are no tensors.
    """
    follower = _followed(network, inputs)
    groups: dict[int, list[str]] = {}
    for name, number in follower.makes.items():
        if number and isinstance(follower.layers[name], nn.Conv2d):
            groups.setdefault(number, []).append(name)
    return list(groups.values())


@torch.no_grad()
def weakest_filters(
    network: nn.Module, share: float, *inputs: Any, keep: Collection[str] = ()
) -> dict[str, Tensor]:
    """Convolution -> mask (O,): False for a share of its filters, those of least norm.

    Filters that make one channel together are chosen by the sum of their norms.

    Args:
        share: of each convolution's filters, rounded; one stays at least.
        inputs: what the network takes, an image at least.
        keep: convolutions that lose no filter, nor does what is tied to them.

    Raises: ValueError for a share outside [0, 1), or a convolution that must be kept.
    """
    if not 0 <= share < 1:
        raise ValueError(f"expected a share of at least 0 and below 1, got {share=}")
    masks: dict[str, Tensor] = {}
    for group in tied_filters(network, *inputs):
        # --8<-- [start:choose]
        weights = [network.get_parameter(f"{n}.weight") for n in group]  # (O, I, k, k)
        norms = torch.stack([w.abs().sum((1, 2, 3)) for w in weights]).sum(0)  # (O,)
        count = 0 if set(group) & set(keep) else round(share * norms.numel())
        mask = norms.argsort().argsort() >= min(count, norms.numel() - 1)  # by rank
        masks |= dict.fromkeys(group, mask)
        # --8<-- [end:choose]
    convolutions = {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    if wrong := (convolutions - {*masks, *keep}) | (set(keep) - convolutions):
        raise ValueError(f"must be in keep, or is unknown there: {sorted(wrong)}")
    return masks


@torch.no_grad()
def remove_filters(
    network: nn.Module, masks: Mapping[str, Tensor], *inputs: Any
) -> nn.Module:
    """A smaller copy without the filters for which a convolution's mask (O,) is False.

    Norms between, and what reads the channels, become narrower too.

    Raises: ValueError for a mask of other size, all False, or that differs in a group.
    """
    follower = _followed(network, inputs)
    if not masks.keys() <= follower.makes.keys():
        raise ValueError(f"expected names of convolutions, got {list(masks)}")
    masked: dict[int, Tensor] = {}
    for name, number in follower.makes.items():
        if isinstance(follower.layers[name], nn.Conv2d):
            stays = torch.ones_like(follower.layers[name].weight[:, 0, 0, 0]).bool()
            mask = masks.get(name, stays)
            same = masked.setdefault(number, mask) if number else stays
            if mask.shape != stays.shape or not mask.any() or not mask.equal(same):
                raise ValueError(
                    f"expected {stays.numel()} booleans for {name}, one True at least, "
                    f"equal for all that make its channels; got {mask.tolist()}"
                )
    smaller = copy.deepcopy(network)
    for name, number in follower.makes.items():
        layer, rows = smaller.get_submodule(name), masked.get(number)
        _cut(layer, rows, masked.get(follower.reads[name]))
    return smaller


def _cut(layer: Any, rows: Tensor | None, columns: Tensor | None) -> None:
    depthwise = _depthwise(layer)
    for tensor in (*layer.parameters(), *layer.buffers()):
        # --8<-- [start:cut]
        if rows is not None and tensor.ndim > 0:
            tensor.data = tensor[rows]
        if columns is not None and tensor.ndim > 1 and not depthwise:
            places = tensor.shape[1] // columns.numel()  # more than 1 after flatten
            tensor.data = tensor[:, columns.repeat_interleave(places)]
        # --8<-- [end:cut]
    if isinstance(layer, nn.BatchNorm2d):
        layer.num_features = layer.num_features if rows is None else int(rows.sum())
    elif isinstance(layer, nn.Linear):
        layer.in_features = layer.weight.shape[1]
    else:
        layer.out_channels = layer.weight.shape[0]
        layer.groups = layer.out_channels if depthwise else layer.groups
        layer.in_channels = layer.weight.shape[1] * layer.groups


def prune_filters(
    network: nn.Module, share: float, *inputs: Any, keep: Collection[str] = ()
) -> nn.Module:
    """A smaller copy without a share of the filters of every convolution.

    Arguments as for `weakest_filters`.

    Raises: ValueError for a share outside [0, 1), or a convolution that must be kept.
    """
    masks = weakest_filters(network, share, *inputs, keep=keep)
    return remove_filters(network, masks, *inputs)


# --8<-- [end:module]
