"""DeepLab v3+ is segmentation-models-pytorch's, name by name; its laws are dilation's."""

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation import deeplabv3, deeplabv3_resnet50

from cnn_lab.scene_trial import Json, learn_masks, scene_trials
from cnn_site.equivalence import Comparison, compare
from cnn_site.laws import gradient_reaches_every_parameter
from cnn_site.variants import NoInit
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import (
    BasicBlock,
    Bottleneck,
    ResNet,
    resnet18,
    resnet50,
    resnet101,
)
from cnn_techniques.segmentation import (
    ASPP,
    ASPPPooling,
    AtrousSeparableConv,
    DeepLabV3Plus,
    deeplabv3plus_resnet50,
    deeplabv3plus_resnet101,
)

BACKBONES = {"resnet18": resnet18, "resnet50": resnet50, "resnet101": resnet101}
PAPER = (6, 12, 18)


def narrow(
    output_stride: int = 8, rates: tuple[int, ...] | None = (2, 4, 6), **options: object
) -> DeepLabV3Plus:
    resnet = ResNet(BasicBlock, (1, 1, 1, 1), width=16)
    settings = {"channels": 48, "dropout": 0.1, **options}
    return DeepLabV3Plus(resnet, 11, output_stride, rates, **settings)  # type: ignore[arg-type]


DEVICE_CASES = {
    "DeepLabV3Plus": lambda: (narrow(), (torch.randn(2, 3, 64, 96),)),
    "ASPP": lambda: (ASPP(16, (1, 2, 3), 8), (torch.randn(2, 16, 9, 12),)),
}


def theirs(backbone: str, output_stride: int, **options: object) -> nn.Module:
    settings = {"encoder_weights": None, "classes": 21, **options}
    return smp.DeepLabV3Plus(backbone, encoder_output_stride=output_stride, **settings)


# ---------------------------------------------------------------- the reference


@pytest.mark.parametrize(
    ("backbone", "stride"), [("resnet50", 16), ("resnet50", 8), ("resnet101", 16)]
)
def test_names_shapes_order_and_macs_are_the_references(
    backbone: str, stride: int
) -> None:
    with torch.device("meta"):
        mine = DeepLabV3Plus(BACKBONES[backbone](), 21, stride).eval()
        other = theirs(backbone, stride).eval()
        image = torch.empty(1, 3, 512, 512)
    pairs = [
        [(name, tuple(value.shape)) for name, value in net.state_dict().items()]
        for net in (mine, other)
    ]
    assert pairs[0] == pairs[1]
    assert model_cost(mine, image).macs == model_cost(other, image).macs


def compared(
    backbone: str, stride: int, size: tuple[int, int], **options: object
) -> Comparison:
    d = int(options.get("decoder_channels", 256))
    rates = tuple(r * 16 // stride for r in (1, 2, 3)) if d < 256 else None
    with NoInit():  # compare() draws every tensor anew
        mine = DeepLabV3Plus(
            BACKBONES[backbone](), 21, stride, rates, d, dilate_first=True
        )
        used = rates or tuple(r * 16 // stride for r in PAPER)
        other = theirs(backbone, stride, decoder_atrous_rates=used, **options)
    return compare(mine, other, torch.randn(2, 3, *size), seed=1)


@pytest.mark.parametrize("stride", [16, 8])
def test_a_small_one_equals_the_reference_in_both_modes(stride: int, evidence) -> None:
    torch.manual_seed(0)
    result = compared("resnet18", stride, (48, 64), decoder_channels=32)
    evidence.equivalent(
        f"resnet18_{stride}",
        result,
        reference="segmentation_models_pytorch.DeepLabV3Plus",
        settings=f"ResNet-18, output stride {stride}, 32 channels, dilate_first=True",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "stride"), [("resnet50", 16), ("resnet50", 8), ("resnet101", 16)]
)
def test_the_published_sizes_equal_the_reference_in_both_modes(
    backbone: str, stride: int, evidence
) -> None:
    torch.manual_seed(0)
    evidence.equivalent(
        f"{backbone}_{stride}",
        compared(backbone, stride, (64, 96)),
        reference="segmentation_models_pytorch.DeepLabV3Plus",
        settings=f"{backbone}, output stride {stride}, dilate_first=True; "
        "the reference's decoder_atrous_rates set to the paper's",
    )


@pytest.mark.slow
def test_with_first_blocks_that_keep_the_old_rate_it_equals_the_reference_changed_alike(
    evidence,
) -> None:
    torch.manual_seed(0)
    with NoInit():
        mine = DeepLabV3Plus(resnet50(), 21, 8)
        other = theirs("resnet50", 8)  # its rates are the paper's for stride 8
    for stage, rate in ((other.encoder.layer3, 1), (other.encoder.layer4, 2)):
        stage[0].conv2.dilation = stage[0].conv2.padding = (rate, rate)
    evidence.equivalent(
        "first_blocks",
        compare(mine, other, torch.randn(2, 3, 48, 64)),
        reference="segmentation_models_pytorch.DeepLabV3Plus",
        settings="resnet50, output stride 8; dilation of the reference's "
        "first blocks set to that of the stage before",
    )


def test_without_separable_convolutions_the_pyramid_is_torchvisions(evidence) -> None:
    torch.manual_seed(0)
    mine = ASPP(24, (2, 4, 6), 16, separable=False)
    other = deeplabv3.ASPP(24, [2, 4, 6], 16)
    evidence.equivalent(
        "aspp",
        compare(mine, other, torch.randn(2, 24, 9, 12)),
        reference="torchvision.models.segmentation.deeplabv3.ASPP",
        settings="separable=False",
    )


def test_the_references_default_rates_are_those_of_stride_8_at_stride_16() -> None:
    """What the page warns of: smp keeps (12, 24, 36) for both output strides."""
    for stride in (16, 8):
        convs = theirs("resnet18", stride).decoder.aspp[0].convs
        assert [convs[i][0][0].dilation[0] for i in (1, 2, 3)] == [12, 24, 36]
        convs = narrow(stride, None).decoder.aspp[0].convs
        rates = [convs[i][0][0].dilation[0] for i in (1, 2, 3)]
        assert rates == [r * 16 // stride for r in PAPER]


# ---------------------------------------------------------------- the equations


def test_atrous_convolution_is_the_papers_sum() -> None:
    torch.manual_seed(0)
    r, (c, h, w) = 3, (2, 7, 8)
    conv = AtrousSeparableConv(c, c, rate=r).double()
    x = torch.randn(1, c, h, w, dtype=torch.float64)
    expected = torch.zeros(c, h, w, dtype=torch.float64)
    for d in range(c):
        for i in range(h):
            for j in range(w):
                for k in range(3):
                    for m in range(3):
                        a, b = i + r * (k - 1), j + r * (m - 1)
                        if 0 <= a < h and 0 <= b < w:
                            tap = x[0, d, a, b] * conv[0].weight[d, 0, k, m]
                            expected[d, i, j] += tap
    torch.testing.assert_close(conv[0](x)[0], expected)


def test_a_separable_convolution_is_an_ordinary_one_whose_kernel_is_a_product() -> None:
    torch.manual_seed(0)
    conv = AtrousSeparableConv(4, 6, rate=2).double()
    kernel = conv[1].weight * conv[0].weight[:, 0]  # (6, 4, 1, 1) and (4, 3, 3)
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    torch.testing.assert_close(conv(x), F.conv2d(x, kernel, padding=2, dilation=2))


def taps(side: int, rate: int) -> float:
    """Share of the taps of a 3x3 that lie on a square map, over all its positions."""
    y = F.conv2d(
        torch.ones(1, 1, side, side),
        torch.ones(1, 1, 3, 3),
        padding=rate,
        dilation=rate,
    )
    return float(y.double().mean() / 9)


@pytest.mark.parametrize("side", [6, 14, 32, 65])
@pytest.mark.parametrize("rate", [1, 6, 12, 18, 24, 36])
def test_the_share_of_valid_taps_is_the_pages_formula(side: int, rate: int) -> None:
    line = (side + 2 * max(side - rate, 0)) / (3 * side)
    assert taps(side, rate) == pytest.approx(line**2, rel=1e-6)


def test_at_a_rate_not_below_the_side_only_the_centre_weight_counts() -> None:
    torch.manual_seed(0)
    view = ASPP(5, (6,), 7, separable=False).eval().convs[1]
    x = torch.randn(2, 5, 6, 6)
    only = F.conv2d(x, view[0].weight[..., 1:2, 1:2])
    torch.testing.assert_close(view[0](x), only)
    assert not torch.allclose(view[0](torch.ones(1, 5, 7, 7)).std(), torch.tensor(0.0))


def test_image_pooling_says_the_same_everywhere_and_a_moved_map_changes_nothing() -> (
    None
):
    torch.manual_seed(0)
    pooling = ASPPPooling(6, 4).eval()
    x = torch.randn(2, 6, 5, 7)
    y = pooling(x)
    assert y.shape == (2, 4, 5, 7)
    torch.testing.assert_close(y, y[..., :1, :1].expand_as(y))
    torch.testing.assert_close(y, pooling(x.roll((2, 3), (2, 3))))


def strides(dilate_first: bool) -> tuple[DeepLabV3Plus, DeepLabV3Plus, Tensor]:
    """The same weights at output strides 16 and 8, in evaluation mode."""
    torch.manual_seed(0)
    made = []
    for stride in (16, 8):
        resnet = ResNet(Bottleneck, (1, 1, 2, 2), width=4)
        net = DeepLabV3Plus(resnet, 3, stride, dilate_first=dilate_first, channels=8)
        made.append(net.double().eval())
    made[1].load_state_dict(made[0].state_dict())
    return made[0], made[1], torch.randn(1, 3, 128, 96, dtype=torch.float64)


def test_stride_8_adds_positions_between_those_of_stride_16_and_changes_none() -> None:
    coarse, fine, x = strides(dilate_first=False)
    a, b = coarse.encoder.features(x)[-1], fine.encoder.features(x)[-1]
    assert b.shape[-2:] == (16, 12)
    torch.testing.assert_close(a, b[..., ::2, ::2])
    aspps = coarse.decoder.aspp[0].convs, fine.decoder.aspp[0].convs
    for one, other in list(zip(*aspps, strict=True))[:-1]:  # but the image's mean
        torch.testing.assert_close(one(a), other(b)[..., ::2, ::2])


def test_dilated_first_blocks_do_change_them() -> None:
    coarse, fine, x = strides(dilate_first=True)
    a, b = coarse.encoder.features(x)[-1], fine.encoder.features(x)[-1]
    assert (a - b[..., ::2, ::2]).abs().max() > 0.1 * a.abs().max()


def test_the_low_level_features_reach_the_scores_through_48_channels() -> None:
    net = narrow().eval()
    assert net.decoder.block1[0].weight.shape == (48, 16, 1, 1)
    assert net.decoder.block2[0][0].in_channels == 48 + 48
    low, last = torch.randn(1, 16, 16, 24), torch.zeros(1, 128, 8, 12)
    apart = net.decoder(last, low) - net.decoder(last, 0 * low)
    assert apart.abs().max() > 1e-3


# ---------------------------------------------------------------- sizes, costs, errors


@pytest.mark.parametrize("size", [(96, 64), (65, 97), (50, 33)])
def test_scores_have_the_size_of_the_image_whatever_it_is(
    size: tuple[int, int],
) -> None:
    for stride in (8, 16):
        assert narrow(stride)(torch.randn(2, 3, *size)).shape == (2, 11, *size)


def test_gradients_reach_every_parameter() -> None:
    gradient_reaches_every_parameter(narrow(dropout=0.0), torch.randn(4, 3, 64, 96))


def test_one_image_in_training_is_refused_by_the_batch_norm_of_the_pooling() -> None:
    net = narrow()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        net(torch.randn(1, 3, 64, 96))
    assert net.eval()(torch.randn(1, 3, 64, 96)).shape == (1, 11, 64, 96)


def test_refuses_what_does_not_fit() -> None:
    resnet = ResNet(BasicBlock, (1, 1, 1, 1), width=4)
    with pytest.raises(ValueError, match="stride 8 or 16, got output_stride=32"):
        DeepLabV3Plus(resnet, output_stride=32)
    with pytest.raises(ValueError, match="num_classes=0"):
        DeepLabV3Plus(resnet, 0)
    with pytest.raises(ValueError, match="got 3 stages"):
        DeepLabV3Plus(ResNet(BasicBlock, (1, 1, 1)))
    for rates in ((), (6, 0)):
        with pytest.raises(ValueError, match="rates of 1 or more, got rates="):
            ASPP(8, rates)
    with pytest.raises(ValueError, match=r"expected \(N, 3, H, W\), got \(2, 1, 64"):
        narrow()(torch.randn(2, 1, 64, 64))


def test_costs_on_the_page(evidence) -> None:
    rows: Json = {}
    image = torch.empty(1, 3, 512, 512, device="meta")
    for make, title in (
        (deeplabv3plus_resnet50, "ResNet-50"),
        (deeplabv3plus_resnet101, "ResNet-101"),
    ):
        for stride in (16, 8):
            with torch.device("meta"):
                net = DeepLabV3Plus(
                    BACKBONES[make.__name__.rpartition("_")[2]](), 21, stride
                ).eval()
            cost = model_cost(net, image)
            rows[f"{make.__name__}_{stride}"] = {
                "name": f"{title}, output stride {stride}",
                "params": cost.params,
                "macs": cost.macs,
            }
        with torch.device("meta"):
            same = model_cost(make().eval(), image)
        assert same.macs == rows[f"{make.__name__}_16"]["macs"]
    last = torch.empty(1, 2048, 32, 32, device="meta")
    low = torch.empty(1, 256, 128, 128, device="meta")
    with torch.device("meta"):
        net = deeplabv3plus_resnet50().eval()
        ordinary = ASPP(2048, PAPER, separable=False).eval()
        v3 = deeplabv3_resnet50(
            weights=None, weights_backbone=None, num_classes=21
        ).eval()
    decoder, head = net.decoder, net.segmentation_head
    parts = {
        "pyramid": ("pyramid, separable", decoder.aspp[0], last),
        "ordinary": ("pyramid, ordinary 3×3", ordinary, last),
        "after": ("3×3 after the pyramid", decoder.aspp[1:], last[:, :256]),
        "block1": ("1×1 to 48 channels", decoder.block1, low),
        "joined": (
            "3×3 after joining",
            decoder.block2,
            torch.empty(1, 304, 128, 128, device="meta"),
        ),
        "scores": ("scores", head, torch.empty(1, 256, 128, 128, device="meta")),
        "v3": ("DeepLab v3, ResNet-50 (torchvision)", v3, image),
    }
    for key, (title, module, x) in parts.items():
        cost = model_cost(module, x)
        rows[key] = {"name": title, "params": cost.params, "macs": cost.macs}
    assert rows["deeplabv3plus_resnet50_16"]["params"] == 26_682_725
    assert rows["deeplabv3plus_resnet101_16"]["params"] == 45_674_853
    assert rows["v3"]["params"] == 39_638_869
    whole = rows["deeplabv3plus_resnet50_16"]
    with torch.device("meta"):
        encoder = DeepLabV3Plus(resnet50()).encoder.eval()
    cost = model_cost(encoder, image)
    rows["encoder"] = {"name": "backbone", "params": cost.params, "macs": cost.macs}
    inside = ("encoder", "pyramid", "after", "block1", "joined", "scores")
    assert sum(rows[key]["params"] for key in inside) == whole["params"]
    assert sum(rows[key]["macs"] for key in inside) == whole["macs"]
    evidence.computed("cost", rows)


ACCURACY = {  # what the page's table of published numbers calls its rows
    "paper101_16": "Authors, ResNet-101, stride 16",
    "paper101_8": "Authors, ResNet-101, stride 8",
    "xception65_16": "Authors, Xception-65, stride 16",
    "xception65_8": "Authors, Xception-65, stride 8",
    "resnet50_8": "MMSegmentation, ResNet-50, stride 8",
    "resnet101_16": "MMSegmentation, ResNet-101, stride 16",
    "resnet101_8": "MMSegmentation, ResNet-101, stride 8",
}


def test_names_of_the_published_rows(evidence) -> None:
    rows = {key: {"name": name} for key, name in ACCURACY.items()}
    evidence.computed("accuracy", rows)


# ---------------------------------------------------------------- the record


def learn_once(learning_rate: float, rates: list[int], seed: int) -> Json:
    torch.manual_seed(seed)
    model = narrow(8, tuple(rates))
    return learn_masks(model, learning_rate=learning_rate, seed=seed)


def train_all(seeds: list[int], **settings: object) -> Json:
    cache = Path(__file__).parents[2] / ".cache" / "record" / "deeplab_v3_plus.jsonl"
    arm = ("DeepLab v3+, ResNet-10 of width 16", dict(settings))
    result = scene_trials(learn_once, seeds, cache, {"deeplab_v3_plus": arm})
    return {**result, "params": sum(p.numel() for p in narrow().parameters())}


@pytest.mark.record
def test_record_a_narrow_one_learns_to_label_scenes(evidence) -> None:
    pytest.importorskip("torchmetrics")
    arguments = {"learning_rate": 5e-3, "rates": [2, 4, 6], "seeds": [0, 1, 2]}
    evidence.measured("trial", arguments=arguments, run=train_all)
