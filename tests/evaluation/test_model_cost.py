"""Why model_cost is right: torch's own counter and torchvision's metadata agree with it to the last digit."""

import copy
import statistics
import time
import warnings
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cnn_site.equivalence import difference
from cnn_techniques.evaluation import ModelCost, cost_by_layer, latency, model_cost

NETWORKS = {  # name on the page, and the weights whose metadata hold the count
    "resnet18": ("ResNet-18", "IMAGENET1K_V1"),
    "resnet50": ("ResNet-50", "IMAGENET1K_V1"),
    "resnet152": ("ResNet-152", "IMAGENET1K_V1"),
    "mobilenet_v2": ("MobileNetV2", "IMAGENET1K_V1"),
    "efficientnet_b0": ("EfficientNet-B0", "IMAGENET1K_V1"),
    "convnext_tiny": ("ConvNeXt-T", "IMAGENET1K_V1"),
    "vit_b_16": ("ViT-B/16", "IMAGENET1K_V1"),
}


class Counts(nn.Module):
    """A module whose output is what was counted, so that a GPU can be checked against the CPU."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        cost = model_cost(self.module, x)
        return torch.tensor(
            [cost.params, cost.macs, cost.activations],
            dtype=torch.float64,
            device=x.device,
        )


DEVICE_CASES = {
    "model_cost": lambda: (
        Counts(
            nn.Sequential(
                nn.Conv2d(4, 8, 3, groups=2),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(8 * 7 * 5, 3),
            )
        ),
        (torch.randn(2, 4, 9, 7),),
    ),
}


def on_meta(name: str) -> tuple[nn.Module, Tensor]:
    with torch.device("meta"):
        return torchvision.models.get_model(name).eval(), torch.empty(1, 3, 224, 224)


def torch_macs(module: nn.Module, *inputs: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() / 2


def test_networks_cost_what_torch_counts_and_torchvision_publishes(
    evidence: Any,
) -> None:
    rows, counted, published = {}, {}, {}
    for key, (name, weights) in NETWORKS.items():
        network, image = on_meta(key)
        cost = model_cost(network, image)
        meta = torchvision.models.get_model_weights(key)[weights].meta
        counted[key] = (
            torch.tensor(cost.macs),
            torch.tensor(int(torch_macs(network, image))),
        )
        published[f"{key} parameters"] = (
            torch.tensor(cost.params),
            torch.tensor(meta["num_params"]),
        )
        published[f"{key} GFLOPs"] = tuple(
            torch.tensor(v) for v in (round(cost.macs / 1e9, 3), meta["_ops"])
        )
        rows[key] = {
            "name": name,
            "params": cost.params,
            "macs": cost.macs,
            "activations": cost.activations,
            "saved_bytes": cost.saved_bytes,
            "bytes": cost.bytes,
        }
    for base in ("resnet18", "resnet50"):
        for row in rows.values():
            row[f"of_{base}"] = row["macs"] / rows[base]["macs"]
    evidence.computed("cost", rows)
    image = {"shape": [1, 3, 224, 224], "modes": ["evaluation"]}
    evidence.equivalent(
        "macs",
        difference(counted, **image),
        reference="torch.utils.flop_counter.FlopCounterMode",
        settings="half its FLOPs, in seven networks",
    )
    evidence.equivalent(
        "published",
        difference(published, **image),
        reference="torchvision's metadata of weights",
        settings="num_params, and _ops to its three decimals, in the same seven",
    )


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 12, 3),
        nn.Conv2d(8, 12, (5, 3), stride=(2, 1), padding=1, groups=4),
        nn.Conv2d(8, 8, 3, dilation=2, groups=8, bias=False),
        nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1),
        nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2, output_padding=1),
        nn.Linear(13, 4),
    ],
    ids=[
        "plain",
        "grouped-strided",
        "dilated-depthwise",
        "transposed",
        "transposed-grouped",
        "linear",
    ],
)
def test_every_kind_of_layer_costs_what_torch_counts(layer: nn.Module) -> None:
    x = torch.randn(2, 8, 11, 13)
    assert model_cost(layer, x).macs == torch_macs(layer, x)


def test_a_convolution_costs_kernel_times_places() -> None:
    cost = model_cost(
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        torch.empty(1, 3, 224, 224),
    )
    assert cost.macs == 7 * 7 * 3 * 64 * 112 * 112
    assert cost.activations == 64 * 112 * 112
    assert cost.params == 7 * 7 * 3 * 64


def test_macs_grow_with_the_area_and_the_batch_and_parameters_do_not() -> None:
    layer = nn.Conv2d(4, 6, 3, padding=1)
    small, large = (
        model_cost(layer, torch.empty(1, 4, 8, 6)),
        model_cost(layer, torch.empty(5, 4, 16, 12)),
    )
    assert large.macs == 5 * 4 * small.macs
    assert large.activations == 5 * 4 * small.activations
    assert large.params == small.params


def test_a_layer_used_twice_costs_twice_but_is_stored_once() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1)
    x = torch.empty(1, 4, 8, 6)
    once, twice = (
        model_cost(nn.Sequential(layer), x),
        model_cost(nn.Sequential(layer, layer), x),
    )
    assert twice.macs == 2 * once.macs
    assert twice.params == once.params


def test_a_weight_shared_by_two_layers_is_stored_once() -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    cost = model_cost(nn.Sequential(first, second), torch.empty(1, 6))
    assert cost.params == 36 + 6 + 6
    assert cost.bytes == 4 * (36 + 6 + 6)


class Attention(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_both_products_of_attention_are_counted_whatever_kernel_runs(
    device: str,
) -> None:
    q, k, v = (torch.empty(2, 4, n, 8, device=device) for n in (5, 7, 7))
    assert model_cost(Attention(), q, k, v).macs == 2 * 4 * 5 * 7 * (8 + 8)


def test_the_fused_encoder_hides_nothing() -> None:
    encoder = (
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        .eval()
        .requires_grad_(False)
    )
    macs = (
        7 * 16 * (3 + 1) * 16 + 2 * 7 * 7 * 16 + 2 * 7 * 16 * 32
    )  # projections, products, two linear layers
    assert model_cost(encoder, torch.randn(1, 7, 16)).macs == macs
    assert torch.backends.mha.get_fastpath_enabled()


def recurrent_macs(layer: nn.RNNBase, places: int) -> int:
    """Each matrix once at each place of each sequence."""
    return places * sum(w.numel() for w in layer.parameters() if w.ndim == 2)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}, {"bias": False}],
    ids=str,
)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_cost_the_same_in_one_kernel_and_step_by_step(
    kind: type[nn.RNNBase], options: dict[str, Any], device: str
) -> None:
    """fvcore 98, tnt 624: one kernel of the CPU does a whole LSTM."""
    layer = kind(10, 20, **options, device=device)
    x = torch.zeros(5, 3, 10, device=device)
    cost = model_cost(layer, x)
    assert cost.macs == recurrent_macs(layer, 15)
    gates = [w.shape[0] for w in layer.parameters() if w.ndim == 2]
    assert cost.activations == 15 * sum(gates)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_cells_and_an_lstm_with_projection_cost_their_matrices(device: str) -> None:
    x = torch.zeros(5, 3, 10, device=device)
    for cell in (nn.LSTMCell, nn.GRUCell, nn.RNNCell):
        layer = cell(10, 20, device=device)
        assert model_cost(layer, x[0]).macs == recurrent_macs(layer, 3)
    projected = nn.LSTM(10, 20, proj_size=7, device=device)
    with warnings.catch_warnings():  # torch's own: the CPU has no kernel for it
        warnings.filterwarnings("ignore", "LSTM with projections is not supported")
        assert model_cost(projected, x).macs == recurrent_macs(projected, 15)


class GraphicsCardLSTM(nn.LSTM):
    """Calls cuDNN's kernel as torch does on a GPU; on the meta device it gives shapes."""

    def forward(self, x: Tensor) -> Tensor:
        start = x.new_zeros(self.num_layers, x.shape[1], self.hidden_size)
        return torch.ops.aten._cudnn_rnn(
            *(x, list(self._flat_weights), 4, None, start, start.clone()),
            *(2, self.hidden_size, 0, self.num_layers),  # mode 2: LSTM
            *(False, 0.0, True, False, [], None),
        )[0]


def test_cudnns_kernel_costs_what_the_steps_cost() -> None:
    layer = GraphicsCardLSTM(10, 20, num_layers=2, device="meta")
    x = torch.zeros(5, 3, 10, device="meta")
    steps = nn.LSTM(10, 20, num_layers=2, device="meta")
    one, other = model_cost(layer, x), model_cost(steps, x)
    assert (one.macs, one.activations) == (other.macs, other.activations)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_bilinear_layer_costs_its_two_products(device: str) -> None:
    layer = nn.Bilinear(4, 5, 6, device=device)
    x, y = torch.zeros(2, 4, device=device), torch.zeros(2, 5, device=device)
    assert model_cost(layer, x, y).macs == 2 * 6 * (4 * 5 + 5)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (lambda: nn.Embedding(10, 4), torch.zeros(2, 3, dtype=torch.int64)),
        (lambda: nn.EmbeddingBag(10, 4), torch.zeros(2, 3, dtype=torch.int64)),
        (lambda: nn.LayerNorm((3, 10)), torch.zeros(5, 3, 10)),
        (lambda: nn.RMSNorm((3, 10)), torch.zeros(5, 3, 10)),
        (lambda: nn.PReLU(3), torch.zeros(5, 3, 10)),
        (lambda: nn.GroupNorm(3, 6), torch.zeros(5, 6, 2, 2)),
        (lambda: nn.BatchNorm2d(3), torch.zeros(5, 3, 2, 2)),
    ],
)
def test_look_ups_and_norms_are_free_and_need_no_warning(
    layer: Any, x: Tensor, device: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model_cost(layer().to(device), x.to(device)).macs == 0


def test_parts_of_a_transformer_need_no_warning() -> None:
    x = torch.zeros(5, 3, 16)
    decoder = nn.TransformerDecoderLayer(16, 2, 32)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attention, feed_forward = 2 * (15 * 16 * 16 * 4 + 3 * 5 * 5 * 32), 15 * 16 * 64
        assert model_cost(decoder, x, x).macs == attention + feed_forward
        assert model_cost(normed, x).macs == 15 * 16 * 4


class StandardisedConv(nn.Conv2d):
    """Its weight goes through a batch norm, as in networks without norms (timm's nfnet)."""

    def forward(self, x: Tensor) -> Tensor:
        rows, gain = self.weight.flatten(1)[None], torch.ones(len(self.weight))
        weight = F.batch_norm(rows, None, None, gain.to(rows), training=True)
        return F.conv2d(x, weight.view_as(self.weight))


def test_a_norm_of_a_weight_is_free() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cost = model_cost(StandardisedConv(3, 4, 3), torch.zeros(1, 3, 5, 6))
    assert cost.macs == 4 * 27 * 3 * 4


class Distances(nn.Module):
    """To rows of a weight, by an operation that the counter has no rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(7, 10))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.centres, compute_mode=FORMULA)


FORMULA = "donot_use_mm_for_euclid_dist"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_operation_with_weights_that_has_no_rule_is_named(device: str) -> None:
    network = nn.Sequential(nn.Linear(6, 10), Distances()).to(device)
    with pytest.warns(UserWarning, match=r"aten\._cdist_forward \(in '1'\)"):
        assert model_cost(network, torch.zeros(3, 6, device=device)).macs == 3 * 60


class NestedAttention(nn.Module):
    """Without weights, and by a kernel for sequences of several lengths."""

    def forward(self, q: Tensor) -> Tensor:
        starts = torch.tensor([0, 2, 5], dtype=torch.int32, device="meta")
        return torch.ops.aten._flash_attention_forward(
            q, q, q, starts, starts, 3, 3, 0.0, False, False
        )[0]


def test_a_kernel_of_attention_that_has_no_rule_is_named() -> None:
    q = torch.empty(5, 2, 8, dtype=torch.float16, device="meta")
    with pytest.warns(UserWarning, match=r"aten\._flash_attention_forward"):
        model_cost(NestedAttention(), q)


def test_quantised_weights_are_named() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torch's own: it leaves these to another package
        layer = torch.ao.nn.quantized.dynamic.Linear(10, 4)
    with pytest.warns(UserWarning, match=r"quantized\.linear_dynamic"):
        model_cost(layer, torch.zeros(3, 10))


class Deformable(nn.Module):
    def forward(self, x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        return torchvision.ops.deform_conv2d(x, offset, weight, padding=1)


def test_a_deformable_convolution_costs_what_the_plain_one_costs() -> None:
    x, offset, weight = (
        torch.randn(1, 4, 9, 8),
        torch.randn(1, 18, 9, 8),
        torch.randn(5, 4, 3, 3),
    )
    plain = model_cost(nn.Conv2d(4, 5, 3, padding=1), x)
    assert model_cost(Deformable(), x, offset, weight).macs == plain.macs


def test_the_layers_add_up_to_the_whole() -> None:
    network, image = on_meta("resnet18")
    rows, whole = cost_by_layer(network, image), model_cost(network, image)
    for field in ("params", "macs", "activations", "saved_bytes", "bytes"):
        assert sum(getattr(row, field) for row in rows.values()) == getattr(
            whole, field
        )
    # It keeps its input, the 512 means, in float32.
    weights = 513 * 1000
    assert rows["fc"] == ModelCost(
        weights, 512 * 1000, 1000, 4 * 512, 4 * weights, nonzero=None
    )


def test_stored_bytes_are_those_of_the_state_dict() -> None:
    network = torchvision.models.resnet18().eval()
    state = network.state_dict()  # running statistics too
    image = torch.zeros(1, 3, 32, 32)
    assert model_cost(network, image).bytes == sum(t.nbytes for t in state.values())
    layer = nn.Linear(6, 4)
    assert model_cost(layer, torch.zeros(1, 6)).bytes == 4 * 28
    halved = layer.to(torch.float16)
    assert model_cost(halved, torch.zeros(1, 6, dtype=torch.float16)).bytes == 2 * 28


def test_weights_that_are_kept_as_integers_in_buffers_have_bytes() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.ones(4, 6, dtype=torch.int8))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.T.float()

    cost = model_cost(Quantised(), torch.zeros(1, 6))
    assert (cost.params, cost.bytes) == (0, 24)


def test_entries_that_are_not_zero_are_counted_where_there_are_values() -> None:
    layer = nn.Linear(6, 4)
    nn.init.ones_(layer.weight)
    nn.init.ones_(layer.bias)
    with torch.no_grad():
        layer.weight[:, ::2] = 0
    assert model_cost(layer, torch.zeros(1, 6)).nonzero == 28 - 12
    meta = nn.Linear(6, 4, device="meta")
    assert model_cost(meta, torch.empty(1, 6, device="meta")).nonzero is None


def test_kept_memory_is_what_the_gradients_need() -> None:
    x = torch.randn(2, 3, 8, 6)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 1)
    )
    # The convolutions keep their inputs; ReLU keeps its output, which is the input of the second one.
    assert model_cost(network, x).saved_bytes == 4 * 2 * 8 * 6 * (3 + 5)
    assert model_cost(network.requires_grad_(False), x).saved_bytes == 0


def test_counting_changes_neither_statistics_nor_mode_nor_hooks() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = copy.deepcopy(network.state_dict())
    model_cost(network, torch.randn(2, 3, 8, 6))
    for name, value in network.state_dict().items():
        assert value.equal(before[name])
    assert network.training
    assert not any(
        part._forward_hooks or part._forward_pre_hooks for part in network.modules()
    )


def test_the_hooks_are_gone_after_an_error_too() -> None:
    layer = nn.Conv2d(3, 4, 3)
    with pytest.raises(RuntimeError):
        model_cost(layer, torch.randn(1, 5, 8, 6))
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


class Sleep(nn.Module):
    def forward(self, seconds: float) -> None:
        time.sleep(seconds)


def test_latency_is_the_time_of_one_run() -> None:
    timing = latency(Sleep().eval(), 0.01, repeats=5, warmup=1)
    assert 0.01 <= timing.low <= timing.median <= timing.high
    assert timing.low < 0.05


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (
            lambda: model_cost(F.relu, torch.ones(1)),
            TypeError,
            "expected a torch.nn.Module, got function",
        ),
        (
            lambda: model_cost(nn.LazyLinear(3), torch.ones(1, 2)),
            ValueError,
            "a lazy module",
        ),
        (
            lambda: model_cost(nn.ReLU(), torch.inference_mode()(torch.ones)(2)),
            ValueError,
            "inference mode",
        ),
        (lambda: latency(nn.ReLU(), torch.ones(1)), ValueError, "training mode"),
        (
            lambda: latency(nn.ReLU().eval(), torch.ones(1, device="meta")),
            ValueError,
            "meta",
        ),
        (
            lambda: latency(nn.ReLU().eval(), torch.ones(1), repeats=1),
            ValueError,
            "repeats=1",
        ),
    ],
)
def test_refuses_what_it_cannot_measure(
    call: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        call()


# ---------------------------------------------------------------- the record


# Before this design, three runs of seven rounds reported the mean ratio and its t interval.
# MobileNetV2 to ResNet-18: 0.38 (0.31 to 0.45), 0.45 (0.31 to 0.59), 0.59 (0.02 to 1.15).
# The last decided nothing (other work on the machine): hence medians of more rounds.
def time_networks(rounds: int, repeats: int, spare: int) -> dict[str, Any]:
    """Rounds over all networks in turn: what slows the machine slows all of them.

    The interval of a median leaves out `spare` rounds at each end.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        image = torch.rand(1, 3, 224, 224)
        networks = {
            key: torchvision.models.get_model(key).eval()
            for key in (
                "resnet18",
                "resnet50",
                "mobilenet_v2",
                "efficientnet_b0",
                "convnext_tiny",
            )
        }
        runs: dict[str, list[float]] = {key: [] for key in networks}
        for _ in range(rounds):
            for key, network in networks.items():
                timing = latency(network, image, repeats=repeats, warmup=1)
                runs[key].append(1000 * timing.median)
    finally:
        torch.set_num_threads(threads)
    arms = {}
    for key, network in networks.items():
        ratios = [a / b for a, b in zip(runs[key], runs["resnet18"], strict=True)]
        arms[key] = {
            "name": NETWORKS[key][0],
            "macs": model_cost(network, image).macs,
            "milliseconds": statistics.median(runs[key]),
            "ratio": statistics.median(ratios),
            "ratio_low": sorted(ratios)[spare],
            "ratio_high": sorted(ratios)[-1 - spare],
            "rounds": {"milliseconds": runs[key], "ratios": ratios},
        }
    return {"arms": arms}


@pytest.mark.record
def test_record_time_does_not_follow_multiply_adds(evidence: Any) -> None:
    # Of 15 rounds the 4th to the 12th hold the true median with a probability of 96 %.
    arguments = {"rounds": 15, "repeats": 5, "spare": 3}
    result = evidence.measured("latency", arguments=arguments, run=time_networks)
    mobile, resnet = result["arms"]["mobilenet_v2"], result["arms"]["resnet18"]
    assert mobile["ratio_low"] > mobile["macs"] / resnet["macs"]
