"""Sixteen bits: rounding is that of torch and numpy, the bytes are half, and what overflows is told by name."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnn_lab import bench_trained
from cnn_lab.record import interval, paired
from cnn_site.approximation import approximate
from cnn_site.equivalence import difference
from cnn_site.laws import every
from cnn_site.speed import side_by_side
from cnn_techniques import modern
from cnn_techniques.compression import FloatFormat, HalfPrecision, round_to
from cnn_techniques.compression.half_precision import BFLOAT16, FLOAT16

FORMATS = {torch.float16: FLOAT16, torch.bfloat16: BFLOAT16}
DTYPES = [pytest.param(d, id=str(d).removeprefix("torch.")) for d in FORMATS]
NO_DEVICE_CASES = "its precision is what it is about; devices are compared in float64"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


# ---------------------------------------------------------------- rounding


def patterns(dtype: torch.dtype) -> Tensor:
    """All 65,536 numbers of a format, in float64."""
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    return bits.view(dtype).double()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_the_format_is_kept(dtype: torch.dtype) -> None:
    every_number = patterns(dtype)
    kept = round_to(every_number, FORMATS[dtype])
    nan = every_number.isnan()
    assert torch.equal(kept[~nan], every_number[~nan]) and kept[nan].isnan().all()
    finite = every_number[every_number.isfinite()]
    assert FORMATS[dtype].largest == finite.max()
    assert FORMATS[dtype].smallest == finite[finite > 0].min()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_lies_between_is_rounded_as_torch_does(
    dtype: torch.dtype, evidence
) -> None:
    """The middles between neighbours, and the float32 numbers just beside them."""
    numbers = patterns(dtype)
    numbers = numbers[numbers.isfinite()].unique()
    middle = ((numbers[1:] + numbers[:-1]) / 2).float()
    tests = torch.cat(
        [middle, middle.nextafter(torch.tensor(torch.inf)), middle.nextafter(torch.tensor(-torch.inf))]
    )  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    wide = torch.randn(10**5, generator=draw) * torch.logspace(-30, 30, 10**5)
    tests = torch.cat([tests, wide])
    ours, theirs = round_to(tests, FORMATS[dtype]), tests.to(dtype).double()
    assert torch.equal(ours, theirs)
    if dtype == torch.float16:
        with np.errstate(over="ignore"):
            by_numpy = torch.from_numpy(tests.numpy().astype(np.float16)).double()
        assert torch.equal(ours, by_numpy)
    finite = theirs.isfinite()
    name = str(dtype).removeprefix("torch.")
    evidence.equivalent(
        name,
        difference({"rounded": (ours[finite], theirs[finite])}),
        reference=f"Tensor.to(torch.{name})" + (" and numpy's float16" if name == "float16" else ""),
        settings="all middles between two numbers and their neighbours, and 100,000 others",
    )  # fmt: skip


def test_one_part_in_two_to_the_m_plus_1_is_the_largest_error_of_a_normal_number() -> (
    None
):
    x = torch.rand(10**5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5  # fmt: skip
    for form in FORMATS.values():
        error = ((round_to(x, form) - x).abs() / x).max().item()
        assert 0.9 * 2.0 ** -(form.mantissa + 1) < error <= 2.0 ** -(form.mantissa + 1)


def test_other_formats_follow_from_their_bits() -> None:
    single = FloatFormat(8, 23)
    x = torch.randn(
        1000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(round_to(x, single), x.float().double())
    eight = FloatFormat(5, 2)
    assert torch.equal(round_to(x, eight), x.float().to(torch.float8_e5m2).double())


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_are_exactly_half_and_every_tensor_is_changed(dtype: torch.dtype) -> None:
    model = network()
    half = HalfPrecision(model, dtype)
    for kept, made in zip(model.parameters(), half.parameters(), strict=True):
        assert made.dtype == dtype
        assert (
            2 * made.element_size() * made.numel() == kept.element_size() * kept.numel()
        )
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    assert every(half, kinds, lambda m: m.weight.dtype == dtype) == 3
    assert half.network[1].num_batches_tracked.dtype == torch.int64
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_takes_and_gives_float32(dtype: torch.dtype) -> None:
    class Several(nn.Module):
        def forward(self, x: Tensor, n: int, rows: Tensor) -> dict[str, Tensor]:
            assert x.dtype == dtype and rows.dtype == torch.int64 and n == 3
            return {"x": x * n, "rows": rows}

    out = HalfPrecision(Several(), dtype)(torch.randn(2), 3, torch.arange(2))
    assert out["x"].dtype == torch.float32 and out["rows"].dtype == torch.int64


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_of_each_layer_of_a_trained_network(dtype: torch.dtype, evidence) -> None:
    torch.manual_seed(0)
    model = bench_trained.untrained(0).eval()
    half = HalfPrecision(model, dtype)
    names = {name: f"network.{name}" for name, _ in model.named_modules()}
    images = torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    result = approximate(
        half, model, images, least=55 if dtype == torch.float16 else 35, names=names
    )
    evidence.approximated(
        str(dtype).removeprefix("torch."), result, reference="the network in float32"
    )


def test_what_overflows_is_refused_by_name_in_float16_and_kept_in_bfloat16() -> None:
    model = network()
    model[1].running_var.fill_(1e5)
    with pytest.raises(
        ValueError, match=r"1\.running_var holds 100000, too much for torch.float16"
    ):
        HalfPrecision(model, torch.float16)
    HalfPrecision(model, torch.bfloat16)
    model[1].running_var.fill_(65_519.0)  # the largest that is rounded down
    HalfPrecision(model, torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.float64])
def test_another_dtype_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"got {dtype}"):
        HalfPrecision(network(), dtype)


# ---------------------------------------------------------------- numbers


def test_what_the_formats_can_hold(evidence) -> None:
    rows = {}
    for key, name, form in (
        ("float32", "float32", FloatFormat(8, 23)),
        ("float16", "float16", FLOAT16),
        ("bfloat16", "bfloat16", BFLOAT16),
    ):
        rows[key] = {
            "name": name,
            "exponent": form.exponent,
            "mantissa": form.mantissa,
            "largest": form.largest,
            "smallest": form.smallest,
            "digits": (form.mantissa + 1) * float(np.log10(2)),
        }
    evidence.computed("formats", rows)


def on_garments(seeds: list[int]) -> dict[str, object]:
    """The same trained networks in three precisions: accuracy, other classes, bytes of a file."""
    from cnn_lab.bench import garments
    from cnn_lab.fit import predict

    images, labels = garments("test")
    found: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        model = bench_trained.trained(seed)
        makers: dict[str, Callable[[], nn.Module]] = {
            "float32": lambda model=model: copy.deepcopy(model),
            "float16": lambda model=model: HalfPrecision(model, torch.float16),
            "bfloat16": lambda model=model: HalfPrecision(model, torch.bfloat16),
        }
        first = predict(model, images).argmax(1)
        for key, make in makers.items():
            made = make()
            classes = predict(made, images).argmax(1)
            row = found.setdefault(key, {"accuracy": [], "other": [], "bytes": []})
            row["accuracy"].append(float((classes == labels).double().mean()))
            row["other"].append(int((classes != first).sum()))
            row["bytes"].append(bench_trained.file_bytes(made.state_dict()))
    plain = found["float32"]["accuracy"]
    arms = {}
    for key, row in found.items():
        arms[key] = {
            "name": key,
            "accuracy": {**interval(row["accuracy"]), "values": row["accuracy"]},
            "other": interval(row["other"]),
            "bytes": row["bytes"][0],
        }
        if key != "float32":
            arms[key]["change"] = paired(row["accuracy"], plain)
    return {"seeds": len(seeds), "arms": arms}


@pytest.mark.record
def test_record_the_accuracy_of_the_trained_networks(evidence) -> None:
    evidence.measured(
        "garments", arguments={"seeds": list(bench_trained.SEEDS)}, run=on_garments
    )


def build(name: str) -> dict[str, Callable[[], Callable[[], object]]]:
    """Eight images through a network in each precision."""
    torch.manual_seed(0)
    model = getattr(modern, name)().eval()
    images = torch.randn(8, 3, 224, 224)

    def runs(made: nn.Module) -> Callable[[], object]:
        @torch.no_grad()
        def run() -> object:
            return made(images)

        return run

    return {
        "float32": lambda: runs(copy.deepcopy(model)),
        "bfloat16": lambda: runs(HalfPrecision(model, torch.bfloat16)),
        "float16": lambda: runs(HalfPrecision(model, torch.float16)),
    }


def timed(names: list[str]) -> dict[str, object]:
    arms = {}
    for name in names:
        result = side_by_side(build, against="float32", arguments={"name": name})
        for key, row in result["arms"].items():
            arms[f"{name}_{key}"] = {**row, "name": key}
    return {"arms": arms, "instructions": instructions()}


def instructions() -> list[str]:
    """What the processor has for 16 bits, as Linux names it."""
    with open("/proc/cpuinfo") as file:
        flags = next(line for line in file if line.startswith("flags")).split()
    return sorted({"avx512_bf16", "avx512_fp16", "amx_bf16", "f16c"} & set(flags))


@pytest.mark.record
def test_record_the_time_in_each_precision(evidence) -> None:
    evidence.measured(
        "time", arguments={"names": ["resnet50", "mobilenet_v2"]}, run=timed
    )
