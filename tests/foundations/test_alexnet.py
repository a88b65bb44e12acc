"""AlexNet is torchvision's, tensor by tensor; the network of 2012 is checked against the paper."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.equivalence import compare
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant, without_drawing
from cnn_techniques.evaluation import model_cost
from cnn_techniques.foundations import (
    ALEXNET_PAPER,
    AlexNet,
    ResponseNorm,
    alexnet,
    alexnet_paper,
)

SMALLEST = Variant(alexnet, "AlexNet", "torchvision.models.alexnet", net="slow")
VARIANTS = [SMALLEST]


DEVICE_CASES = {
    "ResponseNorm": lambda: (ResponseNorm(), (torch.randn(2, 8, 9, 7),)),
    "AlexNet": lambda: (
        AlexNet(10, hidden=32, dropout=0.0),
        (torch.randn(2, 3, 63, 79),),
    ),
    "ALEXNET_PAPER": lambda: (
        AlexNet(10, ALEXNET_PAPER, hidden=32, dropout=0.0),
        (torch.randn(2, 3, 63, 79),),
    ),
}

# Section 3.5: number and size of the kernels; figure 2: neurons of layers 2 to 8.
KERNELS = {
    "conv1": (96, 3, 11, 11),
    "conv2": (256, 48, 5, 5),
    "conv3": (384, 256, 3, 3),
    "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3),
    "fc6": (4096, 256 * 6 * 6),
    "fc7": (4096, 4096),
    "fc8": (1000, 4096),
}
NEURONS = [186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]


def paper(**options: object) -> AlexNet:
    """The network of 2012 with narrow linear layers, which are quick to make."""
    return AlexNet(10, ALEXNET_PAPER, hidden=16, **options)


def layers_of(model: nn.Module) -> dict[str, dict[str, object]]:
    """Output, kernels, parameters and MACs of each layer that has weights."""
    rows: dict[str, dict[str, object]] = {}
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    def look(module: nn.Module, _: object, output: Tensor, *, name: str) -> None:
        maps = tuple(output.shape[1:])
        params = sum(p.numel() for p in module.parameters())
        places = output[0, 0].numel()
        rows[name] = {
            "name": name,
            "maps": " × ".join(map(str, maps)),
            "kernels": " × ".join(map(str, module.weight.shape)),
            "params": params,
            "macs": places * module.weight.numel(),
            "neurons": output[0].numel(),
        }

    for name, module in zip(KERNELS, weighted, strict=True):
        module.register_forward_hook(partial(look, name=name))
    with torch.device("meta"):
        model(torch.empty(1, 3, 224, 224))
    return rows


def test_names_shapes_order_and_cost_are_torchvisions_and_the_papers_are_near(
    evidence,
) -> None:
    rows = {variant.key: variant.check_structure() for variant in VARIANTS}
    with torch.device("meta"):
        found = model_cost(alexnet_paper().eval(), torch.empty(1, 3, 224, 224))
    assert found.params == 60_965_224  # "60 million parameters"
    rows["alexnet_paper"] = {
        "name": "AlexNet, 2012",
        "params": found.params,
        "macs": found.macs,
        "pixels": 224,
    }
    evidence.computed("cost", rows)


def test_the_kernels_and_neurons_are_those_of_the_papers_text_and_figure_2(
    evidence,
) -> None:
    with torch.device("meta"):
        model = alexnet_paper()
    rows = layers_of(model)
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [tuple(m.weight.shape) for m in weighted] == list(KERNELS.values())
    # The first layer has 96 x 55 x 55 outputs; figure 2 says 253,440, which no
    # kernel of 11 x 11 with stride 4 gives.
    neurons = [row["neurons"] for row in rows.values()]
    assert neurons[0] == 290_400
    assert neurons[1:] == NEURONS
    assert sum(row["params"] for row in rows.values()) == 60_965_224
    cost = model_cost(model.eval(), torch.empty(1, 3, 224, 224, device="meta"))
    assert sum(row["macs"] for row in rows.values()) == cost.macs
    linear = sum(rows[name]["params"] for name in ("fc6", "fc7", "fc8"))
    assert linear / cost.params > 0.96
    evidence.computed("layers", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 63, 79),
    small=(partial(AlexNet, 10, hidden=16), paper),
    small_images=(4, 3, 63, 79),
    learns="one batch",
    recipe={"pixels": 63, "steps": 80},
)


def test_with_narrow_linear_layers_it_computes_what_torchvision_computes(
    evidence,
) -> None:
    with torch.device("meta"):
        theirs = SMALLEST.build_reference()
    head = theirs.classifier
    head[1], head[4], head[6] = (
        nn.Linear(9216, 24),
        nn.Linear(24, 24),
        nn.Linear(24, 10),
    )
    theirs.features.to_empty(device="cpu")
    ours = AlexNet(10, hidden=24)
    assert without_drawing(ours) == without_drawing(theirs) == 2
    found = compare(ours, theirs, torch.randn(2, 3, 63, 79))
    settings = "linear layers of 24 units; 10 classes; dropout 0"
    evidence.equivalent(
        "narrow", found, reference="torchvision.models.alexnet", settings=settings
    )


def test_response_norm_is_torchs_whose_alpha_is_divided_by_the_neighbours(
    evidence,
) -> None:
    theirs = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    found = compare(ResponseNorm(), theirs, 100 * torch.randn(2, 9, 6, 5))
    evidence.equivalent(
        "response-norm",
        found,
        reference="torch.nn.LocalResponseNorm",
        settings="size=5, alpha=5 * 1e-4, beta=0.75, k=2",
    )


def test_response_norm_is_the_papers_equation_entry_by_entry() -> None:
    a = 200 * torch.rand(1, 7, 2, 3, dtype=torch.float64)
    n, k, alpha, beta = 5, 2.0, 1e-4, 0.75
    b = torch.empty_like(a)
    for i in range(7):
        total = torch.zeros(1, 2, 3, dtype=torch.float64)
        for j in range(max(0, i - n // 2), min(6, i + n // 2) + 1):
            total += a[:, j] ** 2
        b[:, i] = a[:, i] / (k + alpha * total) ** beta
    torch.testing.assert_close(ResponseNorm()(a), b, rtol=1e-12, atol=1e-12)


def test_response_norm_reads_neighbouring_channels_and_no_other_pixel() -> None:
    a = torch.rand(1, 9, 5, 5, requires_grad=True)
    ResponseNorm(alpha=1.0)(a)[0, 4, 2, 2].backward()
    touched = a.grad[0].nonzero().tolist()
    assert touched == [[c, 2, 2] for c in (2, 3, 4, 5, 6)]


def test_a_group_of_filters_is_one_of_the_papers_two_gpus() -> None:
    model = paper().double().eval()
    conv = model.features[4]
    assert conv.groups == 2
    x = torch.randn(2, 96, 9, 7, dtype=torch.float64)
    halves = [
        F.conv2d(part, weight, bias, padding=2)
        for part, weight, bias in zip(
            x.chunk(2, 1), conv.weight.chunk(2), conv.bias.chunk(2), strict=True
        )
    ]
    torch.testing.assert_close(conv(x), torch.cat(halves, 1), rtol=1e-10, atol=1e-10)


def test_the_two_halves_first_meet_in_the_third_convolution() -> None:
    model = paper().eval()
    for number in (2, 6):  # response normalisation sees two channels beyond the seam
        assert isinstance(model.features[number], ResponseNorm)
        model.features[number] = nn.Identity()
    image, second, third = torch.randn(1, 3, 63, 79), 6, 10  # up to these ReLUs
    before = [model.features[:number](image) for number in (second, third)]
    with torch.no_grad():  # the first GPU's half of the first filters
        model.features[0].weight[:48] += 1
    after = [model.features[:number](image) for number in (second, third)]
    moved = [(x != y).any(dim=(0, 2, 3)) for x, y in zip(before, after, strict=True)]
    assert moved[0][:128].any()
    assert not moved[0][128:].any()
    assert moved[1][:192].any()
    assert moved[1][192:].any()


def test_pooling_windows_overlap_by_a_pixel() -> None:
    pools = [m for m in paper().modules() if isinstance(m, nn.MaxPool2d)]
    assert [(p.kernel_size, p.stride) for p in pools] == [(3, 2)] * 3


def test_dropout_halves_what_enters_two_linear_layers_and_is_off_in_evaluation() -> (
    None
):
    model = AlexNet(10, hidden=16)
    drops = [m for m in model.classifier if isinstance(m, nn.Dropout)]
    assert [d.p for d in drops] == [0.5, 0.5]
    assert model.classifier[0] is drops[0]
    image = torch.randn(2, 3, 63, 79)
    assert not torch.equal(model(image), model(image))
    model.eval()
    assert torch.equal(model(image), model(image))


def test_the_paper_starts_from_small_weights_and_from_ones_where_relus_need_them() -> (
    None
):
    torch.manual_seed(0)
    model = alexnet_paper(num_classes=10)
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in weighted:
        assert layer.weight.mean().abs() < 5e-4
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert [layer.bias.unique().tolist() for layer in weighted] == [
        [0.0],
        [1.0],
        [0.0],
        [1.0],
        [1.0],
        [1.0],
        [1.0],
        [0.0],
    ]


def test_63_pixels_are_the_smallest_image_and_any_larger_one_gives_6_by_6_maps() -> (
    None
):
    with torch.device("meta"):
        model = alexnet()
        assert model(torch.empty(1, 3, 63, 63)).shape == (1, 1000)
        for size in ((63, 200), (224, 224), (300, 400)):
            maps = model.avgpool(model.features(torch.empty(1, 3, *size)))
            assert maps.shape == (1, 256, 6, 6)
        with pytest.raises(RuntimeError):  # what the check in forward is there for
            model.features(torch.empty(1, 3, 62, 63))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(AlexNet, 0), "at least 1, got num_classes=0"),
        (partial(AlexNet, hidden=0), "hidden=0"),
        (partial(AlexNet, in_channels=0), "in_channels=0"),
        (partial(AlexNet, layers=[]), "0 layers"),
        (partial(ResponseNorm, 4), "odd number of neighbours, got size=4"),
        (partial(ResponseNorm, k=0.0), "a k above 0, got k=0.0"),
        (lambda: net()(torch.empty(2, 1, 64, 64)), r"\(N, 3, H, W\).*\(2, 1, 64, 64\)"),
        (lambda: net()(torch.empty(2, 3, 62, 64)), r"63 or more, got \(2, 3, 62, 64\)"),
        (lambda: net()(torch.empty(2, 3, 64, 62)), r"63 or more, got \(2, 3, 64, 62\)"),
        (lambda: net()(torch.empty(3, 64, 64)), r"got \(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_an_alexnet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make()


def net() -> AlexNet:
    return AlexNet(10, hidden=16)
