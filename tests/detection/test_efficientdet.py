"""EfficientDet has the authors' parameter counts, and its BiFPN is their graph of nodes."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.equivalence import compare, difference
from cnn_techniques.attention import SqueezeExcitation
from cnn_techniques.detection import (
    BiFPN,
    BiFPNLayer,
    BiFPNNode,
    EfficientDet,
    EfficientDetHead,
    EfficientNetMaps,
    efficientdet_d0,
    efficientdet_d1,
    efficientdet_d2,
    efficientdet_d3,
    efficientdet_d4,
    efficientdet_d5,
    efficientdet_d6,
    efficientdet_d7,
    efficientdet_d7x,
    fast_normalized_fusion,
    fusion_shares,
    retinanet_detections,
    retinanet_loss,
)
from cnn_techniques.evaluation.model_cost import model_cost
from cnn_techniques.modern import (
    EfficientNet,
    MBConv,
    efficientnet_b0,
    efficientnet_stages,
)

# Pixels of the image; parameters and multiply-adds as in the authors' own test,
# efficientdet/efficientdet_arch_test.py of google/automl, commit 031e806. D7x is not in it.
VARIANTS = {
    efficientdet_d0: (512, 3_880_067, 2_535_978_423),
    efficientdet_d1: (640, 6_625_898, 6_102_772_568),
    efficientdet_d2: (768, 8_097_039, 10_997_043_492),
    efficientdet_d3: (896, 12_032_296, 24_890_171_439),
    efficientdet_d4: (1024, 20_723_675, 55_185_040_717),
    efficientdet_d5: (1280, 33_653_315, 135_387_474_989),
    efficientdet_d6: (1280, 51_871_782, 225_584_339_747),
    efficientdet_d7: (1536, 51_871_782, 324_815_496_167),
    efficientdet_d7x: (1536, None, None),
}


def narrow(channels: int = 3, num_classes: int = 10) -> EfficientDet:
    """Half of B0's width, P3 to P5 of 32 channels: what the recorded run trains."""
    stages = efficientnet_stages(width=0.5, depth=0.3)
    body = EfficientNet(stages, stem=16, head=8, drop_path=0.0, in_channels=channels)
    bifpn = BiFPN([24, 56, 160], 32, layers=2, levels=3)
    sizes = (20, 28, 36)
    return EfficientDet(EfficientNetMaps(body), bifpn, 32, num_classes, 2, sizes)


def some_maps(
    widths=(6, 8, 12), height: int = 24, width: int = 40, images: int = 2
) -> list[Tensor]:
    maps = []
    for channels in widths:
        maps.append(torch.randn(images, channels, height, width))
        height, width = -(-height // 2), -(-width // 2)
    return maps


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def fusion_case():
    maps, weights = [torch.randn(2, 4, 5, 6) for _ in range(3)], torch.rand(3)
    return lambda w, *x: fast_normalized_fusion(x, w), (weights, *maps)


def bifpn_case():
    class OfMaps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bifpn = BiFPN([6, 8, 12], 8, 2)

        def forward(self, *maps: Tensor) -> list[Tensor]:
            return self.bifpn(maps)

    return OfMaps().eval(), tuple(some_maps(height=64, width=96))


DEVICE_CASES = {
    "fast_normalized_fusion": fusion_case,
    "BiFPN": bifpn_case,
    "EfficientDet, narrow": lambda: (narrow().eval(), (torch.randn(2, 3, 64, 96),)),
}


# ---------------------------------------------------------------- fusion


def test_fusion_and_its_gradients_are_the_papers_equation_number_by_number(
    evidence,
) -> None:
    """Section 3.3: O = sum_i w_i / (eps + sum_j w_j) I_i; its derivatives by hand."""
    pairs, slopes = {}, {}
    cases = {
        "two maps": [0.7, 1.9],
        "three maps": [1.0, 0.2, 3.0],
        "a weight below 0": [0.5, -0.8, 1.1],
        "one is all": [0.0003, -1.0, -2.0],
    }
    for name, numbers in cases.items():
        weights = torch.tensor(numbers, dtype=torch.float64, requires_grad=True)
        maps = [
            torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
            for _ in numbers
        ]
        ours = fast_normalized_fusion(maps, weights)
        cotangent = torch.randn_like(ours)
        found = torch.autograd.grad(ours, [weights, *maps], cotangent)

        kept = [max(0.0, w) for w in numbers]
        below = 1e-4 + math.fsum(kept)
        flat = [m.detach().flatten().tolist() for m in maps]
        out = [
            math.fsum(w * x for w, x in zip(kept, column, strict=True)) / below
            for column in zip(*flat, strict=True)
        ]
        g = cotangent.flatten().tolist()
        of_weights = [  # (I_i - O) / (eps + sum w), where w_i counts
            math.fsum(c * (x - o) for c, x, o in zip(g, values, out, strict=True))
            / below
            * (w > 0)
            for w, values in zip(numbers, flat, strict=True)
        ]
        expected = torch.tensor(out, dtype=torch.float64).view_as(ours)
        pairs[name] = ours.detach(), expected
        slopes[f"weights, {name}"] = (
            found[0],
            torch.tensor(of_weights, dtype=torch.float64),
        )
        for i, (slope, w) in enumerate(zip(found[1:], kept, strict=True)):
            if w > 0:
                slopes[f"map {i}, {name}"] = slope, cotangent * (w / below)
            else:
                assert not slope.any()
    comparison = difference(pairs, slopes, shape=[2, 3, 2, 4], modes=list(cases))
    evidence.equivalent(
        "fusion",
        comparison,
        reference="equation of section 3.3, number by number",
    )


def test_shares_are_from_0_on_and_add_up_to_less_than_1() -> None:
    for weights in torch.randn(200, 3) * 10 ** torch.linspace(-6, 3, 200)[:, None]:
        shares = fusion_shares(weights.double())
        assert (shares >= 0).all()
        assert shares.sum() < 1
        assert ((shares > 0) == (weights > 0)).all()


def test_equal_weights_give_the_mean_but_for_epsilon() -> None:
    maps = [torch.randn(2, 3, 4, 5, dtype=torch.float64) for _ in range(3)]
    mean = torch.stack(maps).mean(dim=0)
    for w in (1.0, 7.0):
        fused = fast_normalized_fusion(maps, torch.full((3,), w, dtype=torch.float64))
        torch.testing.assert_close(fused, mean * 3 * w / (3 * w + 1e-4))


def test_weights_all_below_0_leave_nothing_and_get_no_gradient() -> None:
    weights = torch.tensor([-1.0, -0.1], requires_grad=True)
    fused = fast_normalized_fusion([torch.ones(1, 1, 2, 2)] * 2, weights)
    fused.sum().backward()
    assert not fused.any()
    assert not weights.grad.any()


# ---------------------------------------------------------------- BiFPN, a second way


class GraphNode(nn.Module):
    """A node of the paper's figure 2 (d): fuse, SiLU, one dense convolution, norm."""

    def __init__(self, inputs: int, d: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(inputs))
        self.depthwise = nn.Parameter(torch.zeros(d, 1, 3, 3))
        self.pointwise = nn.Parameter(torch.zeros(d, d, 1, 1))
        self.bias = nn.Parameter(torch.zeros(d))
        self.norm = nn.BatchNorm2d(d, 1e-3, 0.01)

    def forward(self, maps: list[Tensor]) -> Tensor:
        total = 1e-4 + sum(w * (w > 0) for w in self.w)
        x = sum(w * (w > 0) / total * m for w, m in zip(self.w, maps, strict=True))
        kernel = self.pointwise * self.depthwise[:, 0]  # (D, D, 3, 3)
        return self.norm(F.conv2d(x * x.sigmoid(), kernel, self.bias, padding=1))


class Projection(nn.Module):
    def __init__(self, c: int, d: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(c, d, 1), nn.BatchNorm2d(d, 1e-3, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def larger(x: Tensor, like: tuple[int, int]) -> Tensor:
    """Cell (i, j) of the finer level reads cell (i // 2, j // 2)."""
    rows, columns = (torch.arange(n) // 2 for n in like)
    return x[:, :, rows][..., columns]


def smaller(x: Tensor) -> Tensor:
    """The largest of the 3 x 3 cells around every second one."""
    padded = F.pad(x, (1, 1, 1, 1), value=-math.inf)
    return padded.unfold(2, 3, 2).unfold(3, 3, 2).amax(dim=(-1, -2))


class Graph(nn.Module):
    """The BiFPN as a table of nodes and of what each reads, evaluated by recursion."""

    def __init__(self, widths: list[int], d: int, layers: int, levels: int) -> None:
        super().__init__()
        self.levels, self.count = levels, layers
        made = [*widths, *[d] * (levels - len(widths))]
        projections = []
        for level in range(len(widths), levels):
            c = widths[-1] if level == len(widths) else d
            projections.append(("extra", level, c))
        # In the order in which the network registers them.
        self.parts = nn.ModuleDict()
        for name, level, c in projections:
            if c != d:
                self.parts[f"{name} {level}"] = Projection(c, d)
        self.reads: dict[tuple[int, str, int], list[tuple[int, str, int]]] = {}
        for k in range(layers):
            for way, first in (("down", 0), ("up", 1)):
                for level in range(first, levels):
                    if k == 0 and made[level] != d:
                        self.parts[f"{k} {way} in {level}"] = Projection(made[level], d)
            for level in range(levels - 1):
                coarser = (k, "td", level + 1)
                self.reads[k, "td", level] = [(k, "down in", level), coarser]
            for level in range(1, levels):
                between = [(k, "td", level)] if level < levels - 1 else []
                read = [(k, "up in", level), *between, (k, "out", level - 1)]
                self.reads[k, "out", level] = read
        for (k, kind, level), read in self.reads.items():
            self.parts[f"{k} {kind} {level}"] = GraphNode(len(read), d)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        known: dict[tuple[int, str, int], Tensor] = {}

        def part(name: str, x: Tensor) -> Tensor:
            return self.parts[name](x) if name in self.parts else x

        given = list(maps)
        for level in range(len(maps), self.levels):
            given.append(smaller(part(f"extra {level}", given[-1])))

        def value(key: tuple[int, str, int]) -> Tensor:
            if key not in known:
                k, kind, level = key
                if kind == "entry":
                    before = (k - 1, "out", level)
                    known[key] = given[level] if k == 0 else value(before)
                elif kind in ("down in", "up in"):
                    known[key] = part(f"{k} {kind} {level}", value((k, "entry", level)))
                elif (k, kind, level) in self.reads:
                    read = [(r, value(r)) for r in self.reads[key]]
                    like = read[0][1].shape[2:]
                    fit = [
                        larger(x, like)
                        if r[2] > level
                        else smaller(x)
                        if r[2] < level
                        else x
                        for r, x in read
                    ]
                    known[key] = self.parts[f"{k} {kind} {level}"](fit)
                elif kind == "td":  # the coarsest has no node of its own
                    known[key] = value((k, "down in", level))
                else:  # what comes down to the finest is what goes up
                    known[key] = value((k, "td", level))
            return known[key]

        return [value((self.count - 1, "out", level)) for level in range(self.levels)]


@pytest.mark.parametrize(
    ("levels", "layers", "height", "width"),
    [(5, 2, 32, 48), (3, 1, 9, 13), (6, 1, 37, 50)],
    ids=["P3 to P7", "P3 to P5, odd sizes", "P3 to P8, odd sizes"],
)
def test_bifpn_equals_the_papers_graph_evaluated_node_by_node(
    levels: int, layers: int, height: int, width: int, evidence
) -> None:
    widths = [6, 8, 12]
    comparison = compare(
        BiFPN(widths, 10, layers, levels),
        Graph(widths, 10, layers, levels),
        (some_maps(widths, height, width),),
        match="order",
    )
    if levels == 5:
        evidence.equivalent(
            "bifpn",
            comparison,
            reference="figure 2 (d), as a table of nodes evaluated by recursion",
        )


def test_fusing_without_weights_adds_the_maps() -> None:
    node = BiFPNNode(3, 4, weighted=False).eval()
    maps = [torch.randn(1, 4, 5, 6) for _ in range(3)]
    expected = node.norm(node.conv(F.silu(maps[0] + maps[1] + maps[2])))
    torch.testing.assert_close(node(maps), expected)
    bare = BiFPN([6, 8], 8, 2, weighted=False)
    assert not [name for name, _ in bare.named_parameters() if name.endswith("weights")]


# ---------------------------------------------------------------- backbone and heads


def test_the_backbones_maps_are_those_of_efficientnet() -> None:
    network = efficientnet_b0().eval()
    x = torch.randn(1, 3, 70, 101)
    with torch.no_grad():
        expected, y = [], x
        for stage in network.features:
            y = stage(y)
            expected.append(y)
        maps = EfficientNetMaps(network).eval()(x)
    assert [m.shape[1] for m in maps] == [40, 112, 320]
    for found, index in zip(maps, (3, 5, 7), strict=True):
        assert torch.equal(found, expected[index])


def test_levels_share_a_heads_convolutions_and_have_norms_of_their_own() -> None:
    head = EfficientDetHead(8, 5, 2, 3).eval()
    levels = [torch.randn(2, 8, n, n + 1) for n in (8, 4, 2)]
    before = head(levels)
    assert [len(rows[0]) for rows in before] == [9 * n * (n + 1) for n in (8, 4, 2)]
    with torch.no_grad():
        head.norms[1][0].running_mean.add_(1.0)
        moved = [
            not torch.equal(a, b) for a, b in zip(before, head(levels), strict=True)
        ]
        head.convs[0][1].bias.add_(1.0)
        all_moved = [
            not torch.equal(a, b) for a, b in zip(before, head(levels), strict=True)
        ]
    assert moved == [False, True, False]
    assert all_moved == [True, True, True]


def test_rows_of_a_head_are_cell_after_cell_and_anchor_after_anchor() -> None:
    head = EfficientDetHead(8, 4, 1, 1).eval()
    level = torch.randn(1, 8, 3, 5)
    x = F.silu(head.norms[0][0](head.convs[0](level)))
    raw, rows = head.predict(x), head([level])[0]
    for y, x_, anchor in ((0, 0, 0), (1, 4, 3), (2, 2, 8)):
        place = (y * 5 + x_) * 9 + anchor
        expected = raw[0, 4 * anchor : 4 * anchor + 4, y, x_]
        assert torch.equal(rows[0, place], expected)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 127), (37, 50), (96, 96)])
def test_any_size_of_image_gives_levels_rounded_up(height: int, width: int) -> None:
    with torch.no_grad():
        output = narrow().eval()(torch.randn(1, 3, height, width))
    cells = [-(-height // s) * -(-width // s) for s in (8, 16, 32)]
    assert output.level_sizes == [9 * n for n in cells]
    assert output.logits.shape == (1, 9 * sum(cells), 10)
    assert output.offsets.shape == (1, 9 * sum(cells), 4)
    assert output.image_size == (height, width)
    middles = (output.anchors[:, :2] + output.anchors[:, 2:]) / 2
    last = middles.split(output.level_sizes)[-1].view(-1, 9, 2).mean(dim=1)
    assert torch.equal(
        last[-1] - last[0], torch.tensor([width - 1, height - 1]) // 32 * 32.0
    )


def test_first_scores_are_the_prior_probability() -> None:
    scores = narrow()(torch.randn(2, 3, 64, 96)).logits.sigmoid()
    assert abs(scores.mean().item() - 0.01) < 2e-3


def test_gradients_reach_every_parameter() -> None:
    network = narrow().eval()  # in training a bias before a batch norm does nothing
    output = network(torch.randn(2, 3, 64, 96))
    (output.logits * torch.randn_like(output.logits)).sum().backward(retain_graph=True)
    (output.offsets * torch.randn_like(output.offsets)).sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name


def test_biases_before_a_batch_norm_do_nothing_in_training(evidence) -> None:
    def useless(network: nn.Module) -> list[nn.Parameter]:
        owners = [m for m in network.modules() if isinstance(m, BiFPNNode)]
        found = [m.conv[1].bias for m in owners]
        heads = [m for m in network.modules() if isinstance(m, EfficientDetHead)]
        found += [conv[1].bias for head in heads for conv in head.convs]
        for name, m in network.named_modules():
            if name.startswith("bifpn.") and isinstance(m, nn.Sequential):
                found += [m[0].bias] if isinstance(m[1], nn.BatchNorm2d) else []
        return found

    network, images = narrow().double(), torch.randn(2, 3, 64, 96).double()
    before = network(images)
    with torch.no_grad():
        for bias in useless(network):
            bias.add_(torch.randn_like(bias))
    after = network(images)
    torch.testing.assert_close(after.logits, before.logits)
    torch.testing.assert_close(after.offsets, before.offsets)
    with torch.device("meta"):
        d0 = efficientdet_d0()
    count = sum(bias.numel() for bias in useless(d0))
    evidence.computed("useless", {"d0": {"name": "EfficientDet-D0", "biases": count}})


def test_an_image_without_objects_has_a_finite_loss_and_gradient() -> None:
    network = narrow()
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    loss = retinanet_loss(network(torch.randn(2, 3, 64, 96)), [nothing] * 2, gamma=1.5)
    assert loss["bbox_regression"] == 0
    sum(loss.values()).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients)
    found = retinanet_detections(network.eval()(torch.randn(1, 3, 64, 96)))[0]
    assert found["boxes"].shape == (0, 4)  # every score is about 0.01 at first


# ---------------------------------------------------------------- sizes and costs


def parameters_by_the_layer_table(
    body: int, maps: tuple[int, int, int], d: int, layers: int, repeats: int, **other
) -> int:
    """Counted on paper: backbone, projections, nodes, heads, for K = 90."""
    levels, weighted = other.get("levels", 5), other.get("weighted", True)
    norm, separable = 2 * d, 9 * d + d * d + d
    # P3 once, P4 and P5 once for each way, and P5 once more on the way to P6.
    projected = sum(
        n * (c * d + d + norm) for n, c in zip((1, 2, 3), maps, strict=True)
    )
    edges = 2 * (levels - 1) + 3 * (levels - 2) + 2
    nodes = 2 * (levels - 1) * (separable + norm) + weighted * edges
    tower = repeats * (separable + levels * norm)
    last = [9 * d + d * 9 * k + 9 * k for k in (90, 4)]
    return body + projected + layers * nodes + 2 * tower + sum(last)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (efficientdet_d0, ((40, 112, 320), 64, 3, 3)),
        (efficientdet_d3, ((48, 136, 384), 160, 6, 4)),
    ],
)
def test_parameters_are_those_of_the_layer_table_and_of_the_authors_test(
    make, shape
) -> None:
    with torch.device("meta"):
        network = make()
    body = sum(p.numel() for p in network.backbone.parameters())
    count = sum(p.numel() for p in network.parameters())
    assert count == parameters_by_the_layer_table(body, *shape) == VARIANTS[make][1]


@pytest.mark.parametrize(
    ("make", "smallest", "levels", "weighted"),
    [
        (efficientdet_d0, 32, 5, True),
        (efficientdet_d5, 32, 5, True),
        (efficientdet_d6, 32, 5, False),
        (efficientdet_d7, 40, 5, False),
        (efficientdet_d7x, 32, 6, False),
    ],
)
def test_anchors_levels_and_fusion_are_those_of_the_authors_configuration(
    make, smallest: int, levels: int, weighted: bool
) -> None:
    """hparams_config.py: the smallest square is anchor_scale 4 (D7: 5) times the stride."""
    with torch.device("meta"):
        network = make()
    assert network.anchor_sizes == tuple(smallest * 2**k for k in range(levels))
    assert network.first_stride == 8
    nodes = [m for m in network.modules() if isinstance(m, BiFPNNode)]
    assert len(nodes) == 2 * (levels - 1) * len(network.bifpn.layers)
    assert all((node.weights is not None) == weighted for node in nodes)


def elementwise(network: EfficientDet, images: Tensor) -> int:
    """Operations that TensorFlow's profiler counts and a count of MACs leaves out."""
    count = 0

    def see(module: nn.Module, inputs, output) -> None:
        nonlocal count
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            count += output.numel()
        elif isinstance(module, SqueezeExcitation):  # the mean and the product
            count += 2 * output.numel()
        elif isinstance(module, nn.SiLU) or (
            isinstance(module, MBConv) and module.shortcut
        ):  # x times its sigmoid
            count += output.numel()
        elif isinstance(module, BiFPNNode):  # products, quotients, sums; SiLU
            maps, size = len(inputs[0]), output.numel()
            products = 2 * maps if module.weights is not None else 0
            count += (products + maps - 1 + 1) * size
        elif isinstance(module, BiFPNLayer):  # max pooling: 9 values a cell
            count += sum(9 * level.numel() for level in output[1:])
        elif isinstance(module, BiFPN):
            extra = output[len(module.in_channels) :]
            count += sum(9 * level.numel() for level in extra)
        elif isinstance(module, EfficientDetHead):  # its SiLUs
            count += len(module.convs) * sum(level.numel() for level in inputs[0])

    handles = [m.register_forward_hook(see) for m in network.modules()]
    network(images)
    for handle in handles:
        handle.remove()
    return count


@pytest.mark.slow
def test_every_size_has_the_authors_parameters_and_their_multiply_adds(
    evidence,
) -> None:
    rows = {}
    for make, (pixels, params, multiply_adds) in VARIANTS.items():
        with torch.device("meta"):
            network, images = make().eval(), torch.empty(1, 3, pixels, pixels)
            cost = model_cost(network, images)
            other = elementwise(network, images)
            output = network(images)
        size = make.__name__.removeprefix("efficientdet_")
        row = rows[size] = {
            "name": f"EfficientDet-{size.upper().replace('X', 'x')}",
            "params": cost.params,
            "macs": cost.macs,
            "pixels": pixels,
            "channels": network.class_head.convs[0][0].in_channels,
            "layers": len(network.bifpn.layers),
            "repeats": len(network.class_head.convs),
            "anchors": len(output.anchors),
        }
        if params is None:
            continue
        assert cost.params == params
        row["quoted_params"], row["quoted_macs"] = params, multiply_adds
        # The profiler counts 2 for a MAC and 1 for any other operation, halved.
        explained = other / 2 / (multiply_adds - cost.macs)
        assert 0.9 < explained < 1.05, (make.__name__, explained)
        row["explained"] = round(100 * explained)  # per cent
        assert 0.98 < cost.macs / multiply_adds < 1
    evidence.computed("cost", rows)


def test_cost_of_the_parts_of_d0(evidence) -> None:
    with torch.device("meta"):
        network, image = efficientdet_d0().eval(), torch.empty(1, 3, 512, 512)
        whole = model_cost(network, image)
        maps = network.backbone(image)
        levels = network.bifpn(maps)
        parts = {
            "body": ("EfficientNet-B0 without its classifier", network.backbone, image),
            "bifpn": ("BiFPN, three layers, P3 to P7", network.bifpn, maps),
            "classes": ("Class head", network.class_head, levels),
            "boxes": ("Box head", network.box_head, levels),
        }
        rows = {}
        for key, (name, part, given) in parts.items():
            cost = model_cost(part.eval(), given)
            rows[key] = {"name": name, "params": cost.params, "macs": cost.macs}
    for key in ("params", "macs"):  # the parts are the whole
        assert sum(row[key] for row in rows.values()) == getattr(whole, key)
    assert whole.params == VARIANTS[efficientdet_d0][1]
    evidence.computed("parts", rows)


def test_compound_scaling_gives_the_published_sizes_but_for_some_of_the_large() -> None:
    """Equations 1 to 3 of section 4 beside the sizes that were published."""
    published = {  # channels, layers, repeats, pixels
        0: (64, 3, 3, 512),
        1: (88, 4, 3, 640),
        2: (112, 5, 3, 768),
        3: (160, 6, 4, 896),
        4: (224, 7, 4, 1024),
        5: (288, 7, 4, 1280),
        6: (384, 8, 5, 1280),
    }
    for phi, (channels, layers, repeats, pixels) in published.items():
        assert abs(64 * 1.35**phi / channels - 1) < 0.06
        assert (3 + phi == layers) == (phi < 5)
        assert 3 + phi // 3 == repeats
        assert (512 + 128 * phi == pixels) == (phi != 5)


# ---------------------------------------------------------------- error paths


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="expected 3 maps, one a weight, got 2"):
        fast_normalized_fusion([torch.zeros(1)] * 2, torch.ones(3))
    with pytest.raises(ValueError, match=r"got in_channels=\[\], channels=8"):
        BiFPN([], 8, 1)
    with pytest.raises(ValueError, match="layers=0"):
        BiFPN([8], 8, 0)
    with pytest.raises(ValueError, match=r"a level for each map, got .* levels=2"):
        BiFPN([8, 8, 8], 8, 1, levels=2)
    with pytest.raises(
        ValueError, match=r"in_channels=\(6, 8\), got \[\(2, 6, 24, 40\)"
    ):
        BiFPN([6, 8], 8, 1)(some_maps((6, 9)))
    network = narrow()
    with pytest.raises(
        ValueError, match=r"expected images \(N, C, H, W\), got \(3, 64, 96\)"
    ):
        network(torch.randn(3, 64, 96))
    with pytest.raises(ValueError, match="num_classes=0"):
        EfficientDet(network.backbone, network.bifpn, 32, 0)
    with pytest.raises(ValueError, match="got 3 levels"):
        EfficientDet(network.backbone, network.bifpn, 32, 10)(torch.randn(1, 3, 64, 96))
    with pytest.raises(ValueError, match="a cell every 4 of"):
        EfficientDet(network.backbone, network.bifpn, 32, 10, 1, (9, 9, 9), 4)(
            torch.randn(1, 3, 64, 96)
        )


# ---------------------------------------------------------------- the record


def learn_trial(learning_rate: float, seed: int) -> dict[str, object]:
    from cnn_lab.scene_trial import learn_boxes

    torch.manual_seed(seed)
    return learn_boxes(
        narrow(),
        lambda net, x, y: sum(retinanet_loss(net(x), y, gamma=1.5).values()),
        lambda out: retinanet_detections(out, limit=100),
        learning_rate=learning_rate,
        seed=seed,
    )


def trial(seeds: list[int], learning_rate: float) -> dict[str, object]:
    from cnn_lab.scene_trial import scene_trials

    cache = Path(__file__).parents[2] / ".cache/record/efficientdet.jsonl"
    name = "EfficientDet, half of B0's width"
    arms = {"efficientdet": (name, {"learning_rate": learning_rate})}
    return scene_trials(learn_trial, seeds, cache, arms)


@pytest.mark.record
def test_record_it_learns_the_scenes_of_all_detectors(evidence) -> None:
    pytest.importorskip("torchmetrics")
    evidence.measured(
        "trial", arguments={"seeds": [0, 1, 2], "learning_rate": 1.5e-2}, run=trial
    )
