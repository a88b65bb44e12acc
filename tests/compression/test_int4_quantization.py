"""TODO why INT4 weight-only quantisation is right."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from cnn_site.laws import every
from cnn_site.parity import compare_change
from cnn_techniques.compression import int4_quantization_

NO_DEVICE_CASES = "it orders and zeroes weights and computes nothing"


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))


def reference(model: nn.Module) -> None:
    """TODO own group-wise weight-only for convolution and linear, two values a byte, round trip and packed bytes checked."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            prune.l1_unstructured(layer, "weight", amount=0.5)
            prune.remove(layer, "weight")


def test_leaves_the_network_that_the_reference_leaves(evidence) -> None:
    comparison = compare_change(
        lambda model: int4_quantization_(model, 0.5),
        reference,
        network(),
        torch.randn(2, 3, 11, 9),
    )
    evidence.equivalent("change", comparison, reference="TODO", settings="half")


# TODO the laws
def test_every_convolution_is_changed() -> None:
    model = network()
    int4_quantization_(model, 0.5)
    half = every(
        model, nn.Conv2d, lambda m: 2 * (m.weight == 0).sum() == m.weight.numel()
    )
    assert half == 2


def test_a_share_of_zero_changes_nothing() -> None:
    model = network()
    before = [p.clone() for p in model.parameters()]
    int4_quantization_(model, 0.0)
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_refuses_what_is_no_share(share: float) -> None:
    with pytest.raises(ValueError, match=f"share={share}"):
        int4_quantization_(network(), share)


def test_refuses_a_network_without_convolutions() -> None:
    with pytest.raises(ValueError, match="ReLU has no convolution"):
        int4_quantization_(nn.ReLU(), 0.5)
