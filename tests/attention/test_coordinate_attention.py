"""The block is timm's, and does what the paper's equations say."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.equivalence import compare
from cnn_techniques.attention import CoordinateAttention, SqueezeExcitation
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import InvertedResidual, mobilenet_v2, resnet50
from cnn_techniques.modern.resnet import Bottleneck, ResNet

DEVICE_CASES = {
    "CoordinateAttention": lambda: (
        CoordinateAttention(64),
        (torch.randn(2, 64, 9, 7),),
    ),
}
IMAGES = torch.randn(2, 64, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def block() -> CoordinateAttention:
    return CoordinateAttention(64, reduction=4).eval()


def gates(block: nn.Module, x: Tensor) -> Tensor:
    return block(x) / x  # (N, C, H, W)


@pytest.mark.parametrize(("reduction", "squeezed"), [(32, 8), (4, 16)])
def test_equals_timms_block(evidence, reduction: int, squeezed: int) -> None:
    coord_attn = pytest.importorskip("timm.layers.coord_attn")
    reference = coord_attn.CoordAttn(64, rd_channels=squeezed, bias=True)
    comparison = compare(CoordinateAttention(64, reduction), reference, IMAGES)
    evidence.equivalent(
        "block" if reduction == 32 else f"r = {reduction}",
        comparison,
        reference="timm.layers.coord_attn.CoordAttn",
        settings=f"rd_channels={squeezed}, bias=True",
    )


def test_matches_the_equations_written_out(block: CoordinateAttention) -> None:
    z_h = torch.einsum("nchw->nch", IMAGES) / 7
    z_w = torch.einsum("nchw->ncw", IMAGES) / 9

    def squeeze(z: Tensor) -> Tensor:  # rows and columns apart
        f = torch.einsum("rc,ncl->nrl", block.conv1.weight[:, :, 0, 0], z)
        f = f + block.conv1.bias[:, None]
        scale = block.bn1.weight / torch.sqrt(block.bn1.running_var + block.bn1.eps)
        f = (f - block.bn1.running_mean[:, None]) * scale[:, None]
        f = f + block.bn1.bias[:, None]
        return f * (f + 3).clamp(0, 6) / 6

    def gate(conv: nn.Conv2d, f: Tensor) -> Tensor:
        logits = torch.einsum("cr,nrl->ncl", conv.weight[:, :, 0, 0], f)
        return 1 / (1 + torch.exp(-logits - conv.bias[:, None]))

    nn.init.normal_(block.bn1.running_mean)
    nn.init.uniform_(block.bn1.running_var, 0.5, 2.0)
    g_h, g_w = gate(block.conv_h, squeeze(z_h)), gate(block.conv_w, squeeze(z_w))
    expected = torch.einsum("nchw,nch,ncw->nchw", IMAGES, g_h, g_w)
    torch.testing.assert_close(block(IMAGES), expected)


@pytest.mark.parametrize(
    ("channels", "reduction", "squeezed"),
    [(16, 32, 8), (256, 32, 8), (320, 32, 10), (512, 16, 32)],
)
def test_the_squeeze_has_eight_channels_at_least(
    channels: int, reduction: int, squeezed: int
) -> None:
    block = CoordinateAttention(channels, reduction)
    assert block.bn1.num_features == squeezed
    by_docstring = 3 * channels * squeezed + squeezed + 2 * channels + 2 * squeezed
    assert sum(p.numel() for p in block.parameters()) == by_docstring


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (32, 32)])
def test_keeps_the_shape_for_any_size(
    block: CoordinateAttention, size: tuple[int, int]
) -> None:
    assert block(torch.randn(2, 64, *size)).shape == (2, 64, *size)


def test_can_only_turn_channels_down(block: CoordinateAttention) -> None:
    assert (block(IMAGES).abs() <= IMAGES.abs()).all()


def test_a_gate_is_a_product_of_one_of_its_row_and_one_of_its_column(
    block: CoordinateAttention,
) -> None:
    g = gates(block, IMAGES)
    torch.testing.assert_close(g * g[:, :, :1, :1], g[:, :, :, :1] * g[:, :, :1])


def test_in_evaluation_a_pixel_decides_about_its_row_and_column_alone(
    block: CoordinateAttention,
) -> None:
    changed = IMAGES.clone()
    changed[:, :, 4, 2] += 1
    g, h = gates(block, IMAGES), gates(block, changed)
    differs = (g - h).abs().amax(dim=(0, 1)) > 1e-6
    expected = torch.zeros(9, 7, dtype=torch.bool)
    expected[4], expected[:, 2] = True, True
    assert torch.equal(differs, expected)


def test_rows_that_change_places_take_their_gates_along(
    block: CoordinateAttention,
) -> None:
    order = torch.randperm(9)
    torch.testing.assert_close(block(IMAGES[:, :, order]), block(IMAGES)[:, :, order])


def test_turned_images_have_turned_gates_if_the_two_convolutions_change_places(
    block: CoordinateAttention,
) -> None:
    turned = CoordinateAttention(64, reduction=4).eval()
    turned.load_state_dict(block.state_dict())
    turned.conv_h, turned.conv_w = turned.conv_w, turned.conv_h
    torch.testing.assert_close(turned(IMAGES.mT), block(IMAGES).mT)
    assert not torch.allclose(block(IMAGES.mT), block(IMAGES).mT)


def test_with_zero_weights_every_gate_is_one_quarter(
    block: CoordinateAttention,
) -> None:
    for conv in (block.conv_h, block.conv_w):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    torch.testing.assert_close(block(IMAGES), IMAGES / 4)


def test_with_open_gates_the_block_is_the_identity(block: CoordinateAttention) -> None:
    for conv in (block.conv_h, block.conv_w):
        nn.init.zeros_(conv.weight)
        nn.init.constant_(conv.bias, 100.0)
    torch.testing.assert_close(block(IMAGES), IMAGES)


def test_gradients_reach_every_parameter(block: CoordinateAttention) -> None:
    block(IMAGES).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in block.parameters())


def test_convolutions_at_zero_learn_at_once_and_the_layers_before_them_do_not(
    block: CoordinateAttention,
) -> None:
    last = (block.conv_h, block.conv_w)
    for conv in last:
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    block(IMAGES).square().mean().backward()
    assert all(p.grad.any() for conv in last for p in conv.parameters())
    assert not block.conv1.weight.grad.any()
    assert not block.bn1.weight.grad.any()


def test_in_training_the_norm_takes_the_first_bias_out(
    block: CoordinateAttention,
) -> None:
    block.train()
    before = block(IMAGES)
    nn.init.normal_(block.conv1.bias)
    torch.testing.assert_close(block(IMAGES), before)


@pytest.mark.parametrize(("channels", "reduction"), [(0, 32), (64, 0), (-1, 2)])
def test_refuses_sizes_below_one(channels: int, reduction: int) -> None:
    with pytest.raises(ValueError, match=f"channels={channels}, reduction={reduction}"):
        CoordinateAttention(channels, reduction)


@pytest.mark.parametrize("shape", [(64, 8, 8), (1, 32, 8, 8), (1, 64)])
def test_refuses_inputs_of_another_shape(
    block: CoordinateAttention, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 64, H, W\)"):
        block(torch.zeros(shape))


def ca_mobilenet_v2() -> nn.Module:
    """The authors' network: behind the depthwise convolution of each block that widens."""
    network = mobilenet_v2()
    for block in network.modules():
        if isinstance(block, InvertedResidual) and len(block.conv) == 4:
            block.conv.insert(2, CoordinateAttention(block.conv[2].in_channels))
    return network


def test_cost_in_mobilenet_v2_and_at_the_end_of_every_block_of_resnet_50(
    evidence,
) -> None:
    networks = {
        "mobilenet_v2": ("MobileNet v2", mobilenet_v2),
        "ca_mobilenet_v2": ("+ CA, r = 32", ca_mobilenet_v2),
        "resnet50": ("ResNet-50", resnet50),
        "ca_resnet50": (
            "+ CA, r = 32",
            lambda: ResNet(Bottleneck, (3, 4, 6, 3), attention=CoordinateAttention),
        ),
        "ca_resnet50_16": (
            "+ CA, r = 16",
            lambda: ResNet(
                Bottleneck,
                (3, 4, 6, 3),
                attention=lambda channels: CoordinateAttention(channels, 16),
            ),
        ),
        "se_resnet50": (
            "+ SE, r = 16",
            lambda: ResNet(
                Bottleneck,
                (3, 4, 6, 3),
                attention=lambda channels: SqueezeExcitation(channels, channels // 16),
            ),
        ),
    }
    rows = {}
    for key, (name, make) in networks.items():
        with torch.device("meta"):
            cost = model_cost(make().eval(), torch.empty(1, 3, 224, 224))
        rows[key] = {"name": name, "params": cost.params, "macs": cost.macs}
    for key, row in rows.items():
        of = rows["mobilenet_v2" if "mobilenet" in key else "resnet50"]
        row["more_params"] = row["params"] / of["params"] - 1
        row["more_macs"] = row["macs"] / of["macs"] - 1
    # The authors' README says 3.95 M.
    assert round(rows["ca_mobilenet_v2"]["params"] / 1e6, 2) == 3.95
    evidence.computed("cost", rows)


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        "Coordinate attention",
        network=lambda: bench.network(CoordinateAttention),
    )


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["coordinate"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["coordinate"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["coordinate"])
    evidence.measured("time", arguments={}, run=run)
