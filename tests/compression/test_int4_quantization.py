"""Half bytes hold what another quantiser puts into them, another runtime reads them, and the file is as small as said."""

import copy
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from onnxruntime.capi import _pybind_state as onnxruntime_c
from torch import Tensor, nn
from torch.nn.utils import prune

from cnn_lab import bench_trained
from cnn_lab.bench import garments, network
from cnn_lab.record import interval, paired
from cnn_site.approximation import approximate
from cnn_site.equivalence import difference
from cnn_site.laws import every
from cnn_site.parity import compare_change
from cnn_site.speed import side_by_side
from cnn_techniques.compression import (
    Int4Conv2d,
    Int4Linear,
    int4_codes,
    pack_int4,
    quantize_int4,
    unpack_int4,
)

DEVICE_CASES = {
    "Int4Conv2d": lambda: (
        quantize_int4(nn.Sequential(nn.Conv2d(3, 8, 3)), 16),
        (torch.randn(2, 3, 9, 7),),
    )
}
IMAGES = torch.randn(2, 3, 15, 13, generator=torch.Generator().manual_seed(0))
ROW = 10**9  # a group that is longer than every row: one scale per output


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 6, 3, groups=2, stride=2, padding=1, padding_mode="circular"),
        nn.SiLU(), nn.Conv2d(6, 6, 3, groups=6), nn.Flatten(), nn.LazyLinear(7),
    )  # fmt: skip


def some() -> nn.Module:
    torch.manual_seed(0)
    model = small()
    with torch.no_grad():
        model(IMAGES)
    return model.eval()


def on_grid(weight: Tensor, group: int, bits: int = 4) -> Tensor:
    """The weights as torch's own fake quantisation leaves them: each group is one of its channels."""
    rows = weight.detach().flatten(1)
    made = []
    for row in rows:
        parts = list(row.split(min(group, len(row))))
        for part in parts:
            low, high = min(part.min().item(), 0.0), max(part.max().item(), 0.0)
            scale = torch.tensor([(high - low) / (2**bits - 1)]).half().float()
            if scale == 0:
                made.append(torch.zeros_like(part))
                continue
            zero = torch.tensor([round(-low / scale.item())], dtype=torch.int32)
            made.append(
                torch.fake_quantize_per_channel_affine(
                    part.float()[None], scale, zero, 0, 0, 2**bits - 1
                )[0].to(weight.dtype)
            )
    return torch.cat(made).view_as(weight)


def rounded(group: int, bits: int = 4) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.data = on_grid(layer.weight, group, bits)

    return change


def test_leaves_the_weights_that_torchs_fake_quantisation_leaves(evidence) -> None:
    comparison = compare_change(
        lambda model: quantize_int4(model, 32), rounded(32), some(), IMAGES, match=None
    )
    evidence.equivalent(
        "change",
        comparison,
        reference="torch.fake_quantize_per_channel_affine",
        settings="each group of 32 weights as a channel of 0 to 15; scales in half precision",
    )


# ---------------------------------------------------------------- another quantiser


def by_onnxruntime(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bytes (O, G, g / 2), scales (O, G) and bytes of zero points (O, ceil(G / 2)) of ONNX Runtime's MatMulNBits."""
    rows, columns = weight.shape
    groups = -(-columns // group)
    packed = np.zeros((rows, groups, group // 2), np.uint8)
    scale = np.zeros(rows * groups, np.float32)
    zero = np.zeros(rows * ((groups + 1) // 2), np.uint8)
    source = np.ascontiguousarray(weight.T.numpy())
    onnxruntime_c.quantize_matmul_4bits(
        packed, source, scale, zero, group, rows, columns, False
    )
    return (
        torch.from_numpy(packed),
        torch.from_numpy(scale).view(rows, groups),
        torch.from_numpy(zero).view(rows, -1),
    )


def cases() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    normal = torch.randn(40, 192, generator=draw)
    cases = {
        "normal": normal,
        "large": 1000 * normal,
        "small": 1e-4 * normal,
        "positive": normal.abs(),
        "negative": -normal.abs(),
        "far from zero": normal + 10,
        "one outlier": normal.clone().index_fill_(1, torch.tensor([5]), 50.0),
        "heavy tails": normal**3,
    }
    for seed in range(40):
        draw.manual_seed(seed)
        cases[f"drawn {seed}"] = torch.randn(8, 64, generator=draw)
    return cases


@pytest.mark.parametrize("group", [16, 32, 64])
def test_codes_scales_and_bytes_are_those_of_onnx_runtimes_quantiser(
    group: int, evidence
) -> None:
    pairs = {}
    for name, weight in cases().items():
        codes, scale, zero = int4_codes(weight, group, torch.float32)
        packed, their_scale, their_zero = by_onnxruntime(weight, group)
        assert torch.equal(scale, their_scale)
        groups = scale.shape[1]
        zeros = [z for row in their_zero for z in unpack_int4(row, (groups,))]
        assert torch.equal(zero.flatten(), torch.stack(zeros))
        assert torch.equal(pack_int4(codes).view_as(packed), packed)
        step = scale.repeat_interleave(group, 1)
        restored = step * (codes.float() - zero.repeat_interleave(group, 1).float())
        theirs = unpack_int4(packed.flatten(), tuple(weight.shape)).float()
        other = step * (theirs - zero.repeat_interleave(group, 1).float())
        pairs[name] = (restored, other)
    if group == 32:
        evidence.equivalent(
            "quantiser",
            difference(pairs),
            reference="ONNX Runtime's quantiser of MatMulNBits",
            settings="groups of 32, scales in single precision; the packed bytes are equal",
        )


def test_another_runtime_reads_the_half_bytes(tmp_path: Path) -> None:
    """ONNX's DequantizeLinear on UINT4, by blocks: the same numbers, to the last bit."""
    torch.manual_seed(0)
    layer = nn.Linear(70, 9)  # 70: the last block of 32 is short
    made = quantize_int4(nn.Sequential(layer), 32)[0]

    def tensor(name: str, kind: int, shape: list[int], raw: Tensor) -> onnx.TensorProto:
        return onnx.helper.make_tensor(
            name, kind, shape, raw.numpy().tobytes(), raw=True
        )

    rows, groups = made.scale.shape
    uint4, floats = onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node(
                "DequantizeLinear", ["codes", "scale", "zero"], ["weight"],
                axis=1, block_size=32,
            ),
            onnx.helper.make_node("Identity", ["weight"], ["read"]),
        ],
        "half bytes",
        [],
        [onnx.helper.make_tensor_value_info("read", floats, [rows, 70])],
        [
            tensor("codes", uint4, [rows, 70], made.codes),
            tensor("scale", floats, [rows, groups], made.scale.float()),
            tensor("zero", uint4, [rows, groups], made.zero),
        ],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (read,) = session.run(None, {})
    assert torch.equal(torch.from_numpy(read), made.weight)


# ---------------------------------------------------------------- half bytes


def test_every_pair_of_codes_comes_back() -> None:
    codes = torch.cartesian_prod(torch.arange(16), torch.arange(16)).to(torch.uint8)
    packed = pack_int4(codes)
    assert packed.dtype == torch.uint8
    assert packed.unique().numel() == packed.numel() == 256
    assert torch.equal(unpack_int4(packed, (256, 2)), codes)


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 3), (2, 5, 3), (4, 4), (0,)])
def test_codes_of_any_shape_come_back_from_half_as_many_bytes(
    shape: tuple[int, ...],
) -> None:
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(16, shape, generator=draw, dtype=torch.uint8)
    packed = pack_int4(codes)
    assert packed.shape == (-(-codes.numel() // 2),)
    assert torch.equal(unpack_int4(packed, shape), codes)


def test_the_first_of_a_pair_is_the_lower_half() -> None:
    assert pack_int4(torch.tensor([1, 2, 3], dtype=torch.uint8)).tolist() == [
        0x21,
        0x03,
    ]


def test_the_file_has_the_bytes_that_the_formula_says() -> None:
    model = some()
    for group in (1, 7, 32, ROW):
        made = quantize_int4(model, group)
        expected = sum(
            b.numel() * b.element_size() for b in model[1].state_dict().values()
        )
        for layer in made.modules():
            if isinstance(layer, Int4Conv2d | Int4Linear):
                row = layer.shape[0]
                weights = torch.Size(layer.shape).numel()
                groups = row * -(-(weights // row) // group)
                expected += (weights + 1) // 2 + 2 * groups + (groups + 1) // 2
                expected += 0 if layer.bias is None else 4 * row
        size = bench_trained.file_bytes(made.state_dict())
        header = size - expected
        assert 0 < header < 1500  # names, shapes and places, as JSON
        assert expected == sum(
            v.numel() * v.element_size() for v in made.state_dict().values()
        )


def test_a_file_is_read_into_another_network_that_was_quantised() -> None:
    made = quantize_int4(some(), 32)
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    fresh = quantize_int4(small_again(), 32)
    assert not torch.equal(fresh(IMAGES), made(IMAGES))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(IMAGES), made(IMAGES))


def small_again() -> nn.Module:
    torch.manual_seed(1)
    model = small()
    with torch.no_grad():
        model(IMAGES)
    return model.eval()


# ---------------------------------------------------------------- the grid


@pytest.mark.parametrize("group", [1, 5, 32, ROW])
def test_no_weight_moves_by_more_than_half_a_step(group: int) -> None:
    for weight in cases().values():
        codes, scale, zero = int4_codes(weight, min(group, weight.shape[1]))
        repeat = min(group, weight.shape[1])
        columns = weight.shape[1]
        step = scale.float().repeat_interleave(repeat, 1)[:, :columns]
        shift = zero.repeat_interleave(repeat, 1)[:, :columns].float()
        moved = (step * (codes.float() - shift) - weight).abs()
        # Half a step; at the ends fifteen times what half precision takes from the scale, too.
        assert (moved <= 0.5 * step + 15 * (step / 2048).clamp(min=2**-25) + 1e-9).all()


def test_a_weight_of_zero_stays_zero() -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    weight[:, ::3] = 0
    weight[2] = 0
    made = quantize_int4(held(weight), 16)[0]
    assert (made.weight[:, ::3] == 0).all()
    assert (made.weight[2] == 0).all()
    assert (made.weight != 0).any()


def held(weight: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    return nn.Sequential(layer)


def test_what_is_on_the_grid_stays_where_it_is() -> None:
    """But for a group whose ends half precision moved to the middle of two steps."""
    moved = count = 0
    for weight in cases().values():
        once = quantize_int4(held(weight), 16)[0].weight
        twice = quantize_int4(held(once), 16)[0].weight
        moved += int((~torch.isclose(twice, once, rtol=2e-3)).sum())
        count += once.numel()
    assert moved < 2e-3 * count


def test_a_factor_of_an_output_changes_its_scale_alone() -> None:
    """As a folded batch norm does: the codes stay."""
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    factor = 2.0 ** torch.arange(-3, 3)
    codes, scale, zero = int4_codes(weight, 16)
    other = int4_codes(weight * factor[:, None], 16)
    assert torch.equal(codes, other[0])
    assert torch.equal(scale * factor[:, None].half(), other[1])
    assert torch.equal(zero, other[2])


def test_fewer_weights_per_group_are_more_exact() -> None:
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    errors = [
        (quantize_int4(held(weight), group)[0].weight - weight).square().mean().item()
        for group in (1, 8, 32, 128, 512)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 1e-6 < 1e-3 < errors[1]
    assert errors[-1] > 2 * errors[1]


# ---------------------------------------------------------------- layers


def test_every_layer_is_changed_and_the_given_network_is_not() -> None:
    model = some()
    state = copy.deepcopy(model.state_dict())
    made = quantize_int4(model, 32)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    old = dict(model.named_modules())
    names = {module: name for name, module in made.named_modules()}
    kinds = (nn.Conv2d, nn.Linear)
    changed = every(
        made,
        kinds,
        lambda m: (
            not torch.equal(m.weight, old[names[m]].weight)
            and m.codes.dtype == torch.uint8
            and 2 * m.codes.numel() - m.weight.numel() in (0, 1)
        ),
    )
    assert changed == 4
    assert all(
        "weight" not in name or name == "1.weight"
        for name, _ in made.named_parameters()
    )
    assert not made.training


def test_each_layer_does_what_it_did_with_the_weight_that_it_has_now() -> None:
    model = some()
    made = quantize_int4(model, 32)
    for layer, mine in zip(model, made, strict=True):
        if isinstance(mine, Int4Conv2d | Int4Linear):
            layer.weight.data = mine.weight
    difference({"output": (made(IMAGES).detach(), model(IMAGES).detach())})
    double = copy.deepcopy(made).double()
    assert double(IMAGES.double()).dtype == torch.float64
    torch.testing.assert_close(double(IMAGES.double()).float(), made(IMAGES))
    assert made.half()(IMAGES.half()).dtype == torch.float16


def test_input_and_biases_get_gradients_and_weights_none() -> None:
    made = quantize_int4(some(), 32)
    images = IMAGES.clone().requires_grad_()
    made(images).square().sum().backward()
    assert images.grad is not None and images.grad.any()
    assert all(p.grad is not None for p in made.parameters())


def test_layers_of_a_subclass_and_other_layers_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 2))
    model.append(nn.MultiheadAttention(4, 2))
    made = quantize_int4(model, 8)
    assert isinstance(made[0], Int4Conv2d)
    assert torch.equal(made[1].weight, model[1].weight)
    assert torch.equal(made[2].out_proj.weight, model[2].out_proj.weight)


def test_a_layer_of_two_names_is_quantised_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1))
    model.append(model[0])
    made = quantize_int4(model, 8)
    assert made[0] is made[1]
    assert made(IMAGES).shape == IMAGES.shape


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("group", [0, -4])
def test_a_group_of_nothing_is_refused(group: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 weight, got {group}"):
        quantize_int4(some(), group)


def test_weights_that_are_not_finite_or_not_there_are_refused_by_name() -> None:
    model = some()
    model[3].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"finite parameter, got 3\.weight"):
        quantize_int4(model)
    pruned = some()
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    with pytest.raises(ValueError, match=r"finite parameter, got 0\.weight=None"):
        quantize_int4(pruned)
    with pytest.raises(ValueError, match=r"a range that torch\.float16 holds"):
        int4_codes(torch.full((1, 4), 1e6), 4)


def test_codes_that_are_no_half_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"from 0 to 15, got torch\.uint8: .*16"):
        pack_int4(torch.tensor([16, 1], dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"from 0 to 15, got torch\.int64"):
        pack_int4(torch.tensor([1, 2]))
    assert pack_int4(torch.zeros(0, dtype=torch.uint8)).shape == (0,)


def test_a_network_with_nothing_to_quantise_is_refused_and_one_that_was() -> None:
    with pytest.raises(ValueError, match=r"ReLU has no nn\.Conv2d or nn\.Linear"):
        quantize_int4(nn.ReLU())
    with pytest.raises(ValueError, match="Sequential has no"):
        quantize_int4(quantize_int4(some()))


# ---------------------------------------------------------------- numbers


def test_the_noise_of_a_network_with_weights_of_four_bits(evidence) -> None:
    torch.manual_seed(0)
    model = network()
    images = torch.randn(16, 1, 28, 28)
    for name, group, least in (("groups_of_32", 32, 12.0), ("rows", ROW, 8.0)):
        evidence.approximated(
            name,
            approximate(quantize_int4(model, group), model, images, least=least),
            reference="the same network in single precision",
            settings="the bench's network with the weights that it starts from, on noise",
        )


def test_bytes_of_files(evidence) -> None:
    rows = {}
    made: dict[str, Callable[[], nn.Module]] = {
        "ResNet-18": torchvision.models.resnet18,
        "MobileNet v2": torchvision.models.mobilenet_v2,
    }
    for name, make in made.items():
        model = make()
        whole = bench_trained.file_bytes(model.state_dict())
        rows[name] = {"name": name, "float": whole}
        for group in (128, 32):
            size = bench_trained.file_bytes(quantize_int4(model, group).state_dict())
            rows[name] |= {f"int4_{group}": size, f"times_{group}": whole / size}
    evidence.computed("bytes", rows)
    assert 6 < rows["ResNet-18"]["times_32"] < 8


def stored(model: nn.Module, group: int, bits: int) -> int:
    """Bytes of a file with codes of that many bits, scales in half precision, zero points of as many bits."""
    kept = dict(model.state_dict())
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = kept.pop(f"{name}.weight")
            rows = weight.shape[0]
            groups = rows * -(-(weight.numel() // rows) // group)
            for key, count in (("codes", weight.numel()), ("zero", groups)):
                size = -(-count * bits // 8)
                kept[f"{name}.{key}"] = torch.zeros(size, dtype=torch.uint8)
            kept[f"{name}.scale"] = torch.zeros(groups, dtype=torch.float16)
    return bench_trained.file_bytes(kept)


def with_bits(model: nn.Module, bits: int, group: int) -> tuple[nn.Module, int]:
    """The network with rounded weights, and the bytes of its file."""
    if bits == 4:
        changed = quantize_int4(model, group)
        return changed, bench_trained.file_bytes(changed.state_dict())
    changed = copy.deepcopy(model)
    rounded(group, bits)(changed)
    return changed, stored(model, group, bits)


def accuracies(arms: dict[str, list[int]], seeds: list[int]) -> dict[str, object]:
    """Of the trained networks with rounded weights: accuracy, bytes, noise of the scores.

    Args:
        arms: name -> bits and weights per group.
    """
    images, _ = garments("test")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    whole, size = [], 0
    for seed in seeds:
        model = bench_trained.trained(seed)
        whole.append(bench_trained.score(model))
        size = bench_trained.file_bytes(model.state_dict())
        for name, (bits, group) in arms.items():
            changed, count = with_bits(model, bits, group)
            noise = approximate(changed, model, images[:500], least=0.0)
            accuracy = bench_trained.score(changed)
            found[name].append({"accuracy": accuracy, "bytes": count, "snr": noise.snr})
    rows = {}
    for name, runs in found.items():
        bits, group = arms[name]
        groups = "one group per output" if group >= ROW else f"groups of {group}"
        accuracy = [run["accuracy"] for run in runs]
        snr = [run["snr"] for run in runs]
        rows[name] = {
            "name": f"{bits} bits, {groups}",
            "accuracy": {"values": accuracy, **interval(accuracy)},
            "snr": {"values": snr, **interval(snr)},
            "bytes": runs[0]["bytes"],
            "times": size / runs[0]["bytes"],
            "paired": paired(accuracy, whole),
        }
    return {
        "seeds": len(seeds),
        "whole": {"values": whole, **interval(whole)},
        "bytes": size,
        "arms": rows,
    }


def noise_of_layers(arms: dict[str, list[int]], seeds: list[int]) -> dict[str, object]:
    """The signal-to-noise ratio of each layer's output in dB, on 500 test images."""
    images, _ = garments("test")
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        model = bench_trained.trained(seed)
        for name, (bits, group) in arms.items():
            changed, _ = with_bits(model, bits, group)
            noise = approximate(changed, model, images[:500], least=0.0)
            for layer, snr in noise.layers.items():
                rows.setdefault(layer, {}).setdefault(name, []).append(snr)
    return {
        "arms": {
            layer: {
                "name": layer,
                **{n: {"values": v, **interval(v)} for n, v in row.items()},
            }
            for layer, row in rows.items()
        }
    }


@pytest.mark.record
def test_record_the_noise_of_each_layer(evidence) -> None:
    evidence.measured(
        "layers",
        arguments={
            "arms": {
                "eight_row": [8, ROW],
                "four_8": [4, 8],
                "four_32": [4, 32],
                "four_row": [4, ROW],
            },
            "seeds": list(bench_trained.SEEDS),
        },
        run=noise_of_layers,
    )


@pytest.mark.record
def test_record_the_accuracy_with_weights_of_four_bits(evidence) -> None:
    result = evidence.measured(
        "garments",
        arguments={
            "arms": {
                "eight_row": [8, ROW],
                "four_8": [4, 8],
                "four_16": [4, 16],
                "four_32": [4, 32],
                "four_64": [4, 64],
                "four_128": [4, 128],
                "four_row": [4, ROW],
                "three_32": [3, 32],
                "three_row": [3, ROW],
                "two_8": [2, 8],
                "two_32": [2, 32],
            },
            "seeds": list(bench_trained.SEEDS),
        },
        run=accuracies,
    )
    assert result["arms"]["four_32"]["accuracy"]["mean"] > 0.8


def build(name: str) -> dict[str, Callable[[], Callable[[], object]]]:
    """The network in single precision, and with weights that are made anew in every run."""
    torch.manual_seed(0)
    if name == "bench":
        model, x = network().eval(), torch.randn(64, 1, 28, 28)
    else:
        model, x = (
            getattr(torchvision.models, name)().eval(),
            torch.randn(1, 3, 224, 224),
        )
    networks = {"whole": model, "int4": quantize_int4(model)}
    return {key: lambda one=one: lambda: run(one, x) for key, one in networks.items()}


@torch.no_grad()
def run(model: nn.Module, images: Tensor) -> object:
    return model(images)


def timed(names: dict[str, str]) -> dict[str, object]:
    arms = {}
    for name, title in names.items():
        result = side_by_side(build, against="whole", arguments={"name": name})
        row = result["arms"]["int4"]
        arms[name] = {
            "name": title,
            "whole": result["arms"]["whole"]["seconds"],
            **{key: row[key] for key in ("seconds", "ratio", "range")},
        }
    return {"arms": arms}


@pytest.mark.record
def test_record_the_time_of_weights_that_are_unpacked(evidence) -> None:
    evidence.measured(
        "time",
        arguments={"names": {"resnet18": "ResNet-18", "bench": "bench, 64 images"}},
        run=timed,
    )
