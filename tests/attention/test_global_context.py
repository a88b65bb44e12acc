"""The global-context block is timm's in the paper's form, and does what equation 5 says."""

from functools import partial

import pytest
import torch
from torch import nn

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.equivalence import compare
from cnn_techniques.attention import GlobalContext, NonLocal
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import resnet50
from cnn_techniques.modern.resnet import Bottleneck, ResNet

IMAGES = torch.randn(2, 32, 6, 5, generator=torch.Generator().manual_seed(0))


def awake() -> GlobalContext:
    """A block whose last convolution is no longer zero."""
    torch.manual_seed(0)
    block = GlobalContext(32, 8)
    block.w_v2.reset_parameters()
    return block


DEVICE_CASES = {"GlobalContext": lambda: (awake(), (IMAGES,))}


def test_equals_timms_block_when_it_adds(evidence) -> None:
    timm = pytest.importorskip("timm")
    reference = timm.layers.GlobalContext(
        32, fuse_add=True, fuse_scale=False, rd_channels=8
    )
    reference.mlp_add.norm.eps = 1e-5
    evidence.equivalent(
        "block",
        compare(GlobalContext(32, 8), reference, IMAGES, match="order"),
        reference="timm.layers.GlobalContext",
        settings="fuse_add=True, fuse_scale=False, rd_channels=8; eps of its norm 1e-5",
    )


def test_another_eps_of_the_norm_would_be_seen() -> None:
    timm = pytest.importorskip("timm")
    reference = timm.layers.GlobalContext(
        32, fuse_add=True, fuse_scale=False, rd_channels=8
    )
    with pytest.raises(AssertionError, match="differs by"):
        compare(GlobalContext(32, 8), reference, IMAGES, match="order")


def test_the_papers_equation_place_by_place() -> None:
    block, x = awake().double(), IMAGES.double()
    places = [(i, j) for i in range(6) for j in range(5)]
    w_k = block.w_k.weight[0, :, 0, 0]
    scores = [torch.exp(x[:, :, i, j] @ w_k + block.w_k.bias) for i, j in places]
    total = sum(scores[1:], scores[0])
    context = sum(
        (
            (s / total)[:, None] * x[:, :, i, j]
            for s, (i, j) in zip(scores, places, strict=True)
        ),
        torch.zeros(2, 32),
    )
    z = context @ block.w_v1.weight[:, :, 0, 0].T + block.w_v1.bias
    z = (z - z.mean(1, True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    z = (z * block.norm.weight + block.norm.bias).clamp(min=0)
    added = z @ block.w_v2.weight[:, :, 0, 0].T + block.w_v2.bias
    torch.testing.assert_close(
        block(x), x + added[:, :, None, None], rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (5, 8)])
def test_a_new_block_is_the_identity_for_any_size(size: tuple[int, int]) -> None:
    x = torch.randn(2, 32, *size)
    assert torch.equal(GlobalContext(32, 8)(x), x)
    assert not torch.equal(awake()(x), x)


def test_every_place_is_given_the_same() -> None:
    added = awake()(IMAGES) - IMAGES
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added))


def test_places_may_be_shuffled_before_or_after() -> None:
    block, order = awake(), torch.randperm(30)
    shuffled = IMAGES.flatten(2)[:, :, order].view_as(IMAGES)
    expected = block(IMAGES).flatten(2)[:, :, order].view_as(IMAGES)
    torch.testing.assert_close(block(shuffled), expected)


def test_without_a_preference_the_context_is_the_mean() -> None:
    block = awake()
    for parameter in block.w_k.parameters():
        nn.init.zeros_(parameter)
    flat = IMAGES.mean(dim=(2, 3), keepdim=True).expand_as(IMAGES)
    torch.testing.assert_close(block(IMAGES) - IMAGES, block(flat) - flat)


def test_with_a_strong_preference_the_context_is_one_place() -> None:
    block, x = awake(), IMAGES.clone()
    x[:, 0] = 0.0
    x[:, 0, 3, 2] = 1.0
    nn.init.zeros_(block.w_k.weight)
    block.w_k.weight.data[0, 0] = 1000.0
    alone = x[:, :, 3:4, 2:3]
    torch.testing.assert_close(
        (block(x) - x)[:, :, :1, :1], block(alone) - alone, rtol=1e-4, atol=1e-5
    )


def test_the_key_bias_cannot_be_seen_by_the_softmax() -> None:
    block = awake().double()
    before = block(IMAGES.double())
    nn.init.constant_(block.w_k.bias, 7.0)
    torch.testing.assert_close(block(IMAGES.double()), before)


def test_gradients_reach_every_parameter_that_has_an_effect() -> None:
    block = awake().double()
    block(IMAGES.double()).square().mean().backward()
    for name, p in block.named_parameters():
        assert p.grad is not None, name
        size = p.grad.abs().max()
        assert size < 1e-12 if name == "w_k.bias" else size > 1e-6, name


@pytest.mark.parametrize(("channels", "squeezed"), [(0, 4), (32, 0), (32, 1)])
def test_refuses_widths_that_are_too_small(channels: int, squeezed: int) -> None:
    with pytest.raises(ValueError, match=f"squeeze_channels={squeezed}"):
        GlobalContext(channels, squeezed)


@pytest.mark.parametrize("shape", [(32, 8, 8), (1, 16, 8, 8), (1, 32)])
def test_refuses_inputs_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 32, H, W\)"):
        GlobalContext(32, 8)(torch.zeros(shape))


def test_cost_beside_the_network_it_is_put_into(evidence) -> None:
    def with_context(reduction: int) -> ResNet:
        return ResNet(
            Bottleneck,
            (3, 4, 6, 3),
            attention=lambda c: GlobalContext(c, c // reduction),
        )

    networks = {
        "resnet50": ("ResNet-50", resnet50),
        "gc_16": ("+ GC, r = 16", lambda: with_context(16)),
        "gc_4": ("+ GC, r = 4", lambda: with_context(4)),
        "non_local": (
            "+ non-local",
            lambda: ResNet(
                Bottleneck, (3, 4, 6, 3), attention=lambda c: NonLocal(c, c // 2)
            ),
        ),
    }
    rows = {}
    for key, (name, make) in networks.items():
        with torch.device("meta"):
            cost = model_cost(make().eval(), torch.empty(1, 3, 224, 224))
        rows[key] = {"name": name, "params": cost.params, "macs": cost.macs}
    base = rows["resnet50"]
    for row in rows.values():
        row["more_params"] = row["params"] / base["params"] - 1
        row["more_macs"] = row["macs"] / base["macs"] - 1
    evidence.computed("cost", rows)


def test_cost_of_the_blocks_where_the_published_networks_have_them(evidence) -> None:
    def in_last_stages(reduction: int) -> ResNet:
        def make(channels: int) -> nn.Module:
            late = channels > 256  # the first stage, c2, has none
            return (
                GlobalContext(channels, channels // reduction)
                if late
                else nn.Identity()
            )

        return ResNet(Bottleneck, (3, 4, 6, 3), attention=make)

    networks = {
        "resnet50": ("ResNet-50", resnet50),
        "gc_16": ("+ GC, r = 16", lambda: in_last_stages(16)),
        "gc_4": ("+ GC, r = 4", lambda: in_last_stages(4)),
    }
    rows = {}
    for key, (name, make) in networks.items():
        with torch.device("meta"):
            params = sum(p.numel() for p in make().parameters())
        rows[key] = {"name": name, "params": params}
    evidence.computed("detection", rows)


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        "Global context",
        network=lambda: bench.network(
            lambda channels: GlobalContext(channels, max(4, channels // 16))
        ),
    )


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["gc"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["gc"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["gc"])
    evidence.measured("time", arguments={}, run=run)
