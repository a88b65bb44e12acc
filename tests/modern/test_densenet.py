"""DenseNet is torchvision's, tensor by tensor; its laws are those of concatenation."""

import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.figures.check import check, figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.modern import (
    DenseBlock,
    DenseLayer,
    DenseNet,
    Transition,
    densenet121,
    densenet161,
    densenet169,
    densenet201,
    densenet264,
)

TORCHVISION = "torchvision.models."
SMALLEST = Variant(densenet121, "DenseNet-121", TORCHVISION + "densenet121")
VARIANTS = [
    SMALLEST,
    Variant(densenet169, "DenseNet-169", TORCHVISION + "densenet169", net="slow"),
    Variant(densenet201, "DenseNet-201", TORCHVISION + "densenet201", net="slow"),
    Variant(densenet161, "DenseNet-161", TORCHVISION + "densenet161", net="slow"),
    Variant(
        densenet264,
        "DenseNet-264",
        TORCHVISION + "DenseNet",  # has no function for it
        net="slow",
        options={"block_config": (6, 12, 64, 48), "growth_rate": 32},
    ),
]


DEVICE_CASES = {
    "DenseBlock": lambda: (DenseBlock(3, 8, 4), (torch.randn(2, 8, 9, 7),)),
    "Transition": lambda: (Transition(8, 4), (torch.randn(2, 8, 9, 7),)),
    "checkpointing": lambda: (
        DenseBlock(3, 8, 4, checkpointing=True),
        (torch.randn(2, 8, 9, 7),),
    ),
    "densenet121": lambda: (densenet121(num_classes=10), (torch.randn(2, 3, 64, 96),)),
}


def layers_of(model: DenseNet) -> list[int]:
    return [len(m) for m in model.features if isinstance(m, DenseBlock)]


def weighted(model: nn.Module) -> int:
    return sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())


def test_names_shapes_order_and_costs_of_every_size_are_torchvisions(evidence) -> None:
    rows = {}
    for variant in VARIANTS:
        with torch.device("meta"):
            model = variant.make()
        rows[variant.key] = {
            **variant.check_structure(),
            "growth": model.features.conv0.out_channels // 2,
            "layers": ", ".join(map(str, layers_of(model))),
            "weighted": weighted(model),
        }
    evidence.computed("cost", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 64, 96),
    small=lambda: DenseNet((2, 2, 1, 1), 4, num_classes=10),
)


def test_torchvisions_file_loads_once_its_old_names_are_joined() -> None:
    # The published files are older than today's names: "norm.1" was "norm1", and batch
    # norms did not count their batches.
    theirs = SMALLEST.build_reference()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value
        for key, value in theirs.state_dict().items()
        if "tracked" not in key
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    ours = densenet121()
    ours.load_state_dict(
        {re.sub(r"\.(norm|conv)\.(\d)", r".\1\2", k): v for k, v in old.items()}
    )
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("make", "depth"),
    [(densenet121, 121), (densenet169, 169), (densenet201, 201), (densenet161, 161)],
)
def test_the_number_in_the_name_counts_convolutions_and_the_linear_layer(
    make: Callable[[], DenseNet], depth: int
) -> None:
    with torch.device("meta"):
        assert weighted(make()) == depth


def test_densenet264_has_the_papers_blocks_and_one_layer_more_than_its_name() -> None:
    with torch.device("meta"):
        model = densenet264()
    assert layers_of(model) == [6, 12, 64, 48]  # the paper's table 1
    assert weighted(model) == 265


@pytest.mark.parametrize(
    ("depth", "growth_rate", "millions"),
    [(100, 12, 0.8), (250, 24, 15.3), (190, 40, 25.6)],
)
def test_small_images_get_the_networks_of_the_papers_table_2(
    depth: int, growth_rate: int, millions: float
) -> None:
    with torch.device("meta"):
        model = DenseNet([(depth - 4) // 6] * 3, growth_rate, 10, small_images=True)
    assert weighted(model) == depth
    params = sum(p.numel() for p in model.parameters())
    assert params / 1e6 == pytest.approx(millions, abs=0.05)


def test_every_layer_reads_the_concatenation_of_all_before_it() -> None:
    block, x = DenseBlock(4, 8, 4), torch.randn(2, 8, 6, 5)
    read: list[Tensor] = []
    made = [x]
    for layer in block.values():
        layer.norm1.register_forward_hook(lambda _, given, __: read.append(given[0]))
        layer.register_forward_hook(lambda _, __, new: made.append(new))
    y = block(x)
    for number, given in enumerate(read, start=1):
        assert torch.equal(given, torch.cat(made[:number], dim=1))
        assert given.shape[1] == 8 + 4 * (number - 1)  # k0 + k (l - 1)
    assert torch.equal(y, torch.cat(made, dim=1))
    assert torch.equal(y[:, :8], x)  # the input leaves the block unchanged


def test_the_output_is_linear_in_what_a_silent_block_passes_on() -> None:
    block, x = DenseBlock(3, 8, 4), torch.randn(2, 8, 6, 5)
    for layer in block.values():
        nn.init.zeros_(layer.conv2.weight)
    assert torch.equal(block(x), F.pad(x, (0, 0, 0, 0, 0, 12)))


def test_the_loss_reaches_the_first_layer_past_all_others() -> None:
    block, x = DenseBlock(3, 8, 4), torch.randn(2, 8, 6, 5)
    for layer in list(block.values())[1:]:  # later layers let nothing through
        nn.init.zeros_(layer.conv1.weight)
    block(x).square().sum().backward()
    assert block.denselayer1.conv1.weight.grad.any()


def test_the_equation_written_a_second_way_gives_the_same() -> None:
    layer = DenseLayer(12, 4).double()
    parts = [torch.randn(3, c, 5, 4, dtype=torch.float64) for c in (8, 4)]

    def bn_relu(y: Tensor) -> Tensor:
        mean, var = (
            y.mean((0, 2, 3), keepdim=True),
            y.var((0, 2, 3), False, keepdim=True),
        )
        return ((y - mean) / (var + 1e-5).sqrt()).clamp(min=0)

    # A convolution of a concatenation is the sum of one convolution per part.
    split = layer.conv1.weight.split([8, 4], dim=1)
    y = sum(F.conv2d(bn_relu(p), w) for p, w in zip(parts, split, strict=True))
    expected = F.conv2d(bn_relu(y), layer.conv2.weight, padding=1)
    torch.testing.assert_close(layer(parts), expected, rtol=1e-10, atol=1e-10)


def kept_for_backward(model: nn.Module, x: Tensor) -> int:
    """Bytes that a training pass keeps for the backward pass, parameters aside."""
    kept: dict[int, Tensor] = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t
        return t

    for layer in model.modules():  # a checkpoint holds its inputs where no hook sees it
        if isinstance(layer, DenseLayer) and layer.checkpointing:
            layer.register_forward_hook(lambda _, __, new: keep(new))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        end = model(x)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert end.requires_grad
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in own)


def test_what_training_keeps_grows_with_the_square_of_the_layers_unless_checkpointed(
    evidence,
) -> None:
    x = torch.randn(1, 8, 16, 16, requires_grad=True)
    kept = {}
    for save in (False, True):
        blocks = [DenseBlock(n, 8, 4, checkpointing=save) for n in (8, 16, 24)]
        few, more, many = (kept_for_backward(block, x) for block in blocks)
        kept[save] = (many - more) / (more - few)
    assert kept[False] > 1.4  # the steps grow: quadratic
    assert kept[True] == pytest.approx(1, abs=0.1)  # equal steps: linear

    images, rows = torch.randn(1, 3, 128, 128), {}
    for key, save in (("plain", False), ("checkpointing", True)):
        model = DenseNet((6, 12, 24, 16), checkpointing=save)
        rows[key] = {
            "name": "with checkpoints" if save else "all kept",
            "bytes": kept_for_backward(model, images),
        }
    evidence.computed("memory", rows)


def test_checkpointing_changes_neither_outputs_nor_gradients_nor_statistics() -> None:
    torch.manual_seed(0)
    plain = DenseNet((2, 2), 4, 5).double()
    saving = DenseNet((2, 2), 4, 5, checkpointing=True).double()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(3, 3, 33, 18, dtype=torch.float64)
    for model in (plain, saving):
        model(x).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(b.grad, a.grad, msg=name)
    for (name, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        if "tracked" not in name:
            torch.testing.assert_close(b, a, msg=name)
    torch.testing.assert_close(plain.eval()(x), saving.eval()(x))


def test_dropout_acts_on_what_a_layer_adds_and_not_on_what_it_passes_on() -> None:
    torch.manual_seed(0)
    block, x = DenseBlock(1, 8, 400, drop_rate=0.2), torch.randn(2, 8, 6, 5)
    y = block(x)
    assert torch.equal(y[:, :8], x)
    assert (y[:, 8:] == 0).double().mean() == pytest.approx(0.2, abs=0.02)
    assert (block.eval()(x)[:, 8:] == 0).double().mean() < 1e-3


def test_the_figures_draw_what_the_blocks_compute() -> None:
    found = figure_source("modern/densenet")
    check(found["figure"], DenseBlock(2, 64, 32))
    check(found["transition"], Transition(256, 128))
    sizes, parts = [], []
    with torch.device("meta"):
        x = torch.empty(1, 3, 224, 224)
        for name, part in densenet121().features.named_children():
            x = part(x)
            parts.append((x.shape[-1], x.shape[1]))
            if name.startswith("dense"):
                sizes.append((x.shape[-1], x.shape[1], f"{len(part)} layers"))
    assert found["SIZES"][2:] == sizes
    assert found["SIZES"][1][:2] == parts[3]


@pytest.mark.parametrize(
    "make", [densenet121, partial(DenseNet, (2, 2, 2), small_images=True)]
)
def test_the_smallest_image_works_and_a_smaller_one_is_refused(
    make: Callable[[], DenseNet],
) -> None:
    with torch.device("meta"):
        model = make().eval()
        least = model.smallest
        assert model(torch.empty(1, 3, least, least)).shape == (1, 1000)
        for h, w in ((least - 1, least), (least, least - 1)):
            with pytest.raises(ValueError, match=f"at least {least}, got"):
                model(torch.empty(1, 3, h, w))
            with pytest.raises(RuntimeError):  # without the guard
                model.features(torch.empty(1, 3, h, w))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(DenseNet, ()), r"one layer or more, got layers=\(\)"),
        (partial(DenseNet, (2, 0)), r"layers=\(2, 0\)"),
        (partial(DenseNet, (1,), num_classes=0), "num_classes=0"),
        (partial(DenseNet, (1,), growth_rate=0), "growth_rate=0"),
        (
            lambda: DenseNet((1,), 4)(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), .* got \(2, 1, 64, 64\)",
        ),
        (lambda: DenseNet((1,), 4)(torch.randn(3, 64, 64)), r"got \(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_a_densenet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
