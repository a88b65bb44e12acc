"""Wide ResNet: torchvision's two tensor by tensor, the paper's by timm and its tables."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torchvision
from torch import Tensor, nn

from cnn_site.equivalence import compare
from cnn_site.figures.check import check, figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import (
    Bottleneck,
    WideBlock,
    WideBottleneck,
    WideResNet,
    resnet50,
    resnet152,
    wide_resnet28_10,
    wide_resnet50_2,
    wide_resnet101_2,
)

SMALLEST = Variant(
    wide_resnet50_2,
    "WRN-50-2-bottleneck",
    "torchvision.models.wide_resnet50_2",
    net="slow",
)
VARIANTS = [
    SMALLEST,
    Variant(
        wide_resnet101_2,
        "WRN-101-2-bottleneck",
        "torchvision.models.wide_resnet101_2",
        net="slow",
    ),
]


DEVICE_CASES = {
    "WideBottleneck": lambda: (
        WideBottleneck(64, 16, stride=2),
        (torch.randn(2, 64, 9, 12),),
    ),
    "WideBlock": lambda: (WideBlock(16, 32, stride=2), (torch.randn(2, 16, 9, 12),)),
    "WideResNet": lambda: (WideResNet(10, 2), (torch.randn(2, 3, 24, 32),)),
}


def timms(model: WideResNet) -> nn.Module:
    """timm's pre-activation ResNet with the stem and the head of small images."""
    resnetv2 = pytest.importorskip("timm.models.resnetv2")
    layers = pytest.importorskip("timm.layers")
    stages = list(model.stages)
    network: nn.Module = resnetv2.ResNetV2(
        layers=[len(stage) for stage in stages],
        channels=[stage[0].conv2.out_channels for stage in stages],
        stem_chs=16,
        basic=True,
        bottle_ratio=1.0,
        conv_layer=layers.create_conv2d,
        norm_layer=layers.BatchNormAct2d,
    )
    network.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    mean = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network.head = nn.Sequential(
        *mean, nn.Linear(model.fc.in_features, model.fc.out_features)
    )
    return network


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_names_shapes_order_and_costs_are_torchvisions(evidence) -> None:
    rows = {v.key: {**v.check_structure(), "inner": 128} for v in VARIANTS}
    for make, title in ((resnet50, "ResNet-50"), (resnet152, "ResNet-152")):
        form = Variant(
            make, title, f"torchvision.models.{make.__name__}"
        ).check_structure()
        form.pop("net")  # not of this family
        rows[make.__name__] = {**form, "inner": 64}
    evidence.computed("cost", rows)


def test_the_costs_of_the_papers_networks_for_cifar(evidence) -> None:
    rows = {}
    for depth, widening in ((40, 1), (40, 4), (16, 8), (28, 10)):
        with torch.device("meta"):
            cost = model_cost(
                WideResNet(depth, widening).eval(), torch.empty(1, 3, 32, 32)
            )
        name = f"WRN-{depth}-{widening}"
        key = f"wide_resnet{depth}_{widening}"
        row = {"params": cost.params, "macs": cost.macs, "pixels": 32}
        rows[key] = {"name": name, **row, "depth": depth, "widening": widening}
    evidence.computed("small", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 48, 64),
    small=lambda: WideResNet(16, 2),
    small_images=(4, 3, 16, 24),
    learns="one batch",
    recipe={"pixels": 32},
)


def test_a_wide_bottleneck_computes_what_torchvisions_computes(evidence) -> None:
    projection = nn.Sequential(
        nn.Conv2d(64, 128, 1, stride=2, bias=False), nn.BatchNorm2d(128)
    )
    theirs = torchvision.models.resnet.Bottleneck(
        64, 32, stride=2, downsample=projection, base_width=128
    )
    found = compare(WideBottleneck(64, 32, 2), theirs, torch.randn(2, 64, 9, 12))
    evidence.equivalent(
        "WideBottleneck",
        found,
        reference="torchvision.models.resnet.Bottleneck",
        settings="base_width=128",
    )


@pytest.mark.parametrize(
    "depth_and_widening", [(16, 2), pytest.param((28, 10), marks=pytest.mark.slow)]
)
def test_the_network_for_small_images_computes_what_timms_parts_compute(
    depth_and_widening: tuple[int, int], evidence
) -> None:
    ours = WideResNet(*depth_and_widening)
    found = compare(ours, timms(ours), torch.randn(2, 3, 12, 20), match="order")
    evidence.equivalent(
        "wide_resnet{}_{}".format(*depth_and_widening),
        found,
        reference="timm.models.resnetv2.ResNetV2",
        settings="basic blocks with batch norm; stem of one 3×3 convolution and a "
        "linear head in place of its own",
    )


@pytest.mark.parametrize(
    ("depth", "widening", "millions"),
    [
        (40, 1, 0.6),
        (40, 2, 2.2),
        (40, 4, 8.9),
        (40, 8, 35.7),
        (28, 10, 36.5),
        (28, 12, 52.5),
        (22, 8, 17.2),
        (22, 10, 26.8),
        (16, 8, 11.0),
        (16, 10, 17.1),
    ],
)
def test_parameters_are_those_of_the_papers_table_4(
    depth: int, widening: int, millions: float
) -> None:
    with torch.device("meta"):
        model = WideResNet(depth, widening)
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=0.05)


def test_wrn_28_10_is_28_convolutions_160_to_640_channels_wide() -> None:
    with torch.device("meta"):
        model = wide_resnet28_10()
        x, maps = torch.empty(1, 3, 32, 32), []
        y = model.conv1(x)
        for stage in model.stages:
            y = stage(y)
            maps.append(tuple(y.shape[1:]))
    assert maps == [(160, 32, 32), (320, 16, 16), (640, 8, 8)]
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 28


def test_widening_changes_the_middle_and_leaves_what_the_block_returns() -> None:
    with torch.device("meta"):
        wide, narrow = WideBottleneck(256, 64), Bottleneck(256, 64)
        x = torch.empty(1, 256, 9, 7)
    assert (wide.conv2.weight.shape[:2], narrow.conv2.weight.shape[:2]) == (
        (128, 128),
        (64, 64),
    )
    assert wide(x).shape == narrow(x).shape


def test_a_bare_shortcut_carries_the_input_past_norms_relus_and_dropout() -> None:
    block = WideBlock(16, 16, dropout=0.5)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 16, 9, 7)
    assert torch.equal(block(x), x)


def test_a_projection_starts_from_the_norm_and_the_relu_that_the_branch_shares() -> (
    None
):
    block = WideBlock(8, 16, stride=2).double()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    y = torch.nn.functional.batch_norm(x, None, None, training=True).clamp(min=0)
    projected = torch.einsum(
        "nchw,dc->ndhw", y[:, :, ::2, ::2], block.shortcut.weight[:, :, 0, 0]
    )
    torch.testing.assert_close(block(x), projected, rtol=1e-10, atol=1e-10)


def test_dropout_works_between_the_convolutions_in_training_only() -> None:
    torch.manual_seed(0)
    block = WideBlock(16, 64, dropout=0.3)
    seen: list[Tensor] = []
    block.conv2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(16, 16, 24, 24)
    block(x)
    block.dropout.p = 0.0
    block(x)
    block.dropout.p = 0.3
    dropped, kept = seen
    alive = kept > 0
    assert (dropped[alive] == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert dropped.mean().item() == pytest.approx(kept.mean().item(), rel=0.01)
    assert torch.equal(block.eval()(x), block(x))


def test_the_figures_draw_what_the_blocks_compute() -> None:
    found = figure_source("modern/wide-resnet")
    check(found["bottleneck"], WideBottleneck(256, 64))
    check(found["block"], WideBlock(160, 160, dropout=0.3))
    with torch.device("meta"):
        wide = wide_resnet28_10()
    widths = [stage[0].conv2.out_channels for stage in wide.stages]
    assert [c for _, c, _ in found["WIDE"]] == [16, *widths]
    assert [c * 10 for _, c, _ in found["THIN"][1:]] == widths


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(WideResNet, 27, 1), r"a depth of 10, 16, 22, 28, ..., got depth=27"),
        (partial(WideResNet, 4, 1), "depth=4"),
        (partial(WideResNet, 28, 0), "widening=0"),
        (partial(wide_resnet28_10, 0), "num_classes=0"),
        (partial(wide_resnet28_10, 10, 1.0), "dropout=1.0"),
        (partial(wide_resnet50_2, 0), "num_classes=0"),
        (
            lambda: WideResNet(10, 1)(torch.randn(2, 1, 32, 32)),
            r"expected \(N, 3, H, W\), got \(2, 1, 32, 32\)",
        ),
        (lambda: wide_resnet50_2()(torch.randn(3, 64, 64)), r"got \(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_a_wide_resnet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [wide_resnet50_2, partial(WideResNet, 10, 1)])
def test_one_pixel_is_enough(make: Callable[..., nn.Module]) -> None:
    model = make(num_classes=10).eval()
    assert model(torch.randn(2, 3, 1, 1)).shape == (2, 10)
