"""ResNet is torchvision's, tensor by tensor; its laws are those of a residual."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.equivalence import compare
from cnn_site.figures.check import check, figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant, reference
from cnn_techniques.attention import SqueezeExcitation
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import (
    BasicBlock,
    Bottleneck,
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)

SMALLEST = Variant(resnet18, "ResNet-18", "torchvision.models.resnet18")
VARIANTS = [
    SMALLEST,
    Variant(resnet34, "ResNet-34", "torchvision.models.resnet34", net="slow"),
    Variant(resnet50, "ResNet-50", "torchvision.models.resnet50"),
    Variant(resnet101, "ResNet-101", "torchvision.models.resnet101", net="slow"),
    Variant(resnet152, "ResNet-152", "torchvision.models.resnet152", net="slow"),
]


DEVICE_CASES = {
    "BasicBlock": lambda: (BasicBlock(16, 32, stride=2), (torch.randn(2, 16, 9, 12),)),
    "Bottleneck": lambda: (Bottleneck(64, 16), (torch.randn(2, 64, 9, 12),)),
    "resnet18": lambda: (resnet18(num_classes=10), (torch.randn(2, 3, 64, 96),)),
}


def se(channels: int) -> SqueezeExcitation:
    return SqueezeExcitation(channels, max(8, channels // 16))


def test_names_shapes_order_and_costs_of_every_size_are_torchvisions(evidence) -> None:
    rows = {}
    for variant in VARIANTS:
        with torch.device("meta"):
            model = variant.make()
        kind = "bottleneck" if isinstance(model.layer1[0], Bottleneck) else "basic"
        layers = ", ".join(str(len(getattr(model, stage))) for stage in model.stages)
        rows[variant.key] = {
            **variant.check_structure(),
            "block": kind,
            "layers": layers,
        }
    evidence.computed("cost", rows)


def test_multiply_adds_with_the_stride_where_the_paper_has_it(evidence) -> None:
    with torch.device("meta"):
        model, image = resnet50().eval(), torch.empty(1, 3, 224, 224)
    ours = model_cost(model, image)
    for block in model.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    paper = model_cost(model, image)
    assert paper.macs / 1e9 == pytest.approx(3.8, abs=0.1)  # the paper's table 1
    rows = {"here": {"name": "3x3", "macs": ours.macs}}
    rows["paper"] = {"name": "first 1x1", "macs": paper.macs}
    evidence.computed("stride", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 48, 64),
    small=lambda: ResNet(Bottleneck, (1, 2, 1, 1), num_classes=10, width=8),
)


@pytest.mark.slow
def test_with_squeeze_and_excitation_it_computes_what_timms_seresnet_computes(
    evidence,
) -> None:
    ours = ResNet(BasicBlock, (2, 2, 2, 2), attention=se)
    result = compare(
        ours, reference("timm.seresnet18"), torch.randn(2, 3, 48, 64), match="order"
    )
    settings = "attention=SqueezeExcitation(C, max(8, C // 16))"
    evidence.equivalent(
        "se-resnet18",
        result,
        reference="timm.create_model('seresnet18')",
        settings=settings,
    )


def test_the_equations_written_a_second_way_give_the_same() -> None:
    block, x = (
        BasicBlock(8, 16, stride=2).double(),
        torch.randn(2, 8, 9, 7, dtype=torch.float64),
    )

    def bn(y: Tensor) -> Tensor:
        mean, var = (
            y.mean((0, 2, 3), keepdim=True),
            y.var((0, 2, 3), correction=0, keepdim=True),
        )
        return (y - mean) / (var + 1e-5).sqrt()

    y = bn(F.conv2d(x, block.conv1.weight, stride=2, padding=1)).clamp(min=0)
    y = bn(F.conv2d(y, block.conv2.weight, padding=1))
    projected = bn(
        torch.einsum(
            "nchw,dc->ndhw", x[:, :, ::2, ::2], block.downsample[0].weight[:, :, 0, 0]
        )
    )
    torch.testing.assert_close(
        block(x), (y + projected).clamp(min=0), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(
    ("block", "last"), [(BasicBlock(16, 16), "bn2"), (Bottleneck(64, 16), "bn3")]
)
def test_a_branch_whose_last_norm_is_zero_leaves_the_identity(
    block: nn.Module, last: str
) -> None:
    nn.init.zeros_(block.get_submodule(last).weight)
    x = torch.randn(2, 64 if last == "bn3" else 16, 9, 7)
    assert torch.equal(block(x), x.relu())


@pytest.mark.parametrize(
    ("blocks", "millions"), [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85), (18, 1.7)]
)
def test_small_images_get_the_networks_of_the_papers_section_4_2(
    blocks: int, millions: float
) -> None:
    with torch.device("meta"):
        model = ResNet(
            BasicBlock, [blocks] * 3, num_classes=10, width=16, small_images=True
        )
        maps = model.features(torch.empty(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (16, 32, 32),
        (32, 16, 16),
        (64, 8, 8),
    ]
    weighted = sum(
        isinstance(m, nn.Conv2d | nn.Linear) and m.weight.shape[-1] != 1
        for m in model.modules()
    )
    assert weighted == 6 * blocks + 2  # the paper counts no projections
    shortcuts = sum(p.numel() for n, p in model.named_parameters() if "downsample" in n)
    assert sum(p.numel() for p in model.parameters()) - shortcuts == pytest.approx(
        millions * 1e6, rel=0.02
    )


def test_features_are_the_maps_at_strides_4_to_32_for_any_size() -> None:
    with torch.device("meta"):
        maps = resnet50().features(torch.empty(1, 3, 65, 127))
    assert [tuple(m.shape) for m in maps] == [
        (1, 256, 17, 32),
        (1, 512, 9, 16),
        (1, 1024, 5, 8),
        (1, 2048, 3, 4),
    ]


def test_attention_acts_on_the_branch_and_leaves_the_shortcut_alone() -> None:
    class Mute(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * x

    x = torch.randn(2, 16, 9, 7)
    assert torch.equal(
        BasicBlock(16, 16, attention=lambda channels: Mute())(x), x.relu()
    )
    widths: list[int] = []
    with torch.device("meta"):
        ResNet(
            Bottleneck,
            (1, 1),
            attention=lambda channels: widths.append(channels) or nn.Identity(),
        )
    assert widths == [256, 512]


def test_the_figures_draw_what_the_blocks_compute() -> None:
    found = figure_source("modern/resnet")
    check(found["basic"], BasicBlock(64, 64))
    check(found["bottleneck"], Bottleneck(256, 128, stride=2))
    with torch.device("meta"):
        model = resnet50()
        maps = model.features(torch.empty(1, 3, 224, 224))
    sizes = [
        (m.shape[-1], m.shape[1], f"{len(getattr(model, s))} blocks")
        for m, s in zip(maps, model.stages, strict=True)
    ]
    assert found["SIZES"][2:] == sizes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(ResNet, BasicBlock, ()), r"one block or more, got layers=\(\)"),
        (partial(ResNet, BasicBlock, (2, 0)), r"layers=\(2, 0\)"),
        (partial(ResNet, BasicBlock, (1,), num_classes=0), "num_classes=0"),
        (partial(ResNet, BasicBlock, (1,), width=0), "width=0"),
        (
            lambda: resnet18()(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), got \(2, 1, 64, 64\)",
        ),
        (lambda: resnet18()(torch.randn(3, 64, 64)), r"got \(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_a_resnet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- the record


class PlainBlock(BasicBlock):
    """The same two convolutions without the shortcut: the paper's plain network."""

    def __init__(
        self, in_channels: int, width: int, stride: int = 1, attention: None = None
    ) -> None:
        super().__init__(in_channels, width, stride)
        self.downsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)))


def train_one(
    depth: int, shortcuts: bool, width: int, epochs: int, batch_size: int, seed: int
) -> dict[str, object]:
    from cnn_lab.data import digits
    from cnn_lab.fit import accuracy, fit, steps

    torch.manual_seed(seed)
    block = BasicBlock if shortcuts else PlainBlock
    model = ResNet(
        block, [(depth - 2) // 6] * 3, 10, width, in_channels=1, small_images=True
    )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4
    )
    total = steps(1200, epochs=epochs, batch_size=batch_size)
    schedule = torch.optim.lr_scheduler.MultiStepLR(
        optimizer, [total // 2, total * 3 // 4]
    )
    history = fit(
        model,
        digits("train"),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        schedule=schedule,
        seed=seed,
    )
    return {
        "accuracy": accuracy(model, *digits("test")),
        "curve": [epoch["loss"] for epoch in history],
    }


def train_all(
    depths: list[int], width: int, epochs: int, batch_size: int, seeds: list[int]
) -> dict[str, object]:
    from cnn_lab.record import interval, paired, repeat

    common = {"width": width, "epochs": epochs, "batch_size": batch_size}
    arms = {
        f"{kind}{depth}": {"depth": depth, "shortcuts": kind == "residual", **common}
        for depth in depths
        for kind in ("plain", "residual")
    }
    cache = Path(__file__).parents[2] / ".cache" / "record" / "resnet.jsonl"
    results = repeat(train_one, arms, seeds, cache)
    accuracies = {
        arm: [run["accuracy"] for run in runs] for arm, runs in results.items()
    }
    rows = {
        arm: {
            "name": f"{'Residual' if arms[arm]['shortcuts'] else 'Plain'}, {arms[arm]['depth']} layers",
            "accuracy": {**interval(accuracies[arm]), "values": accuracies[arm]},
            "loss": interval([run["curve"][-1] for run in runs]),
            "curve": [run["curve"] for run in runs],
        }
        for arm, runs in results.items()
    }
    pairs = {}
    for depth in depths:
        pair = paired(accuracies[f"residual{depth}"], accuracies[f"plain{depth}"])
        pairs[str(depth)] = {"name": f"residual - plain, {depth} layers", **pair}
    return {"seeds": len(seeds), "arms": rows, "paired": pairs}


@pytest.mark.record
def test_record_digits_with_and_without_shortcuts_at_two_depths(evidence) -> None:
    arguments = {
        "depths": [20, 56],
        "width": 8,
        "epochs": 15,
        "batch_size": 128,
        "seeds": [0, 1, 2, 3, 4],
    }
    result = evidence.measured("digits", arguments=arguments, run=train_all)
    assert (
        result["arms"]["residual20"]["accuracy"]["mean"] > 0.9
    )  # it learns the digits
