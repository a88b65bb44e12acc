"""The unit is timm's without its split input, and does what the paper's equations say."""

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
from cnn_techniques.attention import SelectiveKernel
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import resnet50, resnext50_32x4d
from cnn_techniques.modern.resnet import Bottleneck, ResNet
from cnn_techniques.modern.resnext import ResNeXtBlock

DEVICE_CASES = {
    "SelectiveKernel": lambda: (SelectiveKernel(64), (torch.randn(2, 64, 9, 7),)),
    "three paths, stride 2": lambda: (
        SelectiveKernel(64, stride=2, dilations=(1, 2, 3)),
        (torch.randn(2, 64, 9, 7),),
    ),
}
IMAGES = torch.randn(2, 64, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def block() -> SelectiveKernel:
    return SelectiveKernel(64).eval()


def attention(block: SelectiveKernel, x: Tensor) -> Tensor:
    """The softmax over the paths, (N, M, C), by the paper's equations of fuse and select."""
    fused = sum(path(x) for path in block.paths)
    s = torch.einsum("nchw->nc", fused) / (fused.shape[2] * fused.shape[3])
    conv, norm, _ = block.fuse
    z = torch.einsum("dc,nc->nd", conv.weight[:, :, 0, 0], s)
    z = (z - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
    z = (z * norm.weight + norm.bias).clamp(min=0)
    rows = block.select.weight[:, :, 0, 0].split(block.channels)  # A and B of the paper
    powers = [torch.exp(torch.einsum("cd,nd->nc", row, z)) for row in rows]
    return torch.stack([power / sum(powers) for power in powers], dim=1)


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "settings"),
    [
        ("block", {}, {"groups": 32}, "groups=32, rd_channels=32, split_input=False"),
        (
            "stride 2",
            {"stride": 2, "groups": 1},
            {"stride": 2},
            "stride=2, rd_channels=32, split_input=False",
        ),
        (
            "three paths",
            {"dilations": (1, 2, 3)},
            {"groups": 32, "kernel_size": [3, 5, 7]},
            "kernel_size=[3, 5, 7], groups=32, rd_channels=32, split_input=False",
        ),
    ],
)
def test_equals_timms_unit(evidence, name, ours, theirs, settings) -> None:
    timm = pytest.importorskip("timm")
    reference = timm.layers.SelectiveKernel(
        64, rd_channels=32, split_input=False, **theirs
    )
    comparison = compare(SelectiveKernel(64, **ours), reference, IMAGES, match="order")
    evidence.equivalent(
        name, comparison, reference="timm.layers.SelectiveKernel", settings=settings
    )


def test_matches_the_equations_written_out(block: SelectiveKernel) -> None:
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    a = attention(block, IMAGES)
    assert a.std() > 0.05  # the choice is not even
    expected = sum(
        a[:, m, :, None, None] * path(IMAGES) for m, path in enumerate(block.paths)
    )
    torch.testing.assert_close(block(IMAGES), expected)


def test_a_dilated_path_is_a_5x5_convolution_with_holes(block: SelectiveKernel) -> None:
    conv = block.paths[1][0]
    spread = torch.zeros(64, 2, 5, 5)
    spread[:, :, ::2, ::2] = conv.weight
    expected = nn.functional.conv2d(IMAGES, spread, padding=2, groups=32)
    torch.testing.assert_close(conv(IMAGES), expected)


@pytest.mark.parametrize(
    ("channels", "groups"), [(16, 16), (24, 8), (64, 32), (128, 32)]
)
def test_groups_are_32_or_its_largest_divisor_that_divides_the_channels(
    channels: int, groups: int
) -> None:
    block = SelectiveKernel(channels)
    assert [path[0].groups for path in block.paths] == [groups, groups]
    assert block(torch.randn(2, channels, 7, 7)).shape == (2, channels, 7, 7)


@pytest.mark.parametrize(
    ("channels", "dilations", "width"),
    [(64, (1, 2), 32), (1024, (1, 2), 64), (1024, (1, 2, 3), 64)],
)
def test_parameters_are_those_of_the_docstring(
    channels: int, dilations: tuple[int, ...], width: int
) -> None:
    block = SelectiveKernel(channels, dilations=dilations)
    paths = len(dilations) * (9 * channels * channels // 32 + 2 * channels)
    choice = (len(dilations) + 1) * channels * width + 2 * width
    assert sum(p.numel() for p in block.parameters()) == paths + choice


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (32, 32)])
def test_the_stride_divides_the_size_rounded_up(
    size: tuple[int, int], stride: int
) -> None:
    expected = (2, 64, -(-size[0] // stride), -(-size[1] // stride))
    assert SelectiveKernel(64, stride)(torch.randn(2, 64, *size)).shape == expected


def test_with_zero_weights_the_paths_are_averaged(block: SelectiveKernel) -> None:
    nn.init.zeros_(block.select.weight)
    expected = (block.paths[0](IMAGES) + block.paths[1](IMAGES)) / 2
    torch.testing.assert_close(block(IMAGES), expected)


def test_with_one_path_there_is_nothing_to_choose() -> None:
    block = SelectiveKernel(64, dilations=[1]).eval()
    torch.testing.assert_close(block(IMAGES), block.paths[0](IMAGES))


def test_equal_paths_are_one_convolution() -> None:
    block = SelectiveKernel(64, dilations=(1, 1)).eval()
    block.paths[1].load_state_dict(block.paths[0].state_dict())
    torch.testing.assert_close(block(IMAGES), block.paths[0](IMAGES))


def test_a_large_logit_chooses_one_path(block: SelectiveKernel) -> None:
    nn.init.zeros_(block.fuse[1].weight)
    nn.init.ones_(block.fuse[1].bias)  # z = 1 for every image
    nn.init.zeros_(block.select.weight)
    nn.init.constant_(block.select.weight[64:], 10.0)  # B of the paper
    torch.testing.assert_close(block(IMAGES), block.paths[1](IMAGES))


def test_the_choice_differs_between_images_and_channels(block: SelectiveKernel) -> None:
    nn.init.normal_(block.select.weight)
    a = attention(block, torch.stack([IMAGES[0], 3 * IMAGES[1]]))[:, 0]  # (N, C)
    assert (a[0] - a[1]).abs().max() > 0.01
    assert a[0].std() > 0.01


def test_gradients_reach_every_parameter(block: SelectiveKernel) -> None:
    block(IMAGES).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in block.parameters())


@pytest.mark.parametrize(
    "sizes",
    [
        {"channels": 0},
        {"stride": 0},
        {"dilations": (1, 0)},
        {"reduction": 0},
        {"min_width": 0},
    ],
)
def test_refuses_sizes_below_one(sizes) -> None:
    (name, value), *_ = sizes.items()
    with pytest.raises(ValueError, match="at least 1") as told:
        SelectiveKernel(**{"channels": 64, **sizes})
    assert f"{name}={value}" in str(told.value)


def test_refuses_no_path() -> None:
    with pytest.raises(ValueError, match="dilations="):
        SelectiveKernel(64, dilations=[])


def test_training_needs_two_images() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        SelectiveKernel(64).train()(IMAGES[:1])


@pytest.mark.parametrize("groups", [0, 48])
def test_refuses_groups_that_do_not_divide_the_channels(groups: int) -> None:
    with pytest.raises(ValueError, match=f"channels=64, groups={groups}"):
        SelectiveKernel(64, groups=groups)


@pytest.mark.parametrize("shape", [(64, 8, 8), (1, 32, 8, 8), (1, 64)])
def test_refuses_inputs_of_another_shape(
    block: SelectiveKernel, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 64, H, W\)"):
        block(torch.zeros(shape))


class SKBlock(ResNeXtBlock):
    """The paper's block: the unit in place of the 3x3 convolution, its norm and its ReLU."""

    def __init__(self, in_channels, width, stride=1, attention=None) -> None:
        super().__init__(in_channels, width, stride, attention)
        self.conv2 = SelectiveKernel(self.conv2.out_channels, stride)
        self.bn2 = nn.Identity()  # the ReLU that follows meets no negative value


def sknet50() -> ResNet:
    return ResNet(SKBlock, (3, 4, 6, 3))


def test_cost_in_the_paper_s_network_and_at_the_end_of_every_block(evidence) -> None:
    networks = {
        "resnext50": ("ResNeXt-50 32×4d", resnext50_32x4d),
        "sknet50": ("SKNet-50", sknet50),
        "resnet50": ("ResNet-50", resnet50),
        "sk_resnet50": (
            "+ SK at every block's end",
            lambda: ResNet(Bottleneck, (3, 4, 6, 3), attention=SelectiveKernel),
        ),
    }
    rows = {}
    for key, (name, make) in networks.items():
        with torch.device("meta"):
            cost = model_cost(make().eval(), torch.empty(1, 3, 224, 224))
        of = rows.get("resnet50") or rows.get("resnext50") or {}
        rows[key] = {"name": name, "params": cost.params, "macs": cost.macs}
        if key in ("sknet50", "sk_resnet50"):
            rows[key]["more_params"] = cost.params / of["params"] - 1
            rows[key]["more_macs"] = cost.macs / of["macs"] - 1
    # Table 2 of the authors' README (commit 17dd708): 27.5 M parameters.
    assert round(rows["sknet50"]["params"] / 1e6, 1) == 27.5
    evidence.computed("cost", rows)


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        "Selective kernel",
        network=lambda: bench.network(SelectiveKernel),
    )


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["sk"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["sk"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["sk"])
    evidence.measured("time", arguments={}, run=run)
