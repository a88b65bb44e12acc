"""GhostNet is timm's, tensor by tensor; half of every ghost module's maps are ghosts."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnn_site.figures.check import check, figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.attention import SqueezeExcitation
from cnn_techniques.modern import (
    GHOSTNET_BLOCKS,
    GhostBottleneck,
    GhostModule,
    GhostNet,
    ghostnet_050,
    ghostnet_100,
    ghostnet_130,
)

# timm applies dropout as a function, at a rate that only this argument sets.
still = {"drop_rate": 0.0}
by_order = partial(Variant, match="order", options=still)
SMALLEST = by_order(ghostnet_050, "GhostNet 0.5×", "timm.ghostnet_050")
VARIANTS = [
    SMALLEST,
    by_order(ghostnet_100, "GhostNet 1.0×", "timm.ghostnet_100", net="slow"),
    by_order(ghostnet_130, "GhostNet 1.3×", "timm.ghostnet_130", net="slow"),
]


DEVICE_CASES = {
    "GhostModule": lambda: (GhostModule(16, 24), (torch.randn(2, 16, 9, 12),)),
    "GhostBottleneck": lambda: (
        GhostBottleneck(16, 48, 24, stride=2, gated=True),
        (torch.randn(2, 16, 9, 12),),
    ),
    "ghostnet_050": lambda: (
        GhostNet(10, width=0.5, dropout=0.0),
        (torch.randn(2, 3, 64, 96),),
    ),
}


def test_shapes_order_and_costs_of_every_width_are_timms(evidence) -> None:
    evidence.computed("cost", {v.key: v.check_structure() for v in VARIANTS})


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 48, 64),
    small=lambda: GhostNet(num_classes=10, width=0.5),
)


@pytest.mark.parametrize("ratio", [2, 3])
def test_the_ghosts_are_what_equation_3_makes_of_each_intrinsic_map(ratio: int) -> None:
    module = GhostModule(6, 12, relu=False, ratio=ratio).double().eval()
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    y, m = module(x), 12 // ratio
    norm = (1 + module.cheap[1].eps) ** -0.5
    intrinsic = module.primary(x)
    assert torch.equal(y[:, :m], intrinsic)  # the last operation is the identity
    filters = module.cheap[0].weight
    for i in range(m):
        for j in range(ratio - 1):
            k = i * (ratio - 1) + j
            ghost = F.conv2d(intrinsic[:, i : i + 1], filters[k : k + 1], padding=1)
            torch.testing.assert_close(y[:, m + k : m + k + 1], norm * ghost)


def test_no_ghost_depends_on_another_intrinsic_map_than_its_own() -> None:
    module = GhostModule(4, 8).eval()
    intrinsic = torch.randn(1, 4, 9, 7)
    other = intrinsic.clone()
    other[:, 1] += 1
    changed = (module.cheap(other) != module.cheap(intrinsic)).any(dim=(0, 2, 3))
    assert changed.tolist() == [False, True, False, False]


def test_the_speed_up_over_a_convolution_is_that_of_section_3_1() -> None:
    c, n, s, d = 40, 120, 2, 3
    convs = [
        m for m in GhostModule(c, n, ratio=s).modules() if isinstance(m, nn.Conv2d)
    ]
    ours = sum(m.weight.numel() for m in convs)
    full = n * c
    assert full / ours == pytest.approx(n * c / (n / s * c + (s - 1) * n / s * d * d))
    assert full / ours == pytest.approx(1.63, abs=0.01)


def test_an_odd_number_of_channels_drops_the_ghost_that_is_too_many() -> None:
    assert GhostModule(6, 7)(torch.randn(2, 6, 9, 7)).shape == (2, 7, 9, 7)


def test_at_stride_1_no_convolution_looks_at_neighbours_but_for_the_ghosts() -> None:
    convs = [
        m
        for m in GhostBottleneck(40, 120, 40, kernel_size=5).modules()
        if isinstance(m, nn.Conv2d)
    ]
    assert [m.kernel_size for m in convs if m.groups > 1] == [(3, 3), (3, 3)]
    assert all(m.kernel_size == (1, 1) for m in convs if m.groups == 1)


def test_a_bottleneck_whose_last_norms_are_zero_is_the_identity_below_zero_too() -> (
    None
):
    block, x = GhostBottleneck(16, 32, 16, gated=True), torch.randn(2, 16, 9, 7)
    last = block.branch[-1]
    for norm in (last.primary[1], last.cheap[1]):
        nn.init.zeros_(norm.weight)
    assert torch.equal(block(x), x)
    assert (x < 0).any()


def test_the_gates_squeeze_to_a_quarter_and_stand_where_the_table_says() -> None:
    with torch.device("meta"):
        blocks = ghostnet_100().blocks
    for block, (_, width, _, gated, _) in zip(blocks, GHOSTNET_BLOCKS, strict=True):
        gates = [m for m in block.modules() if isinstance(m, SqueezeExcitation)]
        assert len(gates) == gated
        for gate in gates:  # a quarter, in steps of 4
            assert abs(gate.fc1.out_channels - width / 4) <= 2
            assert gate.fc1.out_channels % 4 == 0


def test_the_width_multiplies_all_channels_but_those_of_the_last_two_layers() -> None:
    for width in (0.5, 1.0, 1.3, 2.0):
        with torch.device("meta"):
            model = GhostNet(width=width)
        for block, (_, _, out, _, _) in zip(model.blocks, GHOSTNET_BLOCKS, strict=True):
            channels = block.branch[-1].out_channels
            assert channels % 4 == 0
            assert channels >= 0.9 * out * width
            assert abs(channels - out * width) <= 4
        assert model.head[0].out_channels == 1280


def test_dropout_zeroes_a_fifth_of_the_features_in_training_only() -> None:
    model, x = GhostNet(num_classes=10, width=0.5), torch.randn(16, 3, 32, 32)
    model.head[-1] = nn.Identity()
    kept = model.train()(x).ne(0).double().mean()
    model.head[3].p = 0.0
    alive = model(x).ne(0).double().mean()
    assert kept / alive == pytest.approx(0.8, abs=0.05)
    model.head[3].p = 0.2
    assert torch.equal(model.eval()(x), model(x))


def test_the_figures_draw_what_the_blocks_compute() -> None:
    found = figure_source("modern/ghostnet")
    check(found["figure"], GhostModule(16, 64))
    check(found["bottleneck"], GhostBottleneck(16, 48, 24, 3, 2), (GhostModule,))
    with torch.device("meta"):
        model = ghostnet_100()
        x = model.stem(torch.empty(1, 3, 224, 224))
        sizes = {}
        for block in model.blocks:
            x = block(x)
            sizes[x.shape[-1]] = x.shape[1]
    assert [(s, c) for s, c, _ in found["SIZES"][1:]] == list(sizes.items())
    counts = [2]  # the stem and the first block
    for *_, stride in GHOSTNET_BLOCKS[1:]:
        counts = [*counts, 1] if stride == 2 else [*counts[:-1], counts[-1] + 1]
    assert [int(name.split()[0]) for _, _, name in found["SIZES"][1:]] == counts


def test_a_single_pixel_is_enough() -> None:
    model = GhostNet(num_classes=10, width=0.5).eval()
    assert model(torch.randn(1, 3, 1, 1)).shape == (1, 10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ghostnet_050(0), "num_classes=0"),
        (lambda: GhostNet(10, width=0.0), "width=0.0"),
        (lambda: GhostNet(10, in_channels=0), "in_channels=0"),
        (lambda: GhostModule(16, 0), "out_channels=0"),
        (lambda: GhostModule(16, 16, cheap_size=4), "odd kernel, got .*cheap_size=4"),
        (
            lambda: GhostNet(10, 0.5)(torch.empty(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), got \(2, 1, 64, 64\)",
        ),
        (lambda: GhostNet(10, 0.5)(torch.empty(3, 64, 64)), r"got \(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_a_ghostnet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
