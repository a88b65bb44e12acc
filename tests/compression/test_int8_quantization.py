"""Integers are those of torch's fake quantisation, integer sums give the same answers, and what INT8 costs."""

import copy

import pytest
import torch
from torch import Tensor, nn

from cnn_lab import bench_trained
from cnn_lab.record import interval, paired, repeat
from cnn_site import ROOT
from cnn_site.approximation import approximate
from cnn_site.equivalence import difference
from cnn_site.laws import every
from cnn_techniques.compression import (
    QuantizedLayer,
    fold_batch_norms,
    input_ranges,
    quantize_int8,
    to_integers,
    weight_scales,
)

DEVICE_CASES = {
    "QuantizedLayer": lambda: (
        QuantizedLayer(nn.Conv2d(3, 4, 3), -1.0, 2.0),
        (torch.randn(2, 3, 9, 9),),
    )
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4, stride=2),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


IMAGES = torch.randn(16, 3, 12, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_weights_equal_fake_quantize_per_channel(bits: int, evidence) -> None:
    largest = 2 ** (bits - 1) - 1
    pairs = {}
    for seed, layer in enumerate(
        (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 5, groups=2), nn.Linear(20, 7))
    ):
        torch.manual_seed(seed)
        weight = torch.randn_like(layer.weight) * torch.logspace(
            -3, 2, len(layer.weight)
        ).view(-1, *[1] * (layer.weight.ndim - 1))
        scale = weight_scales(weight, bits)
        ours = to_integers(weight, scale, 0, -largest, largest)
        expected = torch.fake_quantize_per_channel_affine(
            weight,
            scale.flatten(),
            torch.zeros(len(weight), dtype=torch.int32),
            0,
            -largest,
            largest,
        )
        pairs[type(layer).__name__ + str(seed)] = (ours * scale, expected)
        assert ours.abs().amax(tuple(range(1, weight.ndim))).eq(largest).all()
    comparison = difference(pairs, bound=1e-6)
    if bits == 8:
        evidence.equivalent(
            "weights",
            comparison,
            reference="torch.fake_quantize_per_channel_affine",
            settings="8 bits, symmetric, channels from 0.001 to 100",
        )  # fmt: skip


def test_inputs_equal_fake_quantize_per_tensor_in_a_thousand_ranges(evidence) -> None:
    draw = torch.Generator().manual_seed(0)
    worst = {}
    for case in range(1000):
        low, high = (
            (torch.randn(2, generator=draw) * 10 ** (case % 5 - 2))
            .sort()
            .values.tolist()
        )
        bits = 2 + case % 7
        layer = QuantizedLayer(nn.Linear(2, 2), low, high, bits)
        x = torch.randn(50, generator=draw) * max(abs(low), abs(high)) * 1.5
        ours = layer.step * layer.inputs(x)
        expected = torch.fake_quantize_per_tensor_affine(
            x, float(layer.step), int(layer.zero), 0, 2**bits - 1
        )
        steps = ((ours - expected) / layer.step).abs()
        # A middle between two integers may go either way in float32; nothing else may.
        off = steps > 1e-3
        position = (x / layer.step)[off]
        assert ((position - position.floor() - 0.5).abs() < 1e-3).all()
        if case < 3:
            worst[f"case {case}"] = (ours[~off], expected[~off])
        assert layer.step * (0 - layer.zero) <= min(low, 0) + layer.step
    evidence.equivalent(
        "inputs",
        difference(worst, bound=1e-6),
        reference="torch.fake_quantize_per_tensor_affine",
        settings="affine, 2 to 8 bits, 1,000 ranges",
    )


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_scales_and_zero_points_are_those_of_torchs_observers(bits: int) -> None:
    from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

    largest = 2 ** (bits - 1) - 1
    draw = torch.Generator().manual_seed(bits)
    weight = torch.randn(6, 3, 5, 5, generator=draw) * torch.logspace(-2, 2, 6)[:, None, None, None]  # fmt: skip
    channels = PerChannelMinMaxObserver(
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-largest, quant_max=largest
    )  # fmt: skip
    channels(weight)
    scale, _ = channels.calculate_qparams()
    torch.testing.assert_close(weight_scales(weight, bits).flatten(), scale)
    for x in (torch.randn(50, generator=draw), torch.rand(50, generator=draw) + 2):
        for part in (x, -x):
            seen = MinMaxObserver(dtype=torch.quint8, quant_min=0, quant_max=2**bits - 1)  # fmt: skip
            seen(part)
            step, zero = seen.calculate_qparams()
            layer = QuantizedLayer(
                nn.Linear(2, 2), float(part.min()), float(part.max()), bits
            )
            torch.testing.assert_close(layer.step, step[0])
            assert layer.zero == zero[0]


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(6, 4, 3, padding=1, groups=2), nn.Linear(20, 5)]
)
def test_integer_sums_give_the_answer_of_the_fake_quantised_layer(
    layer: nn.Module,
) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6, 9, 7) if isinstance(layer, nn.Conv2d) else torch.randn(4, 20)
    quantized = QuantizedLayer(layer, float(x.min()), float(x.max()))
    sums = quantized.sums(x)
    assert torch.equal(sums, sums.round()) and sums.abs().max() < 2**31
    if isinstance(layer, nn.Linear):  # the same with integers that are integers
        integers = quantized.inputs(x).long() @ quantized.weight.long().T
        assert torch.equal(sums.long(), integers)
    shape = (1, -1, 1, 1) if x.ndim == 4 else (1, -1)
    bias = layer.bias.detach().view(shape)
    answer = quantized.step * quantized.scale.flatten().view(shape) * sums + bias
    torch.testing.assert_close(
        quantized(x).double(), answer.double(), rtol=1e-4, atol=1e-5
    )


def test_every_layer_is_changed_its_weight_a_quarter_and_the_given_network_is_not() -> (
    None
):
    model = network()
    before = copy.deepcopy(model.state_dict())
    small = quantize_int8(model, IMAGES)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert every(small, QuantizedLayer, lambda m: m.weight.dtype == torch.int8) == 3
    assert not [m for m in small.modules() if type(m) in (nn.Conv2d, nn.Linear) and "weight" in m._parameters]  # fmt: skip
    for name, value in before.items():
        if name.endswith("weight"):
            assert small.state_dict()[name].numel() == value.numel()


def test_noise_of_each_layer(evidence) -> None:
    model = bench_trained.untrained(0).eval()
    images = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    folded = fold_batch_norms(model, images[:2])
    for bits, least in ((8, 25.0), (4, 3.0)):
        result = approximate(
            quantize_int8(folded, images, bits=bits), folded, images, least=least
        )
        evidence.approximated(
            f"bits_{bits}", result, reference="the folded network in float32"
        )


def test_more_bits_are_never_worse_and_8_are_close() -> None:
    model = network()
    with torch.no_grad():
        scores = model(IMAGES)
        noise = [
            float((quantize_int8(model, IMAGES, bits=b)(IMAGES) - scores).norm()) for b in (2, 4, 6, 8)
        ]  # fmt: skip
    assert noise == sorted(noise, reverse=True)
    assert noise[-1] < 0.03 * scores.norm()


def test_zero_is_exact_so_that_padding_is_zero() -> None:
    for low, high in ((-3.0, 1.0), (2.0, 5.0), (-7.0, -1.0), (0.0, 0.0)):
        layer = QuantizedLayer(nn.Conv2d(1, 1, 3, padding=1), low, high)
        assert torch.equal(layer.inputs(torch.zeros(3)), torch.zeros(3))


def test_a_layer_of_zeros_and_an_input_of_zeros_stay_finite() -> None:
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    quantized = QuantizedLayer(layer, 0.0, 0.0)
    assert torch.equal(quantized(torch.zeros(2, 3)), layer.bias.expand(2, 2))


def test_a_percentile_cuts_the_outliers_and_100_keeps_them() -> None:
    model, images = nn.Sequential(nn.Linear(1, 1)).eval(), torch.arange(1001.0)[:, None]
    assert input_ranges(model, images)["0"] == (0.0, 1000.0)
    assert input_ranges(model, images, 99.0)["0"] == (10.0, 990.0)


def test_a_layer_that_runs_twice_has_the_range_of_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(100 + 0 * self.layer(x)) + x

    low, high = input_ranges(Twice().eval(), torch.tensor([[-5.0, 1.0]]))["layer"]
    assert (low, high) == (-5.0, 100.0)


def test_a_layer_of_two_names_is_quantised_under_both() -> None:
    layer = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(layer, nn.ReLU(), nn.Sequential(layer)).eval()
    small = quantize_int8(model, IMAGES)
    assert isinstance(small[0], QuantizedLayer)
    assert small[2][0] is small[0]


def test_a_network_that_is_one_layer() -> None:
    layer = nn.Linear(3, 2).eval()
    assert isinstance(quantize_int8(layer, torch.randn(4, 3)), QuantizedLayer)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_what_cannot_be_quantised_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"images to calibrate with, got \(0, 3, 12, 10\)"
    ):
        quantize_int8(network(), IMAGES[:0])
    with pytest.raises(ValueError, match="head does not run"):
        quantize_int8(Unused().eval(), torch.randn(3, 2))
    with pytest.raises(ValueError, match="2 to 8 bits, got 9"):
        quantize_int8(network(), IMAGES, bits=9)
    with pytest.raises(ValueError, match="percentile above 50, at most 100, got 50"):
        quantize_int8(network(), IMAGES, percentile=50)
    with pytest.raises(ValueError, match="Sequential in evaluation mode"):
        quantize_int8(network().train(), IMAGES)
    with pytest.raises(ValueError, match="ReLU has no convolution"):
        quantize_int8(nn.ReLU().eval(), IMAGES)
    with pytest.raises(ValueError, match="the input of 0 is not finite"):
        quantize_int8(network(), IMAGES * torch.inf)
    broken = network()
    nn.init.constant_(broken[2].weight, torch.nan)
    with pytest.raises(ValueError, match="the weight of 2 is not finite"):
        quantize_int8(broken, IMAGES)
    with pytest.raises(ValueError, match="2 to 8 bits, got 9"):
        QuantizedLayer(nn.Linear(3, 2), -1.0, 1.0, bits=9)


# ---------------------------------------------------------------- numbers

ARMS = {
    "bits_8": ("8 bits", {"bits": 8}),
    "bits_6": ("6 bits", {"bits": 6}),
    "bits_4": ("4 bits", {"bits": 4}),
    "bits_8_tensor": ("8 bits, one scale a layer", {"bits": 8, "per_channel": False}),
    "bits_6_tensor": ("6 bits, one scale a layer", {"bits": 6, "per_channel": False}),
    "bits_4_tensor": ("4 bits, one scale a layer", {"bits": 4, "per_channel": False}),
    "bits_8_cut": ("8 bits, inputs cut at 99.9 %", {"bits": 8, "percentile": 99.9}),
    "bits_6_cut": ("6 bits, inputs cut at 99.9 %", {"bits": 6, "percentile": 99.9}),
    "bits_4_cut": ("4 bits, inputs cut at 99.9 %", {"bits": 4, "percentile": 99.9}),
}


def one_run(options: dict[str, object], images: int, seed: int) -> dict[str, object]:
    pieces = bench_trained.calibration_images(images)
    folded = fold_batch_norms(bench_trained.trained(seed), pieces[:2])
    small = quantize_int8(folded, pieces, **options)  # type: ignore[arg-type]
    return {
        "accuracy": bench_trained.score(small),
        "bytes": bench_trained.file_bytes(small.state_dict()),
    }


def on_garments(
    arms: dict[str, dict[str, object]], images: int, seeds: list[int]
) -> dict[str, object]:
    cache = ROOT / ".cache/record/int8_quantization.jsonl"
    tasks = {
        arm: {"options": options, "images": images} for arm, options in arms.items()
    }
    runs = repeat(one_run, tasks, seeds, cache)
    models = [bench_trained.trained(seed) for seed in seeds]
    first = [bench_trained.score(model) for model in models]
    rows = {
        "float32": {
            "name": "float32",
            "accuracy": {**interval(first), "values": first},
            "bytes": bench_trained.file_bytes(models[0].state_dict()),
        }
    }
    for arm in arms:
        values = [run["accuracy"] for run in runs[arm]]
        rows[arm] = {
            "name": ARMS[arm][0],
            "accuracy": {**interval(values), "values": values},
            "bytes": runs[arm][0]["bytes"],
            "change": paired(values, first),
        }
    return {"seeds": len(seeds), "arms": rows}


@pytest.mark.record
def test_record_the_accuracy_of_the_trained_networks(evidence) -> None:
    arguments = {
        "arms": {arm: options for arm, (_, options) in ARMS.items()},
        "images": 500,
        "seeds": list(bench_trained.SEEDS),
    }
    evidence.measured("garments", arguments=arguments, run=on_garments)
