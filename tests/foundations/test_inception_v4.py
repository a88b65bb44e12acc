"""Inception-v4 and Inception-ResNet-v2 are timm's, tensor by tensor, from tables."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.equivalence import compare
from cnn_site.figures.check import check, figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.foundations import (
    INCEPTION_RESNET_A,
    INCEPTION_RESNET_B,
    INCEPTION_RESNET_C,
    INCEPTION_RESNET_V2,
    INCEPTION_V4,
    INCEPTION_V4_A,
    INCEPTION_V4_B,
    INCEPTION_V4_C,
    InceptionFork,
    InceptionNet,
    InceptionResidual,
    InceptionStage,
    inception_resnet_v2,
    inception_v4,
)


def in_thousands(scores: Tensor) -> Tensor:
    """So that they stay in the range that is asked of a living network.

    The comparison moves each norm's mean by a tenth of a deviation, and without
    shortcuts that grows by about 1.4 from module to module: scores reach 1e4. What is
    compared is relative to the largest score.
    """
    return scores / 1000


SMALLEST = Variant(
    inception_v4,
    "Inception-v4",
    "timm.inception_v4",
    pixels=299,
    match="order",
    outputs=in_thousands,
)
VARIANTS = [
    SMALLEST,
    Variant(
        inception_resnet_v2,
        "Inception-ResNet-v2",
        "timm.inception_resnet_v2",
        net="slow",
        pixels=299,
        match="order",
        outputs=in_thousands,
    ),
]


DEVICE_CASES = {
    "InceptionFork": lambda: (
        InceptionFork(16, [[(8, 1)], [(8, 1), (16, (1, 7))], ["average", (8, 1)]]),
        (torch.randn(2, 16, 9, 12),),
    ),
    "InceptionResidual": lambda: (
        InceptionResidual(16, INCEPTION_RESNET_A, 0.17),
        (torch.randn(2, 16, 9, 12),),
    ),
    "inception_v4": lambda: (
        InceptionNet(INCEPTION_V4, 10, dropout=0.0),
        (torch.randn(2, 3, 75, 107),),
    ),
}


def test_shapes_order_and_costs_of_both_networks_are_timms(evidence) -> None:
    evidence.computed("cost", {v.key: v.check_structure() for v in VARIANTS})


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    # Steadier norms than at 75 pixels: the last maps then have 2 x 2 pixels and more.
    images=(2, 3, 107, 123),
    settings="scores in thousands",
    small=lambda: InceptionNet(
        {
            "stem": InceptionStage([(8, 3, 2), (32, 3, 2)]),
            "plain": InceptionStage([INCEPTION_V4_C]),
            "residual": InceptionStage(INCEPTION_RESNET_A, 2, scale=0.17),
        },
        num_classes=10,
    ),
    small_images=(4, 3, 75, 83),
    learns="one batch",
    recipe={"pixels": 75, "steps": 80},
)


@pytest.mark.parametrize(
    ("name", "channels", "branches"),
    [
        ("Block35", 320, INCEPTION_RESNET_A),
        ("Block17", 1088, INCEPTION_RESNET_B),
        ("Block8", 2080, INCEPTION_RESNET_C),
    ],
)
def test_a_residual_module_computes_what_timms_computes(
    name: str, channels: int, branches: Any
) -> None:
    timm = pytest.importorskip("timm.models.inception_resnet_v2")
    conv = partial(timm.ConvNormAct, padding=0, norm_kwargs={"eps": 1e-3})
    theirs = getattr(timm, name)(0.17, conv_block=conv)
    ours = InceptionResidual(channels, branches, 0.17)
    compare(ours, theirs, torch.randn(2, channels, 5, 7), match="order")


def test_inception_v4_adds_nothing_to_its_input() -> None:
    with torch.device("meta"):
        plain, mixed = inception_v4(), inception_resnet_v2()
    counts = [
        sum(isinstance(m, InceptionResidual) for m in model.modules())
        for model in (plain, mixed)
    ]
    assert counts == [0, 40]


def maps_of(model: InceptionNet, pixels: int) -> Iterator[Tensor]:
    with torch.device("meta"):
        x = torch.empty(1, model.in_channels, pixels, pixels)
        for stage in model.stages.values():
            x = stage(x)
            yield x


def test_the_maps_of_inception_v4_are_those_of_figure_9() -> None:
    with torch.device("meta"):
        model = inception_v4()
    assert [(m.shape[1], m.shape[2]) for m in maps_of(model, 299)] == [
        (384, 35),
        (384, 35),
        (1024, 17),
        (1024, 17),
        (1536, 8),
        (1536, 8),
    ]
    repeats = [stage.repeat for stage in INCEPTION_V4.values()]
    assert repeats == [1, 4, 1, 7, 1, 3]


@pytest.mark.parametrize(
    ("channels", "branches"),
    [(384, INCEPTION_V4_A), (1024, INCEPTION_V4_B), (1536, INCEPTION_V4_C)],
)
def test_a_plain_module_keeps_channels_and_size_so_it_can_be_repeated(
    channels: int, branches: Any
) -> None:
    with torch.device("meta"):
        module, x = InceptionFork(channels, branches), torch.empty(1, channels, 9, 7)
        assert module(x).shape == x.shape
    assert module.out_channels == channels


@pytest.mark.parametrize(
    "branches", [INCEPTION_RESNET_A, INCEPTION_RESNET_B, INCEPTION_RESNET_C]
)
def test_a_residual_module_is_the_shortcut_and_a_scaled_branch(branches: Any) -> None:
    block = InceptionResidual(32, branches, 0.1).double().eval()
    x = torch.randn(2, 32, 9, 7, dtype=torch.float64)
    branch = F.conv2d(block.fork(x), block.expand.weight, block.expand.bias)
    torch.testing.assert_close(block(x), (x + branch / 10).clamp(min=0))


@pytest.mark.parametrize("silent", ["scale", "weights"])
def test_a_silent_branch_leaves_the_identity(silent: str) -> None:
    scale = 0.0 if silent == "scale" else 0.17
    block = InceptionResidual(32, INCEPTION_RESNET_A, scale, relu=False)
    if silent == "weights":
        nn.init.zeros_(block.expand.weight)
        nn.init.zeros_(block.expand.bias)
    x = torch.randn(2, 32, 9, 7)
    assert torch.equal(block(x), x)


def test_the_scale_could_be_folded_into_the_last_convolution() -> None:
    block = InceptionResidual(32, INCEPTION_RESNET_A, 0.17).eval()
    x = torch.randn(2, 32, 9, 7)
    before = block(x)
    with torch.no_grad():
        block.expand.weight *= 0.17
        block.expand.bias *= 0.17
    block.scale = 1.0
    torch.testing.assert_close(block(x), before)


def test_only_the_last_residual_module_ends_without_a_relu_and_unscaled() -> None:
    with torch.device("meta"):
        blocks = [
            m
            for m in inception_resnet_v2().modules()
            if isinstance(m, InceptionResidual)
        ]
    assert [isinstance(b.relu, nn.Identity) for b in blocks] == [False] * 39 + [True]
    scales = [b.scale for b in blocks]
    assert scales == [0.17] * 10 + [0.10] * 20 + [0.20] * 9 + [1.0]


def test_average_pooling_counts_no_padding() -> None:
    pool = InceptionFork(4, [["average"]])
    assert torch.equal(pool(torch.ones(1, 4, 5, 5)), torch.ones(1, 4, 5, 5))


def test_the_figures_draw_what_the_modules_compute() -> None:
    found = figure_source("foundations/inception-v4")
    check(found["figure"], InceptionFork(384, INCEPTION_V4_A))
    check(found["residual"], InceptionResidual(320, INCEPTION_RESNET_A, 0.17))
    with torch.device("meta"):
        model = inception_v4()
    maps = [m for m, stage in zip(maps_of(model, 299), INCEPTION_V4, strict=True)]
    kept = [m for m, stage in zip(maps, INCEPTION_V4, strict=True) if "to" not in stage]
    drawn = [(size, channels) for size, channels, _ in found["SIZES"]]
    assert drawn == [(299, 3), *((m.shape[-1], m.shape[1]) for m in kept)]


def test_75_pixels_are_enough() -> None:
    for make in (inception_v4, inception_resnet_v2):
        with torch.device("meta"):
            model, image = make(10).eval(), torch.empty(1, 3, 75, 75)
            assert model(image).shape == (1, 10)
            *_, last = maps_of(model, 75)
        assert last.shape == (1, 1536, 1, 1)


def of_shape(*shape: int) -> Callable[[], object]:
    def make() -> object:
        with torch.device("meta"):
            return inception_v4(2)(torch.empty(shape))

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: inception_v4(0), "num_classes=0"),
        (lambda: inception_resnet_v2(-1), "num_classes=-1"),
        (lambda: InceptionNet(INCEPTION_RESNET_V2, in_channels=0), "in_channels=0"),
        (of_shape(2, 1, 99, 99), r"expected \(N, 3, H, W\).*\(2, 1, 99, 99\)"),
        (of_shape(3, 99, 99), r"got \(3, 99, 99\)"),
        (of_shape(2, 3, 74, 99), r"of 75 or more, got \(2, 3, 74, 99\)"),
        (of_shape(2, 3, 99, 74), r"of 75 or more, got \(2, 3, 99, 74\)"),
    ],
)
def test_what_cannot_be_an_inception_network_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
