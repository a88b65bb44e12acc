"""The non-local block is timm's without its scale, and does what the paper's equations say."""

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
from cnn_techniques.attention import NonLocal
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import resnet50
from cnn_techniques.modern.resnet import Bottleneck, ResNet

IMAGES = torch.randn(2, 32, 6, 5, generator=torch.Generator().manual_seed(0))


def awake(subsample: bool = False) -> NonLocal:
    """A block whose last norm is no longer zero, in evaluation mode."""
    torch.manual_seed(0)
    block = NonLocal(32, 16, subsample)
    nn.init.ones_(block.bn.weight)
    return block.eval()


DEVICE_CASES = {
    "NonLocal": lambda: (awake(), (IMAGES,)),
    "subsampled": lambda: (awake(subsample=True), (IMAGES,)),
}


def test_equals_timms_block(evidence) -> None:
    timm = pytest.importorskip("timm")
    reference = timm.layers.NonLocalAttn(32, use_scale=False, rd_channels=16)
    evidence.equivalent(
        "block",
        compare(NonLocal(32, 16), reference, IMAGES, match="order"),
        reference="timm.layers.NonLocalAttn",
        settings="use_scale=False, rd_channels=16",
    )


def test_a_scale_of_the_scores_would_be_seen() -> None:
    timm = pytest.importorskip("timm")
    reference = timm.layers.NonLocalAttn(32, use_scale=True, rd_channels=16)
    with pytest.raises(AssertionError, match="differs by"):
        compare(NonLocal(32, 16), reference, IMAGES, match="order")


@pytest.mark.parametrize("subsample", [False, True])
def test_the_papers_equations_place_by_place(subsample: bool) -> None:
    block, x = awake(subsample).double(), IMAGES.double()

    def embed(conv: nn.Conv2d) -> torch.Tensor:
        assert conv.bias is not None
        w = conv.weight[:, :, 0, 0]
        return torch.einsum("nchw,dc->ndhw", x, w) + conv.bias.view(1, -1, 1, 1)

    theta, phi, g = embed(block.theta), embed(block.phi), embed(block.g)
    if subsample:  # 6 x 5 pixels become 3 x 3, the last column alone
        blocks = [
            (slice(i, i + 2), slice(j, j + 2)) for i in (0, 2, 4) for j in (0, 2, 4)
        ]
    else:
        blocks = [
            (slice(i, i + 1), slice(j, j + 1)) for i in range(6) for j in range(5)
        ]
    keys = [phi[:, :, r, c].amax(dim=(2, 3)) for r, c in blocks]
    values = [g[:, :, r, c].amax(dim=(2, 3)) for r, c in blocks]
    y = torch.empty(2, 16, 6, 5, dtype=torch.float64)
    for i in range(6):
        for j in range(5):
            f = [
                torch.exp((theta[:, :, i, j] * key).sum(1, keepdim=True))
                for key in keys
            ]
            total = sum(f[1:], f[0])
            y[:, :, i, j] = (
                sum((a * b for a, b in zip(f, values, strict=True)), torch.zeros(2, 16))
                / total
            )
    torch.testing.assert_close(
        block(x), block.bn(block.w_z(y)) + x, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("subsample", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (5, 8)])
def test_a_new_block_is_the_identity_for_any_size(
    subsample: bool, size: tuple[int, int]
) -> None:
    x = torch.randn(2, 32, *size)
    block = NonLocal(32, 16, subsample)
    assert torch.equal(block(x), x)
    nn.init.ones_(block.bn.weight)
    assert not torch.equal(block(x), x)


def test_a_new_block_learns_first_in_its_last_norm() -> None:
    block = NonLocal(32, 16)
    block(IMAGES).square().mean().backward()
    moved = {name for name, p in block.named_parameters() if p.grad.any()}
    assert moved == {"bn.weight", "bn.bias"}


def test_gradients_reach_every_parameter() -> None:
    block = awake()
    block(IMAGES).square().mean().backward()
    for name, p in block.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name


def test_every_place_reads_from_every_other() -> None:
    block, changed = awake(), IMAGES.clone()
    changed[:, :, 5, 4] += 1
    moved = (block(changed) - block(IMAGES)).abs().amax(dim=(0, 1))
    assert moved.min() > 1e-6


def test_places_may_be_shuffled_before_or_after() -> None:
    block, order = awake(), torch.randperm(30)
    shuffled = IMAGES.flatten(2)[:, :, order].view_as(IMAGES)
    expected = block(IMAGES).flatten(2)[:, :, order].view_as(IMAGES)
    torch.testing.assert_close(block(shuffled), expected)


def test_on_a_map_of_equal_places_it_is_a_convolution_of_each() -> None:
    block = awake()
    x = torch.randn(2, 32, 1, 1).expand(2, 32, 6, 5)
    torch.testing.assert_close(block(x), block.bn(block.w_z(block.g(x))) + x)


@pytest.mark.parametrize(("channels", "inner"), [(0, 4), (32, 0), (32, -1)])
def test_refuses_widths_below_one(channels: int, inner: int) -> None:
    with pytest.raises(ValueError, match=f"inner_channels={inner}"):
        NonLocal(channels, inner)


@pytest.mark.parametrize("shape", [(32, 8, 8), (1, 16, 8, 8), (1, 32)])
def test_refuses_inputs_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 32, H, W\)"):
        NonLocal(32, 16)(torch.zeros(shape))


class AfterLayer3(ResNet):
    """One block of its own, right before the last residual block of the third stage."""

    def __init__(self, subsample: bool) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3))
        block = NonLocal(1024, 512, subsample)
        self.layer3 = nn.Sequential(*self.layer3[:-1], block, self.layer3[-1])


def test_cost_beside_the_network_it_is_put_into(evidence) -> None:
    def every(subsample: bool) -> ResNet:
        return ResNet(
            Bottleneck, (3, 4, 6, 3), attention=lambda c: NonLocal(c, c // 2, subsample)
        )

    networks = {
        "resnet50": ("ResNet-50", resnet50),
        "one": ("+ one block, stage 3", lambda: AfterLayer3(False)),
        "one_subsampled": ("+ one, subsampled", lambda: AfterLayer3(True)),
        "every_block": ("+ 16 blocks", lambda: every(False)),
        "every_block_subsampled": ("+ 16, subsampled", lambda: every(True)),
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


def test_subsampling_quarters_the_products_and_leaves_the_convolutions() -> None:
    x = torch.empty(1, 32, 8, 6, device="meta")
    with torch.device("meta"):
        full = model_cost(NonLocal(32, 16), x).macs
        quarter = model_cost(NonLocal(32, 16, subsample=True), x).macs
    products, convolutions = 2 * 16 * 48**2, 4 * 32 * 16 * 48
    assert full == convolutions + products
    assert quarter == convolutions + products // 4


def test_the_weights_of_one_image_grow_with_the_square_of_its_places(evidence) -> None:
    rows = {}
    for side in (56, 28, 14):
        with torch.device("meta"):
            block, x = NonLocal(4, 1).eval(), torch.empty(1, 4, side, side)
            convolutions = 4 * 4 * side**2
            entries = (model_cost(block, x).macs - convolutions) // 2  # D = 1
        assert entries == side**4
        rows[f"side_{side}"] = {
            "name": f"{side} × {side}",
            "entries": entries,
            "mb": 4 * entries / 1e6,  # float32
        }
    evidence.computed("weights", rows)


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        "Non-local block",
        network=lambda: bench.network(
            lambda channels: NonLocal(channels, channels // 2)
        ),
    )


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["non_local"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["non_local"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["non_local"])
    evidence.measured("time", arguments={}, run=run)
