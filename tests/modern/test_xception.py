"""Xception is timm's, tensor by tensor; its convolutions are full ones of rank one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.figures.check import check, figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.modern import (
    XCEPTION_FLOWS,
    Xception,
    XceptionBlock,
    XceptionSeparable,
    xception,
)

SMALLEST = Variant(
    xception, "Xception", "timm.legacy_xception", pixels=299, match="order"
)
VARIANTS = [SMALLEST]


DEVICE_CASES = {
    "XceptionSeparable": lambda: (
        XceptionSeparable(16, 24),
        (torch.randn(2, 16, 9, 12),),
    ),
    "XceptionBlock": lambda: (
        XceptionBlock((16, 24, 24), stride=2),
        (torch.randn(2, 16, 9, 12),),
    ),
    "xception": lambda: (Xception(10, dropout=0.0), (torch.randn(2, 3, 64, 96),)),
}


def test_shapes_order_and_costs_are_timms(evidence) -> None:
    evidence.computed("cost", {v.key: v.check_structure() for v in VARIANTS})


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 24, 40),
    small=lambda: xception(num_classes=10),
    small_images=(2, 3, 48, 64),
)


def test_the_parameters_are_those_of_the_papers_table_3() -> None:
    with torch.device("meta"):
        model = xception()
    assert sum(p.numel() for p in model.parameters()) == 22_855_952


def test_36_convolutional_layers_in_14_modules_as_section_3_counts() -> None:
    with torch.device("meta"):
        model = xception()
    blocks = [m for m in model.modules() if isinstance(m, XceptionBlock)]
    separable = [m for m in model.modules() if isinstance(m, XceptionSeparable)]
    assert len(blocks) + 2 == 14  # the first and the last module have no shortcut
    assert len(separable) + 2 == 36  # and the stem's two


def test_a_separable_convolution_is_a_full_one_whose_filters_have_rank_one() -> None:
    layer, x = XceptionSeparable(6, 5).double(), torch.randn(2, 6, 9, 7).double()
    full = torch.einsum(
        "dc,chw->dchw", layer.pointwise.weight[:, :, 0, 0], layer.depthwise.weight[:, 0]
    )
    torch.testing.assert_close(layer(x), F.conv2d(x, full, padding=1))


@pytest.mark.parametrize("segments", [1, 3, 12])
def test_towers_of_an_inception_module_are_one_grouped_convolution(
    segments: int,
) -> None:
    """Figures 2, 3 and 4 of the paper: one segment for each channel is the extreme."""
    width = 12 // segments
    x = torch.randn(2, 8, 9, 7)
    mixes = [torch.randn(width, 8, 1, 1) for _ in range(segments)]
    spaces = [torch.randn(width, width, 3, 3) for _ in range(segments)]
    towers = [
        F.conv2d(F.conv2d(x, mix), space, padding=1)
        for mix, space in zip(mixes, spaces, strict=True)
    ]
    joined = F.conv2d(
        F.conv2d(x, torch.cat(mixes)), torch.cat(spaces), padding=1, groups=segments
    )
    torch.testing.assert_close(torch.cat(towers, dim=1), joined, rtol=1e-4, atol=1e-4)


def test_a_middle_block_whose_last_norm_is_zero_is_the_identity_even_below_zero() -> (
    None
):
    block, x = XceptionBlock((16, 16, 16, 16)), torch.randn(2, 16, 9, 7)
    nn.init.zeros_(block.branch[-1].weight)
    assert torch.equal(block(x), x)  # no ReLU follows the sum
    assert (x < 0).any()


def test_the_branch_leaves_what_the_shortcut_reads_as_it_was() -> None:
    x = torch.randn(2, 16, 9, 7)
    before = x.clone()
    XceptionBlock((16, 24, 24), stride=2)(x)
    assert torch.equal(x, before)


def test_no_pixel_sees_its_neighbours_but_through_its_own_channel() -> None:
    layer, x = XceptionSeparable(4, 4), torch.zeros(1, 4, 7, 7)
    x[0, 2, 3, 3] = 1
    spread = layer.depthwise(x).abs().sum(dim=(0, 2, 3))
    assert spread[2] > 0
    assert spread[[0, 1, 3]].eq(0).all()


def test_dropout_zeroes_half_of_the_features_in_training_only() -> None:
    model = Xception(num_classes=10)
    model.fc = nn.Identity()
    x = torch.randn(4, 3, 32, 32)
    kept = model.train()(x).ne(0).double().mean()
    still = model.eval()(x).ne(0).double().mean()
    assert 0.35 < kept / still < 0.65


def test_the_figures_draw_what_the_blocks_compute() -> None:
    found = figure_source("modern/xception")
    check(found["figure"], XceptionBlock((64, 128, 128), 2, relu_first=False))
    with torch.device("meta"):
        model, x = xception().eval(), torch.empty(1, 3, 299, 299)
        maps = [x, model.conv2(model.conv1(x))]
        for flow in XCEPTION_FLOWS:
            maps.append(model.get_submodule(flow)(maps[-1]))
        maps.append(model.features(x))
    assert [(m.shape[-1], m.shape[1]) for m in maps] == [
        (size, channels) for size, channels, _ in found["SIZES"]
    ]


def test_seven_pixels_are_enough() -> None:
    assert Xception(num_classes=10).eval()(torch.randn(1, 3, 7, 7)).shape == (1, 10)


def refused(x: Tensor) -> Callable[[], object]:
    return lambda: Xception(num_classes=2)(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: xception(0), "num_classes=0"),
        (lambda: Xception(10, in_channels=0), "in_channels=0"),
        (refused(torch.empty(2, 1, 64, 64)), r"expected \(N, 3, H, W\).*\(2, 1, 64"),
        (refused(torch.empty(3, 64, 64)), r"got \(3, 64, 64\)"),
        (refused(torch.empty(2, 3, 6, 64)), r"of 7 or more, got \(2, 3, 6, 64\)"),
        (refused(torch.empty(2, 3, 64, 6)), r"of 7 or more, got \(2, 3, 64, 6\)"),
    ],
)
def test_what_cannot_be_an_xception_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
