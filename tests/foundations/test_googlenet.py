"""GoogLeNet is torchvision's with its auxiliary heads; its modules are the paper's table 1."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.figures.check import figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant, reference
from cnn_techniques.evaluation import model_cost
from cnn_techniques.foundations import (
    GoogLeNet,
    GoogLeNetAuxiliary,
    GoogLeNetOutputs,
    Inception,
    googlenet,
)

SMALLEST = Variant(
    googlenet,
    "GoogLeNet",
    "torchvision.models.googlenet",
    options={"init_weights": False},
)
VARIANTS = [SMALLEST]


WIDTHS_3A = (64, 96, 128, 16, 32, 32)
DEVICE_CASES = {
    "Inception": lambda: (Inception(64, WIDTHS_3A), (torch.randn(2, 64, 9, 12),)),
    "Inception, 5x5": lambda: (
        Inception(64, WIDTHS_3A, kernel=5),
        (torch.randn(2, 64, 9, 12),),
    ),
    "googlenet": lambda: (googlenet(num_classes=10), (torch.randn(2, 3, 64, 96),)),
}

# The paper's table 1: map, output channels, weights in K (see the page for K).
TABLE_1 = {
    "3a": (28, 256, 159),
    "3b": (28, 480, 380),
    "4a": (14, 512, 364),
    "4b": (14, 512, 437),
    "4c": (14, 512, 463),
    "4d": (14, 528, 580),
    "4e": (14, 832, 840),
    "5a": (7, 832, 1072),
    "5b": (7, 1024, 1388),
}


def weights(module: nn.Module) -> int:
    """Of convolutions and linear layers, without biases and norms."""
    found = (m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    return sum(m.weight.numel() for m in found)


def test_names_shapes_order_and_cost_are_torchvisions(evidence) -> None:
    evidence.computed("cost", {v.key: v.check_structure() for v in VARIANTS})


def test_without_auxiliary_heads_it_has_torchvisions_parameters_too() -> None:
    with torch.device("meta"):
        ours = GoogLeNet(aux_logits=False)
        theirs = reference(SMALLEST.reference, aux_logits=False, init_weights=False)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == 6_624_904  # its metadata


def test_what_kernels_of_5_cost(evidence) -> None:
    rows = {}
    for kernel, name in ((3, "3 × 3, as torchvision"), (5, "5 × 5, as the paper")):
        with torch.device("meta"):
            model = GoogLeNet(aux_logits=False, kernel=kernel).eval()
            cost = model_cost(model, torch.empty(1, 3, 224, 224))
        rows[f"k{kernel}"] = {"name": name, "params": cost.params, "macs": cost.macs}
    evidence.computed("kernels", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 33, 47),
    small=partial(googlenet, num_classes=7),
    small_images=(4, 3, 48, 64),
)


def test_the_modules_are_those_of_the_papers_table_1(evidence) -> None:
    rows, sizes = {}, {}
    with torch.device("meta"):
        model = GoogLeNet(kernel=5).eval()
        for name in TABLE_1:
            module = model.get_submodule(f"inception{name}")
            module.register_forward_hook(
                lambda _, __, out, name=name: sizes.update({name: out.shape[1:]})
            )
        model(torch.empty(1, 3, 224, 224))
    for name, (size, channels, thousands) in TABLE_1.items():
        assert sizes[name] == (channels, size, size), name
        found = weights(model.get_submodule(f"inception{name}"))
        assert found / 1024 == pytest.approx(thousands, rel=0.08), name
        map_ = f"{size} × {size} × {channels}"
        rows[name] = {"name": f"Inception ({name})", "map": map_, "weights": found}
    evidence.computed("table1", rows)


def test_it_is_22_layers_deep() -> None:
    longest = 3 + 9 * 2 + 1  # stem, two convolutions a module, the linear layer
    with torch.device("meta"):
        model = GoogLeNet(aux_logits=False)
    kinds = nn.Conv2d | nn.Linear
    assert sum(isinstance(m, kinds) for m in model.modules()) == 3 + 9 * 6 + 1
    for name in TABLE_1:
        branches = model.get_submodule(f"inception{name}").children()
        assert (
            max(sum(isinstance(m, kinds) for m in b.modules()) for b in branches) == 2
        )
    assert longest == 22


def test_a_module_written_a_second_way_gives_the_same() -> None:
    module = Inception(8, (3, 4, 5, 2, 6, 7), kernel=5).double()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)

    def unit(u: Tensor, conv: nn.Module, padding: int) -> Tensor:
        y = F.conv2d(u, conv.conv.weight, padding=padding)
        mean = y.mean((0, 2, 3), keepdim=True)
        var = y.var((0, 2, 3), correction=0, keepdim=True)
        return ((y - mean) / (var + 1e-3).sqrt()).clamp(min=0)

    m = module
    around = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
    pooled = around.unfold(2, 3, 1).unfold(3, 3, 1).amax((4, 5))
    expected = [
        unit(x, m.branch1, 0),
        unit(unit(x, m.branch2[0], 0), m.branch2[1], 1),
        unit(unit(x, m.branch3[0], 0), m.branch3[1], 2),
        unit(pooled, m.branch4[1], 0),
    ]
    torch.testing.assert_close(
        module(x), torch.cat(expected, dim=1), rtol=1e-10, atol=1e-10
    )


def test_the_auxiliary_heads_answer_in_training_only() -> None:
    model, images = googlenet(num_classes=7), torch.randn(2, 3, 32, 48)
    out = model(images)
    assert isinstance(out, GoogLeNetOutputs)
    assert [tuple(scores.shape) for scores in out] == [(2, 7)] * 3
    assert isinstance(model.eval()(images), Tensor)
    assert isinstance(GoogLeNet(7, aux_logits=False)(images), Tensor)


@pytest.mark.parametrize(
    ("scores", "last"), [("aux_logits1", "inception4a"), ("aux_logits2", "inception4d")]
)
def test_each_auxiliary_head_reads_the_module_that_the_paper_names(
    scores: str, last: str
) -> None:
    model = googlenet(num_classes=7)
    getattr(model(torch.randn(2, 3, 32, 48)), scores).sum().backward()
    reached = {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if name.startswith("inception") and parameter.grad is not None
    }
    modules = [f"inception{name}" for name in TABLE_1]
    assert reached == set(modules[: modules.index(last) + 1])


def test_images_with_mean_and_deviation_of_a_half_are_what_torchvision_makes() -> None:
    theirs = reference(SMALLEST.reference, init_weights=False, transform_input=True)
    ours = googlenet().eval()
    ours.load_state_dict(theirs.eval().state_dict(), strict=True)
    images = torch.rand(2, 3, 48, 64)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = theirs((images - mean) / deviation)
    torch.testing.assert_close(ours((images - 0.5) / 0.5), expected)


def test_the_figures_draw_what_the_network_computes() -> None:
    found = figure_source("foundations/googlenet")
    maps = {}
    with torch.device("meta"):
        model = googlenet().eval()
        for name in ("maxpool1", "maxpool2", "maxpool3", "maxpool4", "inception5b"):
            model.get_submodule(name).register_forward_hook(
                lambda _, __, out, name=name: maps.update({name: out.shape})
            )
        model(torch.empty(1, 3, 224, 224))
    drawn = [(size, channels) for size, channels, _ in found["SIZES"][1:]]
    assert drawn == [(m[-1], m[1]) for m in maps.values()]


def test_images_of_15_pixels_are_the_smallest() -> None:
    model = googlenet(num_classes=7).eval()
    assert model(torch.randn(1, 3, 15, 15)).shape == (1, 7)
    for shape in ((1, 3, 14, 15), (1, 3, 15, 14)):
        with pytest.raises(ValueError, match="15 or more"):
            model(torch.randn(shape))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(GoogLeNet, 0), "num_classes=0"),
        (partial(GoogLeNet, kernel=4), "odd kernel.*kernel=4"),
        (partial(GoogLeNet, kernel=-1), "kernel=-1"),
        (lambda: googlenet()(torch.randn(2, 1, 64, 64)), r"got \(2, 1, 64, 64\)"),
        (lambda: googlenet()(torch.randn(3, 64, 64)), r"got \(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_a_googlenet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_an_auxiliary_head_takes_maps_of_any_size() -> None:
    head = GoogLeNetAuxiliary(16, 7)
    for size in ((1, 1), (2, 5), (14, 14)):
        assert head(torch.randn(2, 16, *size)).shape == (2, 7)
