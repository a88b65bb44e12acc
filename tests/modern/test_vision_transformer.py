"""The Vision Transformer is torchvision's; what it has not built in is shown as laws."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.equivalence import compare, difference
from cnn_site.proofs import network_proof
from cnn_site.variants import NoInit, Variant, each_variant, reference
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import (
    EncoderBlock,
    VisionTransformer,
    resize_positions,
    vit_b_16,
    vit_b_32,
    vit_h_14,
    vit_l_16,
    vit_l_32,
)

SMALLEST = Variant(vit_b_32, "ViT-B/32", "torchvision.models.vit_b_32", net="slow")
VARIANTS = [
    Variant(vit_b_16, "ViT-B/16", "torchvision.models.vit_b_16", net="slow"),
    SMALLEST,
    Variant(vit_l_16, "ViT-L/16", "torchvision.models.vit_l_16", net="outputs"),
    Variant(vit_l_32, "ViT-L/32", "torchvision.models.vit_l_32", net="outputs"),
    Variant(vit_h_14, "ViT-H/14", "torchvision.models.vit_h_14", net="outputs"),
]


def small(**options: int) -> VisionTransformer:
    """Two blocks, 3 x 3 patches of 8 pixels: what the tests can afford."""
    sizes = {"num_classes": 10, "image_size": 24, **options}
    return VisionTransformer(8, 2, 4, 48, 96, **sizes)


def biased() -> VisionTransformer:
    """With biases of queries, keys and values, which start at zero and then hide one another's gradients."""
    model = small()
    nn.init.normal_(model.encoder.layers[0].self_attention.in_proj_bias)
    return model


DEVICE_CASES = {
    "EncoderBlock": lambda: (EncoderBlock(48, 4, 96), (torch.randn(2, 7, 48),)),
    "vision_transformer": lambda: (small(), (torch.randn(2, 3, 24, 24),)),
}


def test_names_shapes_order_and_costs_of_every_size_are_torchvisions(evidence) -> None:
    table_1 = {"b": (12, 768, 3072, 12), "l": (24, 1024, 4096, 16)}
    table_1["h"] = (32, 1280, 5120, 16)
    rows = {}
    for variant in VARIANTS:
        with torch.device("meta"):
            model = variant.make()
        layers, first = model.encoder.layers, model.encoder.layers[0]
        width, hidden = first.mlp[0].in_features, first.mlp[0].out_features
        found = (len(layers), width, hidden, first.self_attention.heads)
        assert found == table_1[variant.key[4]]
        rows[variant.key] = {
            **variant.check_structure(),
            "layers": len(layers),
            "width": width,
            "patches": model.encoder.pos_embedding.shape[1] - 1,
        }
    evidence.computed("cost", rows)


def test_the_cost_at_the_resolutions_that_weights_are_published_for(evidence) -> None:
    rows = {}
    for make, side in ((vit_b_16, 384), (vit_l_16, 512), (vit_h_14, 518)):
        with torch.device("meta"):
            model = make(image_size=side).eval()
            cost = model_cost(model, torch.empty(1, 3, side, side))
        rows[make.__name__] = {
            "name": next(v.title for v in VARIANTS if v.make is make),
            "pixels": side,
            "params": cost.params,
            "macs": cost.macs,
        }
    assert rows["vit_h_14"]["macs"] / 1e9 == pytest.approx(1016.717, abs=1e-3)
    evidence.computed("resolution", rows)


def test_a_small_one_computes_what_torchvisions_class_computes(evidence) -> None:
    from torchvision.models import VisionTransformer as Torchvisions

    theirs = Torchvisions(24, 8, 2, 4, 48, 96, num_classes=10)
    result = compare(small(), theirs, torch.randn(2, 3, 24, 24), square=True)
    evidence.equivalent(
        "vision_transformer",
        result,
        reference="torchvision.models.VisionTransformer",
        settings="2 blocks, 9 patches of 8 × 8 pixels, width 48, 4 heads, 10 classes",
    )


@each_variant(VARIANTS)
def test_computes_what_torchvision_computes(variant: Variant, evidence) -> None:
    # Images are square here; that rows and columns are not swapped shows in the position
    # embeddings, which are drawn at random and differ from token to token.
    full = variant.net != "outputs"
    with torch.device("meta"):
        side = 3 * variant.make().conv_proj.kernel_size[0]
    with NoInit():
        ours = variant.make(image_size=side)
        theirs = reference(variant.reference, image_size=side)
    result = compare(
        ours,
        theirs,
        torch.randn(2, 3, side, side),
        train=full,
        dtype=torch.float64 if full else torch.float32,
        square=True,
    )
    evidence.equivalent(
        variant.key,
        result,
        reference=variant.reference,
        settings=f"image_size={side}",
    )


def test_position_embeddings_are_interpolated_as_torchvision_does(evidence) -> None:
    from torchvision.models.vision_transformer import interpolate_embeddings

    trained = torch.randn(1, 1 + 3 * 3, 48, dtype=torch.float64)
    state = {"encoder.pos_embedding": trained.clone()}
    theirs = interpolate_embeddings(40, 8, state)["encoder.pos_embedding"]
    result = difference({"embedding": (resize_positions(trained, 5), theirs)})
    evidence.equivalent(
        "resize_positions",
        result,
        reference="torchvision.models.vision_transformer.interpolate_embeddings",
        settings="a grid of 3 × 3 to 5 × 5",
    )
    torch.testing.assert_close(resize_positions(trained, 3), trained)
    corners = resize_positions(trained, 5)[:, 1:].unflatten(1, (5, 5))[:, ::4, ::4]
    expected = trained[:, 1:].unflatten(1, (3, 3))[:, ::2, ::2]
    torch.testing.assert_close(corners, expected)


def test_attention_written_as_in_the_papers_appendix_a() -> None:
    attention = EncoderBlock(48, 4, 96).self_attention.double()
    nn.init.normal_(attention.in_proj_bias)
    z = torch.randn(2, 7, 48, dtype=torch.float64)
    heads = []
    for head in range(4):
        rows = slice(12 * head, 12 * head + 12)
        q, k, v = (
            z @ weight[rows].T + bias[rows]
            for weight, bias in zip(
                attention.in_proj_weight.chunk(3),
                attention.in_proj_bias.chunk(3),
                strict=True,
            )
        )
        a = torch.exp(q @ k.transpose(1, 2) / 12**0.5)
        heads.append(a / a.sum(2, keepdim=True) @ v)
    joined = torch.cat(heads, dim=2)
    expected = joined @ attention.out_proj.weight.T + attention.out_proj.bias
    torch.testing.assert_close(attention(z), expected, rtol=1e-10, atol=1e-10)


def test_the_papers_equations_1_to_4_step_by_step() -> None:
    model, x = small().double(), torch.randn(2, 3, 24, 24, dtype=torch.float64)
    patches = x.unfold(2, 8, 8).unfold(3, 8, 8)  # (N, C, 3, 3, 8, 8)
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(2, 9, 3 * 8 * 8)
    embedded = patches @ model.conv_proj.weight.flatten(1).T + model.conv_proj.bias
    token = model.class_token.expand(2, 1, 48)
    z = torch.cat([token, embedded], 1) + model.encoder.pos_embedding  # equation 1
    for block in model.encoder.layers:
        z = block.self_attention(block.ln_1(z)) + z  # equation 2
        z = block.mlp(block.ln_2(z)) + z  # equation 3
    y = model.encoder.ln(z[:, 0])  # equation 4
    torch.testing.assert_close(model(x), model.heads(y), rtol=1e-10, atol=1e-10)


def shuffled(x: Tensor, order: Tensor) -> Tensor:
    """The same patches of 8 x 8 pixels at other places."""
    patches = F.unfold(x, 8, stride=8)[:, :, order]
    return F.fold(patches, x.shape[2:], 8, stride=8)


def test_without_position_embeddings_the_order_of_patches_does_not_matter() -> None:
    model, x = small().double().eval(), torch.randn(2, 3, 24, 24, dtype=torch.float64)
    order = torch.tensor([4, 7, 0, 2, 8, 1, 5, 3, 6])
    mixed = shuffled(x, order)
    assert not torch.allclose(model(mixed), model(x), rtol=0, atol=1e-4)
    nn.init.zeros_(model.encoder.pos_embedding)
    torch.testing.assert_close(model(mixed), model(x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        model.tokens(mixed)[:, 1:], model.tokens(x)[:, 1:][:, order]
    )


def test_one_block_carries_a_change_of_one_patch_to_every_token() -> None:
    model = small().eval()
    x = torch.randn(1, 3, 24, 24)
    changed = x.clone()
    changed[:, :, :8, :8] += 1
    first = model.encoder.layers[0]

    def after(image: Tensor) -> Tensor:
        patches = model.conv_proj(image).flatten(2).transpose(1, 2)
        z = torch.cat([model.class_token, patches], 1) + model.encoder.pos_embedding
        return first(z)

    apart = (after(changed) - after(x)).abs().amax(dim=2)
    assert apart.shape == (1, 10)
    assert apart.min() > 1e-6


def test_the_mlp_looks_at_one_token_at_a_time() -> None:
    block, z = EncoderBlock(48, 4, 96), torch.randn(2, 7, 48)
    whole = block.mlp(block.ln_2(z))
    torch.testing.assert_close(whole[:, 3:4], block.mlp(block.ln_2(z[:, 3:4])))


def test_dropout_acts_in_training_only_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = EncoderBlock(48, 4, 96, dropout=0.25)
    assert [m.p for m in block.modules() if isinstance(m, nn.Dropout)] == [0.25] * 3
    z = torch.randn(1, 7, 48)
    assert torch.equal(block.eval()(z), block(z))
    with torch.no_grad():
        drawn = block.train().dropout(torch.ones(200, 1000))
    assert float((drawn == 0).double().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(drawn.mean()) == pytest.approx(1, abs=0.01)


def test_one_patch_is_enough_and_another_size_is_refused() -> None:
    assert small(image_size=8)(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    with torch.device("meta"):
        model = vit_b_16()
        for shape in ((1, 3, 224, 223), (1, 3, 240, 224), (1, 1, 224, 224)):
            told = rf"expected \(N, 3, 224, 224\), got \(1, {shape[1]}, {shape[2]}"
            with pytest.raises(ValueError, match=told):
                model(torch.empty(shape))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(vit_b_16, image_size=225), "patch_size=16, got image_size=225"),
        (partial(vit_b_16, image_size=0), "got image_size=0"),
        (partial(vit_b_16, num_classes=0), "num_classes=0"),
        (partial(VisionTransformer, 0, 1, 1, 8, 8), "patch_size=0"),
        (partial(VisionTransformer, 8, 0, 1, 8, 8), "layers=0"),
        (partial(VisionTransformer, 8, 1, 3, 8, 8), "multiple of heads=3, got width=8"),
        (partial(VisionTransformer, 8, 1, 1, 0, 8), "got width=0"),
        (partial(VisionTransformer, 8, 1, 1, 8, 0), "mlp_width=0"),
        (partial(small, in_channels=0), "in_channels=0"),
        (lambda: small()(torch.randn(3, 24, 24)), r"got \(3, 24, 24\)"),
    ],
)
def test_what_cannot_be_a_vision_transformer_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- the record


_, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=None,
    small=biased,
    small_images=(4, 3, 24, 24),
    smallest=SMALLEST,
    learns="one batch",
    recipe={"pixels": 64},
    options={"image_size": 64},
    speed=(2, 3, 224, 224),
)
