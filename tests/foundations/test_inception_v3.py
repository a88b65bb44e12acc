"""Inception-v3 is torchvision's with its auxiliary head; its grids are the paper's table 1."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import inception as torchvisions

from cnn_site.equivalence import compare
from cnn_site.figures.check import check, figure_source
from cnn_site.laws import gradient_reaches_every_parameter
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant, reference, without_drawing
from cnn_techniques.evaluation import model_cost
from cnn_techniques.foundations import (
    INCEPTION_V3_AT_8,
    INCEPTION_V3_TO_8,
    INCEPTION_V3_TO_17,
    FactorisedInception,
    GoogLeNet,
    InceptionV3,
    InceptionV3Auxiliary,
    InceptionV3Outputs,
    inception_v3,
    inception_v3_at_17,
    inception_v3_at_35,
)

# Training with the auxiliary head needs 299 pixels, so the whole network is compared in
# the slow suite; the fast one compares each block.
SMALLEST = Variant(
    inception_v3,
    "Inception-v3",
    "torchvision.models.inception_v3",
    net="slow",
    pixels=299,
    options={"init_weights": False},
)
VARIANTS = [SMALLEST]


DEVICE_CASES = {
    "35 x 35": lambda: (
        FactorisedInception(32, inception_v3_at_35(16)),
        (torch.randn(2, 32, 9, 12),),
    ),
    "17 x 17": lambda: (
        FactorisedInception(32, inception_v3_at_17(16)),
        (torch.randn(2, 32, 9, 12),),
    ),
    "8 x 8": lambda: (
        FactorisedInception(32, INCEPTION_V3_AT_8),
        (torch.randn(2, 32, 5, 7),),
    ),
    "reduction": lambda: (
        FactorisedInception(32, INCEPTION_V3_TO_17, stride=2),
        (torch.randn(2, 32, 9, 12),),
    ),
    "network": lambda: (
        InceptionV3(num_classes=10, aux_logits=False),
        (torch.randn(2, 3, 75, 91),),
    ),
}

# Input sizes of the paper's table 1 where this network has the same layer: the stem has a
# 1x1 and a pooling where the table has two 3x3 (see the page).
TABLE_1 = {
    "Conv2d_1a_3x3": (3, 299),
    "Conv2d_2a_3x3": (32, 149),
    "Conv2d_2b_3x3": (32, 147),
    "maxpool1": (64, 147),
    "Conv2d_3b_1x1": (64, 73),
    "Mixed_5b": (192, 35),
    "Mixed_6a": (288, 35),
    "Mixed_6b": (768, 17),
    "Mixed_7a": (768, 17),
    "Mixed_7b": (1280, 8),
    "fc": (2048, None),
}


def weights(module: nn.Module) -> int:
    found = (m for m in module.modules() if isinstance(m, nn.Conv2d))
    return sum(m.weight.numel() for m in found)


def test_names_shapes_order_and_cost_are_torchvisions(evidence) -> None:
    evidence.computed("cost", {v.key: v.check_structure() for v in VARIANTS})


def test_the_paper_tells_its_size_without_the_auxiliary_head(evidence) -> None:
    with torch.device("meta"):
        model, image = InceptionV3(aux_logits=False).eval(), torch.empty(1, 3, 299, 299)
        first = GoogLeNet(aux_logits=False, kernel=5).eval()
        cost = model_cost(model, image)
        before = model_cost(first, torch.empty(1, 3, 224, 224))
    assert cost.params < 25e6  # section 1
    rows = {"headless": {"name": "Inception-v3, no head", "params": cost.params}}
    rows["headless"]["macs"] = cost.macs
    evidence.computed("size", rows)
    names = {
        "googlenet": "GoogLeNet",
        "bn_googlenet": "with batch norms",
        "bn_inception": "BN-Inception",
        "v2": "Inception-v2",
        "rmsprop": "+ RMSProp",
        "smoothing": "+ label smoothing",
        "stem": "+ stem of 3×3",
        "v3": "+ head with norm: Inception-v3",
    }
    steps = {key: {"name": name} for key, name in names.items()}
    steps["googlenet"]["macs"], steps["v3"]["macs"] = before.macs, cost.macs
    evidence.computed("steps", steps)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 299, 315),
    small=lambda: InceptionV3(num_classes=7, aux_logits=False),
    small_images=(4, 3, 75, 107),
    learns="one batch",
    recipe={"pixels": 75},
    network=InceptionV3,
    options={"aux_logits": False},
    speed=(2, 3, 299, 299),
)


BLOCKS = {
    "35 x 35": (
        inception_v3_at_35(16),
        1,
        torchvisions.InceptionA,
        {"pool_features": 16},
    ),
    "17 x 17": (
        inception_v3_at_17(16),
        1,
        torchvisions.InceptionC,
        {"channels_7x7": 16},
    ),
    "8 x 8": (INCEPTION_V3_AT_8, 1, torchvisions.InceptionE, {}),
    "35 to 17": (INCEPTION_V3_TO_17, 2, torchvisions.InceptionB, {}),
    "17 to 8": (INCEPTION_V3_TO_8, 2, torchvisions.InceptionD, {}),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_each_module_computes_what_torchvisions_computes(name: str, evidence) -> None:
    chains, stride, theirs, options = BLOCKS[name]
    evidence.equivalent(
        f"module {name}",
        compare(
            FactorisedInception(16, chains, stride),
            theirs(16, **options),
            torch.randn(2, 16, 9, 12),
        ),
        reference=f"torchvision.models.inception.{theirs.__name__}",
        settings="16 channels",
    )


@pytest.mark.slow
def test_without_the_head_it_computes_what_torchvision_computes(evidence) -> None:
    options = {"aux_logits": False, "init_weights": False}
    ours, theirs = (
        InceptionV3(aux_logits=False),
        reference(SMALLEST.reference, **options),
    )
    without_drawing(ours), without_drawing(theirs)
    evidence.equivalent(
        "without the head",
        compare(ours, theirs, torch.randn(2, 3, 107, 139)),
        reference=SMALLEST.reference,
        settings="aux_logits=False; init_weights=False; dropout 0",
    )


def test_the_head_computes_what_torchvisions_computes(evidence) -> None:
    evidence.equivalent(
        "the head",
        compare(
            InceptionV3Auxiliary(24, 7),
            torchvisions.InceptionAux(24, 7),
            torch.randn(2, 24, 17, 20),
        ),
        reference="torchvision.models.inception.InceptionAux",
        settings="24 channels, 7 classes",
    )


def test_the_grids_are_those_of_the_papers_table_1() -> None:
    sizes = {}
    with torch.device("meta"):
        model = inception_v3().eval()
        for name in TABLE_1:
            model.get_submodule(name).register_forward_pre_hook(
                lambda _, x, name=name: sizes.update({name: tuple(x[0].shape[1:])})
            )
        model(torch.empty(1, 3, 299, 299))
    for name, (channels, size) in TABLE_1.items():
        expected = (channels, size, size) if size else (channels,)
        assert sizes[name] == expected, name


def test_the_longest_path_has_48_layers() -> None:
    def longest(module: nn.Module) -> int:
        if isinstance(module, FactorisedInception):
            return max(len(steps) for steps in module.chains.values())
        return sum(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules())

    with torch.device("meta"):
        model = InceptionV3(aux_logits=False)
    assert sum(longest(module) for module in model.children()) == 48


def test_what_factorising_saves_is_what_the_paper_says(evidence) -> None:
    def macs(*kernels: tuple[int, int]) -> int:
        return sum(rows * columns for rows, columns in kernels)

    forms = {
        "five": ("5×5", [(5, 5)], "two 3×3", [(3, 3)] * 2, 0.28),
        "three": ("3×3", [(3, 3)], "1×3, 3×1", [(1, 3), (3, 1)], 0.33),
        "seven": ("7×7", [(7, 7)], "1×7, 7×1", [(1, 7), (7, 1)], None),
    }
    rows = {}
    for key, (name, whole, parts, chain, saved) in forms.items():
        share = 1 - macs(*chain) / macs(*whole)
        assert saved is None or share == pytest.approx(saved, abs=0.005)
        rows[key] = {"name": name, "parts": parts, "saved": share}
    evidence.computed("factors", rows)


def test_two_3x3_without_a_relu_between_them_are_a_5x5() -> None:
    first, second = torch.randn(2, 1, 1, 3, 3, dtype=torch.float64)
    x = torch.randn(2, 1, 11, 9, dtype=torch.float64)
    whole = F.conv2d(F.pad(first, (2, 2, 2, 2)), second.flip(2, 3))
    assert whole.shape[-2:] == (5, 5)
    chain = F.conv2d(F.conv2d(x, first), second)
    torch.testing.assert_close(chain, F.conv2d(x, whole), rtol=1e-10, atol=1e-10)


def test_1x7_and_7x1_without_a_relu_between_them_are_a_7x7_of_rank_1() -> None:
    across, down = torch.randn(2, 7, dtype=torch.float64)
    x = torch.randn(2, 1, 11, 9, dtype=torch.float64)
    chain = F.conv2d(F.conv2d(x, across.view(1, 1, 1, 7)), down.view(1, 1, 7, 1))
    whole = torch.outer(down, across)
    assert torch.linalg.matrix_rank(whole) == 1
    torch.testing.assert_close(
        chain, F.conv2d(x, whole.view(1, 1, 7, 7)), rtol=1e-10, atol=1e-10
    )


def test_a_module_with_forks_written_a_second_way_gives_the_same() -> None:
    chains = {
        "branch1x1": [(3, 1, 1)],
        "branch3x3": [(4, 1, 1), [(5, 1, 3), (6, 3, 1)]],
        "branch_pool": [(7, 1, 1)],
    }
    module = FactorisedInception(8, chains).double()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)

    def unit(u: Tensor, name: str, padding: tuple[int, int] = (0, 0)) -> Tensor:
        weight = module.get_parameter(f"{name}.conv.weight")
        y = F.conv2d(u, weight, padding=padding)
        mean = y.mean((0, 2, 3), keepdim=True)
        var = y.var((0, 2, 3), correction=0, keepdim=True)
        return ((y - mean) / (var + 1e-3).sqrt()).clamp(min=0)

    narrow = unit(x, "branch3x3_1")
    around = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).mean((4, 5))
    expected = [
        unit(x, "branch1x1"),
        unit(narrow, "branch3x3_2a", (0, 1)),
        unit(narrow, "branch3x3_2b", (1, 0)),
        unit(around, "branch_pool"),
    ]
    torch.testing.assert_close(
        module(x), torch.cat(expected, dim=1), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(
    ("channels", "chains", "out"),
    [(288, INCEPTION_V3_TO_17, 768), (768, INCEPTION_V3_TO_8, 1280)],
)
def test_a_reduction_halves_the_grid_and_keeps_every_channel_pooled(
    channels: int, chains: object, out: int
) -> None:
    module, x = (
        FactorisedInception(channels, chains, stride=2),
        torch.randn(2, channels, 9, 12),
    )
    y = module(x)
    assert y.shape == (2, out, 4, 5)
    assert torch.equal(y[:, -channels:], F.max_pool2d(x, 3, 2))


def test_the_auxiliary_head_answers_in_training_only() -> None:
    images = torch.empty(2, 3, 299, 299, device="meta")
    with torch.device("meta"):
        model = inception_v3(num_classes=7)
        out = model(images)
        assert isinstance(out, InceptionV3Outputs)
        assert [tuple(scores.shape) for scores in out] == [(2, 7)] * 2
        assert isinstance(model.eval()(images), Tensor)
        assert isinstance(InceptionV3(7, aux_logits=False)(images), Tensor)


def test_the_gradient_reaches_every_parameter_of_the_head() -> None:
    head = InceptionV3Auxiliary(16, 7)
    gradient_reaches_every_parameter(head, torch.randn(4, 16, 17, 17))


def test_images_with_mean_and_deviation_of_a_half_are_what_torchvision_makes() -> None:
    options = {"aux_logits": False, "init_weights": False}
    theirs = reference(SMALLEST.reference, transform_input=True, **options)
    ours = InceptionV3(aux_logits=False).eval()
    ours.load_state_dict(theirs.eval().state_dict(), strict=True)
    images = torch.rand(2, 3, 75, 80)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = theirs((images - mean) / deviation)
    torch.testing.assert_close(ours((images - 0.5) / 0.5), expected)


def test_the_figures_draw_what_the_network_computes() -> None:
    found = figure_source("foundations/inception-v3")
    check(found["at_35"], FactorisedInception(192, inception_v3_at_35(32)))
    reduction = FactorisedInception(288, INCEPTION_V3_TO_17, stride=2)
    check(found["reduction"], reduction)
    maps = {}
    names = ("maxpool1", "maxpool2", "Mixed_5d", "Mixed_6e", "Mixed_7a", "Mixed_7c")
    with torch.device("meta"):
        model = inception_v3().eval()
        for name in names:
            model.get_submodule(name).register_forward_hook(
                lambda _, __, out, name=name: maps.update({name: out.shape})
            )
        model(torch.empty(1, 3, 299, 299))
    drawn = [(size, channels) for size, channels, _ in found["SIZES"][1:]]
    assert drawn == [(maps[name][-1], maps[name][1]) for name in names]


def test_75_pixels_are_the_smallest_and_299_to_train_with_the_head() -> None:
    with torch.device("meta"):
        model = inception_v3(num_classes=7)
        small, large = torch.empty(1, 3, 75, 75), torch.empty(2, 3, 299, 299)
        assert model(large).aux_logits.shape == (2, 7)
        assert model.eval()(small).shape == (1, 7)
        headless = InceptionV3(7, aux_logits=False)
        assert headless(torch.empty(2, 3, 75, 75)).shape == (2, 7)
        for shape in ((1, 3, 74, 75), (1, 3, 75, 74)):
            with pytest.raises(ValueError, match="75 or more"):
                model(torch.empty(shape))
        model.train()
        for shape in ((2, 3, 298, 299), (2, 3, 299, 298)):
            with pytest.raises(ValueError, match="299 or more, 75 with aux_logits=F"):
                model(torch.empty(shape))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(InceptionV3, 0), "num_classes=0"),
        (
            partial(FactorisedInception, 8, {"a": [[(4, 1, 3), (4, 3, 1)], (4, 1, 1)]}),
            r"chain='a' to end with the fork",
        ),
        (
            lambda: InceptionV3().eval()(torch.randn(2, 1, 80, 80)),
            r"got \(2, 1, 80, 80\)",
        ),
        (lambda: InceptionV3().eval()(torch.randn(3, 80, 80)), r"got \(3, 80, 80\)"),
    ],
)
def test_what_cannot_be_an_inception_v3_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
