"""MobileNet v4 is timm's, tensor by tensor; its tables are the paper's."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnn_site.figures.check import figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import (
    MobileNetV4,
    UniversalInvertedBottleneck,
    mobilenetv4_conv_large,
    mobilenetv4_conv_medium,
    mobilenetv4_conv_small,
)
from cnn_techniques.modern.mobilenet_v4 import (
    MOBILENET_V4_CONV_LARGE,
    MOBILENET_V4_CONV_MEDIUM,
    MOBILENET_V4_CONV_SMALL,
    _mobilenet_v4_drop,
)

SMALLEST = Variant(
    mobilenetv4_conv_small,
    "MobileNet v4, Conv-Small",
    "timm.mobilenetv4_conv_small",
    match="order",
)
VARIANTS = [
    SMALLEST,
    Variant(
        mobilenetv4_conv_medium,
        "MobileNet v4, Conv-Medium",
        "timm.mobilenetv4_conv_medium",
        net="slow",
        pixels=256,
        match="order",
    ),
    Variant(
        mobilenetv4_conv_large,
        "MobileNet v4, Conv-Large",
        "timm.mobilenetv4_conv_large",
        net="slow",
        pixels=384,
        match="order",
    ),
]
KINDS = {"IB": (0, 3), "ConvNeXt": (3, 0), "ExtraDW": (3, 3), "FFN": (0, 0)}


DEVICE_CASES = {
    "UniversalInvertedBottleneck": lambda: (
        UniversalInvertedBottleneck(16, 48, 16, 5, 3),
        (torch.randn(2, 16, 9, 12),),
    ),
    "mobilenetv4_conv_small": lambda: (
        mobilenetv4_conv_small(num_classes=10),
        (torch.randn(4, 3, 64, 96),),
    ),
}


def on_meta(
    make: Callable[[], nn.Module], pixels: int = 224
) -> tuple[nn.Module, torch.Tensor]:
    with torch.device("meta"):
        return make().eval(), torch.empty(1, 3, pixels, pixels)


def blocks_of(model: nn.Module) -> list[UniversalInvertedBottleneck]:
    return [m for m in model.modules() if isinstance(m, UniversalInvertedBottleneck)]


def test_shapes_order_and_costs_of_every_size_are_timms(evidence) -> None:
    rows = {v.key: v.check_structure() for v in VARIANTS}
    small, medium, large = rows.values()
    assert small["params"] / 1e6 == pytest.approx(3.8, abs=0.05)  # the paper's table 6
    assert small["macs"] / 1e9 == pytest.approx(0.2, abs=0.05)
    assert medium["macs"] / 1e9 == pytest.approx(1.0, abs=0.1)
    # it prints 9.2 and 31 M parameters and 5.9 G for the two others, which its own
    # tables 12 and 14 exceed
    assert medium["params"] > 9.7e6
    assert large["params"] > 32.5e6
    assert large["macs"] > 6.3e9
    evidence.computed("cost", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    # four images: with two, the norm behind the mean returns 1 and -1 and no gradient
    images=(4, 3, 64, 96),
    small=lambda: mobilenetv4_conv_small(num_classes=10),
)


@pytest.mark.parametrize(
    ("make", "pixels", "rows"),
    [
        (mobilenetv4_conv_small, 224, "96@14*6 128@7*6"),
        (mobilenetv4_conv_medium, 256, "80@32*2 160@16*8 256@8*11"),
        (mobilenetv4_conv_large, 384, "96@48*2 192@24*11 512@12*13"),
    ],
)
def test_tables_11_12_and_14_of_the_paper_are_what_each_block_returns(
    make: Callable[[], MobileNetV4], pixels: int, rows: str
) -> None:
    model, image = on_meta(make, pixels)
    seen: list[str] = []
    for block in blocks_of(model):
        block.register_forward_hook(
            lambda _, __, y: seen.append(f"{y.shape[1]}@{y.shape[2]}")
        )
    model(image)
    parts = [part.split("*") for part in rows.split()]
    assert seen == [name for name, times in parts for _ in range(int(times))]


def test_the_search_chose_these_kinds_of_block(evidence) -> None:
    tables = {
        "small": MOBILENET_V4_CONV_SMALL,
        "medium": MOBILENET_V4_CONV_MEDIUM,
        "large": MOBILENET_V4_CONV_LARGE,
    }
    names = {(False, True): "ib", (True, False): "convnext"}
    names |= {(True, True): "extradw", (False, False): "ffn"}
    rows = {}
    for size, table in tables.items():
        kinds = [names[bool(start), bool(middle)] for start, middle, *_ in table]
        opening = [k for k, row in zip(kinds, table, strict=True) if row[-1] == 2]
        assert set(opening) == {"extradw"}  # appendix D: where the map shrinks
        counts = {kind: kinds.count(kind) for kind in names.values()}
        rows[f"mobilenetv4_conv_{size}"] = {"name": f"Conv-{size.title()}", **counts}
    evidence.computed("kinds", rows)


@pytest.mark.parametrize("kind", KINDS)
def test_the_four_kinds_reach_as_far_as_their_depthwise_convolutions(kind: str) -> None:
    start, middle = KINDS[kind]
    block = UniversalInvertedBottleneck(8, 32, 8, start, middle).eval()
    x = torch.zeros(1, 8, 9, 9)
    x[:, :, 4, 4] = 1
    seen = (block(x) - block(0 * x)).abs().sum(dim=1)[0] > 0
    reach = 1 + 2 * (start == 3) + 2 * (middle == 3)
    expected = torch.zeros(9, 9, dtype=torch.bool)
    half = reach // 2
    expected[4 - half : 5 + half, 4 - half : 5 + half] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_costs_what_its_convolutions_cost(kind: str) -> None:
    start, middle = KINDS[kind]
    with torch.device("meta"):
        block = UniversalInvertedBottleneck(24, 96, 32, start, middle).eval()
        cost = model_cost(block, torch.empty(1, 24, 14, 10))
    assert cost.macs == 140 * (24 * start**2 + 24 * 96 + 96 * middle**2 + 96 * 32)


def test_the_stride_moves_to_the_start_where_there_is_no_middle() -> None:
    for start, middle in [(0, 3), (3, 0), (5, 3)]:
        block = UniversalInvertedBottleneck(8, 16, 12, start, middle, stride=2)
        convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
        strided = [m for m in convs if m.stride == (2, 2)]
        assert [m.in_channels for m in strided] == [16 if middle else 8]
        assert block(torch.randn(2, 8, 9, 7)).shape == (2, 12, 5, 4)


def test_the_equations_written_a_second_way_give_the_same() -> None:
    block = UniversalInvertedBottleneck(4, 8, 4, 3, 3).double()
    x = torch.randn(2, 4, 7, 5, dtype=torch.float64)

    def norm(y: torch.Tensor) -> torch.Tensor:
        mean = y.mean((0, 2, 3), keepdim=True)
        return (y - mean) / (y.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()

    def depthwise(y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        windows = F.pad(y, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
        return torch.einsum("nchwij,cij->nchw", windows, weight[:, 0])

    start, widen, middle, narrow = (layer[0].weight for layer in block.layers)
    y = norm(depthwise(x, start))  # no non-linearity here
    y = norm(torch.einsum("nchw,dc->ndhw", y, widen[:, :, 0, 0])).clamp(min=0)
    y = norm(depthwise(y, middle)).clamp(min=0)
    y = norm(torch.einsum("nchw,dc->ndhw", y, narrow[:, :, 0, 0]))
    torch.testing.assert_close(block(x), x + y, rtol=1e-9, atol=1e-9)


def test_a_branch_whose_last_norm_is_zero_leaves_the_identity() -> None:
    block, x = UniversalInvertedBottleneck(16, 64, 16, 5, 3), torch.randn(2, 16, 9, 7)
    nn.init.zeros_(block.layers[-1][1].weight)
    assert torch.equal(block(x), x)


def test_drop_path_drops_whole_images_keeps_the_mean_and_is_off_in_evaluation() -> None:
    torch.manual_seed(0)
    y = _mobilenet_v4_drop(torch.ones(4000, 3, 2, 2), 0.3)
    kept = (y != 0).flatten(1).float()
    assert torch.equal(kept.min(dim=1).values, kept.max(dim=1).values)  # whole images
    assert float(kept.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(y.mean()) == pytest.approx(1, abs=0.03)
    block = UniversalInvertedBottleneck(4, 8, 4, drop_path=0.5)
    x = torch.randn(64, 4, 5, 5)
    skipped = (block(x) == x).flatten(1).all(dim=1)
    assert 16 <= int(skipped.sum()) <= 48
    assert torch.equal(block.eval()(x), block(x))
    assert not (block(x) == x).flatten(1).all(dim=1).any()
    model = MobileNetV4(MOBILENET_V4_CONV_SMALL, 32, [(96, 64)], drop_path=0.11)
    rates = [b.drop_path for b in blocks_of(model)]
    assert rates == pytest.approx([0.01 * n for n in range(12)])


def test_dropout_acts_before_the_classifier_in_training_alone() -> None:
    torch.manual_seed(0)
    drop = MobileNetV4(MOBILENET_V4_CONV_SMALL, 8, [], dropout=0.3).dropout
    kept, ones = drop(torch.ones(100, 1000)), torch.ones(2, 9)
    assert float((kept == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(kept.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(drop.eval()(ones), ones)


def test_any_size_of_image_works_and_other_channels_too() -> None:
    rows = MOBILENET_V4_CONV_SMALL
    model = MobileNetV4(rows, 8, [], num_classes=5, in_channels=1).eval()
    for size in [(1, 1), (31, 33), (65, 32)]:
        assert model(torch.randn(1, 1, *size)).shape == (1, 5)


def test_the_figures_draw_what_the_blocks_compute() -> None:
    found = figure_source("modern/mobilenet-v4")
    model, x = on_meta(mobilenetv4_conv_small)
    sizes: dict[int, tuple[int, int]] = {}
    for layer in model.features[:-1]:
        x = layer(x)
        block = isinstance(layer, UniversalInvertedBottleneck)
        sizes[x.shape[-1]] = x.shape[1], sizes.get(x.shape[-1], (0, 0))[1] + block
    shown = [(s, c, f"{n} blocks") for s, (c, n) in sizes.items() if n]
    assert found["SIZES"][4:] == shown
    assert [row[:2] for row in found["SIZES"][1:]] == [
        (s, c) for s, (c, _) in sizes.items()
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(UniversalInvertedBottleneck, 8, 16, 8, 0, 0, 2), "stride=2 needs a"),
        (
            partial(UniversalInvertedBottleneck, 8, 16, 8, drop_path=1.0),
            "drop_path < 1, got drop_path=1.0",
        ),
        (partial(mobilenetv4_conv_small, 0), "at least 1, got .*num_classes=0"),
        (partial(MobileNetV4, (), 8, []), r"len\(rows\)=0"),
        (partial(MobileNetV4, MOBILENET_V4_CONV_SMALL, 0, []), "stem=0"),
        (
            partial(MobileNetV4, MOBILENET_V4_CONV_SMALL, 8, [], dropout=1.0),
            r"rates in \[0, 1\), got dropout=1.0",
        ),
        (
            partial(MobileNetV4, MOBILENET_V4_CONV_SMALL, 8, [], drop_path=-0.1),
            "drop_path=-0.1",
        ),
        (
            lambda: mobilenetv4_conv_small(10)(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), got \(2, 1, 64, 64\)",
        ),
        (
            lambda: mobilenetv4_conv_small(10)(torch.randn(3, 64, 64)),
            r"got \(3, 64, 64\)",
        ),
    ],
)
def test_what_cannot_be_a_mobilenet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
