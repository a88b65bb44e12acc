"""ShuffleNet v2 is torchvision's; its laws are those of a permutation."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnn_site.figures.check import check, figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.modern import (
    ShuffleNetV2,
    ShuffleUnit,
    channel_shuffle,
    shufflenet_v2_x0_5,
    shufflenet_v2_x1_0,
    shufflenet_v2_x1_5,
    shufflenet_v2_x2_0,
)

NAME = "torchvision.models.shufflenet_v2_"
SMALLEST = Variant(shufflenet_v2_x0_5, "ShuffleNet v2 0.5×", NAME + "x0_5")
VARIANTS = [
    SMALLEST,
    Variant(shufflenet_v2_x1_0, "ShuffleNet v2 1×", NAME + "x1_0", net="slow"),
    Variant(shufflenet_v2_x1_5, "ShuffleNet v2 1.5×", NAME + "x1_5", net="slow"),
    Variant(shufflenet_v2_x2_0, "ShuffleNet v2 2×", NAME + "x2_0", net="slow"),
]
PAPER = {  # table 5: FLOPs (they are multiply-adds) and weights, both in millions
    "shufflenet_v2_x0_5": (41, 1.4),
    "shufflenet_v2_x1_0": (146, 2.3),
    "shufflenet_v2_x1_5": (299, 3.5),
    "shufflenet_v2_x2_0": (591, 7.4),
}


DEVICE_CASES = {
    "ShuffleUnit": lambda: (ShuffleUnit(8, 8), (torch.randn(2, 8, 9, 12),)),
    "stride 2": lambda: (ShuffleUnit(8, 12, 2), (torch.randn(2, 8, 9, 12),)),
    "shufflenet_v2_x0_5": lambda: (
        shufflenet_v2_x0_5(num_classes=10),
        (torch.randn(2, 3, 64, 96),),
    ),
}


def test_names_shapes_order_and_costs_of_every_size_are_torchvisions(evidence) -> None:
    rows = {}
    for variant in VARIANTS:
        row = variant.check_structure()
        millions, weights = PAPER[variant.key]
        assert row["macs"] / 1e6 == pytest.approx(millions, rel=0.02)
        assert row["params"] / 1e6 == pytest.approx(weights, abs=0.05)
        with torch.device("meta"):
            model = variant.make()
        stages = (model.stage2, model.stage3, model.stage4)
        widths = [s[-1].branch2[-3].out_channels * 2 for s in stages]
        rows[variant.key] = {**row, "widths": ", ".join(map(str, widths))}
    evidence.computed("cost", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 64, 96),
    small=lambda: ShuffleNetV2((8, 16, 32), 16, num_classes=10, units=(2, 2, 2)),
)


@pytest.mark.parametrize(("channels", "groups"), [(6, 2), (12, 3), (12, 4), (58, 2)])
def test_the_shuffle_is_the_papers_reshape_transpose_flatten(
    channels: int, groups: int
) -> None:
    x = torch.randn(2, channels, 5, 3)
    papers = (
        x.reshape(2, groups, channels // groups, 5, 3).transpose(1, 2).flatten(1, 2)
    )
    assert torch.equal(channel_shuffle(*x.chunk(groups, dim=1)), papers)


@pytest.mark.parametrize(("channels", "groups"), [(6, 2), (12, 3), (116, 2)])
def test_the_shuffle_is_a_permutation_and_has_an_inverse(
    channels: int, groups: int
) -> None:
    numbers = torch.arange(channels).view(1, -1, 1, 1)
    shuffled = channel_shuffle(*numbers.chunk(groups, dim=1))
    assert sorted(shuffled.flatten().tolist()) == list(range(channels))
    back = channel_shuffle(*shuffled.chunk(channels // groups, dim=1))
    assert torch.equal(back, numbers)


def test_after_the_shuffle_every_group_holds_channels_of_every_group() -> None:
    origin = torch.arange(4).repeat_interleave(6).view(1, -1, 1, 1)  # 4 groups of 6
    for group in channel_shuffle(*origin.chunk(4, dim=1)).chunk(4, dim=1):
        assert set(group.flatten().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("shuffled", [True, False])
def test_the_channels_that_pass_untouched_halve_with_every_unit(
    shuffled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shuffled:
        name = "cnn_techniques.modern.shufflenet_v2.channel_shuffle"
        monkeypatch.setattr(name, lambda *groups: torch.cat(groups, dim=1))
    x = torch.randn(1, 64, 5, 7)
    untouched, y = [], x
    for _ in range(6):
        y = ShuffleUnit(64, 64).eval()(y)
        same = (y[0, :, None] == x[0, None]).flatten(2).all(dim=2).any(dim=1)
        untouched.append(int(same.sum()))
    # The paper: r^j c channels are connected directly over j units.
    assert untouched == ([32, 16, 8, 4, 2, 1] if shuffled else [32] * 6)


def test_the_equations_written_a_second_way_give_the_same() -> None:
    torch.manual_seed(0)
    unit = ShuffleUnit(8, 8).double().eval()
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    first, _, _, deep, _, last, _, _ = unit.branch2
    scale = (1 + 1e-5) ** -0.5  # of a norm in evaluation, as it is made
    y = torch.einsum("nchw,dc->ndhw", x[:, 4:], first.weight[:, :, 0, 0]) * scale
    y = F.pad(y.clamp(min=0), (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
    y = torch.einsum("nchwij,cij->nchw", y, deep.weight[:, 0]) * scale
    y = torch.einsum("nchw,dc->ndhw", y, last.weight[:, :, 0, 0]) * scale
    expected = torch.empty_like(x)
    expected[:, 0::2], expected[:, 1::2] = x[:, :4], y.clamp(min=0)
    torch.testing.assert_close(unit(x), expected, rtol=1e-10, atol=1e-10)


def accesses(pixels: int, c1: float, c2: float, groups: int = 1) -> float:
    """Memory access cost of a 1x1 convolution: the paper's equation 2."""
    return pixels * (c1 + c2) + c1 * c2 / groups


@pytest.mark.parametrize("ratio", [1, 2, 6, 12])
def test_guideline_1_equal_widths_need_the_fewest_accesses(ratio: int) -> None:
    pixels, product = 56**2, 128**2
    c1 = (product / ratio) ** 0.5
    macs = pixels * product
    bound = 2 * (pixels * macs) ** 0.5 + macs / pixels  # the paper's equation 1
    cost = accesses(pixels, c1, ratio * c1)
    assert cost == pytest.approx(bound) if ratio == 1 else cost > bound


def test_guideline_2_more_groups_need_more_accesses_for_the_same_arithmetic() -> None:
    pixels, c1, product = 56**2, 128, 128**2
    costs = [accesses(pixels, c1, product * g / c1, g) for g in (1, 2, 4, 8)]
    assert costs == sorted(costs)
    assert len(set(costs)) == 4


def test_a_unit_keeps_the_guidelines_it_was_made_for() -> None:
    unit = ShuffleUnit(116, 116)
    convs = [m for m in unit.modules() if isinstance(m, nn.Conv2d)]
    assert all(c.in_channels == c.out_channels for c in convs)  # G1
    assert all(c.groups in (1, c.in_channels) for c in convs)  # G2
    assert len(convs) == 3  # G3
    assert sum(isinstance(m, nn.ReLU) for m in unit.modules()) == 2  # G4


def test_features_are_the_maps_at_strides_8_to_32_for_any_size() -> None:
    with torch.device("meta"):
        maps = shufflenet_v2_x1_0().features(torch.empty(1, 3, 65, 127))
    assert [tuple(m.shape) for m in maps] == [
        (1, 116, 9, 16),
        (1, 232, 5, 8),
        (1, 464, 3, 4),
    ]


def test_a_single_pixel_is_an_image() -> None:
    assert shufflenet_v2_x0_5(5).eval()(torch.randn(1, 3, 1, 1)).shape == (1, 5)


def test_the_figures_draw_what_the_units_compute() -> None:
    found = figure_source("modern/shufflenet-v2")
    check(found["figure"], ShuffleUnit(116, 116))
    check(found["down"], ShuffleUnit(24, 116, stride=2))
    with torch.device("meta"):
        model, x = shufflenet_v2_x1_0(), torch.empty(1, 3, 224, 224)
        maps = model.features(x)
        ends = [model.maxpool(model.conv1(x)), *maps, model.conv5(maps[-1])]
    assert [size[:2] for size in found["SIZES"][1:]] == [
        (m.shape[-1], m.shape[1]) for m in ends
    ]
    names = [f"{len(model.get_submodule(f'stage{n}'))} units" for n in (2, 3, 4)]
    assert [size[2] for size in found["SIZES"][2:5]] == names


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(ShuffleUnit, 8, 7, 2), "two equal halves, got out_channels=7"),
        (partial(ShuffleUnit, 8, 0, 2), "out_channels=0"),
        (partial(ShuffleUnit, 8, 12), "stride 2, or 1 and equal widths, got in_ch"),
        (partial(ShuffleUnit, 8, 8, 3), "stride=3"),
        (partial(ShuffleNetV2, (48, 96)), r"three stages, got widths=\(48, 96\)"),
        (partial(ShuffleNetV2, (4, 4, 4), units=(1, 0, 1)), r"units=\(1, 0, 1\)"),
        (partial(ShuffleNetV2, (4, 4, 4), num_classes=0), "num_classes=0"),
        (
            lambda: shufflenet_v2_x0_5()(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), got \(2, 1, 64, 64\)",
        ),
        (lambda: shufflenet_v2_x0_5()(torch.randn(3, 64, 64)), r"got \(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_a_shufflenet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
