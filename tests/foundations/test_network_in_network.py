"""Network in Network has no reference: the paper's equations are written a second way, its layers counted."""

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
    NIN_LAYERS,
    MlpConv,
    NetworkInNetwork,
    network_in_network,
)

VARIANTS = [  # parameters and MACs: the sums over the authors' layers, below
    Variant(
        network_in_network,
        "Network in Network",
        pixels=32,
        counts=(966_986, 222_486_528),
    )
]
SMALL = [(5, (12, 10, 8)), (5, (9, 8, 7)), (3, (6, 5))]

DEVICE_CASES = {
    "MlpConv": lambda: (MlpConv(3, 5, (8, 6)), (torch.randn(2, 3, 9, 7),)),
    "NetworkInNetwork": lambda: (
        NetworkInNetwork(4, SMALL, dropout=0.0),
        (torch.randn(2, 3, 16, 20),),
    ),
}


class Equation(nn.Module):
    """The network by hand: a perceptron of the paper's equation 2 on every patch.

    Parameters have the shapes of ours, in the same order; nothing else is shared.
    """

    def __init__(self, classes: int, layers: list[tuple[int, tuple[int, ...]]]) -> None:
        super().__init__()
        self.weights, self.plan = nn.ParameterList(), []
        channels = 3
        for number, (kernel, widths) in enumerate(layers, start=1):
            last = number == len(layers)
            for width in (*widths, classes) if last else widths:
                self.plan.append((kernel, False))
                shape = (width, channels, kernel, kernel)
                self.weights.append(nn.Parameter(torch.empty(shape)))
                self.weights.append(nn.Parameter(torch.empty(width)))
                channels, kernel = width, 1
            self.plan[-1] = (self.plan[-1][0], not last)

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.weights[::2], self.weights[1::2], self.plan, strict=True)
        for weight, bias, (kernel, pooled) in pairs:
            height, width = x.shape[2:]
            patches = F.unfold(x, kernel, padding=kernel // 2)  # (N, C*k*k, H*W)
            sums = torch.einsum("dp,npl->ndl", weight.flatten(1), patches)
            f = sums + bias[:, None]
            if weight is not self.weights[-2]:  # scores may be negative
                f = torch.maximum(f, torch.zeros(()).to(f))
            x = f.unflatten(2, (height, width))
            if pooled:  # windows of 3 x 3 every 2 pixels, cut off at the far edges
                rows, columns = -(-(height - 3) // 2) + 1, -(-(width - 3) // 2) + 1
                x = torch.stack(
                    [
                        torch.stack(
                            [
                                x[:, :, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3].amax(
                                    (2, 3)
                                )
                                for c in range(columns)
                            ],
                            dim=-1,
                        )
                        for r in range(rows)
                    ],
                    dim=-2,
                )
        return x.sum(dim=(2, 3)) / (x.shape[2] * x.shape[3])


def test_the_network_is_the_papers_equations_written_a_second_way(evidence) -> None:
    for key, classes, layers in (
        ("network_in_network", 10, NIN_LAYERS),
        ("small", 4, SMALL),
    ):
        ours, theirs = NetworkInNetwork(classes, layers), Equation(classes, layers)
        assert without_drawing(ours) == 2
        found = compare(ours, theirs, torch.randn(2, 3, 12, 9), match="order")
        if key == "network_in_network":
            evidence.equivalent(
                key,
                found,
                reference="the paper's equation 2 on every patch, written a second way",
                settings="dropout 0",
            )


def test_widths_parameters_and_maps_are_those_of_the_authors_network(evidence) -> None:
    with torch.device("meta"):
        model, image = network_in_network().eval(), torch.empty(1, 3, 32, 32)
    rows: dict[str, dict[str, object]] = {}
    x, number, index = image, 0, 0
    for module in model.features:
        if isinstance(module, MlpConv):
            number, index = number + 1, 0
        for layer in getattr(module, "perceptron", [module]):
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                index += 1
                k = layer.kernel_size[0]
                rows[f"l{number}{index}"] = {
                    "name": f"mlpconv {number}, layer {index}",
                    "kernel": f"{k} × {k}",
                    "maps": " × ".join(map(str, x.shape[1:])),
                    "params": sum(p.numel() for p in layer.parameters()),
                    "macs": x[0, 0].numel() * layer.weight.numel(),
                }
    assert [row["maps"].split(" × ")[0] for row in rows.values()] == [
        *["192", "160", "96"],
        *["192", "192", "192"],
        *["192", "192", "10"],
    ]
    assert [row["maps"].split(" × ")[1] for row in rows.values()] == (
        ["32"] * 3 + ["16"] * 3 + ["8"] * 3
    )
    cost = {v.key: v.check_structure() for v in VARIANTS}
    for key in ("params", "macs"):
        assert sum(row[key] for row in rows.values()) == cost["network_in_network"][key]
    evidence.computed("cost", cost)
    evidence.computed("layers", rows)


def test_after_the_first_convolution_every_pixel_is_for_itself() -> None:
    layer = MlpConv(3, 5, (16, 12, 8))
    nn.init.constant_(layer.perceptron[2].bias, 1.0)
    image = torch.randn(1, 3, 11, 11, requires_grad=True)
    layer(image)[0, :, 5, 5].sum().backward()
    seen = image.grad[0].abs().sum(0).nonzero()
    assert (seen.min().item(), seen.max().item()) == (3, 7)  # 5 x 5, not more
    f = torch.rand(2, 16, 6, 5)
    order = torch.randperm(30)
    rest = layer.perceptron[2:]
    shuffled = rest(f.flatten(2)[..., order].unflatten(2, (6, 5)))
    expected = rest(f).flatten(2)[..., order].unflatten(2, (6, 5))
    torch.testing.assert_close(shuffled, expected, rtol=1e-5, atol=1e-6)


def test_a_1x1_convolution_is_a_linear_layer_over_the_channels() -> None:
    conv = MlpConv(3, 1, (7,)).perceptron[0].double()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    expected = F.linear(x.movedim(1, -1), conv.weight[:, :, 0, 0], conv.bias)
    torch.testing.assert_close(conv(x).movedim(1, -1), expected)


def test_a_score_is_the_mean_of_its_own_map_wherever_the_evidence_is() -> None:
    model = NetworkInNetwork(4, SMALL).eval()
    image = torch.randn(2, 3, 16, 20)
    maps = model.maps(image)
    assert maps.shape == (2, 4, 4, 5)
    torch.testing.assert_close(model(image), maps.flatten(2).mean(2))
    last = model.features[-1]
    count = len([m for m in model.parameters()])
    assert count == 2 * sum(len(w) for _, w in SMALL) + 2  # nothing after the maps
    with torch.no_grad():
        before = model(image)
        last.bias[1] += 1
        moved = (model(image) - before).abs().amax(0) > 0
    assert moved.tolist() == [False, True, False, False]


def test_scores_do_not_depend_on_the_size_of_a_uniform_image() -> None:
    model = NetworkInNetwork(4, [(1, (6, 5)), (1, (5,))]).eval()
    scores = [model(torch.ones(1, 3, *size)) for size in ((4, 4), (32, 32), (15, 40))]
    torch.testing.assert_close(scores[0], scores[1])
    torch.testing.assert_close(scores[0], scores[2])


def test_dropout_and_pooling_stand_after_all_but_the_last_mlpconv_layer() -> None:
    kinds = [type(m).__name__ for m in network_in_network().features]
    assert kinds == ["MlpConv", "MaxPool2d", "Dropout"] * 2 + ["MlpConv", "Conv2d"]
    model, image = NetworkInNetwork(4, SMALL), torch.randn(2, 3, 16, 20)
    assert {m.p for m in model.features if isinstance(m, nn.Dropout)} == {0.5}
    assert not torch.equal(model(image), model(image))
    model.eval()
    assert torch.equal(model(image), model(image))


def test_the_figures_draw_what_the_layers_compute() -> None:
    found = figure_source("foundations/network-in-network")
    sizes: list[tuple[int, int, str]] = [(32, 3, "image")]
    with torch.device("meta"):
        model, x = network_in_network(), torch.empty(1, 3, 32, 32)
        for module in model.features:
            x = module(x)
            if isinstance(module, MlpConv):
                name = f"mlpconv {len(sizes)}"
                sizes.append((x.shape[-1], x.shape[1], name))
        sizes[-1] = (x.shape[-1], x.shape[1], name)  # behind the last convolution
    assert found["SIZES"] == [*sizes, (1, 10, "mean")]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_smallest_image_leaves_one_pixel_of_the_last_maps(count: int) -> None:
    with torch.device("meta"):
        model = NetworkInNetwork(4, [(3, (8,))] * count)
        side = model.smallest
        assert model.maps(torch.empty(1, 3, side, side)).shape[2:] == (1, 1)
        assert model(torch.empty(1, 3, side, side + 9)).shape == (1, 4)
        for size in ((side - 1, side), (side, side - 1)):
            with pytest.raises(ValueError, match=f"{side} or more"):
                model(torch.empty(1, 3, *size))
        if count > 1:
            with pytest.raises(RuntimeError):  # what the check is there for
                model.features(torch.empty(1, 3, side - 1, side))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(MlpConv, 3, 4, (8,)), "odd kernel, got .*kernel=4"),
        (partial(MlpConv, 3, 5, ()), r"widths=\(\)"),
        (partial(MlpConv, 0, 5, (8,)), "in_channels=0"),
        (partial(MlpConv, 3, 5, (8, 0)), r"widths=\(8, 0\)"),
        (partial(network_in_network, 0), "one class .* got num_classes=0"),
        (partial(NetworkInNetwork, 10, ()), "0 layers"),
        (partial(NetworkInNetwork, in_channels=0), "in_channels=0"),
        (lambda: small()(torch.empty(2, 1, 32, 32)), r"\(N, 3, H, W\).*\(2, 1, 32,"),
        (lambda: small()(torch.empty(2, 3, 3, 32)), r"4 or more, got \(2, 3, 3, 32\)"),
        (lambda: small()(torch.empty(3, 32, 32)), r"got \(3, 32, 32\)"),
    ],
)
def test_what_cannot_be_a_network_in_network_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make()


def small() -> NetworkInNetwork:
    return NetworkInNetwork(4, SMALL)


_, test_gradients, test_learns, _ = network_proof(
    VARIANTS,
    images=None,
    small=network_in_network,
    small_images=(4, 3, 32, 32),
)
