"""RepVGG is timm's, tensor by tensor; its folded form computes the same."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.figures.check import check, figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import (
    RepVGG,
    RepVGGBlock,
    repvgg_a0,
    repvgg_a1,
    repvgg_a2,
    repvgg_b0,
    repvgg_b1,
    repvgg_b1g4,
    repvgg_b2,
    repvgg_b3,
)

SMALLEST = Variant(repvgg_a0, "RepVGG-A0", "timm.repvgg_a0", match="order")
OTHERS = [
    (repvgg_a1, "RepVGG-A1"),
    (repvgg_a2, "RepVGG-A2"),
    (repvgg_b0, "RepVGG-B0"),
    (repvgg_b1, "RepVGG-B1"),
    (repvgg_b1g4, "RepVGG-B1g4"),
    (repvgg_b2, "RepVGG-B2"),
    (repvgg_b3, "RepVGG-B3"),
]
VARIANTS = [
    SMALLEST,
    *(
        Variant(make, title, f"timm.{make.__name__}", net="slow", match="order")
        for make, title in OTHERS
    ),
]


DEVICE_CASES = {
    "RepVGGBlock": lambda: (RepVGGBlock(16, 16), (torch.randn(2, 16, 9, 12),)),
    "RepVGGBlock, stride 2": lambda: (
        RepVGGBlock(16, 32, stride=2),
        (torch.randn(2, 16, 9, 12),),
    ),
    "repvgg_a0": lambda: (repvgg_a0(num_classes=10), (torch.randn(2, 3, 64, 96),)),
}


def at_random(module: nn.Module) -> nn.Module:
    """In float64 and evaluation mode, with norms that have learnt and seen something."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 1.5)
    return module.double().eval()


def test_shapes_order_and_costs_of_every_size_are_timms_before_and_after(
    evidence,
) -> None:
    rows = {}
    for variant in VARIANTS:
        with torch.device("meta"):
            plain = variant.make().eval().plain()
            cost = model_cost(plain, torch.empty(1, 3, 224, 224))
        folded = {"plain_params": cost.params, "plain_macs": cost.macs}
        rows[variant.key] = {**variant.check_structure(), **folded}
        kinds = {type(part) for part in plain}
        head = {nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear}
        assert kinds == {nn.Conv2d, nn.ReLU} | head
        convolutions = [part for part in plain if isinstance(part, nn.Conv2d)]
        assert {c.kernel_size for c in convolutions} == {(3, 3)}
    evidence.computed("cost", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 48, 64),
    small=lambda: RepVGG((1, 2, 1, 1), 0.25, 0.25, 10),
)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_folded_block_computes_the_same(stride: int, groups: int) -> None:
    block = at_random(RepVGGBlock(8, 8, stride, groups))
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    folded = block.fold()
    assert folded.kernel_size == (3, 3)
    assert folded.bias is not None
    torch.testing.assert_close(folded(x).relu(), block(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_plain_network_computes_the_same(groups: int) -> None:
    torch.manual_seed(0)
    model = at_random(RepVGG((2, 4, 3, 1), 0.25, 0.5, 10, groups))
    x = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    before = model(x)
    after = model.plain()(x)
    assert before.abs().max() > 1e-3
    assert (before - after).abs().max() <= 1e-10 * before.abs().max()


def test_the_kernel_is_the_papers_equations_3_and_4_written_out() -> None:
    block = at_random(RepVGGBlock(4, 4))
    folded = block.fold()
    for i in range(4):  # W' = gamma / sigma W, b' = beta - mu gamma / sigma
        kernel = torch.zeros(4, 3, 3, dtype=torch.float64)
        bias = torch.zeros((), dtype=torch.float64)
        for norm, weight in (
            (block.bn3, block.conv3.weight[i]),
            (block.bn1, F.pad(block.conv1.weight[i], (1, 1, 1, 1))),
            (block.identity, None),
        ):
            ratio = norm.weight[i] / torch.sqrt(norm.running_var[i] + 1e-5)
            bias += norm.bias[i] - norm.running_mean[i] * ratio
            if weight is None:  # only the channel itself, only the centre
                kernel[i, 1, 1] += ratio
            else:
                kernel += ratio * weight
        torch.testing.assert_close(folded.weight[i], kernel, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(folded.bias[i], bias, rtol=1e-12, atol=1e-12)


def test_timms_own_folding_gives_the_same_kernels() -> None:
    byobnet = pytest.importorskip("timm.models.byobnet")
    ours, theirs = at_random(RepVGGBlock(8, 8)), byobnet.RepVggBlock(8, 8)
    values = list(ours.state_dict().values())
    assert len(values) == len(theirs.state_dict())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    theirs.double().eval().reparameterize()
    folded = ours.fold()
    for name in ("weight", "bias"):
        mine, other = getattr(folded, name), getattr(theirs.reparam_conv, name)
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_folding_leaves_the_network_as_it_was() -> None:
    model = at_random(RepVGG((1, 1, 1, 1), 0.25, 0.25, 10))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = model.plain()
    nn.init.zeros_(plain[0].weight)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_in_training_mode_the_plain_network_is_not_the_same() -> None:
    model = at_random(RepVGG((1, 2, 1, 1), 0.25, 0.25, 10))
    x = torch.randn(4, 3, 48, 64, dtype=torch.float64)
    apart = (model.train()(x) - model.plain()(x)).abs().max()
    assert apart > 0.1


@pytest.mark.parametrize(
    ("in_channels", "width", "stride", "branches"),
    [(8, 8, 1, 3), (8, 16, 1, 2), (8, 8, 2, 2)],
)
def test_the_input_is_a_branch_only_where_the_shape_stays(
    in_channels: int, width: int, stride: int, branches: int
) -> None:
    block = RepVGGBlock(in_channels, width, stride)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in block.modules())
    assert norms == branches


def test_the_figures_draw_what_the_block_computes() -> None:
    found = figure_source("modern/repvgg")
    check(found["figure"], RepVGGBlock(48, 48))
    check(found["folded"], nn.Sequential(RepVGGBlock(48, 48).fold(), nn.ReLU()))
    with torch.device("meta"):
        y, sizes = torch.empty(1, 3, 224, 224), []
        for block in repvgg_a0().blocks:
            y = block(y)
            size, depth = (y.shape[-1], y.shape[1]), 1
            if sizes and sizes[-1][:2] == size:
                depth += sizes.pop()[2]
            sizes.append((*size, depth))
    assert found["SIZES"] == sizes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(RepVGG, (2, 4, 14), 1, 1), r"four stages .*, got layers=\(2, 4, 14\)"),
        (partial(RepVGG, (2, 0, 14, 1), 1, 1), r"layers=\(2, 0, 14, 1\)"),
        (partial(repvgg_a0, 0), "num_classes=0"),
        (partial(RepVGG, (1, 1, 1, 1), 0, 1), r"widths=\[0, 0, 0, 512\]"),
        (partial(RepVGG, (1, 1, 1, 1), 1, 1, groups=3), "groups=3"),
        (
            lambda: repvgg_a0()(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), got \(2, 1, 64, 64\)",
        ),
        (lambda: repvgg_a0()(torch.randn(3, 64, 64)), r"got \(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_a_repvgg_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make()


def test_one_pixel_is_enough() -> None:
    scores: Tensor = repvgg_a0(num_classes=10).eval()(torch.randn(2, 3, 1, 1))
    assert scores.shape == (2, 10)
