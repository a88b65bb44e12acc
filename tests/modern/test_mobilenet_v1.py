"""MobileNet v1 is timm's, tensor by tensor; its sizes are those of the paper's tables."""

from collections import Counter
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
    MobileNetV1,
    SeparableBlock,
    mobilenetv1_025,
    mobilenetv1_050,
    mobilenetv1_075,
    mobilenetv1_100,
    mobilenetv1_125,
)

SMALLEST = Variant(mobilenetv1_100, "MobileNet v1, 1.0", "timm.mobilenetv1_100")
WIDER = Variant(
    mobilenetv1_125, "MobileNet v1, 1.25", "timm.mobilenetv1_125", net="slow"
)
VARIANTS = [SMALLEST, WIDER]
# widths that timm has not: millions of mult-adds and parameters of the paper's table 6
NARROWER = {
    mobilenetv1_075: ("MobileNet v1, 0.75", 325, 2.6),
    mobilenetv1_050: ("MobileNet v1, 0.5", 149, 1.3),
    mobilenetv1_025: ("MobileNet v1, 0.25", 41, 0.5),
}


DEVICE_CASES = {
    "SeparableBlock": lambda: (
        SeparableBlock(16, 32, stride=2),
        (torch.randn(2, 16, 9, 12),),
    ),
    "mobilenetv1_100": lambda: (
        mobilenetv1_100(num_classes=10),
        (torch.randn(2, 3, 64, 96),),
    ),
}


def on_meta(make: Callable[[], nn.Module]) -> tuple[nn.Module, torch.Tensor]:
    with torch.device("meta"):
        return make().eval(), torch.empty(1, 3, 224, 224)


def test_names_shapes_order_and_costs_are_timms_and_narrower_ones_the_papers(
    evidence,
) -> None:
    rows = {v.key: v.check_structure() for v in VARIANTS}
    for make, (title, mult_adds, millions) in NARROWER.items():
        cost = model_cost(*on_meta(make))
        assert cost.macs / 1e6 == pytest.approx(mult_adds, abs=0.5)
        assert cost.params / 1e6 == pytest.approx(millions, abs=0.05)
        row = {"params": cost.params, "macs": cost.macs, "pixels": 224}
        rows[make.__name__] = {"name": title, **row}
    evidence.computed("cost", rows)


def test_with_full_convolutions_it_is_the_network_of_the_papers_table_4(
    evidence,
) -> None:
    separable, image = on_meta(mobilenetv1_100)
    cost = model_cost(separable, image)
    assert cost.macs / 1e6 == pytest.approx(569, abs=0.5)
    full, image = on_meta(mobilenetv1_100)
    for stage in full.blocks:
        for index, block in enumerate(stage):
            pointwise, stride = block.conv_pw, block.conv_dw.stride
            widths = pointwise.in_channels, pointwise.out_channels
            with torch.device("meta"):
                conv = nn.Conv2d(*widths, 3, stride, padding=1, bias=False)
                norm = nn.BatchNorm2d(widths[1])
            stage[index] = nn.Sequential(conv, norm.eval())
    expected = model_cost(full, image)
    assert expected.macs / 1e6 == pytest.approx(4866, abs=2)
    assert expected.params / 1e6 == pytest.approx(29.3, abs=0.05)
    rows = {
        "separable": {
            "name": "Separable blocks",
            "params": cost.params,
            "macs": cost.macs,
        },
        "full": {
            "name": "Full 3×3 convolutions",
            "params": expected.params,
            "macs": expected.macs,
        },
    }
    evidence.computed("full", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 32, 48),
    small=lambda: MobileNetV1(num_classes=10, width=0.25),
)


def test_table_1_of_the_paper_is_what_each_block_returns() -> None:
    model, image = on_meta(mobilenetv1_100)
    seen: list[tuple[int, ...]] = []
    for module in model.modules():
        if isinstance(module, SeparableBlock):
            module.register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape)))
    model(image)
    widths = [64, 128, 128, 256, 256] + [512] * 6 + [1024] * 2
    sizes = [112, 56, 56, 28, 28] + [14] * 6 + [7] * 2
    assert seen == [(1, c, s, s) for c, s in zip(widths, sizes, strict=True)]


def test_nearly_all_arithmetic_is_in_1x1_convolutions(evidence) -> None:
    """The paper's table 2, whose 1.19 % of the first layer are 1.91 %: a misprint."""
    model, image = on_meta(mobilenetv1_100)
    total = model_cost(model, image).macs
    macs, weights = Counter[str](), Counter[str]()

    def count(part: nn.Module, _: object, y: torch.Tensor) -> None:
        kernel = part.weight.shape[2:]
        kind = "dense" if not kernel else "1x1" if kernel == (1, 1) else "3x3"
        kind = "depthwise" if getattr(part, "groups", 1) > 1 else kind
        weights[kind] += part.weight.numel() + 1000 * (kind == "dense")
        macs[kind] += part.weight.numel() * y[0, 0].numel()

    for part in model.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(count)
    model(image)
    share = {k: 100 * n / sum(macs.values()) for k, n in macs.items()}
    assert sum(macs.values()) == total
    assert share["1x1"] == pytest.approx(94.86, abs=0.005)
    assert share["depthwise"] == pytest.approx(3.06, abs=0.005)
    assert share["3x3"] == pytest.approx(1.91, abs=0.005)
    assert share["dense"] == pytest.approx(0.18, abs=0.005)
    assert 100 * weights["1x1"] / sum(weights.values()) == pytest.approx(74.59, abs=0.1)
    titles = {
        "1x1": "1×1 convolutions",
        "depthwise": "depthwise 3×3",
        "3x3": "first layer",
        "dense": "classifier",
    }
    rows = {
        kind: {"name": title, "macs": macs[kind], "share": round(share[kind], 3)}
        for kind, title in titles.items()
    }
    evidence.computed("layers", rows)


@pytest.mark.parametrize(("channels", "out_channels"), [(32, 64), (256, 256), (8, 512)])
def test_a_block_costs_one_nth_and_a_ninth_of_a_full_convolution(
    channels: int, out_channels: int
) -> None:
    with torch.device("meta"):
        block = SeparableBlock(channels, out_channels).eval()
        full = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        x = torch.empty(1, channels, 14, 10)
        share = model_cost(block, x).macs / model_cost(full, x).macs
    assert share == pytest.approx(1 / out_channels + 1 / 9)


def test_the_two_convolutions_are_one_full_convolution_of_rank_one_kernels() -> None:
    block, x = SeparableBlock(5, 7, stride=2), torch.randn(2, 5, 9, 11)
    depthwise, pointwise = block.conv_dw.weight, block.conv_pw.weight
    kernel = torch.einsum("nm,mij->nmij", pointwise[:, :, 0, 0], depthwise[:, 0])
    torch.testing.assert_close(
        block.conv_pw(block.conv_dw(x)), F.conv2d(x, kernel, stride=2, padding=1)
    )


def test_the_depthwise_convolution_keeps_channels_apart_and_the_other_pixels() -> None:
    block, x = SeparableBlock(4, 6), torch.zeros(1, 4, 7, 7)
    x[0, 2, 3, 3] = 1
    seen = block.conv_dw(x)[0]
    assert seen[2].count_nonzero() == 9
    assert not seen[[0, 1, 3]].any()
    mixed = block.conv_pw(x)[0]
    assert mixed[:, 3, 3].count_nonzero() == 6
    assert mixed.count_nonzero() == 6


def test_dropout_acts_before_the_classifier_in_training_alone() -> None:
    model = MobileNetV1(10, width=0.25, dropout=0.5)
    with torch.no_grad():
        x = torch.randn(4, 3, 32, 32)
        assert torch.equal(model.eval()(x), model(x))
        seen: list[torch.Tensor] = []
        model.dropout.register_forward_hook(lambda _, __, y: seen.append(y))
        model.dropout.train()
        model.classifier(model.dropout(torch.ones(400, 256)))
    kept = seen[0] != 0
    assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.01)
    assert float(seen[0].mean()) == pytest.approx(1, abs=0.02)


def test_a_smaller_image_costs_the_square_as_the_papers_table_7_has_it() -> None:
    for pixels, mult_adds in [(192, 418), (160, 290), (128, 186)]:
        with torch.device("meta"):
            image = torch.empty(1, 3, pixels, pixels)
            cost = model_cost(mobilenetv1_100().eval(), image)
        assert cost.macs / 1e6 == pytest.approx(mult_adds, abs=1)


def test_any_size_of_image_works_and_other_channels_too() -> None:
    model = MobileNetV1(num_classes=5, width=0.25, in_channels=1).eval()
    for size in [(1, 1), (31, 33), (65, 32)]:
        assert model(torch.randn(1, 1, *size)).shape == (1, 5)


def test_the_figures_draw_what_the_blocks_compute() -> None:
    found = figure_source("modern/mobilenet-v1")
    model, x = on_meta(mobilenetv1_100)
    x, sizes = model.conv_stem(x), []
    for stage in model.blocks:
        x = stage(x)
        count = f"{len(stage)} block{'s' * (len(stage) > 1)}"
        sizes.append((x.shape[-1], x.shape[1], count))
    assert found["SIZES"][1:] == sizes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(MobileNetV1, 0), "at least 1, got num_classes=0"),
        (partial(MobileNetV1, in_channels=0), "in_channels=0"),
        (partial(MobileNetV1, width=0), "width > 0 .* got width=0"),
        (partial(MobileNetV1, dropout=1.0), "dropout=1.0"),
        (
            lambda: MobileNetV1(10, 0.25)(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), got \(2, 1, 64, 64\)",
        ),
        (
            lambda: MobileNetV1(10, 0.25)(torch.randn(3, 64, 64)),
            r"got \(3, 64, 64\)",
        ),
    ],
)
def test_what_cannot_be_a_mobilenet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
