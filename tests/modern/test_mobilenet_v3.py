"""MobileNet v3 is torchvision's, tensor by tensor; its tables are the paper's."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnn_site.figures.check import figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.attention import SqueezeExcitation
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import (
    InvertedResidualV3,
    MobileNetV3,
    mobilenet_v3_large,
    mobilenet_v3_small,
)
from cnn_techniques.modern.mobilenet_v3 import (
    MOBILENET_V3_LARGE,
    MOBILENET_V3_SMALL,
    _mobilenet_v3_round,
)


def mobilenet_v3_large_075() -> MobileNetV3:
    return mobilenet_v3_large(width=0.75)


MODELS = "torchvision.models"
SMALLEST = Variant(
    mobilenet_v3_small, "MobileNet v3, Small", f"{MODELS}.mobilenet_v3_small"
)
VARIANTS = [
    Variant(
        mobilenet_v3_large,
        "MobileNet v3, Large",
        f"{MODELS}.mobilenet_v3_large",
        net="slow",
    ),
    Variant(
        mobilenet_v3_large_075,
        "MobileNet v3, Large 0.75",
        f"{MODELS}.mobilenet_v3_large",
        net="slow",
        options={"width_mult": 0.75},
    ),
    SMALLEST,
]


DEVICE_CASES = {
    "InvertedResidualV3": lambda: (
        InvertedResidualV3(16, 48, 16, 5, gate=True, activation=nn.Hardswish),
        (torch.randn(2, 16, 9, 12),),
    ),
    "mobilenet_v3_small": lambda: (
        MobileNetV3(MOBILENET_V3_SMALL, 1024, 10, dropout=0),
        (torch.randn(2, 3, 64, 96),),
    ),
}


def on_meta(make: Callable[[], nn.Module]) -> tuple[nn.Module, torch.Tensor]:
    with torch.device("meta"):
        return make().eval(), torch.empty(1, 3, 224, 224)


def blocks_of(model: nn.Module) -> list[InvertedResidualV3]:
    return [m for m in model.modules() if isinstance(m, InvertedResidualV3)]


def test_names_shapes_order_and_costs_of_every_size_are_torchvisions(evidence) -> None:
    rows = {v.key: v.check_structure() for v in VARIANTS}
    evidence.computed("cost", rows)
    large = rows["mobilenet_v3_large"]
    assert large["macs"] / 1e6 == pytest.approx(219, abs=3)  # the paper's table 3
    assert large["params"] / 1e6 == pytest.approx(5.4, abs=0.1)


def test_the_papers_small_has_a_wider_head_and_so_its_2_9_m_parameters(
    evidence,
) -> None:
    make = partial(MobileNetV3, MOBILENET_V3_SMALL, 1280)
    cost = model_cost(*on_meta(make))
    assert cost.params / 1e6 == pytest.approx(2.9, abs=0.05)
    row = {"name": "Small, head of 1280", "params": cost.params, "macs": cost.macs}
    evidence.computed("head", {"small_1280": row})


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    # smaller images leave the last norms too few values for their statistics
    images=(2, 3, 64, 96),
    small=lambda: mobilenet_v3_small(num_classes=10, width=0.5),
    smallest=SMALLEST,
)


@pytest.mark.parametrize(
    ("make", "table"),
    [
        (
            mobilenet_v3_large,
            "16@112 24@56 24@56 40@28 40@28 40@28 80@14 80@14 80@14 80@14 112@14 "
            "112@14 160@7 160@7 160@7",
        ),
        (
            mobilenet_v3_small,
            "16@56 24@28 24@28 40@14 40@14 40@14 48@14 48@14 96@7 96@7 96@7",
        ),
    ],
)
def test_tables_1_and_2_of_the_paper_are_what_each_block_returns(
    make: Callable[[], MobileNetV3], table: str
) -> None:
    model, image = on_meta(make)
    seen: list[str] = []
    for block in blocks_of(model):
        block.register_forward_hook(
            lambda _, __, y: seen.append(f"{y.shape[1]}@{y.shape[2]}")
        )
    model(image)
    assert " ".join(seen) == table


def test_a_gate_acts_on_the_expanded_channels_at_a_quarter_of_their_number() -> None:
    for make, rows in [
        (mobilenet_v3_large, MOBILENET_V3_LARGE),
        (mobilenet_v3_small, MOBILENET_V3_SMALL),
    ]:
        model, _ = on_meta(make)
        for block, (_, expanded, _, gated, _, _) in zip(
            blocks_of(model), rows, strict=True
        ):
            gates = [
                m for m in block.block.children() if isinstance(m, SqueezeExcitation)
            ]
            assert len(gates) == gated
            if gated:
                assert block.block[-2] is gates[0]  # between depthwise and projection
                assert gates[0].fc1.in_channels == expanded
                assert gates[0].fc1.out_channels == _mobilenet_v3_round(expanded // 4)
                assert isinstance(gates[0].gate, nn.Hardsigmoid)


def test_hard_swish_is_the_papers_equation_and_near_swish(evidence) -> None:
    x = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    equation = x * F.relu6(x + 3) / 6
    torch.testing.assert_close(nn.Hardswish()(x), equation)
    torch.testing.assert_close(nn.Hardsigmoid()(x), F.relu6(x + 3) / 6)
    gap = (equation - x * torch.sigmoid(x)).abs()
    assert float(x[gap.argmax()].abs()) == pytest.approx(3, abs=0.01)
    largest = round(float(gap.max()), 4)
    row = {"name": "hard swish and swish", "largest": largest}
    evidence.computed("swish", {"gap": row})
    assert equation[x <= -3].abs().max() == 0
    torch.testing.assert_close(equation[x >= 3], x[x >= 3])


def test_hard_swish_is_used_in_the_second_half_only() -> None:
    for rows in (MOBILENET_V3_LARGE, MOBILENET_V3_SMALL):
        kinds = [row[4] for row in rows]
        switch = kinds.index(nn.Hardswish)
        assert set(kinds[:switch]) == {nn.ReLU}
        assert set(kinds[switch:]) == {nn.Hardswish}


def test_batch_norms_have_the_papers_slow_averages() -> None:
    model, _ = on_meta(mobilenet_v3_small)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(0.001, 0.01)}


def test_the_equations_written_a_second_way_give_the_same() -> None:
    block = InvertedResidualV3(4, 32, 4, gate=True, activation=nn.Hardswish).double()
    x = torch.randn(2, 4, 7, 5, dtype=torch.float64)

    def norm(y: torch.Tensor) -> torch.Tensor:
        mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0)
        return (y - mean) / (var[:, None, None] + 0.001).sqrt()

    def swish(y: torch.Tensor) -> torch.Tensor:
        return y * (y + 3).clamp(0, 6) / 6

    widen, filters, gate, narrow = block.block
    y = swish(norm(torch.einsum("nchw,dc->ndhw", x, widen[0].weight[:, :, 0, 0])))
    windows = F.pad(y, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
    weight = filters[0].weight[:, 0]
    y = swish(norm(torch.einsum("nchwij,cij->nchw", windows, weight)))
    hidden = y.mean((2, 3)) @ gate.fc1.weight[:, :, 0, 0].T + gate.fc1.bias
    scale = hidden.clamp(min=0) @ gate.fc2.weight[:, :, 0, 0].T + gate.fc2.bias
    y = y * ((scale + 3).clamp(0, 6) / 6)[:, :, None, None]
    y = norm(torch.einsum("nchw,dc->ndhw", y, narrow[0].weight[:, :, 0, 0]))
    torch.testing.assert_close(block(x), x + y, rtol=1e-9, atol=1e-9)


def test_a_branch_whose_last_norm_is_zero_leaves_the_identity() -> None:
    block, x = InvertedResidualV3(16, 64, 16, gate=True), torch.randn(2, 16, 9, 7)
    nn.init.zeros_(block.block[-1][1].weight)
    assert torch.equal(block(x), x)


def test_dropout_acts_before_the_last_layer_in_training_alone() -> None:
    torch.manual_seed(0)
    model, ones = MobileNetV3(MOBILENET_V3_SMALL[:1], 8, dropout=0.3), torch.ones
    kept = model.classifier[2](ones(100, 1000))
    assert float((kept == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(kept.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(model.eval().classifier[2](ones(2, 9)), ones(2, 9))


def test_any_size_of_image_works_and_other_channels_too() -> None:
    model = MobileNetV3(MOBILENET_V3_SMALL, 64, 5, 0.5, in_channels=1).eval()
    for size in [(1, 1), (31, 33), (65, 32)]:
        assert model(torch.randn(1, 1, *size)).shape == (1, 5)


def test_the_figures_draw_what_the_blocks_compute() -> None:
    found = figure_source("modern/mobilenet-v3")
    model, x = on_meta(mobilenet_v3_large)
    sizes: dict[int, tuple[int, int]] = {}
    for layer in model.features[:-1]:
        x = layer(x)
        if isinstance(layer, InvertedResidualV3):
            sizes[x.shape[-1]] = x.shape[1], sizes.get(x.shape[-1], (0, 0))[1] + 1
    shown = [(s, c, f"{n} block{'s' * (n > 1)}") for s, (c, n) in sizes.items()]
    assert found["SIZES"][1:] == shown


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(mobilenet_v3_small, 0), "at least 1, got .*num_classes=0"),
        (partial(MobileNetV3, (), 8), r"len\(rows\)=0"),
        (partial(mobilenet_v3_large, width=0), "width > 0 .* got width=0"),
        (partial(MobileNetV3, MOBILENET_V3_SMALL, 8, dropout=1.0), "dropout=1.0"),
        (
            lambda: mobilenet_v3_small(10, 0.25)(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), got \(2, 1, 64, 64\)",
        ),
        (
            lambda: mobilenet_v3_small(10, 0.25)(torch.randn(3, 64, 64)),
            r"got \(3, 64, 64\)",
        ),
    ],
)
def test_what_cannot_be_a_mobilenet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
