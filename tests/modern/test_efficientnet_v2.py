"""EfficientNetV2 is torchvision's; its laws are those of a fused first half."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.figures.check import figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.attention import SqueezeExcitation
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import (
    EfficientNetDropPath,
    FusedMBConv,
    MBConv,
    efficientnet_v2_l,
    efficientnet_v2_m,
    efficientnet_v2_s,
)


def scaled(scores: Tensor) -> Tensor:
    """The more the signal exceeds what norms were calibrated for, the further do gates
    open: deep networks of random weights reach 1e4 to 1e7 in evaluation mode."""
    return scores / 1e7


SMALLEST = Variant(
    efficientnet_v2_s,
    "EfficientNetV2-S",
    "torchvision.models.efficientnet_v2_s",
    pixels=384,
    outputs=scaled,
)
VARIANTS = [
    SMALLEST,
    *[
        Variant(
            make,
            f"EfficientNetV2-{size.upper()}",
            f"torchvision.models.efficientnet_v2_{size}",
            net="slow",
            pixels=480,
            outputs=scaled,
        )
        for size, make in (("m", efficientnet_v2_m), ("l", efficientnet_v2_l))
    ],
]


DEVICE_CASES = {
    "FusedMBConv": lambda: (FusedMBConv(16, 24, stride=2), (torch.randn(2, 16, 9, 12),))
}


def test_names_shapes_order_and_costs_of_every_size_are_torchvisions(evidence) -> None:
    rows = {variant.key: variant.check_structure() for variant in VARIANTS}
    evidence.computed("cost", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=lambda variant: (2, 3, 40, 56) if variant is SMALLEST else (2, 3, 72, 104),
    small=(
        partial(FusedMBConv, 8, 8),
        partial(FusedMBConv, 8, 12, stride=2, expansion=1),
    ),
    small_images=(4, 8, 9, 7),
)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.key)
def test_dropout_drop_path_and_norms_are_torchvisions(variant: Variant) -> None:
    from torchvision.ops import StochasticDepth

    with torch.device("meta"):
        ours, theirs = variant.make(), variant.build_reference()
    assert ours.classifier[0].p == theirs.classifier[0].p
    rates = [m.p for m in ours.modules() if isinstance(m, EfficientNetDropPath)]
    expected = [m.p for m in theirs.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx(expected)
    norms = {
        (m.eps, m.momentum) for m in ours.modules() if isinstance(m, nn.BatchNorm2d)
    }
    assert norms == {(1e-3, 0.1)}


def test_the_fused_block_written_a_second_way_gives_the_same() -> None:
    block = FusedMBConv(8, 8, expansion=2).double().eval()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean)
    (full, bn1, _), (narrow, bn2) = block.block

    def bn(y: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        mean, var = norm.running_mean[:, None, None], norm.running_var[:, None, None]
        return (y - mean) / (var + 1e-5).sqrt()

    patches = F.unfold(x, 3, padding=1).view(2, 8, 9, 9, 7)
    y = bn(torch.einsum("nckhw,tck->nthw", patches, full.weight.flatten(2)), bn1)
    y = torch.einsum("nthw,dt->ndhw", y / (1 + (-y).exp()), narrow.weight[..., 0, 0])
    torch.testing.assert_close(block(x), x + bn(y, bn2), rtol=1e-10, atol=1e-10)


def test_a_fused_convolution_can_be_what_the_two_of_mbconv_are() -> None:
    """Without norm and activation between them, a 1x1 and a depthwise convolution are
    one full convolution, of rank 1 in each of its output channels."""
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    widen = torch.randn(24, 6, 1, 1, dtype=torch.float64)
    depthwise = torch.randn(24, 1, 3, 3, dtype=torch.float64)
    two = F.conv2d(F.conv2d(x, widen), depthwise, padding=1, groups=24)
    one = F.conv2d(x, widen * depthwise, padding=1)
    torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("expansion", [1, 4])
def test_a_shortcut_stands_only_where_the_shape_stays(expansion: int) -> None:
    x = torch.randn(2, 16, 6, 5)
    for block in (
        FusedMBConv(16, 16, expansion=expansion),
        FusedMBConv(16, 16, stride=2, expansion=expansion),
        FusedMBConv(16, 24, expansion=expansion),
    ):
        nn.init.zeros_(block.block[-1][1].weight)
        expected = x if block.shortcut else torch.zeros_like(block(x))
        assert torch.equal(block(x), expected)


def test_with_expansion_1_there_is_one_convolution_with_its_activation() -> None:
    kinds = [type(part) for part in FusedMBConv(24, 24, expansion=1).block[0]]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.SiLU]
    assert len(FusedMBConv(24, 24, expansion=1).block) == 1


def test_only_the_unfused_blocks_have_gates() -> None:
    with torch.device("meta"):
        model = efficientnet_v2_s()
    for block in model.modules():
        if isinstance(block, FusedMBConv | MBConv):
            gates = [m for m in block.modules() if isinstance(m, SqueezeExcitation)]
            assert len(gates) == isinstance(block, MBConv)
    kernels = {m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert kernels == {(1, 1), (3, 3)}


def test_fusing_costs_more_the_wider_the_block(evidence) -> None:
    rows = {}
    for channels, pixels in ((24, 96), (64, 24), (160, 24), (256, 12)):
        row: dict[str, object] = {"name": f"{channels} channels, {pixels} × {pixels}"}
        for kind, block in (("mbconv", MBConv), ("fused", FusedMBConv)):
            with torch.device("meta"):
                made = block(channels, channels, expansion=4).eval()
                cost = model_cost(made, torch.empty(1, channels, pixels, pixels))
            row |= {f"{kind}_params": cost.params, f"{kind}_macs": cost.macs}
        rows[str(channels)] = row
        assert row["fused_macs"] > 2 * row["mbconv_macs"]
    ratios = [row["fused_params"] / row["mbconv_params"] for row in rows.values()]
    assert ratios == sorted(ratios)
    evidence.computed("fused", rows)


def test_the_figures_draw_what_the_block_and_the_network_compute() -> None:
    found = figure_source("modern/efficientnet-v2")
    with torch.device("meta"):
        x, maps = torch.empty(1, 3, 384, 384), []
        for stage in efficientnet_v2_s().features:
            x = stage(x)
            maps.append((x.shape[-1], x.shape[1]))
    assert maps[-1] == (12, 1280)
    assert [size[:2] for size in found["SIZES"][1:]] == [
        maps[k] for k in (1, 2, 3, 5, 7)
    ]


def test_one_pixel_is_the_smallest_image() -> None:
    with torch.device("meta"):
        model = efficientnet_v2_s().eval()
        assert model(torch.empty(1, 3, 1, 1)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(efficientnet_v2_s, num_classes=0), "num_classes=0"),
        (
            lambda: efficientnet_v2_s()(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), got \(2, 1, 64, 64\)",
        ),
        (lambda: efficientnet_v2_s()(torch.randn(3, 64, 64)), r"got \(3, 64, 64\)"),
        (lambda: efficientnet_v2_s()(torch.randn(1, 3, 0, 64)), r"got \(1, 3, 0, 64\)"),
    ],
)
def test_what_cannot_be_an_efficientnet_v2_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make()
