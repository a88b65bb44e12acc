"""A family of networks against a library: every variant on the meta device, then as fully as its size allows.

Three nets (the record of a variant says which it passed): names, shapes, order, MACs of every variant without computing
anything; outputs, gradients and buffers of variants up to 150 M parameters, the smallest of each distinct block in the fast
suite; of larger ones the outputs in float32.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from cnn_techniques.evaluation import model_cost

from .equivalence import Comparison, compare


@dataclass(frozen=True)
class Variant:
    """One network of a family and what it is held against.

    Args:
        make: the function that builds ours; its name is the variant's key in records.
        title: its name on pages, as "VGG-16".
        reference: "torchvision.models.vgg16" or "timm.legacy_xception".
        net: "fast" or "slow": compared in full by that suite; "outputs": above 150 M parameters, slow.
        pixels: height and width that its cost is told for, the published resolution.
        match: pair parameters by "name" (torchvision), or by "order" (timm).
        options: of the reference, as {"init_weights": False}.
        outputs: picks what is compared, as in `cnn_site.equivalence.compare`.
    """

    make: Callable[..., nn.Module]
    title: str
    reference: str
    net: Literal["fast", "slow", "outputs"] = "fast"
    pixels: int = 224
    match: Literal["name", "order"] = "name"
    options: Mapping[str, Any] = field(default_factory=dict)
    outputs: Any = None

    @property
    def key(self) -> str:
        return self.make.__name__

    def held_against(self) -> nn.Module:
        """The reference, as its library builds it; skips the test where timm is missing."""
        return reference(self.reference, **self.options)

    def form(self) -> dict[str, Any]:
        """Parameters and MACs, after names, shapes, order and MACs were found equal on the meta device."""
        with torch.device("meta"):
            ours, theirs = self.make().eval(), self.held_against().eval()
            image = torch.empty(1, 3, self.pixels, self.pixels)
        mine, others = _saved(ours), _saved(theirs)
        told = f"{self.key} and {self.reference}"
        assert len(mine) == len(others), (
            f"{told}: {len(mine)} and {len(others)} tensors"
        )
        for (name, shape), (other, expected) in zip(mine, others, strict=True):
            same = name == other or self.match == "order"
            assert same and shape == expected, (
                f"{told}: {name} {shape} and {other} {expected}"
            )
        cost, expected_cost = model_cost(ours, image), model_cost(theirs, image)
        assert cost.macs == expected_cost.macs, (
            f"{told}: {cost.macs:,} and {expected_cost.macs:,} MACs"
        )
        row = {"params": cost.params, "macs": cost.macs, "pixels": self.pixels}
        return {"name": self.title, **row, "net": self.net}

    def hold(self, evidence: Any, images: Tensor, settings: str = "") -> Comparison:
        """Compare in full, or by outputs in float32, with every dropout and drop-path rate at 0; write the record."""
        ours, theirs = self.make(), self.held_against()
        still = without_drawing(ours) + without_drawing(theirs)
        full = self.net != "outputs"
        precision = torch.float64 if full else torch.float32
        found = compare(
            ours,
            theirs,
            images,
            match=self.match,
            train=full,
            dtype=precision,
            outputs=self.outputs,
        )
        options = [f"{k}={v!r}" for k, v in self.options.items()]
        told = [
            *options,
            *["dropout and drop path 0"] * bool(still),
            *[settings] * bool(settings),
        ]
        evidence.equivalent(
            self.key,
            found,
            reference=self.reference,
            settings="; ".join(told) or "defaults" * (not found.settings),
        )
        return found


def each(variants: Iterable[Variant]) -> pytest.MarkDecorator:
    """Runs a test with every variant as `variant`; those that are not "fast" in the slow suite."""
    rows = [
        pytest.param(v, id=v.key, marks=[pytest.mark.slow] * (v.net != "fast"))
        for v in variants
    ]
    return pytest.mark.parametrize("variant", rows)


def reference(name: str, **options: Any) -> nn.Module:
    """ "torchvision.models.vgg16" or "timm.legacy_xception", with random weights."""
    library, _, network = name.rpartition(".")
    if library == "timm":
        timm = pytest.importorskip("timm")
        made: nn.Module = timm.create_model(network, pretrained=False, **options)
    else:
        made = getattr(importlib.import_module(library), network)(**options)
    return made


def without_drawing(network: nn.Module) -> int:
    """Set the rate of every dropout and drop path to 0; how many had another one."""
    changed = 0
    for module in network.modules():
        kind = type(module).__name__.lower()
        for rate in (
            ("p", "drop_prob") if "drop" in kind or kind == "stochasticdepth" else ()
        ):
            if getattr(module, rate, None):
                setattr(module, rate, 0.0)
                changed += 1
    return changed


def _saved(network: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    state = network.state_dict()
    return [(name, tuple(value.shape)) for name, value in state.items()]
