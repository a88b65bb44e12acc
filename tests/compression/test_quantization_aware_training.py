"""Values, gradients and steps of training are those of torch's fake quantisation; what training with it is worth."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab import bench_trained
from cnn_lab.record import interval, paired, repeat
from cnn_site import ROOT
from cnn_site.equivalence import difference
from cnn_site.laws import every, gradient_reaches_every_parameter
from cnn_techniques.compression import (
    QatConv2d,
    QatLinear,
    QuantizedLayer,
    convert_qat,
    fake_quantize,
    fold_batch_norms,
    prepare_qat,
    quantize_int8,
    weight_scales,
)

IMAGES = torch.randn(16, 3, 8, 7, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4, stride=2),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


def prepared_convolution() -> tuple[nn.Module, tuple[Tensor]]:
    torch.manual_seed(0)
    layer = prepare_qat(nn.Conv2d(3, 4, 3).eval(), torch.randn(2, 3, 9, 9))
    return layer, (torch.randn(2, 3, 9, 9),)


def prepared_linear() -> tuple[nn.Module, tuple[Tensor]]:
    torch.manual_seed(0)
    return prepare_qat(nn.Linear(6, 4).eval(), torch.randn(2, 6)), (torch.randn(2, 6),)


DEVICE_CASES = {"QatConv2d": prepared_convolution, "QatLinear": prepared_linear}


def value_and_gradient(function, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    value = function(leaf)
    (gradient,) = torch.autograd.grad((value * weights).sum(), leaf)
    return value.detach(), gradient


@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
def test_values_and_gradients_equal_fake_quantize_per_channel(
    bits: int, evidence
) -> None:
    draw = torch.Generator().manual_seed(bits)
    largest = 2 ** (bits - 1) - 1
    outputs, gradients = {}, {}
    for name, shape in {"convolution": (8, 3, 3, 3), "linear": (7, 20)}.items():
        sizes = torch.logspace(-3, 2, shape[0]).view(-1, *[1] * (len(shape) - 1))
        x = torch.randn(shape, generator=draw) * sizes
        scale = weight_scales(x, bits) / 2  # so that both ends of the range are passed
        weights = torch.randn(shape, generator=draw)
        ours = value_and_gradient(
            lambda x, s=scale: fake_quantize(x, s, 0, -largest, largest), x, weights
        )
        zeros = torch.zeros(shape[0], dtype=torch.int32)
        expected = value_and_gradient(
            lambda x, s=scale, z=zeros: torch.fake_quantize_per_channel_affine(
                x, s.flatten(), z, 0, -largest, largest
            ),
            x,
            weights,
        )
        cut = ours[1] == 0
        assert (cut & (x > 0)).any() and (cut & (x < 0)).any() and not cut.all()
        outputs[name], gradients[name] = (ours[0], expected[0]), (ours[1], expected[1])
    comparison = difference(outputs, gradients, bound=1e-6)
    if bits == 4:
        evidence.equivalent(
            "weights",
            comparison,
            reference="torch.fake_quantize_per_channel_affine",
            settings="4 bits, symmetric, weights cut at both ends",
        )


def test_values_and_gradients_equal_fake_quantize_per_tensor_in_a_thousand_ranges(
    evidence,
) -> None:
    draw = torch.Generator().manual_seed(0)
    outputs, gradients = {}, {}
    below = above = 0
    for case in range(1000):
        ends = torch.randn(2, generator=draw) * 10 ** (case % 5 - 2)
        low, high = ends.clamp(max=0).min(), ends.clamp(min=0).max()
        bits = 2 + case % 7
        largest = 2**bits - 1
        step = ((high - low) / largest).item()
        zero = round(-low.item() / step)
        x = torch.randn(50, generator=draw) * ends.abs().max() * 1.5
        # A middle between two integers may go either way in float32; nothing else may.
        position = (x / step) % 1
        x = x[(position - 0.5).abs() > 1e-3]
        weights = torch.randn(x.shape[0], generator=draw)
        ours = value_and_gradient(
            lambda x, s=step, z=zero, m=largest: fake_quantize(
                x, torch.tensor(s), z, 0, m
            ),
            x,
            weights,
        )
        expected = value_and_gradient(
            lambda x, s=step, z=zero, m=largest: torch.fake_quantize_per_tensor_affine(
                x, s, z, 0, m
            ),
            x,
            weights,
        )
        assert torch.equal(ours[1], expected[1])
        torch.testing.assert_close(ours[0], expected[0], rtol=1e-5, atol=1e-5 * step)
        below += int(((ours[1] == 0) & (x < 0)).sum())
        above += int(((ours[1] == 0) & (x > 0)).sum())
        if case < 3:
            outputs[f"case {case}"] = ours[0], expected[0]
            gradients[f"case {case}"] = ours[1], expected[1]
    assert below > 1000 and above > 1000
    evidence.equivalent(
        "inputs",
        difference(outputs, gradients, bound=1e-6),
        reference="torch.fake_quantize_per_tensor_affine",
        settings="affine, 2 to 8 bits, 1,000 ranges, inputs cut at both ends",
    )


class Written(nn.Module):
    """A convolution and a linear layer of torch's own fake quantisation, whose ranges follow."""

    def __init__(self, prepared: nn.Module, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.weights = nn.ParameterList([prepared[i].weight.clone() for i in (0, 4)])
        self.biases = nn.ParameterList([prepared[i].bias.clone() for i in (0, 4)])
        self.ranges = [
            [prepared[i].low.clone(), prepared[i].high.clone()] for i in (0, 4)
        ]

    def layer(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        on, largest = torch.tensor([1]), 2 ** (self.bits - 1) - 1
        x = torch.fused_moving_avg_obs_fake_quant(
            x, on, on, *self.ranges[index], torch.ones(1), torch.zeros(1, dtype=torch.int32),
            0.01, 0, 2**self.bits - 1, 0, False, False,
        )  # fmt: skip
        weight = self.weights[index]
        scale = weight.detach().abs().flatten(1).amax(1) / largest
        zeros = torch.zeros(len(scale), dtype=torch.int32)
        return x, torch.fake_quantize_per_channel_affine(
            weight, scale, zeros, 0, -largest, largest
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(*self.layer(0, x), self.biases[0]).relu().mean((2, 3))
        return F.linear(*self.layer(1, x), self.biases[1])


@pytest.mark.parametrize("bits", [8, 4])
def test_steps_of_training_are_those_of_torchs_moving_ranges(
    bits: int, evidence
) -> None:
    torch.manual_seed(1)
    small = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()  # fmt: skip
    images = torch.randn(3, 4, 2, 5, 5)
    prepared = prepare_qat(small, images[0] / 2, bits=bits).train()
    reference = Written(prepared, bits)
    found = {}
    for model in (prepared, reference):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for batch in images:
            optimizer.zero_grad()
            F.cross_entropy(model(batch), torch.arange(4) % 3).backward()
            optimizer.step()
    for index, layer in enumerate((prepared[0], prepared[4])):
        found[f"weight {index}"] = layer.weight.detach(), reference.weights[index].data
        found[f"bias {index}"] = layer.bias.detach(), reference.biases[index].data
        found[f"low {index}"] = layer.low, reference.ranges[index][0]
        found[f"high {index}"] = layer.high, reference.ranges[index][1]
    assert not torch.equal(prepared[0].high, images[0].max() / 2)
    comparison = difference(found, bound=1e-5)
    if bits == 8:
        evidence.equivalent(
            "steps",
            comparison,
            reference="torch.fused_moving_avg_obs_fake_quant",
            settings="weights and ranges after three steps, 8 bits",
        )


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_what_is_converted_computes_the_same_to_the_last_bit(bits: int) -> None:
    model = prepare_qat(network(), IMAGES, bits=bits).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        model(IMAGES).square().sum().backward()
        optimizer.step()
    before = copy.deepcopy(model.state_dict())
    converted = convert_qat(model)
    with torch.no_grad():
        assert torch.equal(converted(IMAGES), model.eval()(IMAGES))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert every(converted, QuantizedLayer, lambda m: m.weight.dtype == torch.int8) == 3
    after = quantize_int8(network(), IMAGES, bits=bits).state_dict()
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == {
        k: (v.shape, v.dtype) for k, v in converted.state_dict().items()
    }


def test_what_is_converted_has_the_very_step_and_zero_point_of_training() -> None:
    """Not those found again in double precision, of which some are an ulp away."""
    apart = 0
    for seed in range(40):
        images = torch.randn(64, 8, generator=torch.Generator().manual_seed(seed))
        layer = prepare_qat(nn.Linear(8, 2).eval(), images)
        low, high = layer.low.clamp(max=0), layer.high.clamp(min=0)
        converted = convert_qat(layer)
        assert torch.equal(converted.step, (high - low) / 255)
        assert converted.zero == (-low / converted.step).round()
        again = QuantizedLayer(nn.Linear(8, 2), float(low), float(high))
        apart += not torch.equal(again.step, converted.step)
    assert apart > 0


@pytest.mark.parametrize("bits", [8, 3])
def test_untrained_it_is_quantisation_after_training(bits: int) -> None:
    converted = convert_qat(prepare_qat(network(), IMAGES, bits=bits))
    after = quantize_int8(network(), IMAGES, bits=bits)
    for name, value in after.state_dict().items():
        torch.testing.assert_close(converted.state_dict()[name], value)


def test_every_layer_is_changed_and_the_given_network_is_not() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    prepared = prepare_qat(model, IMAGES, bits=4)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(isinstance(m, QatConv2d | QatLinear) for m in model.modules())
    assert (
        every(
            prepared,
            (nn.Conv2d, nn.Linear),
            lambda m: isinstance(m, QatConv2d | QatLinear),
        )
        == 3
    )
    kept = prepared.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in before.items())


def test_a_gradient_reaches_every_parameter_at_two_bits() -> None:
    gradient_reaches_every_parameter(prepare_qat(network(), IMAGES, bits=2), IMAGES)


def test_ranges_follow_in_training_and_rest_in_evaluation() -> None:
    layer = prepare_qat(nn.Linear(1, 1).eval(), torch.tensor([[-1.0], [1.0]]))
    layer(torch.tensor([[-9.0], [9.0]]))
    assert (float(layer.low), float(layer.high)) == (-1.0, 1.0)
    layer.train()(torch.tensor([[-9.0], [11.0]]))
    assert (float(layer.low), float(layer.high)) == pytest.approx((-1.08, 1.10))
    kept = prepare_qat(nn.Linear(1, 1).eval(), torch.ones(1, 1), smoothing=1.0).train()
    kept(torch.tensor([[9.0]]))
    assert float(kept.high) == 1.0


def test_a_layer_of_two_names_is_converted_under_both() -> None:
    layer = nn.Conv2d(3, 3, 3, padding=1)
    model = prepare_qat(nn.Sequential(layer, nn.ReLU(), layer).eval(), IMAGES, bits=4)
    converted = convert_qat(model)
    assert converted[0] is converted[2]
    assert isinstance(converted[0], QuantizedLayer)
    assert torch.equal(converted(IMAGES), model(IMAGES))


def test_a_network_that_is_one_layer() -> None:
    layer = prepare_qat(nn.Linear(3, 2).eval(), torch.randn(4, 3))
    assert isinstance(layer, QatLinear)
    assert isinstance(convert_qat(layer), QuantizedLayer)


def test_what_cannot_be_quantised_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"images to calibrate with, got \(0, 3, 8, 7\)"
    ):
        prepare_qat(network(), IMAGES[:0])
    with pytest.raises(ValueError, match="2 to 8 bits, got 1"):
        prepare_qat(network(), IMAGES, bits=1)
    with pytest.raises(ValueError, match=r"smoothing from 0 to 1, got 1\.5"):
        prepare_qat(network(), IMAGES, smoothing=1.5)
    with pytest.raises(ValueError, match="ReLU has no convolution"):
        prepare_qat(nn.ReLU().eval(), IMAGES)
    with pytest.raises(ValueError, match="Sequential in evaluation mode"):
        prepare_qat(network().train(), IMAGES)
    with pytest.raises(ValueError, match="a network of prepare_qat, got Sequential"):
        convert_qat(network())


# ---------------------------------------------------------------- numbers

WAYS = ("after", "after_cut", "again", "aware")


def one_run(bits: list[int], rate: float, images: int, seed: int) -> dict[str, object]:
    """Accuracy of each way for each number of bits; none for a training that diverged."""
    pieces = bench_trained.calibration_images(images)
    folded = fold_batch_norms(bench_trained.trained(seed), pieces[:2])
    epochs = bench_trained.AGAIN_EPOCHS
    again = bench_trained.train(copy.deepcopy(folded), seed, epochs=epochs, rate=rate)
    found: dict[str, object] = {"again": bench_trained.score(again)}
    for b in bits:
        small = quantize_int8(folded, pieces, bits=b)
        cut = quantize_int8(folded, pieces, bits=b, percentile=99.9)
        model = prepare_qat(folded, pieces, bits=b)
        try:
            bench_trained.train(model, seed, epochs=epochs, rate=rate)
            converted = convert_qat(model)
            aware: float | None = bench_trained.score(converted)
            assert bench_trained.file_bytes(
                converted.state_dict()
            ) == bench_trained.file_bytes(small.state_dict())
        except FloatingPointError:  # the loss is not finite
            aware = None
        found[str(b)] = {
            "after": bench_trained.score(small),
            "after_cut": bench_trained.score(cut),
            "again": bench_trained.score(quantize_int8(again, pieces, bits=b)),
            "aware": aware,
            "bytes": bench_trained.file_bytes(small.state_dict()),
        }
    return found


def on_garments(
    arms: dict[str, dict[str, object]], images: int, seeds: list[int]
) -> dict[str, object]:
    cache = ROOT / ".cache/record/quantization_aware_training.jsonl"
    tasks = {arm: {**options, "images": images} for arm, options in arms.items()}
    runs = repeat(one_run, tasks, seeds, cache)
    first = [bench_trained.score(bench_trained.trained(seed)) for seed in seeds]
    rows: dict[str, object] = {}
    for arm, options in arms.items():
        for bits in options["bits"]:  # type: ignore[attr-defined]
            given = [run[str(bits)] for run in runs[arm]]
            values = {way: [one[way] for one in given] for way in WAYS}
            whole = not any(value is None for value in values["aware"])
            row: dict[str, object] = {
                "name": f"{bits}, rate {options['rate']:g}",
                "diverged": sum(value is None for value in values["aware"]),
                "bytes": given[0]["bytes"],
            }
            for way in WAYS[: 4 if whole else 3]:
                row[way] = {**interval(values[way]), "values": values[way]}
            if whole:
                for way in WAYS[:3]:
                    row[f"against_{way}"] = paired(values["aware"], values[way])
            rows[f"{arm}_{bits}"] = row
    floats = {arm: [run["again"] for run in runs[arm]] for arm in arms}
    return {
        "seeds": len(seeds),
        "float32": {**interval(first), "values": first},
        "again": {arm: {**interval(v), "values": v} for arm, v in floats.items()},
        "arms": rows,
    }


@pytest.mark.record
def test_record_training_with_rounding_against_rounding_after(evidence) -> None:
    arguments = {
        "arms": {
            "fast": {"bits": [8, 4, 3, 2], "rate": bench_trained.AGAIN_RATE},
            "slow": {"bits": [3, 2], "rate": bench_trained.AGAIN_RATE / 4},
        },
        "images": 500,
        "seeds": list(bench_trained.SEEDS),
    }
    evidence.measured("garments", arguments=arguments, run=on_garments)
