"""SegFormer is transformers', name by name; the paper's equations and what follows from them are shown as laws."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab.scene_trial import learn_masks, scene_trials
from cnn_site import ROOT
from cnn_site.equivalence import compare, difference
from cnn_site.laws import gradient_reaches_every_parameter
from cnn_site.variants import NoInit, Variant, without_drawing
from cnn_techniques.attention import MultiHeadAttention
from cnn_techniques.evaluation import model_cost
from cnn_techniques.segmentation import (
    EfficientSelfAttention,
    MixTransformer,
    SegFormer,
    SegFormerBlock,
    SequenceReduction,
    enlarged,
    segformer_b0,
    segformer_b1,
    segformer_b2,
    segformer_b3,
    segformer_b4,
    segformer_b5,
    segformer_loss,
)
from cnn_techniques.training import StochasticDepth

SIZES = {  # of the paper's tables: widths, depths, channels of the decoder
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3), 768),
}
SMALL = ((8, 16, 40, 64), (1, 2, 1, 1), 24)
MAKE = dict(
    zip(
        SIZES,
        [segformer_b0, segformer_b1, segformer_b2, segformer_b3, segformer_b4, segformer_b5],
        strict=True,
    )
)  # fmt: skip


def config(
    sizes: tuple[tuple[int, ...], tuple[int, ...], int], labels: int = 150
) -> Any:
    transformers = pytest.importorskip("transformers")
    widths, depths, channels = sizes
    return transformers.SegformerConfig(
        hidden_sizes=widths,
        depths=depths,
        decoder_hidden_size=channels,
        num_labels=labels,
        output_hidden_states=True,
    )


def theirs(sizes: Any, labels: int = 150) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.SegformerForSemanticSegmentation(config(sizes, labels))


class WithMaps(SegFormer):
    """Returns what the encoder returns, too."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.segformer(x)
        return self.decode_head(maps), *maps


BOTH = (lambda out: out, lambda out: (out.logits, *out.hidden_states))


def small(num_classes: int = 5, **options: Any) -> SegFormer:
    return SegFormer(*SMALL, num_classes, **options)


def narrow() -> nn.Module:
    """What the recorded runs train, with the scores enlarged to the image."""
    network = SegFormer((16, 32, 64, 128), (1, 1, 1, 1), 64, 11, heads=(1, 2, 4, 8))
    return nn.Sequential(network, nn.Upsample(scale_factor=4, mode="bilinear"))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


DEVICE_CASES = {
    "SegFormerBlock": lambda: (
        SegFormerBlock(16, 2, 2, 0.0),
        (torch.randn(2, 6, 9, 16),),
    ),
    "SegFormer": lambda: (small().eval(), (torch.randn(2, 3, 64, 93),)),
}


# ---------------------------------------------------------------- transformers


def test_names_shapes_order_and_costs_of_every_size_are_transformers(evidence) -> None:
    rows = {}
    for key, sizes in SIZES.items():
        variant = Variant(
            MAKE[key],
            f"SegFormer-{key.upper()}",
            "transformers.SegformerForSemanticSegmentation",
            pixels=512,
            options={"config": config(sizes)},
        )
        row = variant.check_structure()
        del row["net"]
        with torch.device("meta"):
            network = MAKE[key]().eval()
            maps = [
                torch.empty(1, width, 128 // 2**i, 128 // 2**i)
                for i, width in enumerate(sizes[0])
            ]
            head = model_cost(network.decode_head, maps)
        rows[f"segformer_{key}"] = {
            **row,
            "decoder": head.params,
            "decoder_macs": head.macs,
        }
    with torch.device("meta"):
        large = model_cost(segformer_b5().eval(), torch.empty(1, 3, 640, 640))
    rows["segformer_b5"]["macs_640"] = large.macs
    evidence.computed("cost", rows)


def test_the_papers_macs_for_cityscapes_are_those_of_150_classes(evidence) -> None:
    table_1a = [125.5, 243.7, 717.1, 962.9, 1240.6, 1460.4]
    rows = {}
    for (key, sizes), paper in zip(SIZES.items(), table_1a, strict=True):
        with torch.device("meta"):
            network = MAKE[key]().eval()
            macs = model_cost(network, torch.empty(1, 3, 1024, 2048)).macs
        few = macs - (150 - 19) * sizes[2] * 256 * 512
        rows[f"segformer_{key}"] = {"name": key, "macs_19": few, "macs_150": macs}
        assert macs / 1e9 == pytest.approx(paper, rel=2e-3)
    evidence.computed("cityscapes", rows)


def test_b0_computes_what_transformers_computes_at_every_resolution(evidence) -> None:
    with NoInit():
        ours, reference = WithMaps(*SIZES["b0"]), theirs(SIZES["b0"])
    without_drawing(ours), without_drawing(reference)
    result = compare(ours, reference, torch.randn(2, 3, 64, 96), outputs=BOTH)
    evidence.equivalent(
        "segformer_b0",
        result,
        reference="transformers.SegformerForSemanticSegmentation",
        settings="scores and the maps of all four stages; dropout and drop path 0",
    )


class Drop(nn.Module):
    """Drop path that draws in one way on both sides."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.rate = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = len(x), *[1] * (x.ndim - 1)
        kept = torch.rand(len(x), dtype=x.dtype).view(shape) >= self.rate
        return x * kept / (1 - self.rate)


def test_with_the_same_draws_it_trains_as_transformers_on_sides_that_32_does_not_divide(
    evidence,
) -> None:
    ours, reference = WithMaps(*SMALL, 5), theirs(SMALL, 5)
    rates = []
    for network, rate in ((ours, "p"), (reference, "drop_prob")):
        found = []
        for block in network.modules():
            drop = getattr(block, "drop_path", None)
            if drop is not None:  # transformers has an identity where the rate is 0
                found.append(getattr(drop, rate, 0.0))
                block.drop_path = Drop(found[-1])
        rates.append(found)
    assert rates[0] == pytest.approx(rates[1])
    assert rates[0] == pytest.approx([0.025 * i for i in range(5)])
    head = reference.decode_head
    assert ours.decode_head.dropout.p == head.dropout.p == 0.1
    result = compare(ours, reference, torch.randn(3, 3, 71, 101), outputs=BOTH)
    evidence.equivalent(
        "small",
        result,
        reference="transformers.SegformerForSemanticSegmentation",
        settings="widths 8, 16, 40, 64, depths 1, 2, 1, 1, 5 classes; the same dropout and drop path drawn on both sides",
    )


def test_the_loss_and_its_gradient_are_transformers_with_pixels_left_out(
    evidence,
) -> None:
    ours, reference = small().double().eval(), theirs(SMALL, 5).double().eval()
    ours.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    masks = torch.randint(0, 5, (2, 61, 93))  # another size, as of an original image
    masks[torch.rand(masks.shape) < 0.3] = 255
    loss = segformer_loss(ours(images), masks)
    expected = reference(images, labels=masks).loss
    loss.backward(), expected.backward()
    mine, other = dict(ours.named_parameters()), dict(reference.named_parameters())
    result = difference(
        {"loss": (loss.detach(), expected.detach())},
        {name: (mine[name].grad, other[name].grad) for name in mine},
        shape=list(images.shape),
        modes=["evaluation"],
    )
    evidence.equivalent(
        "loss",
        result,
        reference="transformers.SegformerForSemanticSegmentation",
        settings="labels of another size, 30 % of them 255",
    )


def test_files_with_the_hubs_older_names_load_strictly_through_transformers(
    tmp_path,
) -> None:
    from safetensors.torch import load_file

    reference = theirs(SMALL, 5).eval()
    reference.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    old = {name for name in state if name not in reference.state_dict()}
    assert "segformer.encoder.block.1.1.attention.self.sr.weight" in old
    network, published = small().eval(), type(reference).from_pretrained(tmp_path)
    network.load_state_dict(published.state_dict())
    x = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(network(x), reference(x).logits)


# ---------------------------------------------------------------- the paper's equations


def test_the_reduction_is_the_papers_reshape_and_linear_layer() -> None:
    r, c = 4, 6
    reduce, x = SequenceReduction(c, r).double(), torch.randn(2, 8, 12, c).double()
    patches = x.unflatten(1, (-1, r)).unflatten(3, (-1, r)).transpose(2, 3)
    k = patches.reshape(2, 2 * 3, r * r * c)  # equation 2: (N / R, C R)
    weight = reduce.sequence_reduction.weight.permute(0, 2, 3, 1).flatten(1)
    expected = k @ weight.T + reduce.sequence_reduction.bias
    result = reduce.layer_norm(expected)
    torch.testing.assert_close(reduce(x).flatten(1, 2), result)


def test_without_reduction_it_is_multi_head_attention() -> None:
    ours, page = EfficientSelfAttention(12, 3, 1), MultiHeadAttention(12, 3)
    layers = (ours.q_proj, ours.k_proj, ours.v_proj)
    page.in_proj_weight.data = torch.cat([layer.weight.data for layer in layers])
    page.in_proj_bias.data = torch.cat([layer.bias.data for layer in layers])
    page.out_proj.load_state_dict(ours.o_proj.state_dict())
    x = torch.randn(2, 5, 7, 12)
    torch.testing.assert_close(ours(x).flatten(1, 2), page(x.flatten(1, 2)))


def test_with_reduction_it_is_equation_1_head_by_head() -> None:
    ours, x = EfficientSelfAttention(8, 2, 2).double(), torch.randn(1, 4, 6, 8).double()
    coarse = ours.sequence_reduction(x).reshape(6, 8)
    q, k, v = ours.q_proj(x).view(24, 8), ours.k_proj(coarse), ours.v_proj(coarse)
    heads = []
    for d in (slice(0, 4), slice(4, 8)):
        heads.append((q[:, d] @ k[:, d].T / 4**0.5).softmax(dim=1) @ v[:, d])
    expected = ours.o_proj(torch.cat(heads, dim=1)).view(1, 4, 6, 8)
    torch.testing.assert_close(ours(x), expected)


def test_the_decoder_is_equation_4_and_its_linear_layers_may_come_before_enlarging() -> (
    None
):
    head = small().double().eval().decode_head
    sides = [(16, 24), (8, 12), (4, 6), (2, 3)]
    maps = [
        torch.randn(2, c, *s, dtype=torch.float64)
        for c, s in zip(SMALL[0], sides, strict=True)
    ]
    fuse = head.linear_fuse.weight[..., 0, 0].chunk(4, dim=1)[::-1]
    total = 0
    for x, linear, part in zip(maps, head.linear_projections, fuse, strict=True):
        both = part @ linear.proj.weight  # one matrix at the map's own resolution
        y = torch.einsum("oc,nchw->nohw", both, x)
        y = y + (part @ linear.proj.bias)[:, None, None]
        total = total + F.interpolate(y, sides[0], mode="bilinear")
    expected = head.classifier(F.relu(head.batch_norm(total)))
    torch.testing.assert_close(head(maps), expected)


# ---------------------------------------------------------------- laws


def test_only_zeros_at_the_border_tell_position() -> None:
    encoder = small().double().eval().segformer
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    moved = x.roll((32, 64), dims=(2, 3))

    @torch.no_grad()
    def apart() -> float:
        pairs = zip(encoder(x), encoder(moved), (8, 4, 2, 1), strict=True)
        rolls = [(a.roll((r, 2 * r), dims=(2, 3)) - b).abs().max() for a, b, r in pairs]
        return float(max(rolls))

    assert apart() > 1e-2
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
            p = module.padding[0]
            module._reversed_padding_repeated_twice = [p, p, p, p]
    assert apart() < 1e-10


def test_keys_leave_out_rows_and_columns_beyond_the_last_whole_patch() -> None:
    attention = EfficientSelfAttention(8, 1, 4)
    x = torch.randn(1, 11, 14, 8, requires_grad=True)
    attention(x)[0, 0, 0].sum().backward()
    read = x.grad.abs().sum(dim=(0, 3)) > 0
    assert read[:8, :12].all()
    assert not read[8:].any()
    assert not read[:, 12:].any()


def test_every_score_sees_every_pixel_of_an_image_that_32_divides() -> None:
    network = small(1).double().eval()
    x = torch.randn(1, 3, 96, 128, dtype=torch.float64, requires_grad=True)
    network(x)[0, 0, 0, 0].backward()
    assert (x.grad != 0).all()


def test_gradients_reach_every_parameter() -> None:
    network = small()
    without_drawing(network)
    gradient_reaches_every_parameter(network, torch.randn(4, 3, 64, 96))


def test_blocks_begin_close_to_the_identity_and_drop_path_is_the_pages() -> None:
    block, x = SegFormerBlock(64, 1, 8, 0.5), torch.randn(1, 16, 16, 64)
    assert isinstance(block.drop_path, StochasticDepth)
    assert (block.eval()(x) - x).std() < 0.3 * x.std()


def test_enlarged_scores_keep_their_range_and_255_is_ignored() -> None:
    scores = torch.randn(2, 3, 16, 24)
    large = enlarged(scores, (61, 95))
    assert large.shape == (2, 3, 61, 95)
    assert large.max() <= scores.max()
    masks = torch.full((2, 64, 96), 255)
    masks[:, :8] = 1
    expected = F.cross_entropy(enlarged(scores, (64, 96))[:, :, :8], masks[:, :8])
    torch.testing.assert_close(segformer_loss(scores, masks), expected)


def test_scores_are_a_quarter_of_the_image_rounded_up() -> None:
    network = small().eval()
    for h, w in ((29, 29), (64, 93), (70, 33)):
        assert network(torch.randn(1, 3, h, w)).shape == (1, 5, -(-h // 4), -(-w // 4))


@pytest.mark.parametrize("shape", [(1, 3, 28, 64), (1, 3, 64, 28), (1, 1, 64, 64), (3, 64, 64)])  # fmt: skip
def test_other_images_are_refused(shape: tuple[int, ...]) -> None:
    expected = r"expected \(N, 3, H, W\) with H and W of at least 29, got \("
    with pytest.raises(ValueError, match=expected):
        small()(torch.zeros(shape))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="channels=0"):
        SegFormer(SMALL[0], SMALL[1], 0)
    with pytest.raises(ValueError, match="num_classes=0"):
        small(0)
    with pytest.raises(ValueError, match="as many numbers"):
        MixTransformer((8, 16), (1, 1, 1, 1))
    with pytest.raises(ValueError, match="as many numbers"):
        MixTransformer((8, 16, 40, 64), (1, 0, 1, 1))
    with pytest.raises(ValueError, match=r"widths=\(8, 16, 32, 64\)"):
        MixTransformer((8, 16, 32, 64), (1, 1, 1, 1))
    with pytest.raises(ValueError, match="p=1"):
        MixTransformer(SMALL[0], SMALL[1], drop_path=1.0)


# ---------------------------------------------------------------- it learns


def test_the_network_of_the_recorded_runs(evidence) -> None:
    with torch.device("meta"):
        cost = model_cost(narrow().eval(), torch.empty(1, 3, 96, 96))
    row = {"name": "SegFormer, narrow", "params": cost.params, "macs": cost.macs}
    evidence.computed("trial_cost", {"narrow": row})


def learn(learning_rate: float, seed: int, **budget: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    return learn_masks(narrow(), learning_rate=learning_rate, seed=seed, **budget)


def trial(name: str, learning_rate: float, seeds: list[int]) -> dict[str, Any]:
    cache = ROOT / ".cache/record/segformer.jsonl"
    arms = {"segformer": (name, {"learning_rate": learning_rate})}
    return scene_trials(learn, seeds, cache, arms)


@pytest.mark.record
def test_a_narrow_segformer_learns_to_label_the_pixels_of_scenes(evidence) -> None:
    arguments = {
        "name": "SegFormer, widths 16, 32, 64, 128",
        "learning_rate": 5e-3,
        "seeds": [0, 1, 2],
    }
    evidence.measured("trial", arguments=arguments, run=trial)
