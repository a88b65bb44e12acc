"""Masks are those of torch's own pruning, ties too; what is pruned stays zero; and what it costs and saves."""

import copy
import zlib
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from cnn_lab import bench_trained
from cnn_lab.record import interval, paired, repeat
from cnn_site import ROOT
from cnn_site.laws import every
from cnn_site.parity import compare_change
from cnn_site.speed import side_by_side
from cnn_techniques import modern
from cnn_techniques.compression import (
    apply_masks,
    magnitude_masks,
    prunable,
    sparsity_of,
)

NO_DEVICE_CASES = "it orders and zeroes weights and computes nothing"
SPARSITIES = [0.5, 0.7, 0.8, 0.9, 0.95, 0.98]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip


IMAGES = torch.randn(2, 3, 11, 9, generator=torch.Generator().manual_seed(0))


def pruned(model: nn.Module, sparsity: float, scope: str) -> None:
    apply_masks(model, magnitude_masks(model, sparsity, scope))  # type: ignore[arg-type]


def by_torch(model: nn.Module, sparsity: float, scope: str) -> None:
    layers = [
        (m, "weight") for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    if scope == "global":
        prune.global_unstructured(layers, prune.L1Unstructured, amount=sparsity)
    else:
        for layer, name in layers:
            prune.l1_unstructured(layer, name, amount=sparsity)
    for layer, name in layers:
        prune.remove(layer, name)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_leaves_the_network_that_torch_leaves(scope: str, evidence) -> None:
    comparison = compare_change(
        lambda model: pruned(model, 0.6, scope),
        lambda model: by_torch(model, 0.6, scope),
        network(),
        IMAGES,
    )
    name = "global_unstructured" if scope == "global" else "l1_unstructured"
    evidence.equivalent(
        scope,
        comparison,
        reference=f"torch.nn.utils.prune.{name}",
        settings="60 % of the weights",
    )


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_masks_with_many_equal_magnitudes_are_those_of_torch(
    scope: str,
) -> None:
    for seed in range(500):
        torch.manual_seed(seed)
        ours = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Linear(4, 3))
        with torch.no_grad():
            for weight in prunable(ours).values():
                weight.copy_((weight * (1 + seed % 9)).round(decimals=1))
        theirs = copy.deepcopy(ours)
        sparsity = [0.1, 0.34, 0.5, 0.77, 0.9][seed % 5]
        pruned(ours, sparsity, scope)
        by_torch(theirs, sparsity, scope)
        expected = theirs.state_dict()
        for name, weight in ours.state_dict().items():
            assert torch.equal(weight, expected[name]), f"{name}, seed {seed}"


def test_what_goes_is_smaller_than_what_stays() -> None:
    model = network()
    for scope in ("global", "layer"):
        masks = magnitude_masks(model, 0.4, scope)  # type: ignore[arg-type]
        pairs = [
            (w.abs()[masks[n]], w.abs()[~masks[n]]) for n, w in prunable(model).items()
        ]
        if scope == "global":
            assert (
                torch.cat([p for p, _ in pairs]).min()
                >= torch.cat([g for _, g in pairs]).max()
            )
        else:
            assert all(stays.min() >= goes.max() for stays, goes in pairs)
        assert sparsity_of(masks) == pytest.approx(0.4, abs=0.01)


def test_no_zero_has_a_sign() -> None:
    model = network()
    pruned(model, 0.9, "global")
    for weight in prunable(model).values():
        assert not torch.signbit(weight[weight == 0]).any()


def test_by_layer_every_layer_loses_its_share() -> None:
    model = network()
    pruned(model, 0.5, "layer")
    kinds = (nn.Conv2d, nn.Linear)
    assert (
        every(
            model, kinds, lambda m: 2 * int((m.weight == 0).sum()) == m.weight.numel()
        )
        == 3
    )


def test_none_goes_at_0_and_biases_and_norms_never_do() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    pruned(model, 0.0, "global")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    pruned(model, 0.99, "global")
    for name, value in model.state_dict().items():
        changed = not torch.equal(value, before[name])
        assert changed == (name in prunable(model)), name


def test_masks_of_a_growing_sparsity_lie_in_each_other() -> None:
    model = network()
    masks = [magnitude_masks(model, s) for s in (0.2, 0.5, 0.8)]
    for less, more in pairwise(masks):
        assert all(not (more[n] & ~less[n]).any() for n in less)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_a_sparsity_outside_0_to_1_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match=f"0 to below 1, got {sparsity}"):
        magnitude_masks(network(), sparsity)


def test_other_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="'global' or 'layer', got 'local'"):
        magnitude_masks(network(), 0.5, "local")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ReLU has no convolution and no linear layer"):
        magnitude_masks(nn.ReLU(), 0.5)
    masks = magnitude_masks(network(), 0.5)
    with pytest.raises(
        ValueError, match=r"3\.weight \(6, 4, 3, 3\), the network has None"
    ):
        apply_masks(network()[:2], masks)
    with pytest.raises(
        ValueError, match=r"0\.weight \(1,\), the network has \(8, 3, 3, 3\)"
    ):
        apply_masks(network(), {"0.weight": torch.ones(1)})


# ---------------------------------------------------------------- numbers


def one_run(sparsity: float, scope: str, again: bool, seed: int) -> dict[str, object]:
    model = bench_trained.trained(seed)
    masks = magnitude_masks(model, sparsity, scope)  # type: ignore[arg-type]
    apply_masks(model, masks)
    if again:
        bench_trained.train(
            model,
            seed,
            epochs=bench_trained.AGAIN_EPOCHS,
            rate=bench_trained.AGAIN_RATE,
            update=bench_trained.keeping(model, masks),
        )
        zeros = sum(int((w == 0).sum()) for w in prunable(model).values())
        assert zeros >= sum(int((~m).sum()) for m in masks.values())
    return {"accuracy": bench_trained.score(model)}


def curves(sparsities: list[float], seeds: list[int]) -> dict[str, object]:
    """Accuracy against sparsity, over the same trained networks."""
    ways = {
        "layer": ("the share of each layer", {"scope": "layer", "again": False}),
        "global": ("of all layers together", {"scope": "global", "again": False}),
        "again": ("of all layers together, trained again", {"scope": "global", "again": True}),
    }  # fmt: skip
    arms = {"trained_again": {"sparsity": 0.0, "scope": "global", "again": True}}
    arms |= {
        f"{way}_{round(100 * s)}": {"sparsity": s, **options}
        for way, (_, options) in ways.items()
        for s in sparsities
    }
    cache = ROOT / ".cache/record/unstructured_pruning.jsonl"
    runs = repeat(one_run, arms, seeds, cache)
    first = [bench_trained.score(bench_trained.trained(seed)) for seed in seeds]
    rows = {
        "dense": {
            "name": "not pruned",
            "accuracy": {**interval(first), "values": first},
        }
    }
    for arm in arms:
        values = [run["accuracy"] for run in runs[arm]]
        way, _, share = arm.rpartition("_")
        name = "not pruned, trained again"
        if arm != "trained_again":
            name = f"{share} %, {ways[way][0]}"
        rows[arm] = {
            "name": name,
            "accuracy": {**interval(values), "values": values},
            "change": paired(values, first),
        }
    return {"seeds": len(seeds), "arms": rows}


@pytest.mark.record
def test_record_accuracy_against_sparsity(evidence) -> None:
    arguments = {"sparsities": SPARSITIES, "seeds": list(bench_trained.SEEDS)}
    evidence.measured("garments", arguments=arguments, run=curves)


def zipped(weights: Tensor) -> int:
    return len(zlib.compress(weights.numpy().tobytes(), 9))


def files(sparsities: list[float]) -> dict[str, object]:
    """Bytes of the trained network of seed 0: as it is written, compressed, and as indices and values."""
    arms = {}
    for sparsity in [0.0, *sparsities]:
        model = bench_trained.trained(0)
        whole = torch.cat([w.detach().flatten() for w in prunable(model).values()])
        apply_masks(model, magnitude_masks(model, sparsity))
        flat = torch.cat([w.detach().flatten() for w in prunable(model).values()])
        arms[f"share_{round(100 * sparsity)}"] = {
            "name": f"{sparsity:.0%}",
            "dense": 4 * flat.numel(),
            "zipped": zipped(flat),
            "zipped_signed": zipped(torch.where(flat == 0, 0.0 * whole, flat)),
            "indices": (4 + 4) * int((flat != 0).sum()),
        }
    return {"arms": arms}


@pytest.mark.record
def test_record_the_bytes(evidence) -> None:
    evidence.measured("files", arguments={"sparsities": SPARSITIES}, run=files)


def build(sparsity: float) -> dict[str, Callable[[], Callable[[], object]]]:
    """MobileNet v2 and ResNet-50 as they are and with zeros, on one image."""
    image, made = torch.randn(1, 3, 224, 224), {}
    for name in ("resnet50", "mobilenet_v2"):
        torch.manual_seed(0)
        model = getattr(modern, name)().eval()
        zeros = copy.deepcopy(model)
        apply_masks(zeros, magnitude_masks(zeros, sparsity))
        for key, one in ((name, model), (f"{name}_zeros", zeros)):

            @torch.no_grad()
            def run(one: nn.Module = one) -> object:
                return one(image)

            made[key] = lambda run=run: run
    return made


def timed(sparsity: float) -> dict[str, object]:
    result = side_by_side(build, against="resnet50", arguments={"sparsity": sparsity})
    rows = result["arms"]
    arms = {}
    for name in ("resnet50", "mobilenet_v2"):
        ratios = [
            f["seconds"][name] / f["seconds"][f"{name}_zeros"]
            for f in result["processes"]
        ]
        arms[name] = {
            "name": name,
            "dense": rows[name]["seconds"],
            "zeros": rows[f"{name}_zeros"]["seconds"],
            "range": f"{min(ratios):.2f} to {max(ratios):.2f}",
        }
    return {"arms": arms}


@pytest.mark.record
def test_record_that_zeros_save_no_time(evidence) -> None:
    evidence.measured("time", arguments={"sparsity": 0.9}, run=timed)
