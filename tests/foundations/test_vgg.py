"""VGG is torchvision's, tensor by tensor; its trade-offs are counted and checked against the paper."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.equivalence import compare
from cnn_site.figures.check import figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant, without_drawing
from cnn_techniques.foundations import (
    VGG,
    VGG_CONVOLUTIONS,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)

MAKERS = [vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn]
VARIANTS = [
    Variant(
        make,
        make.__name__.upper().replace("VGG", "VGG-").replace("_", "-"),
        f"torchvision.models.{make.__name__}",
        net="slow",
    )
    for make in MAKERS
]
SMALLEST = VARIANTS[0]


# Table 2: millions of parameters, by the number of layers with weights.
MILLIONS = {11: 133, 13: 133, 16: 138, 19: 144}


def narrow(layers: int = 11, **options: object) -> VGG:
    """With linear layers that are quick to make."""
    return VGG(VGG_CONVOLUTIONS[layers], num_classes=10, hidden=16, **options)


def alive(**options: object) -> VGG:
    """Whose signal survives the narrow linear layers."""
    model = narrow(**options)
    for layer in model.classifier:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return model


DEVICE_CASES = {
    "VGG": lambda: (narrow(dropout=0.0), (torch.randn(2, 3, 32, 48),)),
    "VGG-BN": lambda: (
        narrow(batch_norm=True, dropout=0.0),
        (torch.randn(2, 3, 32, 48),),
    ),
}


def test_names_shapes_order_and_costs_of_every_size_are_torchvisions(evidence) -> None:
    rows = {}
    for variant in VARIANTS:
        with torch.device("meta"):
            model = variant.make()
        depth = int(variant.key[3:5])
        counted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(counted) == depth  # table 1: weight layers
        row = variant.check_structure()
        assert round(row["params"] / 1e6) == MILLIONS[depth]
        linear = sum(p.numel() for p in model.classifier.parameters())
        rows[variant.key] = {
            **row,
            "convolutions": ", ".join(map(str, VGG_CONVOLUTIONS[depth])),
            "linear": linear / row["params"],
            "mebibytes": 4 * row["params"] / 2**20,
        }
    evidence.computed("cost", rows)


def test_where_the_parameters_and_the_multiply_adds_of_vgg16_are(evidence) -> None:
    with torch.device("meta"):
        model = vgg16().eval()
    rows: dict[str, dict[str, object]] = {}
    x, stage = torch.empty(1, 3, 224, 224, device="meta"), 1
    blank = {"params": 0, "macs": 0, "outputs": 0}
    for number in range(1, 6):
        rows[f"stage{number}"] = {"name": f"stage {number}", **blank}
    for layer in model.features:
        x = layer(x)
        if isinstance(layer, nn.MaxPool2d):
            stage += 1
        elif isinstance(layer, nn.Conv2d):
            row = rows[f"stage{stage}"]
            row["params"] += sum(p.numel() for p in layer.parameters())
            row["macs"] += x[0, 0].numel() * layer.weight.numel()
            row["outputs"] += x.numel()
    linear = [m for m in model.classifier if isinstance(m, nn.Linear)]
    for number, layer in enumerate(linear, start=6):
        params = sum(p.numel() for p in layer.parameters())
        macs, outputs = layer.weight.numel(), layer.out_features
        name = f"linear {number - 5}"
        rows[f"fc{number}"] = {"name": name, "params": params, "macs": macs}
        rows[f"fc{number}"]["outputs"] = outputs
    cost = VARIANTS[MAKERS.index(vgg16)].check_structure()
    assert sum(row["params"] for row in rows.values()) == cost["params"]
    assert sum(row["macs"] for row in rows.values()) == cost["macs"]
    for row in rows.values():
        row["share"] = row["params"] / cost["params"]
        row["work"] = row["macs"] / cost["macs"]
    assert rows["fc6"]["share"] > 0.74
    evidence.computed("layers", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 32, 48),
    small=(alive, partial(alive, batch_norm=True)),
    learns="one batch",
    recipe={"pixels": 32, "steps": 80},
)


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda v: v.key)
def test_with_narrow_linear_layers_it_computes_what_torchvision_computes(
    variant: Variant, evidence
) -> None:
    with torch.device("meta"):
        theirs = variant.build_reference()
    head = theirs.classifier
    head[0], head[3], head[6] = (
        nn.Linear(25088, 16),
        nn.Linear(16, 16),
        nn.Linear(16, 10),
    )
    theirs.features.to_empty(device="cpu")
    ours = narrow(batch_norm=variant.key.endswith("bn"))
    assert without_drawing(ours) == without_drawing(theirs) == 2
    found = compare(ours, theirs, torch.randn(2, 3, 32, 48))
    settings = "linear layers of 16 units; 10 classes; dropout 0"
    key = f"narrow-{variant.key.replace('_', '-')}"
    evidence.equivalent(key, found, reference=variant.reference, settings=settings)


def test_three_small_kernels_see_what_one_of_7_by_7_sees_with_55_percent_of_weights() -> (
    None
):
    stack = nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)])
    one = nn.Conv2d(8, 8, 7, padding=3)
    seen = []
    for layer in (stack, one):
        image = torch.randn(1, 8, 15, 15, requires_grad=True)
        layer(image)[0, :, 7, 7].sum().backward()
        rows = image.grad[0].abs().sum(0).nonzero()
        seen.append((rows.min().item(), rows.max().item(), len(rows)))
    assert seen == [(4, 10, 49)] * 2
    weights = [
        sum(p.numel() for p in m.parameters() if p.ndim > 1) for m in (stack, one)
    ]
    assert weights == [27 * 64, 49 * 64]  # section 2.3: 27 C^2 and 49 C^2, 81 % more


def test_every_convolution_keeps_the_size_and_every_pooling_halves_it() -> None:
    with torch.device("meta"):
        for make in (vgg11, vgg19_bn):
            x = torch.empty(1, 3, 224, 256)
            for layer in make().features:
                height, width = x.shape[2:]
                x = layer(x)
                factor = 2 if isinstance(layer, nn.MaxPool2d) else 1
                assert x.shape[2:] == (height // factor, width // factor)
            assert x.shape == (1, 512, 7, 8)


def test_as_convolutions_the_linear_layers_give_a_map_of_scores() -> None:
    model = narrow().double().eval()
    fc6, fc7, fc8 = (m for m in model.classifier if isinstance(m, nn.Linear))
    maps = torch.rand(
        1, 512, 7, 9, dtype=torch.float64
    )  # section 3.2: dense evaluation
    y = F.conv2d(maps, fc6.weight.unflatten(1, (512, 7, 7)), fc6.bias).relu()
    y = F.conv2d(y, fc7.weight[:, :, None, None], fc7.bias).relu()
    y = F.conv2d(y, fc8.weight[:, :, None, None], fc8.bias)
    assert y.shape == (1, 10, 1, 3)
    for place in range(3):
        window = maps[:, :, :, place : place + 7]
        scores = model.classifier(window.flatten(1))
        torch.testing.assert_close(scores, y[:, :, 0, place], rtol=1e-10, atol=1e-10)


def test_at_32_pixels_the_classifier_gets_each_number_49_times() -> None:
    model = narrow()
    features = model.features(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, 512, 1, 1)
    assert torch.equal(model.avgpool(features), features.expand(-1, -1, 7, 7))


def test_dropout_stands_behind_the_first_two_linear_layers() -> None:
    kinds = [type(m).__name__ for m in narrow().classifier]
    assert kinds == ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]
    model, image = narrow(), torch.randn(2, 3, 32, 48)
    assert not torch.equal(model(image), model(image))
    model.eval()
    assert torch.equal(model(image), model(image))


def test_the_first_weights_keep_the_size_of_a_signal_through_the_convolutions() -> None:
    torch.manual_seed(0)
    model = narrow(19)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs[1:]:
        expected = (2 / (9 * conv.out_channels)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.05)
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            assert not layer.bias.any()
    first = model.classifier[0].weight
    assert first.std().item() == pytest.approx(0.01, rel=0.05)


def test_the_figures_draw_what_the_stages_compute() -> None:
    found = figure_source("foundations/vgg")
    sizes: list[tuple[int, int, str]] = [(224, 3, "image")]
    with torch.device("meta"):
        x: Tensor = torch.empty(1, 3, 224, 224)
        count = 0
        for layer in vgg16().features:
            if isinstance(layer, nn.MaxPool2d):
                sizes.append((x.shape[-1], x.shape[1], f"{count} conv"))
                count = 0
            count += isinstance(layer, nn.Conv2d)
            x = layer(x)
    assert found["SIZES"] == [*sizes, (x.shape[-1], x.shape[1], "pooled")]


def test_32_pixels_are_the_smallest_image() -> None:
    with torch.device("meta"):
        model = vgg11()
        assert model(torch.empty(1, 3, 32, 32)).shape == (1, 1000)
        assert model(torch.empty(1, 3, 33, 150)).shape == (1, 1000)
        with pytest.raises(RuntimeError):  # what the check in forward is there for
            model.features(torch.empty(1, 3, 31, 32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(VGG, (1, 1, 2, 2)), r"five stages .* got convolutions=\(1, 1, 2, 2\)"),
        (partial(VGG, (1, 1, 2, 2, 0)), r"one convolution or more"),
        (partial(vgg11, 0), "at least 1, got num_classes=0"),
        (partial(VGG, (1,) * 5, hidden=0), "hidden=0"),
        (partial(VGG, (1,) * 5, in_channels=0), "in_channels=0"),
        (lambda: narrow()(torch.empty(2, 1, 64, 64)), r"\(N, 3, H, W\).*\(2, 1, 64,"),
        (lambda: narrow()(torch.empty(2, 3, 31, 64)), r"32 or more, got \(2, 3, 31,"),
        (lambda: narrow()(torch.empty(2, 3, 64, 31)), r"got \(2, 3, 64, 31\)"),
        (lambda: narrow()(torch.empty(3, 64, 64)), r"got \(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_a_vgg_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make()
