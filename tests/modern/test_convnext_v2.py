"""ConvNeXt V2 is timm's; its norm lets channels compete by their response."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from cnn_site.equivalence import compare
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.modern import (
    CNBlock,
    CNBlockV2,
    ConvNeXtV2,
    GlobalResponseNorm,
    convnextv2_atto,
    convnextv2_base,
    convnextv2_femto,
    convnextv2_huge,
    convnextv2_large,
    convnextv2_nano,
    convnextv2_pico,
    convnextv2_tiny,
)

# timm's small ones have 1x1 convolutions for the MLP; with linear layers, as the paper's
# code and its own larger ones have, the shapes are equal too.
order = partial(Variant, match="order")
linear = partial(order, options={"conv_mlp": False})
SMALLEST = linear(convnextv2_atto, "ConvNeXt V2-A", "timm.convnextv2_atto")
VARIANTS = [
    SMALLEST,
    linear(convnextv2_femto, "ConvNeXt V2-F", "timm.convnextv2_femto", net="slow"),
    linear(convnextv2_pico, "ConvNeXt V2-P", "timm.convnextv2_pico", net="slow"),
    linear(convnextv2_nano, "ConvNeXt V2-N", "timm.convnextv2_nano", net="slow"),
    order(convnextv2_tiny, "ConvNeXt V2-T", "timm.convnextv2_tiny", net="slow"),
    order(convnextv2_base, "ConvNeXt V2-B", "timm.convnextv2_base", net="slow"),
    order(convnextv2_large, "ConvNeXt V2-L", "timm.convnextv2_large", net="outputs"),
    order(convnextv2_huge, "ConvNeXt V2-H", "timm.convnextv2_huge", net="outputs"),
]


def norm_of(channels: int) -> GlobalResponseNorm:
    """With gamma and beta drawn at random, since it starts as the identity."""
    norm = GlobalResponseNorm(channels)
    nn.init.normal_(norm.gamma)
    nn.init.normal_(norm.beta)
    return norm


DEVICE_CASES = {
    "GlobalResponseNorm": lambda: (norm_of(16), (torch.randn(2, 9, 7, 16),)),
    "CNBlockV2": lambda: (CNBlockV2(16), (torch.randn(2, 16, 9, 12),)),
    "convnext_v2": lambda: (
        ConvNeXtV2((1, 2, 1, 1), 16, num_classes=10),
        (torch.randn(2, 3, 64, 96),),
    ),
}


def test_shapes_order_and_costs_of_every_size_are_timms_and_the_papers(
    evidence,
) -> None:
    table_14 = [(3.7, 0.55), (5.2, 0.78), (9.1, 1.37), (15.6, 2.45), (28.6, 4.47)]
    table_14 += [(89, 15.4), (198, 34.4), (660, 115)]
    rows = {}
    for variant, (millions, gmacs) in zip(VARIANTS, table_14, strict=True):
        with torch.device("meta"):
            model = variant.make()
        stages = [part for part in model.features if isinstance(part[0], CNBlockV2)]
        rows[variant.key] = {
            **variant.check_structure(),
            "layers": ", ".join(str(len(stage)) for stage in stages),
            "width": stages[0][0].block[0].in_channels,
        }
        assert rows[variant.key]["params"] / 1e6 == pytest.approx(millions, rel=0.01)
        assert rows[variant.key]["macs"] / 1e9 == pytest.approx(gmacs, rel=0.01)
    evidence.computed("cost", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 32, 64),
    small=lambda: ConvNeXtV2((1, 2, 1, 1), 8, num_classes=10),
    small_images=(2, 3, 32, 64),
)


def test_the_norm_computes_what_timms_computes(evidence) -> None:
    pytest.importorskip("timm")
    from timm.layers.grn import GlobalResponseNorm as Timms

    images = torch.randn(2, 9, 7, 16)
    result = compare(GlobalResponseNorm(16), Timms(16), images, match="order")
    evidence.equivalent(
        "grn",
        result,
        reference="timm.layers.GlobalResponseNorm",
        settings="16 channels last",
    )


def test_the_papers_equations_channel_by_channel() -> None:
    norm = norm_of(6).double()
    x = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    y = norm(x)
    for image in range(2):
        channels = x[image].unbind(dim=2)  # X_i, each H x W
        g = [float((xi * xi).sum().sqrt()) for xi in channels]  # equation 1
        for i, xi in enumerate(channels):
            n = 6 * g[i] / (sum(g) + 6e-6)  # equation 2, times C (its footnote)
            calibrated = xi * n  # equation 3
            expected = norm.gamma[i] * calibrated + norm.beta[i] + xi  # equation 4
            torch.testing.assert_close(y[image, :, :, i], expected)


def test_algorithm_1_of_the_paper_gives_the_same() -> None:
    norm, x = norm_of(6).double(), torch.randn(2, 5, 4, 6, dtype=torch.float64)
    gx = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
    nx = gx / (gx.mean(dim=-1, keepdim=True) + 1e-6)
    expected = norm.gamma * (x * nx) + norm.beta + x
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


def test_the_norm_starts_as_the_identity() -> None:
    x = torch.randn(2, 5, 4, 6)
    assert torch.equal(GlobalResponseNorm(6)(x), x)


def test_scores_of_the_channels_have_mean_one_and_ignore_brightness() -> None:
    norm = GlobalResponseNorm(6)
    nn.init.ones_(norm.gamma)
    x = torch.rand(2, 5, 4, 6) + 0.5
    scores = norm(x) / x - 1  # n, the same at every place
    torch.testing.assert_close(scores, scores[:, :1, :1].expand_as(scores))
    torch.testing.assert_close(scores.mean(-1), torch.ones(2, 5, 4))
    torch.testing.assert_close(norm(7 * x), 7 * norm(x))


def test_a_channel_that_grows_takes_from_all_others() -> None:
    norm = GlobalResponseNorm(6)
    nn.init.ones_(norm.gamma)
    x = torch.rand(1, 5, 4, 6) + 0.5
    louder = x.clone()
    louder[..., 2] *= 3
    change = norm(louder)[0, 0, 0] / louder[0, 0, 0] - norm(x)[0, 0, 0] / x[0, 0, 0]
    assert change[2] > 0
    assert (change[[0, 1, 3, 4, 5]] < 0).all()


def test_images_of_a_batch_do_not_see_one_another() -> None:
    norm, x = norm_of(6), torch.randn(3, 5, 4, 6)
    torch.testing.assert_close(norm(x)[1:2], norm(x[1:2]))


def test_silent_channels_and_a_silent_image_keep_values_and_gradients_finite() -> None:
    norm = norm_of(6)
    x = torch.randn(2, 5, 4, 6)
    x[0, :, :, 3] = 0
    x[1] = 0
    x.requires_grad_()
    y = norm(x)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert norm.gamma.grad.isfinite().all()


def test_a_block_that_has_not_learned_is_the_first_versions_without_layer_scale() -> (
    None
):
    second, first = CNBlockV2(8), CNBlock(8, layer_scale=1.0)
    with torch.no_grad():
        first.block[0], first.block[2] = second.block[0], second.block[2]
        first.block[3], first.block[5] = second.block[3], second.block[6]
    x = torch.randn(2, 8, 9, 7)
    torch.testing.assert_close(second(x), first(x))
    names = {name for name, _ in second.named_parameters()}
    assert "layer_scale" not in names
    assert names - {name for name, _ in first.named_parameters()} == {
        "block.5.gamma",
        "block.5.beta",
        "block.6.weight",
        "block.6.bias",
    }


def test_drop_path_leaves_out_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = CNBlockV2(4, drop_path=0.3)
    x = torch.randn(1, 4, 5, 6).expand(4000, -1, -1, -1)
    with torch.no_grad():
        still = block.eval()(x)[0] - x[0]
        branch = block.train()(x) - x
    dropped = (branch == 0).flatten(1)
    assert (dropped.all(1) == dropped.any(1)).all()
    assert float(dropped.all(1).double().mean()) == pytest.approx(0.3, abs=0.03)
    torch.testing.assert_close(branch.mean(0), still, rtol=0.05, atol=1e-3)


def test_it_takes_32_pixels_and_refuses_31() -> None:
    with torch.device("meta"):
        model = convnextv2_atto()
        assert model(torch.empty(1, 3, 32, 32)).shape == (1, 1000)
        with pytest.raises(ValueError, match="at least 32"):
            model(torch.empty(1, 3, 31, 32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(GlobalResponseNorm, 0), "channels=0"),
        (partial(ConvNeXtV2, (), 8), r"\(\) blocks"),
        (partial(ConvNeXtV2, (2, 0), 8), r"\(2, 0\) blocks"),
        (partial(ConvNeXtV2, (1, 1), 0), r"widths \(0, 0\)"),
        (partial(convnextv2_atto, num_classes=0), "num_classes=0"),
        (partial(convnextv2_atto, drop_path=-0.1), "drop_path=-0.1"),
        (
            lambda: ConvNeXtV2((1,), 8)(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\) .* got \(2, 1, 64, 64\)",
        ),
    ],
)
def test_what_cannot_be_a_convnext_v2_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
