"""ConvNeXt is torchvision's, tensor by tensor; its block mixes places, then channels."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnn_site.figures.check import figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import (
    CNBlock,
    ConvNeXt,
    convnext_base,
    convnext_large,
    convnext_small,
    convnext_tiny,
    convnext_xlarge,
)


class OfTimm(Variant):
    """timm's layer scale has the shape (D,), torchvision's and ours (D, 1, 1)."""

    def build_reference(self) -> nn.Module:
        model = super().build_reference()
        for module in model.modules():
            if hasattr(module, "gamma"):
                module.gamma = nn.Parameter(module.gamma.detach().view(-1, 1, 1))
        return model


SMALLEST = Variant(convnext_tiny, "ConvNeXt-T", "torchvision.models.convnext_tiny")
VARIANTS = [
    SMALLEST,
    Variant(
        convnext_small, "ConvNeXt-S", "torchvision.models.convnext_small", net="slow"
    ),
    Variant(
        convnext_base, "ConvNeXt-B", "torchvision.models.convnext_base", net="slow"
    ),
    Variant(
        convnext_large, "ConvNeXt-L", "torchvision.models.convnext_large", net="outputs"
    ),
    OfTimm(
        convnext_xlarge,
        "ConvNeXt-XL",
        "timm.convnext_xlarge",
        net="outputs",
        match="order",
    ),
]


DEVICE_CASES = {
    "CNBlock": lambda: (CNBlock(16, layer_scale=0.5), (torch.randn(2, 16, 9, 12),)),
    "convnext": lambda: (
        ConvNeXt((1, 2, 1, 1), (16, 32, 64, 128), num_classes=10),
        (torch.randn(2, 3, 64, 96),),
    ),
}


def test_names_shapes_order_and_costs_of_every_size_are_the_references(
    evidence,
) -> None:
    table_1 = [(29, 4.5), (50, 8.7), (89, 15.4), (198, 34.4), (350, 60.9)]
    rows = {}
    for variant, (millions, gmacs) in zip(VARIANTS, table_1, strict=True):
        with torch.device("meta"):
            model = variant.make()
        stages = [part for part in model.features if isinstance(part[0], CNBlock)]
        rows[variant.key] = {
            **variant.check_structure(),
            "layers": ", ".join(str(len(stage)) for stage in stages),
            "widths": ", ".join(str(len(stage[0].layer_scale)) for stage in stages),
        }
        assert round(rows[variant.key]["params"] / 1e6) == millions
        assert rows[variant.key]["macs"] / 1e9 == pytest.approx(gmacs, abs=0.06)
    evidence.computed("cost", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 32, 64),
    small=lambda: ConvNeXt((1, 2, 1, 1), (8, 16, 32, 64), num_classes=10),
    small_images=(2, 3, 32, 64),
)


def test_the_largest_costs_what_the_paper_says_at_both_resolutions(evidence) -> None:
    rows = {}
    for side, gmacs in ((224, 60.9), (384, 179.0)):
        with torch.device("meta"):
            cost = model_cost(convnext_xlarge().eval(), torch.empty(1, 3, side, side))
        assert cost.macs / 1e9 == pytest.approx(gmacs, abs=0.05)
        rows[f"xlarge{side}"] = {
            "name": f"ConvNeXt-XL at {side} × {side}",
            "params": cost.params,
            "macs": cost.macs,
        }
    evidence.computed("resolution", rows)


STEPS = {  # the paper's table 10: convolutions (in, out, kernel, groups) of a block
    "resnet50": ("ResNet-50", [(256, 64, 1, 1), (64, 64, 3, 1), (64, 256, 1, 1)]),
    "recipe": ("recipe of 300 epochs", "resnet50"),
    "ratio": ("3, 3, 9, 3 blocks", "resnet50"),
    "patchify": ("stem of 4×4 patches", "resnet50"),
    "depthwise": (
        "depthwise 3×3",
        [(256, 64, 1, 1), (64, 64, 3, 64), (64, 256, 1, 1)],
    ),
    "width": (
        "width 96 instead of 64",
        [(384, 96, 1, 1), (96, 96, 3, 96), (96, 384, 1, 1)],
    ),
    "inverted": (
        "inverted bottleneck",
        [(96, 384, 1, 1), (384, 384, 3, 384), (384, 96, 1, 1)],
    ),
    "moved": (
        "depthwise comes first",
        [(96, 96, 3, 96), (96, 384, 1, 1), (384, 96, 1, 1)],
    ),
    "kernel7": (
        "depthwise 7×7",
        [(96, 96, 7, 96), (96, 384, 1, 1), (384, 96, 1, 1)],
    ),
    "gelu": ("GELU for ReLU", "kernel7"),
    "activations": ("one activation a block", "kernel7"),
    "norms": ("one norm a block", "kernel7"),
    "layernorm": ("layer norm for batch norm", "kernel7"),
    "downsampling": ("convolutions between stages: ConvNeXt-T", "kernel7"),
}


def test_the_steps_from_resnet_in_weights_of_a_block(evidence) -> None:
    rows = {}
    for key, (title, convs) in STEPS.items():
        convs = STEPS[convs][1] if isinstance(convs, str) else convs
        layers = [nn.Conv2d(i, o, k, groups=g, bias=False) for i, o, k, g in convs]
        rows[key] = {"name": title, "weights": sum(m.weight.numel() for m in layers)}
    ours = CNBlock(96)
    found = sum(ours.block[index].weight.numel() for index in (0, 3, 5))
    assert rows["downsampling"]["weights"] == found
    evidence.computed("steps", rows)


def test_the_maps_are_those_of_the_papers_table_9() -> None:
    with torch.device("meta"):
        x, sizes = torch.empty(1, 3, 224, 224), []
        for part in convnext_tiny().features:
            x = part(x)
            sizes.append(tuple(x.shape[1:]))
    assert sizes[1::2] == [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]


def test_the_block_written_a_second_way_gives_the_same() -> None:
    block = CNBlock(6, layer_scale=0.5).double()
    conv, norm, widen, narrow = (block.block[index] for index in (0, 2, 3, 5))
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    around = F.unfold(x, 7, padding=3).view(2, 6, 49, 63)
    y = torch.einsum("nckp,ck->ncp", around, conv.weight.flatten(1))
    y = y + conv.bias[:, None]
    mean, var = y.mean(1, keepdim=True), y.var(1, correction=0, keepdim=True)
    y = (y - mean) / (var + 1e-6).sqrt() * norm.weight[:, None] + norm.bias[:, None]
    y = torch.einsum("ncp,dc->ndp", y, widen.weight) + widen.bias[:, None]
    y = y * (1 + torch.erf(y / 2**0.5)) / 2
    y = torch.einsum("ndp,cd->ncp", y, narrow.weight) + narrow.bias[:, None]
    expected = x + 0.5 * y.view_as(x)
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


def test_the_depthwise_convolution_mixes_places_and_the_mlp_channels() -> None:
    block = CNBlock(5)
    x = torch.zeros(1, 5, 15, 15)
    x[0, 2, 7, 7] = 1.0
    moved = block.block[0](x) - block.block[0](torch.zeros_like(x)) != 0
    assert moved[0, 2, 4:11, 4:11].all()  # 7 x 7 places of the one channel
    assert moved.sum() == 49
    rest = block.block[1:]
    touched = rest(x) - rest(torch.zeros_like(x)) != 0
    assert touched[0, :, 7, 7].all()  # all channels of the one place
    assert touched.sum() == 5


def test_the_norm_looks_at_the_channels_of_one_place_only() -> None:
    norm = ConvNeXt((1,), (32,)).features[0][1]
    x = 3 + 5 * torch.randn(2, 32, 4, 6)
    y = norm(x)
    assert y.mean(1).abs().max() < 1e-5
    torch.testing.assert_close(
        y.var(1, correction=0), torch.ones(2, 4, 6), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(norm(x)[:, :, 1:2, 3:4], norm(x[:, :, 1:2, 3:4]))
    torch.testing.assert_close(norm(4 * x + 7), y, rtol=1e-4, atol=1e-4)


def test_a_block_whose_layer_scale_is_zero_is_the_identity() -> None:
    x = torch.randn(2, 8, 9, 7)
    assert torch.equal(CNBlock(8, layer_scale=0.0)(x), x)
    with torch.no_grad():
        assert float((CNBlock(8)(x) - x).abs().max()) < 1e-5  # where training begins


def test_drop_path_leaves_out_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = CNBlock(4, drop_path=0.3, layer_scale=1.0)
    x = torch.randn(1, 4, 5, 6).expand(4000, -1, -1, -1)
    with torch.no_grad():
        still = block.eval()(x)[0] - x[0]
        branch = block.train()(x) - x
    dropped = (branch == 0).flatten(1)
    assert (dropped.all(1) == dropped.any(1)).all()  # an image is kept or dropped
    assert float(dropped.all(1).double().mean()) == pytest.approx(0.3, abs=0.03)
    kept = branch[~dropped.all(1)]
    torch.testing.assert_close(
        kept, (still / 0.7).expand_as(kept), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(branch.mean(0), still, rtol=0.05, atol=1e-3)


def test_drop_rates_grow_evenly_from_zero_to_the_last_block() -> None:
    with torch.device("meta"):
        model = convnext_tiny(drop_path=0.17)
    rates = [m.drop_path.p for m in model.modules() if isinstance(m, CNBlock)]
    assert rates == pytest.approx([0.01 * index for index in range(18)])


def test_it_takes_32_pixels_and_refuses_31() -> None:
    with torch.device("meta"):
        model = convnext_tiny()
        assert model(torch.empty(1, 3, 32, 32)).shape == (1, 1000)
        for shape in ((1, 3, 31, 32), (1, 3, 32, 31)):
            with pytest.raises(ValueError, match="at least 32"):
                model(torch.empty(shape))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(ConvNeXt, (), ()), r"\(\) blocks and widths \(\)"),
        (partial(ConvNeXt, (3, 3), (8,)), r"\(3, 3\) blocks and widths \(8,\)"),
        (partial(ConvNeXt, (3, 0), (8, 8)), r"\(3, 0\) blocks"),
        (partial(ConvNeXt, (1,), (0,)), r"widths \(0,\)"),
        (partial(ConvNeXt, (1,), (8,), num_classes=0), "num_classes=0"),
        (partial(ConvNeXt, (1,), (8,), in_channels=0), "in_channels=0"),
        (partial(ConvNeXt, (1,), (8,), drop_path=1.0), "drop_path=1.0"),
        (partial(CNBlock, 8, drop_path=1.0), "drop_path < 1, got 1.0"),
        (
            lambda: ConvNeXt((1,), (8,))(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\) .* got \(2, 1, 64, 64\)",
        ),
        (
            lambda: ConvNeXt((1,), (8,))(torch.randn(3, 64, 64)),
            r"got \(3, 64, 64\)",
        ),
    ],
)
def test_what_cannot_be_a_convnext_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_figures_draw_what_the_network_computes() -> None:
    found = figure_source("modern/convnext")
    with torch.device("meta"):
        x, sizes = torch.empty(1, 3, 224, 224), []
        for part in convnext_tiny().features:
            x = part(x)
            if isinstance(part[0], CNBlock):
                sizes.append((x.shape[-1], x.shape[1], f"{len(part)} blocks"))
    assert found["SIZES"][1:] == sizes
