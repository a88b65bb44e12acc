"""The batch stays free in an exported graph: no Python number is made of a batch (`len(x)`, `int(x.shape[0])`).

`torch.export` names the batch that a module froze; the exported graph is run with another one than it was traced with.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnn_site import CATEGORIES, ROOT
from cnn_site.trees import flatten, mapped
from cnn_techniques.modern import (
    CNBlock,
    CNBlockV2,
    FusedMBConv,
    MBConv,
    UniversalInvertedBottleneck,
)

PROOFS = [p for c in CATEGORIES for p in sorted((ROOT / "tests" / c).glob("test_*.py"))]
# In these the batch stands beside a number of tokens; the others take longer than they are worth each time.
FAST = ("test_multi_head_attention", "test_vision_transformer")


def modules(path: Path) -> Iterator[tuple[str, nn.Module, tuple[Any, ...]]]:
    """The floor-1 modules among a proof's device cases, with their inputs."""
    spec = importlib.util.spec_from_file_location(f"batch_{path.stem}", path)
    assert spec and spec.loader
    proof = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(proof)
    torch.manual_seed(0)
    for name, make in getattr(proof, "DEVICE_CASES", {}).items():
        run, inputs = make()
        if type(run).__module__.startswith("cnn_techniques."):
            yield name, run, inputs


def frees_its_batch(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    def larger(leaf: Tensor) -> Tensor:
        return torch.cat([leaf.flip(0), leaf, leaf[:1]])

    batch = torch.export.Dim("batch", min=2, max=64)
    free = mapped(inputs, lambda leaf: {0: batch})
    exported = torch.export.export(module, inputs, dynamic_shapes=free).module()
    others = mapped(inputs, larger)
    with torch.no_grad():
        found, expected = flatten(exported(*others)), flatten(module(*others))
    assert list(found) == list(expected)
    for key, value in expected.items():
        told = f"{name}, {key}: the graph computes something else"
        assert torch.allclose(found[key], value, rtol=1e-4, atol=1e-5), told


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=() if p.stem in FAST else pytest.mark.slow) for p in PROOFS],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_modules_leave_the_batch_free(path: Path) -> None:
    for name, module, inputs in modules(path):
        frees_its_batch(name, module.eval(), inputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "block",
    [
        CNBlock(8, drop_path=0.5),
        CNBlockV2(8, drop_path=0.5),
        MBConv(8, 8, drop_path=0.5),
        FusedMBConv(8, 8, drop_path=0.5),
        UniversalInvertedBottleneck(8, 8, 8, drop_path=0.5),
    ],
    ids=lambda block: type(block).__name__,
)
def test_a_path_is_dropped_for_each_image_of_any_batch(block: nn.Module) -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    images = torch.randn(50, 8, 6, 5)
    traced = torch.export.export(
        block.train(), (images[:2],), dynamic_shapes=({0: batch},)
    )
    torch.manual_seed(0)
    out = traced.module()(images)
    dropped = sum(torch.equal(a, b) for a, b in zip(out, images, strict=True))
    assert 10 < dropped < 40


class FrozenBatch(nn.Module):
    """Makes a Python number of its batch, as `len(patches)` did in the Vision Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)


def test_a_frozen_batch_is_seen() -> None:
    with pytest.raises(torch._dynamo.exc.UserError, match="marked batch as dynamic"):
        frees_its_batch("planted", FrozenBatch().eval(), (torch.randn(2, 3, 4),))
