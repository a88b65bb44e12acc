"""RegNet is torchvision's; its widths are computed, and checked against the paper's."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.figures.check import check, figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.attention import SqueezeExcitation
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import (
    REGNET_X,
    REGNET_Y,
    RegNet,
    RegNetBlock,
    regnet_stages,
    regnet_x_1_6gf,
    regnet_x_3_2gf,
    regnet_x_8gf,
    regnet_x_16gf,
    regnet_x_32gf,
    regnet_x_400mf,
    regnet_x_800mf,
    regnet_y_1_6gf,
    regnet_y_3_2gf,
    regnet_y_8gf,
    regnet_y_16gf,
    regnet_y_32gf,
    regnet_y_128gf,
    regnet_y_400mf,
    regnet_y_800mf,
)


def variant(make: Callable[..., RegNet], net: str = "slow") -> Variant:
    kind, size = make.__name__.removeprefix("regnet_").split("_", 1)
    told = size.replace("_", ".").replace("mf", "MF").replace("gf", "GF")
    reference = f"torchvision.models.{make.__name__}"
    return Variant(make, f"RegNet{kind.upper()}-{told}", reference, net=net)


SMALLEST = variant(regnet_y_400mf, "fast")
VARIANTS = [
    variant(regnet_x_400mf, "fast"),
    variant(regnet_x_800mf),
    variant(regnet_x_1_6gf),
    variant(regnet_x_3_2gf),
    variant(regnet_x_8gf),
    variant(regnet_x_16gf),
    variant(regnet_x_32gf),
    SMALLEST,
    variant(regnet_y_800mf),
    variant(regnet_y_1_6gf),
    variant(regnet_y_3_2gf),
    variant(regnet_y_8gf),
    variant(regnet_y_16gf),
    variant(regnet_y_32gf),
    variant(regnet_y_128gf, "outputs"),
]
TITLES = {v.key: v.title for v in VARIANTS}
PARAMETERS = {  # of each, as one dictionary
    **{f"regnet_x_{size}": given for size, given in REGNET_X.items()},
    **{f"regnet_y_{size}": given for size, given in REGNET_Y.items()},
}

PAPER = {  # figures 15 and 16: multiply-adds in thousand millions, parameters in millions
    "regnet_x_400mf": (0.4, 5.2),
    "regnet_x_800mf": (0.8, 7.3),
    "regnet_x_1_6gf": (1.6, 9.2),
    "regnet_x_3_2gf": (3.2, 15.3),
    "regnet_x_8gf": (8.0, 39.6),
    "regnet_x_16gf": (15.9, 54.3),
    "regnet_x_32gf": (31.7, 107.8),
    "regnet_y_400mf": (0.4, 4.3),
    "regnet_y_800mf": (0.8, 6.3),
    "regnet_y_1_6gf": (1.6, 11.2),
    "regnet_y_3_2gf": (3.2, 19.4),
    "regnet_y_8gf": (8.0, 39.2),
    "regnet_y_16gf": (15.9, 83.6),
    "regnet_y_32gf": (32.3, 145.0),
}


DEVICE_CASES = {
    "RegNetBlock": lambda: (
        RegNetBlock(16, 24, stride=2, group_width=8, se_ratio=0.25),
        (torch.randn(2, 16, 9, 12),),
    ),
    "regnet_y_400mf": lambda: (
        regnet_y_400mf(num_classes=10),
        (torch.randn(2, 3, 64, 96),),
    ),
}


@pytest.fixture
def widths_off_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision computes the widths with tensors, which have no values on meta."""
    from torchvision.models.regnet import BlockParams

    theirs = BlockParams.from_init_params

    def computed(**given: object) -> BlockParams:
        with torch.device("cpu"):
            return theirs(**given)

    monkeypatch.setattr(BlockParams, "from_init_params", computed)


def cost_of(key: str, stages: list[tuple[int, int, int]]) -> tuple[int, int]:
    with torch.device("meta"):
        model = RegNet(stages, 0.25 if "_y_" in key else 0.0).eval()
        cost = model_cost(model, torch.empty(1, 3, 224, 224))
    return cost.params, cost.macs


@pytest.mark.usefixtures("widths_off_meta")
def test_names_and_costs_are_torchvisions_and_the_papers_with_its_rounding(
    evidence,
) -> None:
    rows, papers = {}, {}
    for v in VARIANTS:
        stages = regnet_stages(*PARAMETERS[v.key])
        rows[v.key] = row = {
            **v.check_structure(),
            "blocks": ", ".join(str(count) for count, _, _ in stages),
            "widths": ", ".join(str(width) for _, width, _ in stages),
        }
        if v.key not in PAPER:
            continue
        own = regnet_stages(*PARAMETERS[v.key], papers_rounding=True)
        params, macs = row["params"], row["macs"]
        if own != stages:
            params, macs = cost_of(v.key, own)
        billions, millions = PAPER[v.key]
        assert params / 1e6 == pytest.approx(millions, abs=0.051), v.key
        assert macs / 1e9 == pytest.approx(billions, abs=0.06), v.key
        widths = ", ".join(str(width) for _, width, _ in own)
        told = "the same" if own == stages else "wider"
        papers[v.key] = {"name": v.title, "params": params, "widths": widths}
        papers[v.key]["torchvision"] = told
    evidence.computed("cost", rows)
    evidence.computed("paper", papers)
    wider = [key for key, row in papers.items() if row["torchvision"] == "wider"]
    assert wider == ["regnet_x_400mf", "regnet_y_800mf", "regnet_y_8gf"]


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 64, 96),
    small=lambda: RegNet([(1, 16, 8), (2, 24, 8)], se_ratio=0.25, num_classes=10),
    smallest=SMALLEST,
)


@pytest.mark.parametrize("key", PARAMETERS)
def test_stages_are_those_that_torchvision_computes(key: str) -> None:
    from torchvision.models.regnet import BlockParams

    theirs = BlockParams.from_init_params(*PARAMETERS[key])
    rows = zip(theirs.depths, theirs.widths, theirs.group_widths, strict=True)
    assert regnet_stages(*PARAMETERS[key]) == list(rows)


def test_the_widths_follow_the_line_in_steps(evidence) -> None:
    rows = {}
    for key in ("regnet_x_400mf", "regnet_y_400mf", "regnet_y_800mf"):
        depth, w_0, w_a, *_ = PARAMETERS[key]
        stages = regnet_stages(*PARAMETERS[key])
        widths = [width for count, width, _ in stages for _ in range(count)]
        line = [round(w_0 + w_a * j, 2) for j in range(depth)]
        assert len(widths) == depth
        assert widths == sorted(widths)
        # A step is at most half a power of w_m off, and rounding moves it a little.
        w_m = PARAMETERS[key][3]
        for u, w in zip(line, widths, strict=True):
            assert w_m**-0.5 / 1.2 < w / u < w_m**0.5 * 1.2
        rows[key] = {"name": TITLES[key], "u": line, "w": widths}
    evidence.computed("rule", rows)


def test_a_flat_line_is_one_stage_and_a_steep_one_has_many() -> None:
    assert regnet_stages(5, 64, 0.0, 2.0, 16) == [(5, 64, 16)]
    assert [w for _, w, _ in regnet_stages(16, 8, 8.0, 2.0, 8)] == [8, 16, 32, 64, 128]


def test_every_width_is_whole_groups_and_no_stage_loses_a_tenth() -> None:
    for w_m in (2.0, 2.2, 2.5, 2.9):
        for group in (8, 24, 56, 168):
            given = 20, 48, 30.0, w_m
            exact = regnet_stages(*given, 1)
            fitted = regnet_stages(*given, group)
            for (_, plain, _), (_, width, g) in zip(exact, fitted, strict=True):
                assert width % g == 0
                assert g == min(group, plain)
                assert width >= 0.9 * plain


def test_the_equation_of_a_block_written_a_second_way_gives_the_same() -> None:
    torch.manual_seed(0)
    block = RegNetBlock(8, 8, group_width=4, se_ratio=0.25).double()
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)

    def bn(y: Tensor) -> Tensor:
        mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), False, True)
        return (y - mean) / (var + 1e-5).sqrt()

    y = bn(F.conv2d(x, block.f.a[0].weight)).clamp(min=0)
    halves = [  # two groups of four channels are two convolutions
        F.conv2d(part, weight, padding=1)
        for part, weight in zip(
            y.split(4, 1), block.f.b[0].weight.split(4), strict=True
        )
    ]
    y = bn(torch.cat(halves, dim=1)).clamp(min=0)
    first, second = block.f.se.fc1, block.f.se.fc2
    z = y.mean((2, 3)) @ first.weight[:, :, 0, 0].T + first.bias
    s = z.clamp(min=0) @ second.weight[:, :, 0, 0].T + second.bias
    y = y / (1 + (-s).exp())[:, :, None, None]
    y = bn(F.conv2d(y, block.f.c[0].weight))
    torch.testing.assert_close(block(x), (x + y).clamp(min=0), rtol=1e-9, atol=1e-9)


def test_without_its_last_norm_a_block_is_the_identity() -> None:
    block, x = RegNetBlock(16, 16, group_width=8), torch.randn(2, 16, 9, 7)
    nn.init.zeros_(block.f.c[1].weight)
    assert torch.equal(block(x), x.relu())


def test_y_is_x_with_squeeze_and_excitation() -> None:
    stages = regnet_stages(*REGNET_Y["400mf"])
    with torch.device("meta"):
        x, y = RegNet(stages).state_dict(), RegNet(stages, 0.25).state_dict()
    assert set(x) < set(y)
    assert all(".f.se." in name for name in set(y) - set(x))


def test_squeeze_widths_are_a_quarter_of_the_blocks_input() -> None:
    with torch.device("meta"):
        model = regnet_y_400mf()
    for stage in model.trunk_output:
        for block in stage:
            squeeze = block.f.se.fc1.out_channels
            assert squeeze == round(block.f.a[0].in_channels / 4)


def test_features_are_the_maps_at_strides_4_to_32_for_any_size() -> None:
    with torch.device("meta"):
        maps = regnet_y_400mf().features(torch.empty(1, 3, 65, 127))
    assert [tuple(m.shape) for m in maps] == [
        (1, 48, 17, 32),
        (1, 104, 9, 16),
        (1, 208, 5, 8),
        (1, 440, 3, 4),
    ]


def test_a_single_pixel_is_an_image() -> None:
    assert regnet_y_400mf(5).eval()(torch.randn(1, 3, 1, 1)).shape == (1, 5)


def test_the_figures_draw_what_the_blocks_compute() -> None:
    found = figure_source("modern/regnet")
    block = RegNetBlock(104, 104, group_width=8, se_ratio=0.25)
    check(found["figure"], block, (SqueezeExcitation,))
    with torch.device("meta"):
        model = regnet_y_400mf()
        maps = model.features(torch.empty(1, 3, 224, 224))
        stem = model.stem(torch.empty(1, 3, 224, 224))
    counts = [len(stage) for stage in model.trunk_output]
    names = [f"{n} block{'s' if n > 1 else ''}" for n in counts]
    sizes = [(m.shape[-1], m.shape[1]) for m in (stem, *maps)]
    assert found["SIZES"][1:] == [
        (*size, name) for size, name in zip(sizes, ["stem", *names], strict=True)
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(regnet_stages, 0, 48, 27.89, 2.09, 8), "got depth=0"),
        (partial(regnet_stages, 16, 50, 27.89, 2.09, 8), "w_0=50"),
        (partial(regnet_stages, 16, 48, -1.0, 2.09, 8), r"w_a=-1\.0"),
        (partial(regnet_stages, 16, 48, 27.89, 1.0, 8), r"w_m > 1, got .*w_m=1\.0"),
        (partial(regnet_stages, 16, 48, 27.89, 2.09, 0), "group_width=0"),
        (partial(RegNetBlock, 8, 20, group_width=8), "whole groups, got width=20"),
        (partial(RegNet, []), r"one block or more, got stages=\[\]"),
        (partial(RegNet, [(0, 8, 8)]), r"stages=\[\(0, 8, 8\)\]"),
        (partial(RegNet, [(1, 8, 8)], num_classes=0), "num_classes=0"),
        (partial(RegNet, [(1, 8, 8)], se_ratio=-0.25), r"se_ratio=-0\.25"),
        (
            lambda: RegNet([(1, 8, 8)])(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), got \(2, 1, 64, 64\)",
        ),
        (lambda: RegNet([(1, 8, 8)])(torch.randn(3, 64, 64)), r"got \(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_a_regnet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
