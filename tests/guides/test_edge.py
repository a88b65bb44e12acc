"""The budget of the guide to small devices, against counts by hand of every layer."""

import runpy

import torch
from torch import nn

from cnn_site import ROOT
from cnn_techniques.modern import MobileNetV1

within = runpy.run_path(str(ROOT / "snippets/guides/edge.py"))["within"]


def counted(width: float, size: int) -> int:
    """Multiply-adds by hooks on convolutions and linear layers, of a real pass."""
    network, total = MobileNetV1(width=width).eval(), []

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        total.append(out[0].numel() * layer.weight[0].numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network(torch.rand(1, 3, size, size))
    return sum(total)


def test_the_counts_are_those_of_every_layer_and_only_what_fits_is_named() -> None:
    fits = within(2e7, [0.25, 0.5], [64, 96])
    found = {(width, size): macs for macs, _, width, size in fits}
    for width in (0.25, 0.5):
        for size in (64, 96):
            expected = counted(width, size)
            assert found.get((width, size)) == (expected if expected <= 2e7 else None)
    assert [row[0] for row in fits] == sorted((row[0] for row in fits), reverse=True)


def test_only_the_width_changes_the_parameters() -> None:
    rows = within(1e12, [0.25, 0.5], [64, 96])
    assert len({(row[2], row[1]) for row in rows}) == 2
