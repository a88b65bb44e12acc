"""MobileNet v2 is torchvision's, tensor by tensor; its blocks end in a linear map."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from cnn_site.figures.check import figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import InvertedResidual, MobileNetV2, mobilenet_v2
from cnn_techniques.modern.mobilenet_v2 import _mobilenet_v2_round


def mobilenet_v2_140() -> MobileNetV2:
    return mobilenet_v2(width=1.4)


def mobilenet_v2_050() -> MobileNetV2:
    return mobilenet_v2(width=0.5)


REFERENCE = "torchvision.models.mobilenet_v2"
SMALLEST = Variant(mobilenet_v2, "MobileNet v2, 1.0", REFERENCE)
VARIANTS = [
    Variant(
        mobilenet_v2_140,
        "MobileNet v2, 1.4",
        REFERENCE,
        net="slow",
        options={"width_mult": 1.4},
    ),
    SMALLEST,
    Variant(
        mobilenet_v2_050,
        "MobileNet v2, 0.5",
        REFERENCE,
        net="slow",
        options={"width_mult": 0.5},
    ),
]


DEVICE_CASES = {
    "InvertedResidual": lambda: (
        InvertedResidual(16, 16),
        (torch.randn(2, 16, 9, 12),),
    ),
    "mobilenet_v2": lambda: (
        MobileNetV2(num_classes=10, dropout=0),
        (torch.randn(2, 3, 64, 96),),
    ),
}


def on_meta(make: Callable[[], nn.Module]) -> tuple[nn.Module, torch.Tensor]:
    with torch.device("meta"):
        return make().eval(), torch.empty(1, 3, 224, 224)


def blocks_of(model: nn.Module) -> list[InvertedResidual]:
    return [m for m in model.modules() if isinstance(m, InvertedResidual)]


def test_names_shapes_order_and_costs_of_every_width_are_torchvisions(evidence) -> None:
    rows = {v.key: v.check_structure() for v in VARIANTS}
    evidence.computed("cost", rows)
    assert rows["mobilenet_v2"]["macs"] / 1e6 == pytest.approx(
        300, abs=1
    )  # the paper's
    assert rows["mobilenet_v2_140"]["macs"] / 1e6 == pytest.approx(585, rel=0.01)
    # table 4 prints 6.9 M for width 1.4, which the network has not
    assert rows["mobilenet_v2_140"]["params"] / 1e6 == pytest.approx(6.1, abs=0.05)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 32, 48),
    small=lambda: MobileNetV2(num_classes=10, width=0.35),
    smallest=SMALLEST,
)


def test_table_2_of_the_paper_is_what_each_block_returns(evidence) -> None:
    model, image = on_meta(mobilenet_v2)
    seen: list[tuple[int, ...]] = []
    for block in blocks_of(model):
        block.register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape[1:])))
    model(image)
    table = [(16, 112, 1), (24, 56, 2), (32, 28, 3), (64, 14, 4), (96, 14, 3)]
    table += [(160, 7, 3), (320, 7, 1)]
    assert seen == [(c, s, s) for c, s, n in table for _ in range(n)]
    shortcuts = sum(b.shortcut for b in blocks_of(model))
    assert shortcuts == sum(n - 1 for _, _, n in table)
    row = {"name": "MobileNet v2", "blocks": len(seen), "shortcuts": shortcuts}
    evidence.computed("blocks", {"mobilenet_v2": row})


def test_the_last_projection_is_linear() -> None:
    block = InvertedResidual(8, 12, expansion=3).eval()
    project = block.conv[-2:]
    nn.init.normal_(block.conv[-1].bias)
    a, b = torch.randn(2, 24, 5, 6), torch.randn(2, 24, 5, 6)
    bend = project(a + b) - project(a) - project(b) + project(torch.zeros_like(a))
    torch.testing.assert_close(bend, torch.zeros_like(bend), atol=1e-5, rtol=0)
    assert (block(torch.randn(2, 8, 5, 6)) < 0).any()
    wide = block.conv[:-2](torch.randn(2, 8, 5, 6) * 9)  # the two before it are not
    assert wide.min() == 0
    assert wide.max() <= 6


def test_the_equations_written_a_second_way_give_the_same() -> None:
    block, x = InvertedResidual(4, 4, expansion=2).double(), torch.randn(2, 4, 7, 5)
    x = x.double()

    def norm(y: torch.Tensor) -> torch.Tensor:
        mean = y.mean((0, 2, 3), keepdim=True)
        return (y - mean) / (y.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()

    expand, depthwise = block.conv[0][0].weight, block.conv[1][0].weight
    y = torch.einsum("nchw,dc->ndhw", x, expand[:, :, 0, 0])
    y = norm(y).clamp(0, 6)
    windows = nn.functional.pad(y, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
    y = norm(torch.einsum("nchwij,cij->nchw", windows, depthwise[:, 0])).clamp(0, 6)
    y = norm(torch.einsum("nchw,dc->ndhw", y, block.conv[2].weight[:, :, 0, 0]))
    torch.testing.assert_close(block(x), x + y, rtol=1e-9, atol=1e-9)


def test_a_branch_whose_last_norm_is_zero_leaves_the_identity() -> None:
    block, x = InvertedResidual(16, 16), torch.randn(2, 16, 9, 7)
    nn.init.zeros_(block.conv[-1].weight)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("channels", "out", "t"), [(24, 24, 6), (32, 64, 6), (8, 8, 2)]
)
def test_a_block_costs_what_section_3_3_says(channels: int, out: int, t: int) -> None:
    with torch.device("meta"):
        block = InvertedResidual(channels, out, expansion=t).eval()
        cost = model_cost(block, torch.empty(1, channels, 14, 10))
    assert cost.macs == 14 * 10 * channels * t * (channels + 3**2 + out)


def test_without_expansion_the_first_convolution_is_left_out() -> None:
    model, _ = on_meta(mobilenet_v2)
    first, second = blocks_of(model)[:2]
    assert [len(first.conv), len(second.conv)] == [3, 4]
    assert first.conv[0][0].groups == first.conv[0][0].in_channels == 32


def test_the_rounding_rule_is_torchvisions_and_never_loses_a_tenth() -> None:
    torchvision = pytest.importorskip("torchvision.models._utils")
    for number in [*range(1, 400), *(n * w for n in (24, 96) for w in (0.35, 1.4))]:
        rounded = _mobilenet_v2_round(number)
        assert rounded == torchvision._make_divisible(number, 8)
        assert rounded % 8 == 0
        assert rounded >= 0.9 * number
    assert [_mobilenet_v2_round(n) for n in (1, 11, 12, 18, 33.6)] == [
        8,
        16,
        16,
        24,
        32,
    ]


def test_dropout_acts_before_the_classifier_in_training_alone() -> None:
    torch.manual_seed(0)
    drop, ones = MobileNetV2(10, dropout=0.3).classifier[0], torch.ones(100, 1000)
    kept = drop(ones)
    assert float((kept == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(kept.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(drop.eval()(ones), ones)


def test_any_size_of_image_works_and_other_channels_too() -> None:
    model = MobileNetV2(num_classes=5, width=0.35, in_channels=1).eval()
    for size in [(1, 1), (31, 33), (65, 32)]:
        assert model(torch.randn(1, 1, *size)).shape == (1, 5)


def test_the_figures_draw_what_the_blocks_compute() -> None:
    found = figure_source("modern/mobilenet-v2")
    model, x = on_meta(mobilenet_v2)
    sizes: dict[int, tuple[int, int]] = {}
    for layer in model.features[:-1]:
        x = layer(x)
        if isinstance(layer, InvertedResidual):
            sizes[x.shape[-1]] = x.shape[1], sizes.get(x.shape[-1], (0, 0))[1] + 1
    shown = [(s, c, f"{n} block{'s' * (n > 1)}") for s, (c, n) in sizes.items()]
    assert found["SIZES"][1:] == shown


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(MobileNetV2, 0), "at least 1, got num_classes=0"),
        (partial(MobileNetV2, in_channels=0), "in_channels=0"),
        (partial(MobileNetV2, width=-1), "width > 0 .* got width=-1"),
        (partial(MobileNetV2, dropout=1.0), "dropout=1.0"),
        (
            lambda: MobileNetV2(10, 0.35)(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), got \(2, 1, 64, 64\)",
        ),
        (
            lambda: MobileNetV2(10, 0.35)(torch.randn(3, 64, 64)),
            r"got \(3, 64, 64\)",
        ),
    ],
)
def test_what_cannot_be_a_mobilenet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
