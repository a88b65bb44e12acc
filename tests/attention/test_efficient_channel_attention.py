"""The block is timm's, and does what the paper's equations say; k grows with the channels."""

import math
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
from cnn_techniques.attention import (
    EfficientChannelAttention,
    SqueezeExcitation,
    eca_kernel_size,
)
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import resnet50
from cnn_techniques.modern.resnet import Bottleneck, ResNet

DEVICE_CASES = {
    "EfficientChannelAttention": lambda: (
        EfficientChannelAttention(64),
        (torch.randn(2, 64, 9, 7),),
    ),
}
IMAGES = torch.randn(2, 64, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def block() -> EfficientChannelAttention:
    return EfficientChannelAttention(64)


def gates(block: nn.Module, x: Tensor) -> Tensor:
    return (block(x) / x).mean(dim=(2, 3))  # (N, C)


def test_equals_timms_block(evidence) -> None:
    timm = pytest.importorskip("timm")
    comparison = compare(
        EfficientChannelAttention(64), timm.layers.EcaModule(64), IMAGES
    )
    evidence.equivalent(
        "block", comparison, reference="timm.layers.EcaModule", settings="channels=64"
    )


def test_equals_timms_block_with_a_given_kernel(evidence) -> None:
    timm = pytest.importorskip("timm")
    comparison = compare(
        EfficientChannelAttention(64, kernel_size=7),
        timm.layers.EcaModule(kernel_size=7),
        IMAGES,
    )
    evidence.equivalent(
        "kernel 7",
        comparison,
        reference="timm.layers.EcaModule",
        settings="kernel_size=7",
    )


def test_matches_the_paper_s_band_matrix(block: EfficientChannelAttention) -> None:
    # Equation 6 with the weights shared (8): row c of the matrix sees channels c-1, c, c+1.
    weights = block.conv.weight.flatten()  # (k,)
    matrix = sum(
        w * torch.diag(torch.ones(64 - abs(offset)), offset)
        for w, offset in zip(weights, (-1, 0, 1), strict=True)
    )
    y = torch.einsum("nchw->nc", IMAGES) / (9 * 7)
    expected = torch.einsum(
        "nchw,nc->nchw", IMAGES, torch.sigmoid(torch.einsum("dc,nc->nd", matrix, y))
    )
    torch.testing.assert_close(block(IMAGES), expected)


def test_the_kernel_is_the_nearest_odd_number() -> None:
    for channels in range(1, 4097):
        exact = (math.log2(channels) + 1) / 2
        k = eca_kernel_size(channels)
        assert k % 2 == 1
        assert abs(k - exact) <= 1, channels
        if abs(k - exact) == 1:  # a tie, or k = 1 below 1: the larger neighbour
            assert k > exact, channels


def test_the_kernel_is_timms_from_eight_channels_on() -> None:
    timm = pytest.importorskip("timm")
    for channels in [*range(8, 300), 512, 1024, 2048, 4096]:
        reference = timm.layers.EcaModule(channels).conv.kernel_size[0]
        assert eca_kernel_size(channels) == reference, channels


@pytest.mark.parametrize(
    ("channels", "k"), [(16, 3), (64, 3), (128, 5), (256, 5), (1024, 5), (2048, 7)]
)
def test_the_kernel_grows_with_the_channels(channels: int, k: int) -> None:
    block = EfficientChannelAttention(channels)
    assert eca_kernel_size(channels) == k
    assert sum(p.numel() for p in block.parameters()) == k


def test_gamma_and_b_change_the_kernel() -> None:
    assert eca_kernel_size(256, gamma=1) == 9
    assert eca_kernel_size(256, b=3) == 5
    assert eca_kernel_size(256, gamma=4) == 3


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (32, 32)])
def test_keeps_the_shape_for_any_size(
    block: EfficientChannelAttention, size: tuple[int, int]
) -> None:
    assert block(torch.randn(2, 64, *size)).shape == (2, 64, *size)


def test_can_only_turn_channels_down(block: EfficientChannelAttention) -> None:
    assert (block(IMAGES).abs() <= IMAGES.abs()).all()


def test_a_channel_decides_about_its_k_neighbours_and_no_other() -> None:
    block = EfficientChannelAttention(64, kernel_size=5)
    changed = IMAGES.clone()
    changed[:, 20] += 1
    differs = (gates(block, changed) - gates(block, IMAGES)).abs().amax(dim=0) > 1e-4
    assert differs.nonzero().flatten().tolist() == [18, 19, 20, 21, 22]


def test_moving_all_channels_moves_their_gates(
    block: EfficientChannelAttention,
) -> None:
    moved = gates(block, IMAGES.roll(1, dims=1))
    torch.testing.assert_close(moved[:, 2:-1], gates(block, IMAGES)[:, 1:-2])


def test_other_orders_of_the_channels_have_other_gates(
    block: EfficientChannelAttention,
) -> None:
    order = torch.randperm(64)
    x = IMAGES + torch.arange(64.0)[:, None, None] % 5  # means that differ
    difference = gates(block, x[:, order]) - gates(block, x)[:, order]
    assert difference.abs().max() > 0.01


def test_with_a_kernel_of_one_a_gate_sees_its_own_channel_alone() -> None:
    block = EfficientChannelAttention(64, kernel_size=1)
    w = block.conv.weight.flatten()
    expected = IMAGES * torch.sigmoid(w * IMAGES.mean(dim=(2, 3), keepdim=True))
    torch.testing.assert_close(block(IMAGES), expected)


def test_with_zero_weights_every_gate_is_one_half(
    block: EfficientChannelAttention,
) -> None:
    nn.init.zeros_(block.conv.weight)
    torch.testing.assert_close(block(IMAGES), IMAGES / 2)


def test_gradients_reach_every_weight(block: EfficientChannelAttention) -> None:
    block(IMAGES).square().mean().backward()
    assert block.conv.weight.grad is not None
    assert block.conv.weight.grad.all()


def test_refuses_bad_sizes() -> None:
    with pytest.raises(ValueError, match="channels=0"):
        EfficientChannelAttention(0)
    with pytest.raises(ValueError, match="channels=0"):
        EfficientChannelAttention(0, kernel_size=3)
    with pytest.raises(ValueError, match="gamma=0"):
        eca_kernel_size(64, gamma=0)


@pytest.mark.parametrize("kernel_size", [0, 4, -3])
def test_refuses_kernels_without_a_middle(kernel_size: int) -> None:
    with pytest.raises(ValueError, match=f"odd.*kernel_size={kernel_size}"):
        EfficientChannelAttention(64, kernel_size)


@pytest.mark.parametrize("shape", [(64, 8, 8), (1, 32, 8, 8), (1, 64)])
def test_refuses_inputs_of_another_shape(
    block: EfficientChannelAttention, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 64, H, W\)"):
        block(torch.zeros(shape))


def test_cost_at_the_end_of_every_block_of_resnet_50(evidence) -> None:
    networks = {
        "resnet50": ("ResNet-50", resnet50),
        "eca_resnet50": (
            "+ ECA",
            lambda: ResNet(
                Bottleneck, (3, 4, 6, 3), attention=EfficientChannelAttention
            ),
        ),
        "eca_resnet50_3557": (  # one k per stage, as the authors' weights are named
            "+ ECA, k = 3, 5, 5, 7",
            lambda: ResNet(
                Bottleneck,
                (3, 4, 6, 3),
                attention=lambda channels: EfficientChannelAttention(
                    channels, {256: 3, 512: 5, 1024: 5, 2048: 7}[channels]
                ),
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
    for row in rows.values():
        row["more_params"] = row["params"] - rows["resnet50"]["params"]
        row["more_macs"] = row["macs"] - rows["resnet50"]["macs"]
    blocks = {256: 3, 512: 4, 1024: 6, 2048: 3}  # channels: how many
    by_hand = sum(n * eca_kernel_size(c) for c, n in blocks.items())
    assert rows["eca_resnet50"]["more_params"] == by_hand
    assert rows["eca_resnet50_3557"]["more_params"] == 80  # the paper's abstract
    evidence.computed("cost", rows)


def test_kernels_of_common_widths(evidence) -> None:
    rows = {
        f"c{c}": {"name": f"{c}", "kernel": eca_kernel_size(c), "se": c * c // 8}
        for c in (64, 128, 256, 512, 1024, 2048)
    }
    evidence.computed("kernels", rows)


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        "ECA",
        network=lambda: bench.network(EfficientChannelAttention),
    )


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["eca"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["eca"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["eca"])
    evidence.measured("time", arguments={}, run=run)
