"""PSPNet is the authors' list of Caffe layers, restated here, and segmentation-models-pytorch's where that has the same."""

import runpy
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from segmentation_models_pytorch import PSPNet as SmpPSPNet
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPModule
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab.scene_trial import learn_masks, scene_trials
from cnn_site.equivalence import compare, difference
from cnn_site.laws import gradient_reaches_every_parameter
from cnn_site.proofs import without_drawing
from cnn_site.variants import NoInit
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import BasicBlock, Bottleneck, ResNet, resnet18, resnet50
from cnn_techniques.segmentation import (
    PSPNet,
    PSPNetOutput,
    PyramidPooling,
    pspnet_loss,
    pspnet_resnet50,
    pspnet_resnet101,
)

FIGURE = Path(__file__).parents[2] / "snippets/segmentation/figures/pspnet.py"


def narrow(num_classes: int = 11) -> PSPNet:
    """What the recorded runs train."""
    return PSPNet(ResNet(BasicBlock, (1, 1, 1, 1), width=16), num_classes)


def small(num_classes: int = 5) -> PSPNet:
    return PSPNet(ResNet(Bottleneck, (1, 1, 2, 2), width=4), num_classes)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


DEVICE_CASES = {
    "PyramidPooling": lambda: (PyramidPooling(8), (torch.randn(2, 8, 7, 12),)),
    "PSPNet, narrow": lambda: (narrow().eval(), (torch.randn(2, 3, 49, 65),)),
}


# ---------------------------------------------------------------- the authors' list of layers


class Line(NamedTuple):
    """A convolution of the authors' net specification; a batch norm and a ReLU follow those with `norm`."""

    name: str
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    norm: bool = True


def residual_lines(
    counts: tuple[int, ...], width: int, channels: int, first: tuple[int, int]
) -> list[Line]:
    """conv2_1_1x1_reduce to conv5_3_1x1_proj; `first`: dilation of conv4_1_3x3 and of conv5_1_3x3."""
    lines = []
    dilations, firsts = (1, 1, 2, 4), (1, 1, *first)
    for stage, count in enumerate(counts, start=2):
        for number in range(1, count + 1):
            name, d = f"conv{stage}_{number}", dilations[stage - 2]
            stride = 2 if (stage, number) == (3, 1) else 1
            d = firsts[stage - 2] if number == 1 else d
            lines += [
                Line(f"{name}_1x1_reduce", channels, width),
                Line(f"{name}_3x3", width, width, 3, stride, d),
                Line(f"{name}_1x1_increase", width, 4 * width),
            ]
            if number == 1:
                lines.append(Line(f"{name}_1x1_proj", channels, 4 * width, 1, stride))
            channels = 4 * width
        width *= 2
    return lines


STEM = [("conv1_7x7_s2", 1, 7, 2)]  # of the ResNet that the paper names
RELEASED = [("conv1_1_3x3_s2", 1, 3, 2), ("conv1_2_3x3", 1, 3, 1), ("conv1_3_3x3", 2, 3, 1)]  # fmt: skip


def lines_of(
    counts: tuple[int, ...],
    width: int,
    classes: int,
    stem: list[tuple[str, int, int, int]],
    first: tuple[int, int] = (2, 4),
    aux: bool = True,
) -> list[Line]:
    lines, channels = [], 3
    for name, times, kernel, stride in stem:
        lines.append(Line(name, channels, times * width, kernel, stride))
        channels = times * width
    lines += residual_lines(counts, width, channels, first)
    last = 32 * width
    pools = [Line(f"conv5_3_pool{n}_conv", last, last // 4) for n in (1, 2, 3, 6)]
    lines += [*pools, Line("conv5_4", 2 * last, last // 4, 3)]
    lines.append(Line("conv6", last // 4, classes, norm=False))
    if aux:
        lines.append(Line("conv4_aux", last // 2, last // 8, 3))
        lines.append(Line("conv6_1", last // 8, classes, norm=False))
    return lines


def parameters_of(lines: list[Line]) -> int:
    return sum(
        line.inputs * line.outputs * line.kernel**2
        + line.outputs * (2 if line.norm else 1)
        for line in lines
    )


def enlarged(x: Tensor, height: int, width: int) -> Tensor:
    """Caffe's Interp: row i of `height` lies at i (h - 1) / (height - 1) of the h rows."""

    def weights(few: int, many: int) -> Tensor:
        place = torch.arange(many, dtype=x.dtype) * ((few - 1) / max(many - 1, 1))
        apart = place[:, None] - torch.arange(few, dtype=x.dtype)
        return (1 - apart.abs()).clamp(min=0)

    rows, columns = weights(x.shape[2], height), weights(x.shape[3], width)
    return torch.einsum("ih,nchw,jw->ncij", rows, x, columns)


class CaffeLayer(nn.Module):
    """One such line: im2col and a product, then what follows it."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self.line, self.macs = line, 0
        shape = line.outputs, line.inputs, line.kernel, line.kernel
        self.weight = nn.Parameter(torch.zeros(shape))
        if line.norm:
            self.bn = nn.BatchNorm2d(line.outputs)
        else:
            self.bias = nn.Parameter(torch.zeros(line.outputs))

    def forward(self, x: Tensor) -> Tensor:
        _, inputs, _, kernel, stride, dilation, norm = self.line
        columns = F.unfold(x, kernel, dilation, dilation * (kernel // 2), stride)
        y = self.weight.flatten(1) @ columns
        y = y.unflatten(2, (-(-x.shape[2] // stride), -1))
        self.macs = y[0].numel() * inputs * kernel**2
        return self.bn(y) if norm else y + self.bias[:, None, None]


class Caffe(nn.Module):
    """Computes what such a list says, on images of 8 k + 1 pixels whose features divide into 6 x 6 parts."""

    def __init__(self, lines: list[Line]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({line.name: CaffeLayer(line) for line in lines})

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers.values())

    def relu(self, name: str, x: Tensor) -> Tensor:
        return self.layers[name](x).clamp(min=0)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x, stages = image, {}
        for name in self.layers:
            if name.startswith("conv1"):
                x = self.relu(name, x)
        x = F.pad(x, (1, 1, 1, 1), value=-torch.inf).unfold(2, 3, 2).unfold(3, 3, 2)
        x = x.amax(dim=(4, 5))
        for name in self.layers:
            if name.endswith("1x1_reduce"):
                block = name.removesuffix("_1x1_reduce")
                y = self.relu(f"{block}_3x3", self.relu(name, x))
                y = self.layers[f"{block}_1x1_increase"](y)
                if f"{block}_1x1_proj" in self.layers:
                    x = self.layers[f"{block}_1x1_proj"](x)
                x = (x + y).clamp(min=0)
                stages[block[4]] = x
        n, c, h, w = x.shape
        maps = [x]
        for bins in (1, 2, 3, 6):
            y = x.reshape(n, c, bins, h // bins, bins, w // bins).mean(dim=(3, 5))
            maps.append(enlarged(self.relu(f"conv5_3_pool{bins}_conv", y), h, w))
        y = self.relu("conv5_4", torch.cat(maps, dim=1))
        scores = {"out": self.layers["conv6"](y)}
        if "conv4_aux" in self.layers:
            y = self.relu("conv4_aux", stages["4"])
            scores["aux"] = self.layers["conv6_1"](y)
        large = 8 * (h - 1) + 1, 8 * (w - 1) + 1
        return {key: enlarged(y, *large) for key, y in scores.items()}


def dilate_first_blocks(network: PSPNet) -> None:
    """As in the authors' networks: all 3x3 convolutions of a stage have its dilation."""
    for stage, d in ((network.backbone.layer3, 2), (network.backbone.layer4, 4)):
        for conv in stage.modules():
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (d, d)


@pytest.mark.parametrize("first", [(1, 2), (2, 4)], ids=["here", "authors"])
def test_it_equals_the_authors_list_of_layers_on_the_papers_resnet(
    evidence, first: tuple[int, int]
) -> None:
    ours = small()
    without_drawing(ours)
    if first == (2, 4):
        dilate_first_blocks(ours)
    theirs = Caffe(lines_of((1, 1, 2, 2), 4, 5, STEM, first))
    result = compare(
        ours,
        theirs,
        torch.randn(2, 3, 89, 41),
        match="order",
        outputs=(lambda out: out._asdict(), dict),
    )
    key = "caffe" if first == (2, 4) else "network"
    same = "the first block of a stage dilated as "
    evidence.equivalent(
        key,
        result,
        reference="the authors' list of Caffe layers, restated in the proof file",
        settings=(same + ("the authors'" if key == "caffe" else "torchvision does"))
        + "; ResNet of width 4, blocks 1, 1, 2, 2, one 7x7 convolution first; dropout 0",
    )


# ---------------------------------------------------------------- segmentation-models-pytorch


class MapLast(nn.Module):
    """The pyramid's output in the order in which segmentation-models-pytorch has it."""

    def __init__(self, pyramid: PyramidPooling, channels: int) -> None:
        super().__init__()
        self.pyramid, self.channels = pyramid, channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.pyramid(x)
        return torch.cat([y[:, self.channels :], y[:, : self.channels]], dim=1)


def like_smp(ours: PSPNet, classes: int) -> PSPNet:
    """The five things that segmentation-models-pytorch does in another way."""
    channels = ours.classifier[0].in_channels // 2
    dilate_first_blocks(ours)
    level = ours.pyramid.levels[0]  # a bin of 1: a bias and no norm
    level[1], level[2] = nn.Conv2d(channels, channels // 4, 1), nn.Identity()
    ours.pyramid = MapLast(ours.pyramid, channels)
    ours.classifier[0] = nn.Conv2d(2 * channels, channels // 4, 1, bias=False)
    ours.classifier[3] = nn.Dropout2d(0.2)
    ours.classifier[4] = nn.Conv2d(channels // 4, classes, 3, padding=1)
    ours.aux_classifier = nn.Identity()  # it has none
    return ours


@pytest.mark.parametrize(
    "name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)]
)
def test_with_five_things_replaced_it_equals_segmentation_models_pytorchs(
    evidence, name: str
) -> None:
    make = {"resnet18": resnet18, "resnet50": resnet50}[name]
    with NoInit():
        body = make()
        ours = like_smp(PSPNet(body, 5), 5)
        theirs = SmpPSPNet(
            name,
            encoder_weights=None,
            encoder_depth=5,
            output_stride=8,
            psp_out_channels=ours.classifier[0].out_channels,
            classes=5,
        )
    result = compare(
        ours,
        theirs,
        torch.randn(2, 3, 56, 72),
        match="order",
        outputs=(lambda out: out.out, lambda out: out),
    )
    evidence.equivalent(
        f"smp-{name}",
        result,
        reference="segmentation_models_pytorch.PSPNet",
        settings=f"{name}; encoder_depth=5; output_stride=8; the same dropout drawn on both sides; ours with its five differences",
    )


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> dict[str, Tensor]:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = conv.weight * scale[:, None, None, None]
    return {"weight": weight, "bias": norm.bias - norm.running_mean * scale}


def test_the_pyramid_equals_segmentation_models_pytorchs_with_the_first_norm_folded(
    evidence,
) -> None:
    ours, theirs = PyramidPooling(12).double(), PSPModule(12).double()
    x = torch.randn(3, 12, 9, 13, dtype=torch.float64)
    for tensor in ours.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    for level in ours.levels:
        nn.init.normal_(level[1].weight)
    state = {}
    for index, (_, conv, norm, _) in enumerate(ours.levels):
        name = f"blocks.{index}.pool.1."
        parts = {"0": conv.state_dict(), "1": norm.state_dict()}
        if index == 0:
            parts = {"0": folded(conv, norm)}
        state |= {f"{name}{part}.{k}": v for part, d in parts.items() for k, v in d.items()}  # fmt: skip
    theirs.load_state_dict(state)  # strict
    ours.eval(), theirs.eval()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = MapLast(ours, 12)(a), theirs(b)
    y.square().sum().backward(), z.square().sum().backward()
    evidence.equivalent(
        "pyramid",
        difference(
            {"maps": (y.detach(), z.detach())},
            {"input": (a.grad, b.grad)},
            shape=list(x.shape),
            modes=["evaluation"],
        ),
        reference="segmentation_models_pytorch.decoders.pspnet.decoder.PSPModule",
        settings="the batch norm of the bin of 1 folded into weights and bias; the map last",
    )


# ---------------------------------------------------------------- laws


def test_of_a_map_that_6_does_not_divide_each_part_averages_the_cells_it_touches() -> (
    None
):
    pyramid, x = PyramidPooling(4).double(), torch.randn(2, 4, 7, 11).double()
    pooled = pyramid.levels[3][0](x)
    for i in range(6):
        for j in range(6):
            rows = slice(i * 7 // 6, -(-(i + 1) * 7 // 6))
            columns = slice(j * 11 // 6, -(-(j + 1) * 11 // 6))
            expected = x[:, :, rows, columns].mean(dim=(2, 3))
            torch.testing.assert_close(pooled[:, :, i, j], expected)


def test_the_map_comes_first_and_a_bin_of_1_says_the_same_everywhere() -> None:
    pyramid, x = PyramidPooling(8, (1, 4)), torch.randn(2, 8, 5, 6)
    y = pyramid(x)
    assert torch.equal(y[:, :8], x)
    assert y.shape == (2, 16, 5, 6)
    torch.testing.assert_close(y[:, 8:12], y[:, 8:12, :1, :1].expand(-1, -1, 5, 6))


def test_with_the_bin_of_1_every_score_sees_every_pixel_and_without_the_pyramid_not() -> (
    None
):
    x = torch.rand(1, 3, 401, 401, dtype=torch.float64, requires_grad=True)
    seen = []
    for with_pyramid in (True, False):
        network = PSPNet(ResNet(Bottleneck, (1, 1, 1, 1), width=2), 1).double().eval()
        for p in network.parameters():
            nn.init.uniform_(p, 0.1, 0.2)  # positive, so that no ReLU hides a pixel
        network.backbone.maxpool = nn.AvgPool2d(3, 2, 1)
        if not with_pyramid:
            nn.init.zeros_(network.classifier[0].weight[:, 64:])
        (g,) = torch.autograd.grad(network(x).out[0, 0, 0, 0], x)
        seen.append((g != 0).double().mean().item())
    assert seen[0] == 1
    assert seen[1] < 0.5


def test_on_images_of_8_k_plus_1_pixels_cell_i_lies_on_pixel_8_i() -> None:
    network = PSPNet(ResNet(Bottleneck, (1, 1, 1, 1), width=2), 1).double().eval()
    for p in network.parameters():
        nn.init.uniform_(p, 0.1, 0.2)
    network.backbone.maxpool = nn.AvgPool2d(3, 2, 1)
    x = torch.rand(1, 3, 9, 401, dtype=torch.float64, requires_grad=True)
    last = network.backbone.features(x)[-1]
    assert last.shape[3] == 51
    for cell in (20, 25, 30):
        (g,) = torch.autograd.grad(last[0, 0, 0, cell], x, retain_graph=True)
        columns = g.abs().sum(dim=(0, 1, 2)).nonzero()[:, 0]
        assert (columns.min() + columns.max()) / 2 == 8 * cell


@pytest.mark.parametrize("size", [(33, 41), (40, 64), (57, 9)])
def test_scores_are_as_high_and_wide_as_any_image(size: tuple[int, int]) -> None:
    out = small(3).to("meta").eval()(torch.empty(2, 3, *size, device="meta"))
    assert out.out.shape == out.aux.shape == (2, 3, *size)


def test_one_image_cannot_train_the_bin_of_1_and_two_give_it_plus_and_minus_1() -> None:
    pyramid = PyramidPooling(8).double()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        pyramid(torch.randn(1, 8, 6, 6, dtype=torch.float64))
    y = pyramid.levels[0][:3](torch.randn(2, 8, 6, 6, dtype=torch.float64) * 100)
    torch.testing.assert_close(y.abs(), torch.ones_like(y), atol=1e-2, rtol=0)
    pyramid.eval()(torch.randn(1, 8, 6, 6, dtype=torch.float64))


def test_gradients_reach_every_parameter() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = narrow()

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat(self.network(x))

    gradient_reaches_every_parameter(Both(), torch.randn(4, 3, 41, 57))


def test_the_auxiliary_loss_changes_nothing_after_the_stage_before_the_last() -> None:
    network, x = small(), torch.randn(2, 3, 41, 57)
    masks = torch.randint(0, 5, (2, 41, 57))
    output = network(x)
    with_aux = pspnet_loss(output, masks) - pspnet_loss(output, masks, alpha=0.0)
    with_aux.backward()
    reached = {n.rsplit(".", 3)[0] for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-9}  # fmt: skip
    assert any(n.startswith("backbone.layer3") for n in reached)
    assert not any(n.startswith(("backbone.layer4", "pyramid", "classifier")) for n in reached)  # fmt: skip


# ---------------------------------------------------------------- the loss


def test_loss_is_the_papers_sum(evidence) -> None:
    output = PSPNetOutput(*torch.randn(2, 2, 5, 6, 7, dtype=torch.float64))
    masks = torch.randint(0, 5, (2, 6, 7))
    masks[0, :3] = 255
    pairs, slopes = {}, {}
    for alpha in (0.4, 0.0):
        leaves = [scores.clone().requires_grad_() for scores in output]
        ours = pspnet_loss(PSPNetOutput(*leaves), masks, alpha)
        out, aux = (F.cross_entropy(s, masks, ignore_index=255) for s in leaves)
        theirs = out + alpha * aux
        pairs[f"alpha {alpha}"] = ours.detach(), theirs.detach()
        for leaf, name in zip(leaves, output._fields, strict=True):
            slopes[f"{name} {alpha}"] = tuple(
                torch.autograd.grad(loss, leaf, retain_graph=True)[0]
                for loss in (ours, theirs)
            )
    evidence.equivalent(
        "loss",
        difference(pairs, slopes, shape=[2, 5, 6, 7], modes=list(pairs)),
        reference="torch.nn.functional.cross_entropy(ignore_index=255), main + 0.4 auxiliary, as in the authors' PyTorch code",
    )


def test_pixels_without_a_label_have_no_gradient_and_an_image_of_them_no_loss() -> None:
    scores = torch.randn(2, 1, 5, 6, 7, requires_grad=True)
    masks = torch.randint(0, 5, (1, 6, 7))
    masks[0, 2] = 255
    (slope,) = torch.autograd.grad(pspnet_loss(PSPNetOutput(*scores), masks), scores)
    assert not slope[:, :, :, 2].any()
    assert slope[:, :, :, 3].all()
    nothing = pspnet_loss(PSPNetOutput(*scores), torch.full((1, 6, 7), 255))
    nothing.backward()
    assert nothing == 0
    assert not scores.grad.any()


# ---------------------------------------------------------------- costs and errors


def counted(network: nn.Module, pixels: int) -> tuple[int, int]:
    cost = model_cost(network.eval(), torch.empty(1, 3, pixels, pixels, device="meta"))
    return cost.params, cost.macs


def test_costs_on_the_page_are_those_of_the_authors_list(evidence) -> None:
    rows = {}
    blocks = {"pspnet_resnet50": (3, 4, 6, 3), "pspnet_resnet101": (3, 4, 23, 3)}
    for make, title in [(pspnet_resnet50, "PSPNet-50"), (pspnet_resnet101, "PSPNet-101")]:  # fmt: skip
        key = make.__name__
        lines = lines_of(blocks[key], 64, 21, STEM)
        with torch.device("meta"):
            network, theirs = make(), Caffe(lines)
            params, macs = counted(network, 473)
            theirs.eval()(torch.empty(1, 3, 473, 473))
            assert macs == theirs.macs
            _, large = counted(network, 713)
        aux = sum(p.numel() for p in network.aux_classifier.parameters())
        assert params == parameters_of(lines)
        assert params - aux == parameters_of(lines_of(blocks[key], 64, 21, STEM, aux=False))  # fmt: skip
        rows[key] = {
            "name": title, "params": params, "without_aux": params - aux,
            "macs": macs, "macs_713": large, "mib": 4 * (params - aux) / 2**20,
        }  # fmt: skip
    with torch.device("meta"):
        params, macs = counted(narrow(), 96)
        aux = sum(p.numel() for p in narrow().aux_classifier.parameters())
    evidence.computed("cost", rows)
    row = {"name": "narrow", "params": params, "without_aux": params - aux, "macs": macs}  # fmt: skip
    evidence.computed("trial_cost", {"narrow": row})


def test_what_the_pyramid_adds_and_what_other_versions_have(evidence) -> None:
    with torch.device("meta"):
        network = pspnet_resnet50()
        shallow = SmpPSPNet("resnet50", encoder_weights=None, classes=21)
        dilated = SmpPSPNet("resnet50", encoder_weights=None, classes=21, encoder_depth=5, output_stride=8)  # fmt: skip
    used = [shallow.encoder.conv1, shallow.encoder.bn1, shallow.encoder.layer1, shallow.encoder.layer2, shallow.decoder, shallow.segmentation_head]  # fmt: skip

    def size(*modules: nn.Module) -> int:
        return sum(p.numel() for m in modules for p in m.parameters())

    released = {
        "ade50": ("PSPNet-50, ADE20K", (3, 4, 6, 3), 150),
        "voc101": ("PSPNet-101, VOC", (3, 4, 23, 3), 21),
        "city101": ("PSPNet-101, Cityscapes", (3, 4, 23, 3), 19),
    }
    rows = {}
    for key, (name, counts, classes) in released.items():
        lines = lines_of(counts, 64, classes, RELEASED, aux=False)
        params = parameters_of(lines)
        rows[key] = {"name": name, "params": params, "mib": 4 * params / 2**20}
    evidence.computed("released", rows)
    later = {
        f"pspnet_resnet{depth}": {
            "name": f"PSPNet-{depth}",
            "params": parameters_of(lines_of(counts, 64, 150, RELEASED, aux=False)),
        }
        for depth, counts in ((50, (3, 4, 6, 3)), (101, (3, 4, 23, 3)))
    }
    evidence.computed("later", later)
    evidence.computed(
        "parts",
        {
            "pyramid": {"name": "pyramid", "params": size(network.pyramid)},
            "classifier": {"name": "classifier", "params": size(network.classifier)},
            "smp": {"name": "smp, default depth 3", "params": size(*used)},
            "smp8": {"name": "smp, depth 5, stride 8", "params": size(dilated)},
        },
    )


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="1 stages and num_classes=3"):
        PSPNet(ResNet(BasicBlock, (1,), width=2), 3)
    with pytest.raises(ValueError, match="4 stages and num_classes=0"):
        PSPNet(ResNet(BasicBlock, (1, 1, 1, 1), width=2), 0)
    for channels, bins in [(8, ()), (8, (0, 1)), (8, (1, 2, 3)), (0, (1,))]:
        with pytest.raises(ValueError, match=f"got channels={channels}, bins="):
            PyramidPooling(channels, bins)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(1, 1, 40, 40\)"):
        narrow()(torch.zeros(1, 1, 40, 40))
    output = PSPNetOutput(*torch.zeros(2, 2, 5, 6, 7))
    with pytest.raises(ValueError, match=r"masks of \(2, 6, 7\), got \(2, 7, 6\)"):
        pspnet_loss(output, torch.zeros(2, 7, 6).long())


def test_the_figures_labels_are_the_shapes_that_the_network_computes() -> None:
    drawn = runpy.run_path(str(FIGURE))
    with torch.device("meta"):
        network, x = pspnet_resnet50().eval(), torch.empty(1, 3, 473, 473)
        maps = network.backbone.features(x)
        pyramid = network.pyramid(maps[-1])

    def shape(y: Tensor) -> str:
        return " × ".join(map(str, y.shape[1:]))

    assert [box.sub for box in drawn["stages"]] == [shape(m) for m in maps[1:]]
    assert shape(pyramid) == "4096 × 60 × 60"
    bins = [level[0].output_size for level in network.pyramid.levels]
    assert bins == list(drawn["BINS"])
    assert network.classifier[0].out_channels == 512


# ---------------------------------------------------------------- the record


def learn_trial(learning_rate: float, auxiliary: float, seed: int) -> dict[str, object]:
    torch.manual_seed(seed)
    return learn_masks(
        narrow(), learning_rate=learning_rate, auxiliary=auxiliary, seed=seed
    )


def trial(
    seeds: list[int], learning_rate: float, auxiliary: float
) -> dict[str, object]:
    cache = Path(__file__).parents[2] / ".cache/record/pspnet.jsonl"
    settings = {"learning_rate": learning_rate, "auxiliary": auxiliary}
    arms = {"pspnet": ("PSPNet, ResNet-10 of width 16", settings)}
    return scene_trials(learn_trial, seeds, cache, arms)


@pytest.mark.record
def test_it_learns_the_scenes_of_all_segmenters(evidence) -> None:
    evidence.measured(
        "trial",
        arguments={"seeds": [0, 1, 2], "learning_rate": 5e-3, "auxiliary": 0.4},
        run=trial,
    )
