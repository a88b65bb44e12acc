"""Multi-head attention is torch's, whole and in each head, and does what the paper's equations say."""

import re
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.equivalence import compare, difference
from cnn_site.figures import check
from cnn_techniques.attention import (
    MultiHeadAttention,
    SelfAttention2d,
    dot_product_attention,
)
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import resnet50
from cnn_techniques.modern.resnet import Bottleneck, ResNet

TOKENS = torch.randn(2, 7, 48, generator=torch.Generator().manual_seed(0))
MEMORY = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(1))
MASK = torch.rand(2, 1, 7, 5, generator=torch.Generator().manual_seed(2)) < 0.5
MASK[..., 0] = True  # a key for every query

DEVICE_CASES = {
    "self-attention": lambda: (MultiHeadAttention(48, 4), (TOKENS,)),
    "cross-attention": lambda: (
        MultiHeadAttention(48, 4),
        (TOKENS, MEMORY, MEMORY, MASK),
    ),
    "SelfAttention2d": lambda: (awake(48, 4), (torch.randn(2, 48, 5, 3),)),
}


def awake(channels: int, heads: int) -> SelfAttention2d:
    """A block whose last layer is no longer zero."""
    block = SelfAttention2d(channels, heads)
    nn.init.normal_(block.attention.out_proj.weight, std=channels**-0.5)
    return block


@pytest.fixture
def attention() -> MultiHeadAttention:
    torch.manual_seed(0)
    layer = MultiHeadAttention(48, 4).double()
    nn.init.normal_(layer.in_proj_bias)
    nn.init.normal_(layer.out_proj.bias)
    return layer


class TorchsSelfAttention(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, x, x, need_weights=False)[0]


class TorchsCrossAttention(nn.MultiheadAttention):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        # One mask for each image and head, True where a query must not read a key.
        forbidden = ~mask.expand(-1, self.num_heads, -1, -1).flatten(0, 1)
        return super().forward(q, k, v, need_weights=False, attn_mask=forbidden)[0]


def test_self_attention_equals_torchs_module(evidence) -> None:
    evidence.equivalent(
        "self-attention",
        compare(
            MultiHeadAttention(48, 4),
            TorchsSelfAttention(48, 4, batch_first=True),
            TOKENS,
        ),
        reference="torch.nn.MultiheadAttention",
        settings="batch_first=True; 7 tokens",
    )


def test_cross_attention_with_a_mask_equals_torchs_module(evidence) -> None:
    values = torch.randn(2, 5, 48)
    evidence.equivalent(
        "cross-attention",
        compare(
            MultiHeadAttention(48, 4),
            TorchsCrossAttention(48, 4, batch_first=True),
            (TOKENS, MEMORY, values, MASK),
        ),
        reference="torch.nn.MultiheadAttention",
        settings="batch_first=True; 7 queries, 5 keys, other values; its mask is the "
        "opposite of this one",
    )


@pytest.mark.parametrize("mask", [None, MASK], ids=["all keys", "mask"])
def test_one_head_equals_torchs_function(mask: Tensor | None, evidence) -> None:
    results = {}
    for name, attend in (
        ("ours", dot_product_attention),
        ("torch", F.scaled_dot_product_attention),
    ):
        generator = torch.Generator().manual_seed(0)
        q, k, v = (
            torch.randn(
                2, 4, n, 12, generator=generator, dtype=torch.float64
            ).requires_grad_()
            for n in (7, 5, 5)
        )
        out = attend(q, k, v, mask)
        (out * torch.randn(out.shape, generator=generator)).sum().backward()
        results[name] = {"output": out.detach(), "q": q.grad, "k": k.grad, "v": v.grad}
    pairs = {
        key: (value, results["torch"][key]) for key, value in results["ours"].items()
    }
    evidence.equivalent(
        "one head" if mask is None else "one head, masked",
        difference(
            {"output": pairs.pop("output")},
            pairs,
            shape=[2, 4, 7, 12],
            modes=["training"],
        ),
        reference="torch.nn.functional.scaled_dot_product_attention",
        settings="without a mask" if mask is None else "with a boolean mask",
    )


def test_torchs_function_can_do_the_work_of_each_head(
    attention: MultiHeadAttention,
) -> None:
    fused = MultiHeadAttention(48, 4, F.scaled_dot_product_attention).double()
    fused.load_state_dict(attention.state_dict())
    for inputs in ((TOKENS,), (TOKENS, MEMORY, MEMORY, MASK)):
        given = [x.double() if x.is_floating_point() else x for x in inputs]
        torch.testing.assert_close(
            fused(*given), attention(*given), rtol=1e-10, atol=1e-12
        )


def test_the_papers_equations_head_by_head(attention: MultiHeadAttention) -> None:
    x, memory = TOKENS.double(), MEMORY.double()
    parts = zip(
        attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
    )
    q, k, v = (
        torch.einsum("nld,ed->nle", t, w) + b
        for t, (w, b) in zip((x, memory, memory), parts, strict=True)
    )
    heads = []
    for i in range(4):
        own = slice(12 * i, 12 * i + 12)
        fit = torch.exp(
            torch.einsum("nld,nsd->nls", q[..., own], k[..., own]) / 12**0.5
        )
        share = fit / fit.sum(dim=2, keepdim=True)
        heads.append(torch.einsum("nls,nsd->nld", share, v[..., own]))
    joined = torch.cat(heads, dim=2)
    expected = joined @ attention.out_proj.weight.T + attention.out_proj.bias
    torch.testing.assert_close(attention(x, memory), expected, rtol=1e-10, atol=1e-12)


def test_self_attention_is_cross_attention_to_itself(
    attention: MultiHeadAttention,
) -> None:
    x = TOKENS.double()
    torch.testing.assert_close(attention(x), attention(x, x.clone()))


def test_values_follow_the_keys_unless_given(attention: MultiHeadAttention) -> None:
    x, memory = TOKENS.double(), MEMORY.double()
    other = attention(x, memory, memory + 1)
    assert torch.equal(attention(x, memory), attention(x, memory, memory))
    assert not torch.allclose(attention(x, memory), other)


def test_the_order_of_the_keys_does_not_matter_that_of_the_queries_is_kept(
    attention: MultiHeadAttention,
) -> None:
    x, memory = TOKENS.double(), MEMORY.double()
    keys, queries = torch.randperm(5), torch.randperm(7)
    expected = attention(x, memory)
    torch.testing.assert_close(attention(x, memory[:, keys]), expected)
    torch.testing.assert_close(attention(x[:, queries], memory), expected[:, queries])


def test_a_masked_key_is_as_good_as_absent(attention: MultiHeadAttention) -> None:
    x, memory = TOKENS.double(), MEMORY.double()
    mask = torch.tensor([True, True, True, False, False])
    torch.testing.assert_close(
        attention(x, memory, mask=mask), attention(x, memory[:, :3])
    )


def test_a_query_without_a_key_has_no_answer_here_and_zero_in_torchs_function() -> None:
    q, mask = torch.randn(1, 2, 4), torch.tensor([[True, True], [False, False]])
    ours = dot_product_attention(q, q, q, mask)
    theirs = F.scaled_dot_product_attention(q, q, q, mask)
    assert ours[0, 0].isfinite().all()
    assert ours[0, 1].isnan().all()
    assert not theirs[0, 1].any()


def test_with_one_key_or_with_equal_keys_the_result_is_the_mean_of_the_values() -> None:
    q, v = torch.randn(1, 7, 4), torch.randn(1, 5, 4)
    torch.testing.assert_close(
        dot_product_attention(q, torch.ones(1, 5, 4), v),
        v.mean(dim=1, keepdim=True).expand(1, 7, 4),
    )
    torch.testing.assert_close(
        dot_product_attention(q, torch.randn(1, 1, 4), v[:, :1]),
        v[:, :1].expand(1, 7, 4),
    )


def test_heads_do_not_see_each_other(attention: MultiHeadAttention) -> None:
    attention.out_proj.weight.data = torch.eye(48, dtype=torch.float64)
    x = TOKENS.double()
    before = attention(x)
    with torch.no_grad():
        attention.in_proj_weight[:12] += 1  # the queries of the first head
    changed = (attention(x) != before).any(dim=(0, 1))
    assert changed[:12].all()
    assert not changed[12:].any()


def test_the_scale_keeps_scores_at_variance_one_whatever_the_width_of_a_head() -> None:
    torch.manual_seed(0)
    for width in (4, 64, 256):
        q, k = torch.randn(2, 500, width)
        # With one-hot values, the output is the weights themselves.
        weights = dot_product_attention(q, k, torch.eye(500))
        assert weights.log().var(dim=1).mean() == pytest.approx(1, abs=0.05)


def test_gradients_reach_every_parameter_and_input(
    attention: MultiHeadAttention,
) -> None:
    inputs = [torch.randn(2, n, 48).double().requires_grad_() for n in (7, 5, 5)]
    attention(*inputs).square().mean().backward()
    for tensor in (*attention.parameters(), *inputs):
        assert tensor.grad is not None
        assert tensor.grad.any()
    # A bias of the keys moves all scores of a query equally: softmax does not see it.
    slope = attention.in_proj_bias.grad.chunk(3)
    assert slope[1].abs().max() < 1e-12 * slope[2].abs().max()


def test_the_weights_of_torchs_module_load_strictly() -> None:
    theirs = nn.MultiheadAttention(48, 4, batch_first=True)
    MultiHeadAttention(48, 4).load_state_dict(theirs.state_dict())


def test_a_new_layer_is_drawn_as_torchs_module_is() -> None:
    torch.manual_seed(0)
    ours = MultiHeadAttention(48, 4)
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(48, 4)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (5, 9)])
def test_on_a_map_it_starts_as_the_identity_for_any_size(size: tuple[int, int]) -> None:
    x = torch.randn(2, 48, *size)
    assert torch.equal(SelfAttention2d(48, 4)(x), x)
    assert awake(48, 4)(x).shape == x.shape


def test_on_a_map_the_tokens_are_the_pixels_row_by_row() -> None:
    block, x = awake(48, 4), torch.randn(2, 48, 5, 3)
    tokens = torch.stack([x[:, :, i, j] for i in range(5) for j in range(3)], dim=1)
    read = block.attention(tokens)
    for i in range(5):
        for j in range(3):
            torch.testing.assert_close(
                block(x)[:, :, i, j], x[:, :, i, j] + read[:, 3 * i + j]
            )


def test_gradients_reach_every_parameter_on_a_map() -> None:
    block = awake(48, 4)
    nn.init.normal_(block.attention.in_proj_bias)
    block(torch.randn(2, 48, 5, 3)).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in block.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiHeadAttention(48, 5), "multiple of heads=5, got width=48"),
        (lambda: MultiHeadAttention(0, 1), "got width=0"),
        (lambda: MultiHeadAttention(48, 0), "heads=0"),
        (lambda: SelfAttention2d(48, 7), "multiple of heads=7"),
        (
            lambda: MultiHeadAttention(48, 4)(TOKENS[0]),
            r"expected \(N, tokens, 48\) three times, got \(7, 48\)",
        ),
        (lambda: MultiHeadAttention(48, 4)(TOKENS, MEMORY[:1]), r"got .*\(1, 5, 48\)"),
        (lambda: MultiHeadAttention(24, 4)(TOKENS), r"expected \(N, tokens, 24\)"),
        (
            lambda: MultiHeadAttention(48, 4)(TOKENS, MEMORY, MEMORY[:, :3]),
            r"value for every key, got \(2, 5, 48\) and \(2, 3, 48\)",
        ),
        (lambda: SelfAttention2d(48, 4)(TOKENS), r"expected \(N, 48, H, W\)"),
    ],
)
def test_what_cannot_be_attended_to_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_mask_that_is_not_boolean_is_refused() -> None:
    with pytest.raises(TypeError, match=r"torch.bool, got torch.float32"):
        MultiHeadAttention(48, 4)(TOKENS, MEMORY, mask=MASK.float())


def test_cost_beside_the_network_it_is_put_into(evidence) -> None:
    def block(channels: int) -> SelfAttention2d:
        return SelfAttention2d(channels, channels // 64)

    networks = {
        "resnet50": ("ResNet-50", resnet50),
        "every_block": (
            "+ 16 layers",
            lambda: ResNet(Bottleneck, (3, 4, 6, 3), attention=block),
        ),
    }
    rows = {}
    for key, (name, make) in networks.items():
        with torch.device("meta"):
            cost = model_cost(make().eval(), torch.empty(1, 3, 224, 224))
        rows[key] = {"name": name, "params": cost.params, "macs": cost.macs}
    evidence.computed("cost", rows)


def test_cost_of_one_block_beside_a_convolution_by_the_size_of_the_map(
    evidence,
) -> None:
    rows = {}
    for side in (56, 28, 14, 7):
        x = torch.empty(1, 256, side, side, device="meta")
        with torch.device("meta"):
            whole = model_cost(SelfAttention2d(256, 4), x)
            conv = model_cost(nn.Conv2d(256, 256, 3, padding=1, bias=False), x)
        linear, products = 4 * 256**2 * side**2, 2 * 256 * side**4
        assert whole.macs == linear + products
        assert whole.params == 4 * 256**2 + 4 * 256
        rows[f"side_{side}"] = {
            "name": f"{side} × {side}",
            "tokens": side**2,
            "linear": linear,
            "products": products,
            "conv": conv.macs,
            "weights_mb": 4 * 4 * side**4 / 1e6,  # 4 heads, 4 bytes
        }
    evidence.computed("by_size", rows)


def test_the_number_of_heads_changes_neither_parameters_nor_macs(evidence) -> None:
    rows = {}
    for heads in (1, 4, 8, 16, 32):
        with torch.device("meta"):
            cost = model_cost(MultiHeadAttention(512, heads), torch.empty(1, 196, 512))
        rows[f"h_{heads}"] = {
            "name": f"h = {heads}",
            "width": 512 // heads,
            "params": cost.params,
            "macs": cost.macs,
            "weights": heads * 196**2,
        }
    assert len({(row["params"], row["macs"]) for row in rows.values()}) == 1
    evidence.computed("heads", rows)


class Apart(nn.Module):
    """Queries, keys and values as three inputs, without a mask: what the figure shows."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(512, 8)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attention(q, k, v)


def test_the_figure_draws_what_the_module_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Path(__file__).parents[2]
    source /= "snippets/attention/figures/multi_head_attention.py"
    monkeypatch.setitem(check.CALLS, F.linear, "Linear 512→512")
    monkeypatch.setitem(check.WORDS, "divided by √64", "truediv")
    shown, boxes = check.drawn(runpy.run_path(str(source))["figure"])
    real, _ = check.computed(Apart())
    # The trace shows the weights too.
    real = re.sub(r"chunk\(attention\.in_proj_\w+\) ; ", "", real)
    assert shown == real
    assert boxes["Linear 512→512"] == 4


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        "Multi-head attention",
        network=lambda: bench.network(
            lambda channels: SelfAttention2d(channels, heads=4)
        ),
    )


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["mha"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["mha"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["mha"])
    evidence.measured("time", arguments={}, run=run)
