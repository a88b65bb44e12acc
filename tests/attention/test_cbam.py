"""CBAM is timm's block, does what the paper's equations say, and costs what the page shows."""

from collections.abc import Callable
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
from cnn_techniques.attention import CBAM, SqueezeExcitation
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import resnet50
from cnn_techniques.modern.resnet import BasicBlock, Bottleneck, ResNet

DEVICE_CASES = {
    "CBAM": lambda: (CBAM(64), (torch.randn(2, 64, 9, 7),)),
    "kernel 3": lambda: (CBAM(32, 4, 3), (torch.randn(2, 32, 9, 7),)),
}
IMAGES = torch.randn(2, 64, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def block() -> CBAM:
    torch.manual_seed(0)
    return CBAM(64)


def test_equals_timms_block(evidence) -> None:
    timm = pytest.importorskip("timm")
    comparison = compare(
        CBAM(64), timm.layers.cbam.CbamModule(64), IMAGES, match="order"
    )
    evidence.equivalent(
        "block",
        comparison,
        reference="timm.layers.cbam.CbamModule",
        settings="defaults; parameters paired by order",
    )


def test_equals_timms_block_with_another_reduction_and_kernel(evidence) -> None:
    timm = pytest.importorskip("timm")
    reference = timm.layers.cbam.CbamModule(64, rd_ratio=1 / 8, spatial_kernel_size=3)
    comparison = compare(CBAM(64, 8, 3), reference, IMAGES, match="order")
    evidence.equivalent(
        "r = 8, k = 3",
        comparison,
        reference="timm.layers.cbam.CbamModule",
        settings="rd_ratio=1/8, spatial_kernel_size=3; parameters paired by order",
    )


@pytest.mark.slow
def test_in_a_resnet_it_stands_where_timm_puts_it(evidence) -> None:
    timm = pytest.importorskip("timm")
    reference = timm.models.ResNet(
        timm.models.resnet.BasicBlock, (2, 2, 2, 2), block_args={"attn_layer": "cbam"}
    )
    ours = ResNet(BasicBlock, (2, 2, 2, 2), attention=CBAM)
    comparison = compare(ours, reference, torch.randn(2, 3, 48, 64), match="order")
    evidence.equivalent(
        "ResNet-18",
        comparison,
        reference="timm.models.ResNet(BasicBlock, (2, 2, 2, 2))",
        settings="block_args={'attn_layer': 'cbam'}; parameters paired by order",
    )


def test_matches_the_equations_written_out(block: CBAM) -> None:
    """Equations 1 to 3 of arXiv:1807.06521; the batch norm is that of the authors' code."""
    block.double().eval()
    nn.init.normal_(block.bn.weight)
    nn.init.normal_(block.bn.bias)
    block.bn.running_mean.normal_()
    block.bn.running_var.uniform_(0.5, 2)
    f = IMAGES.double()
    w0, w1 = block.fc1.weight[:, :, 0, 0], block.fc2.weight[:, :, 0, 0]

    def perceptron(descriptor: Tensor) -> Tensor:
        return (descriptor @ w0.T).clamp(min=0) @ w1.T

    average = torch.einsum("nchw->nc", f) / (f.shape[2] * f.shape[3])
    largest = f.flatten(2).sort(dim=2).values[:, :, -1]
    channels = 1 / (1 + torch.exp(-perceptron(average) - perceptron(largest)))
    f1 = torch.einsum("nchw,nc->nchw", f, channels)  # F'

    planes = torch.stack([f1.sum(1) / f1.shape[1], f1.sort(dim=1).values[:, -1]], 1)
    padded = torch.zeros(2, 2, 9 + 6, 7 + 6, dtype=torch.float64)
    padded[:, :, 3:-3, 3:-3] = planes
    windows = padded.unfold(2, 7, 1).unfold(3, 7, 1)  # (N, 2, H, W, 7, 7)
    logits = torch.einsum("nphwij,pij->nhw", windows, block.conv.weight[0])
    bn = block.bn
    logits = (logits - bn.running_mean) / (bn.running_var + bn.eps).sqrt()
    places = 1 / (1 + torch.exp(-logits * bn.weight - bn.bias))
    expected = torch.einsum("nchw,nhw->nchw", f1, places)  # F''
    torch.testing.assert_close(block(f), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (3, 5), (32, 32)])
def test_keeps_the_shape_for_any_size(block: CBAM, size: tuple[int, int]) -> None:
    assert block(torch.randn(2, 64, *size)).shape == (2, 64, *size)


def test_the_two_gates_are_a_factor_per_channel_times_a_factor_per_place(
    block: CBAM,
) -> None:
    factors = (block(IMAGES) / IMAGES).detach()
    assert ((factors > 0) & (factors < 1)).all()
    per_channel = factors / factors[:, :1]  # what is left has no places
    spread = per_channel - per_channel.mean(dim=(2, 3), keepdim=True)
    assert spread.abs().max() < 1e-4 * per_channel.abs().max()
    assert (factors.std(dim=(2, 3)) > 1e-3).all()  # and there are places


def test_without_the_gate_per_place_one_pooling_less_is_squeeze_and_excitation(
    block: CBAM,
) -> None:
    """Images whose mean is their maximum: the two descriptors are one, told twice."""
    nn.init.zeros_(block.bn.weight)
    nn.init.constant_(block.bn.bias, 100.0)
    se = SqueezeExcitation(64, 4)
    se.load_state_dict(
        {
            "fc1.weight": block.fc1.weight,
            "fc1.bias": torch.zeros(4),
            "fc2.weight": 2 * block.fc2.weight,
            "fc2.bias": torch.zeros(64),
        }
    )
    flat = torch.randn(2, 64, 1, 1).expand(2, 64, 5, 4)
    torch.testing.assert_close(block(flat), se(flat))


def test_a_place_is_weighed_by_its_seven_by_seven_neighbours(block: CBAM) -> None:
    """The channel gate sees the whole image, so it is taken out for this."""
    nn.init.zeros_(block.fc2.weight)
    x = torch.randn(1, 64, 15, 15, requires_grad=True)
    block.eval()(x)[0, :, 7, 7].sum().backward()
    seen = x.grad.abs().sum(dim=(0, 1)) > 0
    expected = torch.zeros(15, 15, dtype=torch.bool)
    expected[4:11, 4:11] = True
    assert torch.equal(seen, expected)


def test_with_its_last_layers_at_zero_every_value_is_a_quarter(block: CBAM) -> None:
    nn.init.zeros_(block.fc2.weight)
    nn.init.zeros_(block.bn.weight)
    assert torch.equal(block(IMAGES), IMAGES / 4)


def test_gradients_reach_every_parameter(block: CBAM) -> None:
    block(IMAGES).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in block.parameters())


def test_a_block_that_starts_at_zero_still_learns(block: CBAM) -> None:
    nn.init.zeros_(block.fc2.weight)
    nn.init.zeros_(block.bn.weight)
    (block(IMAGES) * torch.randn(IMAGES.shape)).mean().backward()
    assert block.fc2.weight.grad.any()
    assert block.bn.weight.grad.any()


def test_the_bottleneck_has_the_papers_width_and_never_less_than_four() -> None:
    assert CBAM(512).fc1.out_channels == 32
    assert CBAM(64).fc1.out_channels == CBAM(16).fc1.out_channels == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((0,), "channels=0"), ((64, 0), "reduction=0"), ((64, 16, 6), "kernel_size=6")],
)
def test_refuses_sizes_that_make_no_sense(arguments: tuple, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CBAM(*arguments)


@pytest.mark.parametrize("shape", [(64, 8, 8), (1, 32, 8, 8), (1, 64)])
def test_refuses_inputs_of_another_shape(block: CBAM, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 64, H, W\)"):
        block(torch.zeros(shape))


def squeeze(channels: int) -> nn.Module:
    return SqueezeExcitation(channels, channels // 16)


def test_cost_beside_the_network_it_is_put_into(evidence) -> None:
    def with_blocks(make: Callable[[int], nn.Module]) -> Callable[[], nn.Module]:
        return lambda: ResNet(Bottleneck, (3, 4, 6, 3), attention=make)

    networks = {
        "resnet50": ("ResNet-50", resnet50),
        "se_resnet50": ("+ SE, r = 16", with_blocks(squeeze)),
        "cbam_resnet50": ("+ CBAM, r = 16", with_blocks(CBAM)),
    }
    rows = {}
    for key, (name, make) in networks.items():
        with torch.device("meta"):
            spent = model_cost(make().eval(), torch.empty(1, 3, 224, 224))
        rows[key] = {
            "name": name,
            "params": spent.params,
            "macs": spent.macs,
            "saved_bytes": spent.saved_bytes,
        }
    base, ours = rows["resnet50"], rows["cbam_resnet50"]
    for row in rows.values():
        for cost in ("params", "macs", "saved_bytes"):
            row[f"more_{cost}"] = row[cost] / base[cost] - 1
    assert (base["params"], ours["params"]) == (25_557_032, 28_073_576)  # timm's
    # The authors' perceptron has biases, and so has the row of squeeze-and-excitation.
    gates_per_place = 16 * (2 * 7 * 7 + 2)
    ours["with_biases"] = rows["se_resnet50"]["params"] + gates_per_place
    evidence.computed("cost", rows)


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        "CBAM",
        network=lambda: bench.network(CBAM),
    )


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["cbam"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["cbam"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["cbam"])
    evidence.measured("time", arguments={}, run=run)
