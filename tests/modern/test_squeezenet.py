"""SqueezeNet is torchvision's; its laws are those of few parameters."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.figures.check import figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant, reference
from cnn_techniques.modern import Fire, SqueezeNet, squeezenet1_0, squeezenet1_1

SMALLEST = Variant(squeezenet1_1, "SqueezeNet 1.1", "torchvision.models.squeezenet1_1")
VARIANTS = [
    Variant(squeezenet1_0, "SqueezeNet 1.0", "torchvision.models.squeezenet1_0"),
    SMALLEST,
]


DEVICE_CASES = {
    "Fire": lambda: (Fire(16, 4, 8), (torch.randn(2, 16, 9, 12),)),
    "squeezenet1_1": lambda: (
        squeezenet1_1(num_classes=10).eval(),
        (torch.randn(2, 3, 48, 64),),
    ),
}


def test_names_shapes_order_and_costs_of_both_versions_are_torchvisions(
    evidence,
) -> None:
    rows = {}
    for variant in VARIANTS:
        row = variant.check_structure()
        rows[variant.key] = {**row, "bytes": 4 * row["params"]}
    evidence.computed("cost", rows)
    assert rows["squeezenet1_0"]["params"] == 1_248_424  # the paper's table 1
    less = rows["squeezenet1_0"]["macs"] / rows["squeezenet1_1"]["macs"]
    assert less == pytest.approx(2.4, abs=0.1)  # what its authors say of version 1.1


def test_alexnet_has_fifty_times_the_parameters(evidence) -> None:
    with torch.device("meta"):
        alexnet = reference("torchvision.models.alexnet")
        ours = squeezenet1_0()
    theirs = sum(p.numel() for p in alexnet.parameters())
    ratio = theirs / sum(p.numel() for p in ours.parameters())
    assert ratio == pytest.approx(50, abs=1.5)
    rows = {"alexnet": {"name": "AlexNet", "params": theirs, "ratio": ratio}}
    evidence.computed("against", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 48, 64),
    small=lambda: squeezenet1_1(num_classes=10),
    small_images=(8, 3, 64, 80),
    smallest=SMALLEST,
    # At 32 pixels the last map is one pixel, and the ReLU after it ends the learning.
    recipe={"pixels": 64},
)


def test_a_fire_module_is_a_squeeze_and_one_3x3_convolution() -> None:
    """Half of its kernels are zero but in the middle: the paper's section 3.3.1."""
    fire = Fire(16, 4, 8).double()
    x = torch.randn(2, 16, 9, 7, dtype=torch.float64)
    squeezed = torch.einsum("nchw,sc->nshw", x, fire.squeeze.weight[:, :, 0, 0])
    squeezed = (squeezed + fire.squeeze.bias[:, None, None]).clamp(min=0)
    kernel = torch.zeros(16, 4, 3, 3, dtype=torch.float64)
    kernel[:8, :, 1, 1] = fire.expand1x1.weight[:, :, 0, 0]
    kernel[8:] = fire.expand3x3.weight
    bias = torch.cat([fire.expand1x1.bias, fire.expand3x3.bias])
    expected = F.conv2d(squeezed, kernel, bias, padding=1).clamp(min=0)
    torch.testing.assert_close(fire(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("c", "s", "e"), [(96, 16, 64), (512, 64, 256)])
def test_a_fire_module_has_the_parameters_of_its_formula(
    c: int, s: int, e: int
) -> None:
    count = sum(p.numel() for p in Fire(c, s, e).parameters())
    assert count == c * s + s + s * e + e + 9 * s * e + e
    plain = 9 * c * 2 * e + 2 * e
    assert plain / count > 9  # a 3x3 convolution between the same channels


def test_the_maps_of_the_papers_table_1_are_those_of_227_pixels() -> None:
    found = figure_source("modern/squeezenet")
    with torch.device("meta"):
        x, sides = torch.empty(1, 3, 227, 227), []
        for layer in squeezenet1_0().features:
            x = layer(x)
            sides.append((x.shape[-1], x.shape[1]))
    assert [side for side, _ in sides[::2]] == [111, 55, 55, 27, 27, 27, 13]
    shown = [size[:2] for size in found["SIZES"][1:]]
    assert shown == [sides[k] for k in (0, 5, 10, 12)]


def test_version_1_1_pools_earlier_and_has_the_same_fire_modules_after_the_first() -> (
    None
):
    fires = [
        [m for m in net.modules() if isinstance(m, Fire)]
        for net in (squeezenet1_0(), squeezenet1_1())
    ]
    for old, new in zip(*(fire[1:] for fire in fires), strict=True):
        assert [p.shape for p in old.parameters()] == [
            p.shape for p in new.parameters()
        ]


def test_scores_are_never_negative_and_dropout_stands_before_the_last_convolution() -> (
    None
):
    model = squeezenet1_1(num_classes=10).eval()
    nn.init.normal_(model.classifier[1].bias)
    scores = model(torch.randn(4, 3, 32, 48))
    assert (scores >= 0).all() and (scores == 0).any()
    assert isinstance(model.classifier[0], nn.Dropout) and model.classifier[0].p == 0.5


def test_the_start_is_torchvisions() -> None:
    torch.manual_seed(0)
    ours = squeezenet1_1()
    assert ours.classifier[1].weight.std().item() == pytest.approx(0.01, rel=0.02)
    first = ours.features[0].weight
    assert first.abs().max().item() <= (6 / 27) ** 0.5
    assert not any(p.any() for n, p in ours.named_parameters() if n.endswith("bias"))


@pytest.mark.parametrize(("make", "least"), [(squeezenet1_0, 21), (squeezenet1_1, 17)])
def test_the_smallest_image_works_and_one_less_is_refused(
    make: Callable[[], SqueezeNet], least: int
) -> None:
    with torch.device("meta"):
        model = make()
        assert model(torch.empty(1, 3, least, least)).shape == (1, 1000)
        for shape in ((1, 3, least - 1, least), (1, 3, least, least - 1)):
            with pytest.raises(ValueError, match=f"H and W from {least} on"):
                model(torch.empty(shape))


def narrow(x: Tensor) -> Tensor:
    return squeezenet1_1()(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Fire, 16, 0, 8), "squeeze_channels=0"),
        (partial(squeezenet1_0, num_classes=0), "num_classes=0"),
        (partial(SqueezeNet, 0, 3, (0,)), "width=0"),
        (partial(narrow, torch.empty(2, 1, 64, 64)), r"got \(2, 1, 64, 64\)"),
        (partial(narrow, torch.empty(3, 64, 64)), r"got \(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_a_squeezenet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
