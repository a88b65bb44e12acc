"""A family of networks against a library: every variant on the meta device, then as fully as its size allows.

Three nets (the record of a variant says which it passed): names, shapes, order, MACs of every variant without computing
anything; outputs, gradients and buffers of variants up to 150 M parameters, the smallest of each distinct block in the fast
suite; of larger ones the outputs in float32.
"""

import hashlib
import importlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnn_techniques.evaluation import model_cost

from . import ROOT
from .equivalence import Comparison, compare
from .evidence import load

LARGE = 4e9  # bytes that a comparison takes; of such two must never meet in memory
# Bytes a parameter, measured: in full (float64, weights, gradients and what is kept of both sides), by outputs alone.
IN_FULL, BY_OUTPUTS = 40, 8
Tensors = list[tuple[str, tuple[int, ...]]]  # names and shapes of all tensors, in order


@dataclass(frozen=True)
class Variant:
    """One network of a family and what it is checked against.

    Args:
        make: the function that builds ours; its name is the variant's key in records.
        title: its name on pages, as "VGG-16".
        reference: "torchvision.models.vgg16" or "timm.legacy_xception"; None where no library has the network.
        net: "fast" or "slow": compared in full by that suite; "outputs": above 150 M parameters, slow.
        pixels: height and width that its cost is told for, the published resolution.
        match: pair parameters by "name" (torchvision), or by "order" (timm).
        options: of the reference, as {"init_weights": False}.
        outputs: picks what is compared, as in `cnn_site.equivalence.compare`.
        counts: parameters and MACs from elsewhere (paper, authors' code), where there is no reference.

    Raises: ValueError for a variant with both a reference and counts, or with neither.
    """

    make: Callable[..., nn.Module]
    title: str
    reference: str | None = None
    net: Literal["fast", "slow", "outputs"] = "fast"
    pixels: int = 224
    match: Literal["name", "order"] = "name"
    options: Mapping[str, Any] = field(default_factory=dict)
    outputs: Any = None
    counts: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if (self.reference is None) == (self.counts is None):
            raise ValueError(
                f"{self.key}: expected a reference or counts of parameters and MACs, got {self.reference=}, {self.counts=}"
            )

    @property
    def key(self) -> str:
        return self.make.__name__

    def build_reference(self) -> nn.Module:
        """The reference, as its library builds it; skips the test where timm is missing."""
        if self.reference is None:
            raise ValueError(f"{self.key} has no reference")
        return reference(self.reference, **self.options)

    def check_structure(self) -> dict[str, Any]:
        """Parameters and MACs, after names, shapes, order and MACs were found equal on the meta device."""
        mine, params, macs = _structure(self.make, self.pixels)
        row = {
            "name": self.title,
            "params": params,
            "macs": macs,
            "pixels": self.pixels,
        }
        if self.counts:
            assert (params, macs) == self.counts, (
                f"{self.key}: {params:,} parameters and {macs:,} MACs, expected {self.counts[0]:,} and {self.counts[1]:,}"
            )
            return row
        others, _, expected_macs = self._reference_structure()
        label = f"{self.key} and {self.reference}"
        assert len(mine) == len(others), (
            f"{label}: {len(mine)} and {len(others)} tensors"
        )
        for (name, shape), (other, expected) in zip(mine, others, strict=True):
            same = name == other or self.match == "order"
            assert same and shape == expected, (
                f"{label}: {name} {shape} and {other} {expected}"
            )
        assert macs == expected_macs, f"{label}: {macs:,} and {expected_macs:,} MACs"
        return {**row, "net": self.net}

    def _reference_structure(self) -> tuple[Tensors, int, int]:
        """The reference's form, kept under .cache for this version of its library, of torch and of the counting."""
        assert self.reference is not None
        library = self.reference.partition(".")[0]
        if library not in ("torchvision", "timm"):
            return _structure(self.build_reference, self.pixels)
        version = importlib.metadata.version(library)
        counting = Path(model_cost.__code__.co_filename).read_bytes()
        parts = [self.reference, dict(self.options), self.pixels, torch.__version__]
        key = hashlib.sha256(counting + repr(parts).encode()).hexdigest()[:12]
        folder = ROOT / ".cache" / "reference" / f"{library}-{version}"
        path = folder / f"{self.reference}-{key}.json"
        if not path.exists():
            structure = _structure(self.build_reference, self.pixels)
            folder.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}")  # another process may write too
            draft.write_text(json.dumps(structure), encoding="utf-8")
            draft.replace(path)
        tensors, params, macs = json.loads(path.read_text(encoding="utf-8"))
        return [(name, tuple(shape)) for name, shape in tensors], params, macs

    def large(self) -> bool:
        """Above 4 GB by its record; what has no record yet counts as large unless it is compared fast."""
        slug = "/".join(self.make.__module__.split(".")[1:]).replace("_", "-")
        row = load(slug).get("computed", {}).get("cost", {}).get(self.key)
        each = BY_OUTPUTS if self.net == "outputs" else IN_FULL
        return row["params"] * each > LARGE if row else self.net != "fast"

    def check_equal(
        self, evidence: Any, images: Tensor, settings: str = ""
    ) -> Comparison:
        """Compare in full, or by outputs in float32, with every dropout and drop-path rate at 0; write the record."""
        with NoInit():  # compare() draws every tensor anew
            ours, theirs = self.make(), self.build_reference()
        still = without_drawing(ours) + without_drawing(theirs)
        full = self.net != "outputs"
        precision = torch.float64 if full else torch.float32
        comparison = compare(
            ours,
            theirs,
            images,
            match=self.match,
            train=full,
            dtype=precision,
            outputs=self.outputs,
        )
        options = [f"{k}={v!r}" for k, v in self.options.items()]
        all_settings = [
            *options,
            *["dropout and drop path 0"] * bool(still),
            *[settings] * bool(settings),
        ]
        evidence.equivalent(
            self.key,
            comparison,
            reference=self.reference,
            settings="; ".join(all_settings) or "defaults" * (not comparison.settings),
        )
        return comparison


def dotted(make: Callable[..., Any]) -> str:
    """Where a function or class stands, as records name it: "cnn_techniques.foundations.vgg.vgg16"."""
    return f"{make.__module__}.{make.__qualname__}"


def each_variant(variants: Iterable[Variant]) -> pytest.MarkDecorator:
    """Runs a test with every variant as `variant`; those that are not "fast" in the slow suite, large ones in one worker."""

    def marks(variant: Variant) -> list[pytest.MarkDecorator]:
        slow = [pytest.mark.slow] * (variant.net != "fast")
        return slow + [pytest.mark.xdist_group("large")] * variant.large()

    rows = [pytest.param(v, id=v.key, marks=marks(v)) for v in variants]
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


class NoInit(TorchFunctionMode):
    """Networks are made without the random numbers of `nn.init`: for 140 M parameters they take seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # What does not ask (trunc_normal_, timm's) draws by these; it may draw again as
        # long as a number is out of range, so that memory as it was would not do.
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0].zero_()
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def _structure(make: Callable[[], nn.Module], pixels: int) -> tuple[Tensors, int, int]:
    """Names and shapes of all tensors, parameters and MACs, on the meta device: nothing is computed."""
    with torch.device("meta"):
        network, image = make().eval(), torch.empty(1, 3, pixels, pixels)
    cost = model_cost(network, image)
    state = network.state_dict()
    tensors = [(name, tuple(value.shape)) for name, value in state.items()]
    return tensors, cost.params, cost.macs
