"""ResNeXt is torchvision's, tensor by tensor; its groups are the paper's sum of paths."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.figures.check import check, figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.modern import (
    Bottleneck,
    ResNet,
    ResNeXtBlock,
    resnet50,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
)

SMALLEST = Variant(
    resnext50_32x4d, "ResNeXt-50 (32×4d)", "torchvision.models.resnext50_32x4d"
)
VARIANTS = [
    SMALLEST,
    Variant(
        resnext101_32x8d,
        "ResNeXt-101 (32×8d)",
        "torchvision.models.resnext101_32x8d",
        net="slow",
    ),
    Variant(
        resnext101_64x4d,
        "ResNeXt-101 (64×4d)",
        "torchvision.models.resnext101_64x4d",
        net="slow",
    ),
]


DEVICE_CASES = {
    "ResNeXtBlock": lambda: (
        ResNeXtBlock(64, 32, stride=2),
        (torch.randn(2, 64, 9, 12),),
    ),
    "resnext50_32x4d": lambda: (
        resnext50_32x4d(num_classes=10),
        (torch.randn(2, 3, 64, 96),),
    ),
}

PATHS = [(1, 64), (2, 40), (4, 24), (8, 14), (32, 4)]  # the paper's table 2: C and d


def block_of(groups: int, width_per_group: int) -> type[ResNeXtBlock]:
    sizes = {"groups": groups, "width_per_group": width_per_group}
    return type("Block", (ResNeXtBlock,), sizes)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def test_names_shapes_order_and_costs_of_every_size_are_torchvisions(evidence) -> None:
    rows = {}
    for variant in VARIANTS:
        with torch.device("meta"):
            model = variant.make()
        middle = model.layer1[0].conv2
        sizes = {
            "paths": middle.groups,
            "each": middle.out_channels // middle.groups,
            "inner": middle.out_channels,
        }
        rows[variant.key] = {**variant.check_structure(), **sizes}
    plain = Variant(
        resnet50, "ResNet-50", "torchvision.models.resnet50"
    ).check_structure()
    plain.pop("net")  # not of this family
    rows["resnet50"] = {**plain, "paths": 1, "each": 64, "inner": 64}
    evidence.computed("cost", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 48, 64),
    small=lambda: ResNet(ResNeXtBlock, (1, 2, 1, 1), num_classes=10, width=16),
)


def test_groups_are_the_sum_of_paths_of_the_papers_equation_2() -> None:
    block = ResNeXtBlock(64, 32, stride=2).double()
    x = torch.randn(2, 64, 9, 7, dtype=torch.float64)

    def bn(y: Tensor) -> Tensor:
        mean = y.mean((0, 2, 3), keepdim=True)
        var = y.var((0, 2, 3), correction=0, keepdim=True)
        return (y - mean) / (var + 1e-5).sqrt()

    total = torch.zeros(2, 128, 5, 4, dtype=torch.float64)
    for path in range(32):  # T_i: 64 -> 2 -> 2 -> 128 channels, its own three weights
        own = slice(2 * path, 2 * path + 2)
        y = bn(F.conv2d(x, block.conv1.weight[own])).relu()
        y = bn(F.conv2d(y, block.conv2.weight[own], stride=2, padding=1)).relu()
        total += F.conv2d(y, block.conv3.weight[:, own])
    shortcut = bn(F.conv2d(x, block.downsample[0].weight, stride=2))
    torch.testing.assert_close(
        block(x), (bn(total) + shortcut).relu(), rtol=1e-10, atol=1e-10
    )


def test_a_path_sees_nothing_of_the_other_paths() -> None:
    middle = ResNeXtBlock(256, 64).conv2
    x = torch.randn(1, 128, 5, 5, requires_grad=True)
    middle(x)[0, 4:8].sum().backward()  # the second path
    touched = x.grad[0].abs().sum(dim=(1, 2)).nonzero().flatten().tolist()
    assert touched == [4, 5, 6, 7]


def test_one_path_of_64_channels_is_resnets_bottleneck() -> None:
    ours, theirs = block_of(1, 64)(64, 64, 2), Bottleneck(64, 64, 2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 64, 9, 7)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(("paths", "each"), PATHS)
def test_every_template_of_the_papers_table_2_costs_about_the_same(
    paths: int, each: int
) -> None:
    weights = sum(
        c.weight.numel() for c in convolutions(block_of(paths, each)(256, 64))
    )
    assert weights == paths * (256 * each + 3 * 3 * each * each + each * 256)
    assert weights == pytest.approx(70e3, rel=0.03)  # the paper's "about 70k"


@pytest.mark.parametrize(("paths", "millions"), [(8, 34.4), (16, 68.1)])
def test_the_networks_for_cifar_have_the_parameters_of_the_papers_table_7(
    paths: int, millions: float
) -> None:
    with torch.device("meta"):
        model = ResNet(block_of(paths, 64), (3, 3, 3), 10, small_images=True)
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=0.06)


def test_the_widths_of_paths_double_from_stage_to_stage() -> None:
    with torch.device("meta"):
        model = resnext101_32x8d()
    for number, name in enumerate(model.stages):
        for block in model.get_submodule(name):
            assert block.conv2.groups == 32
            assert block.conv2.out_channels == 32 * 8 * 2**number


class add(nn.Module):  # named as the figure's box
    def forward(self, *results: Tensor) -> Tensor:
        return torch.stack(results).sum(dim=0)


class ThreePaths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for number in range(3):
            first = [nn.Conv2d(256, 4, 1), nn.BatchNorm2d(4), nn.ReLU()]
            second = [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
            path = nn.Sequential(*first, *second, nn.Conv2d(4, 256, 1))
            self.add_module(f"path{number}", path)
        self.merge = add()

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.path0(x), self.path1(x), self.path2(x))


def test_the_figures_draw_what_the_block_computes() -> None:
    found = figure_source("modern/resnext")
    check(found["figure"], ResNeXtBlock(256, 64))
    check(found["paths"], ThreePaths(), leaves=(add,))
    with torch.device("meta"):
        model = resnext50_32x4d()
        maps = model.features(torch.empty(1, 3, 224, 224))
    middles = [getattr(model, name)[0].conv2 for name in model.stages]
    stages = [
        (m.shape[-1], m.shape[1], c.groups, c.out_channels // c.groups)
        for m, c in zip(maps, middles, strict=True)
    ]
    assert found["STAGES"] == stages


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNeXtBlock(64, 8), r"each path, got width=8 with width_per_group=4"),
        (lambda: ResNet(ResNeXtBlock, (1,), width=15), "width=15"),
        (lambda: resnext50_32x4d(num_classes=0), "num_classes=0"),
        (
            lambda: resnext50_32x4d()(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), got \(2, 1, 64, 64\)",
        ),
        (lambda: resnext50_32x4d()(torch.randn(3, 64, 64)), r"got \(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_a_resnext_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make()


def test_one_pixel_is_enough() -> None:
    assert resnext50_32x4d(num_classes=10).eval()(torch.randn(2, 3, 1, 1)).shape == (
        2,
        10,
    )
