"""The regularisers of the pages that change a network in training, by name.

They are hooked on modules, not put behind them: a checkpoint's names stay those of the
network, and in evaluation it is the network itself.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from cnn_techniques.training import DropBlock, StochasticDepth, linear_drop_rates

from . import transfer

# Where a residual branch ends, by the name of the module in its block; the first counts.
BRANCH_ENDS = ("drop_path", "attention", "bn3", "bn2")


class InTraining:
    """A forward hook: while a module is trained, its output goes through a layer.

    Args:
        instead: the layer gets the module's input, and what the module does is left out.
    """

    def __init__(self, layer: nn.Module, instead: bool = False) -> None:
        self.layer, self.instead = layer, instead

    def __call__(
        self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        if not module.training:
            return output
        result: Tensor = self.layer(inputs[0] if self.instead else output)
        return result


def add_stochastic_depth(model: nn.Module, rate: float, image: tuple[int, ...]) -> None:
    """Drop residual branches, the last at that rate, those before it less (linear rule).

    Rates that the network has itself (`drop_path`) count no more.

    Raises: ValueError for a network without blocks whose branch ends in a module that is
    called drop_path, or in attention, bn3 or bn2 beside a downsample.
    """
    named = [(m, _branch_end(m)) for m in model.modules()]
    ends = [(m.get_submodule(name), name) for m, name in named if name]
    if not ends:
        raise ValueError(
            f"stochastic depth ({rate}): expected residual blocks whose branch ends in "
            "drop_path, or in attention, bn3 or bn2 beside downsample, got "
            f"{type(model).__name__} without"
        )
    for (end, name), p in zip(ends, linear_drop_rates(len(ends), rate), strict=True):
        layer = StochasticDepth(p)
        end.register_forward_hook(InTraining(layer, instead=name == "drop_path"))


def _branch_end(block: nn.Module) -> str:
    children = dict(block.named_children())
    ends = BRANCH_ENDS if "downsample" in vars(block) | children else BRANCH_ENDS[:1]
    return next((name for name in ends if name in children), "")


def add_dropblock(model: nn.Module, rate: float, image: tuple[int, ...]) -> None:
    """Drop blocks behind the last two stages: before the maps get smaller, and at the end.

    Blocks have 7 x 7 places, or are the largest odd square that a smaller map holds.

    Raises: ValueError for a network without feature maps of two sizes.
    """
    stages = _stages(model, image)[-2:]
    if len(stages) < 2:
        raise ValueError(
            f"dropblock ({rate}): expected a network with feature maps of two sizes, got "
            f"{type(model).__name__} with {len(stages)}"
        )
    for module, side in stages:
        size = min(7, side - 1 + side % 2)
        module.register_forward_hook(InTraining(DropBlock(rate, size)))


@torch.no_grad()
def _stages(model: nn.Module, image: tuple[int, ...]) -> list[tuple[nn.Module, int]]:
    """The last module of each size of feature maps, and their shorter side, in order."""
    ends: dict[tuple[int, ...], tuple[nn.Module, int]] = {}

    def watch(module: nn.Module, inputs: object, output: object) -> None:
        if (
            isinstance(output, Tensor)
            and output.ndim == 4
            and min(output.shape[2:]) > 1
        ):
            ends[tuple(output.shape[2:])] = module, min(output.shape[2:])

    modules = [module for _, module in transfer.parts(model)]
    hooks = [module.register_forward_hook(watch) for module in modules]
    modes = {module: module.training for module in model.modules()}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.eval()
    try:
        model(torch.zeros(1, *image, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return list(ends.values())


# Called with the network, the rate and the shape of an image (C, H, W).
REGULARIZERS: dict[str, Callable[[nn.Module, float, tuple[int, ...]], None]] = {
    "stochastic-depth": add_stochastic_depth,
    "dropblock": add_dropblock,
}


def regularize(
    model: nn.Module, rates: Mapping[str, float], image: tuple[int, ...]
) -> None:
    """Hook what has a rate above 0 on a network, in place of what an earlier run hooked."""
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, InTraining):
                del module._forward_hooks[key]
    for name, add in REGULARIZERS.items():
        if rates[name]:
            add(model, rates[name], image)
