"""Why the calibration errors and the temperature are right: torchmetrics, scikit-learn, scipy, and the laws of both."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnn_site.equivalence import difference
from cnn_techniques.evaluation import (
    Reliability,
    best_temperature,
    expected_calibration_error,
    maximum_calibration_error,
    reliability,
    top_confidence,
)

KINDS = (
    "anywhere",
    "all on edges",
    "some on edges",
    "one bin",
    "all right",
    "nothing right",
    "one image",
)
CASES = (
    "confidences anywhere, on edges, in one bin; all right; nothing right; one image"
)
EXACT_BINS = (1, 2, 4, 8, 16, 32)  # their edges are the same in every arithmetic


def drawn(case: int) -> tuple[Tensor, Tensor, int]:
    """One random case: confidences above 0, what is right, and the bins. Its kind follows from its number."""
    g = torch.Generator().manual_seed(case)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    kind, n = KINDS[case % len(KINDS)], whole(2, 60)
    n = 1 if kind == "one image" else n
    bins = EXACT_BINS[whole(0, len(EXACT_BINS) - 1)]
    p = 1 - torch.rand(n, generator=g, dtype=torch.float64)
    on_edge = torch.randint(1, bins + 1, (n,), generator=g) / bins
    if kind == "all on edges":
        p = on_edge.double()
    if kind in ("some on edges", "one image"):
        p = torch.where(torch.rand(n, generator=g) < 0.5, p, on_edge.double())
    if kind == "one bin":
        p = (p + whole(0, bins - 1)) / bins
    if kind == "anywhere":
        bins = whole(1, 40)
    right = torch.rand(n, generator=g, dtype=torch.float64) < p
    if kind in ("all right", "nothing right"):
        right = torch.full((n,), kind == "all right")
    return p, right, bins


def errors(p: Tensor, right: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    found = reliability(p, right, bins)
    return expected_calibration_error(found), maximum_calibration_error(found)


def networks(case: int, n: int = 300, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Logits of a network that is too sure or too unsure, and labels."""
    g = torch.Generator().manual_seed(case)
    logits = 3 * torch.randn(n, classes, generator=g, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
    scale = math.exp(float(torch.randn((), generator=g)))
    return scale * logits + 5 * torch.randn(n, 1, generator=g).double(), labels


DEVICE_CASES = {
    "errors": lambda: (
        lambda p: torch.stack(errors(p, p > 0.4, 15)),
        (torch.rand(500, dtype=torch.float64),),
    ),
    "temperature": lambda: (
        lambda z: torch.tensor(best_temperature(z, (z.argmax(1) + (z[:, 0] > 0)) % 5)),
        (torch.randn(500, 5),),
    ),
}


def test_torchmetrics_with_its_edges_turned_round_has_the_same_errors(
    evidence: Any,
) -> None:
    # Its bins are [l, u), the paper's (l, u]: of 1 - p, and of what is wrong, they are the paper's of p.
    error = pytest.importorskip(
        "torchmetrics.functional.classification"
    ).binary_calibration_error
    ours, theirs = [], []
    for case in range(1500):
        p, right, bins = drawn(case)
        if case % len(KINDS) == 0:  # 1 - p rounds; 997 is prime: no edge is near
            p = (p * 997).ceil() / 997
        ours.append(torch.stack(errors(p, right, bins)))
        norms = ("l1", "max")
        wrong = (~right).long()
        theirs.append(
            torch.stack(
                [error(1 - p, wrong, bins, norm, validate_args=False) for norm in norms]
            )
        )
    a, b = torch.stack(ours), torch.stack(theirs)
    evidence.equivalent(
        "torchmetrics",
        difference(
            {"ECE": (a[:, 0], b[:, 0]), "MCE": (a[:, 1], b[:, 1])},
            modes=[CASES],
        ),
        reference="torchmetrics.functional.classification.binary_calibration_error",
        settings='1,500 random cases; norm="l1" and "max", of 1 - confidence and wrong '
        "instead of right, because its bins hold their lower edge",
    )


def test_torchmetrics_has_the_same_errors_of_a_networks_logits(evidence: Any) -> None:
    error = pytest.importorskip(
        "torchmetrics.functional.classification"
    ).multiclass_calibration_error
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {"ECE": [], "MCE": []}
    for case in range(300):
        z, y = networks(case, n=64)
        p, right = top_confidence(z, y)
        keep = p.float() < 1  # a confidence of 1 has a bin of its own there
        z, y, p, right = z[keep], y[keep], p[keep], right[keep]
        for name, norm, value in zip(
            pairs, ("l1", "max"), errors(p, right, 15), strict=True
        ):
            theirs = error(z, y, 5, 15, norm, validate_args=False)
            pairs[name].append((value.float(), theirs))
    outputs = {
        name: tuple(torch.stack([p[k] for p in found]) for k in (0, 1))
        for name, found in pairs.items()
    }
    evidence.equivalent(
        "logits",
        difference(outputs, bound=1e-5, shape=[64, 5]),  # type: ignore[arg-type]
        reference="torchmetrics.functional.classification.multiclass_calibration_error",
        settings="300 random networks; n_bins=15, without confidences that are 1 in float32",
    )


def test_a_confidence_of_1_has_a_bin_of_its_own_in_torchmetrics() -> None:
    error = pytest.importorskip(
        "torchmetrics.functional.classification"
    ).binary_calibration_error
    p = torch.tensor([1.0, 1.0, 0.95, 0.95], dtype=torch.float64)
    right = torch.tensor([True, False, True, True])
    assert errors(p, right, 10)[0] == pytest.approx(0.225)
    assert error(p, right.long(), 10).item() == pytest.approx(0.275)


def test_the_bins_are_those_of_scikit_learns_calibration_curve(evidence: Any) -> None:
    curve = pytest.importorskip("sklearn.calibration").calibration_curve
    ours, theirs = [], []
    for case in range(1000):
        p, right, bins = drawn(case)
        found = reliability(p, right, bins)
        full = found.images > 0
        ours.append(torch.cat([found.accuracy[full], found.confidence[full]]))
        parts = curve(right.numpy(), p.numpy(), n_bins=bins, pos_label=True)
        theirs.append(torch.cat([torch.from_numpy(part) for part in parts]))
    evidence.equivalent(
        "bins",
        difference(
            {"accuracy and confidence": (torch.cat(ours), torch.cat(theirs))},
            modes=[CASES],
        ),
        reference="sklearn.calibration.calibration_curve",
        settings='1,000 random cases; strategy="uniform"; the bins that hold an image',
    )


def test_scipy_finds_the_same_temperature(evidence: Any) -> None:
    optimize = pytest.importorskip("scipy.optimize")

    def likelihood(log_t: Any, z: Tensor, y: Tensor) -> tuple[float, Any]:
        t = torch.tensor(float(log_t[0]), dtype=torch.float64, requires_grad=True)
        loss = F.cross_entropy(z / t.exp(), y)
        (slope,) = torch.autograd.grad(loss, t)
        return loss.item(), [slope.item()]

    ours, theirs = [], []
    for case in range(200):
        z, y = networks(case)
        ours.append(best_temperature(z, y))
        found = optimize.minimize(
            likelihood, [0.0], (z, y), "BFGS", jac=True, options={"gtol": 1e-12}
        )
        theirs.append(math.exp(float(found.x[0])))
        best = likelihood([math.log(ours[-1])], z, y)
        assert best[0] <= found.fun + 1e-14
        assert abs(best[1][0]) < 1e-13
    assert min(ours) < 0.2
    assert max(ours) > 5
    pair = tuple(torch.tensor(t, dtype=torch.float64).log() for t in (ours, theirs))
    evidence.equivalent(
        "temperature",
        difference({"log T": pair}, bound=1e-7, shape=[300, 5]),  # type: ignore[dict-item]
        reference='scipy.optimize.minimize(method="BFGS")',
        settings="200 random networks; over the logarithm of T, slope by autograd",
    )


def test_the_search_takes_about_ten_passes_over_the_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    softmax, passes = torch.softmax, []

    def counted(*given: Any, **options: Any) -> Tensor:
        passes.append(1)
        return softmax(*given, **options)

    monkeypatch.setattr(torch, "softmax", counted)
    for case in range(100):
        z, y = networks(case)
        passes.clear()
        best_temperature(z, y)
        assert 1 < len(passes) <= 12


def test_the_errors_are_the_papers_sums_over_the_images_of_each_bin() -> None:
    for case in range(200):
        p, right, bins = drawn(case)
        total, largest = 0.0, 0.0
        for m in range(1, bins + 1):
            inside = [i for i, c in enumerate(p.tolist()) if (m - 1) / bins < c <= m / bins]  # fmt: skip
            if inside:
                acc = sum(right[inside].tolist()) / len(inside)
                conf = math.fsum(p[inside].tolist()) / len(inside)
                total += len(inside) / p.shape[0] * abs(acc - conf)
                largest = max(largest, abs(acc - conf))
        ece, mce = errors(p, right, bins)
        assert ece.item() == pytest.approx(total, abs=1e-12)
        assert mce.item() == pytest.approx(largest, abs=1e-12)


def test_a_temperature_changes_no_predicted_class() -> None:
    for case in range(100):
        z, y = networks(case)
        z[0] = z[0, 0]  # all classes alike
        z[1, 1] = z[1, 0].nextafter(torch.tensor(math.inf))  # and a last digit apart
        as_it_is = top_confidence(z, y)[1]
        for t in (1e-3, 0.3, 1.7, 40.0, 1e6, best_temperature(z, y)):
            p, right = top_confidence(z, y, t)
            assert right.equal(as_it_is)
            scaled = torch.softmax(z / t, dim=1)
            assert scaled.gather(1, z.argmax(1)[:, None])[:, 0].equal(p)


def test_confidence_falls_from_1_to_a_kth_as_the_temperature_rises() -> None:
    z, y = networks(0)
    ts = (1e-4, 0.1, 1.0, 10.0, 1e6)
    p = torch.stack([top_confidence(z, y, t)[0] for t in ts])
    assert (p[1:] <= p[:-1]).all()
    torch.testing.assert_close(p[0], torch.ones_like(p[0]))
    torch.testing.assert_close(p[-1], torch.full_like(p[-1], 1 / 5), rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", [0.01, 0.5, 3.0, 200.0])
def test_logits_times_a_number_have_that_many_times_the_temperature(
    scale: float,
) -> None:
    for case in range(10):
        z, y = networks(case)
        t, scaled = best_temperature(z, y), best_temperature(scale * z, y)
        assert scaled == pytest.approx(scale * t, rel=1e-9)
        same = top_confidence(z, y, t)[0], top_confidence(scale * z, y, scaled)[0]
        torch.testing.assert_close(*same)


def test_labels_drawn_from_the_probabilities_have_a_temperature_near_1() -> None:
    g = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(100_000, 10, generator=g, dtype=torch.float64)
    y = torch.multinomial(z.softmax(1), 1, generator=g)[:, 0]
    assert best_temperature(z, y) == pytest.approx(1, abs=0.02)
    assert best_temperature(7 * z, y) == pytest.approx(7, abs=0.14)
    ece, _ = errors(*top_confidence(z, y), 15)
    assert ece < 0.01


def test_at_the_best_temperature_the_expected_logit_is_the_labels() -> None:
    # The slope of the likelihood is 0: what the network expects and what it gets agree on average.
    for case in range(30):
        z, y = networks(case)
        p = torch.softmax(z / best_temperature(z, y), dim=1)
        expected, true = (p * z).sum(1).mean(), z.gather(1, y[:, None]).mean()
        torch.testing.assert_close(expected, true, rtol=1e-10, atol=1e-10)


def test_finer_bins_that_divide_the_others_never_lower_the_error() -> None:
    for case in range(200):
        p, right, _ = drawn(case)
        eces = [errors(p, right, bins)[0].item() for bins in (1, 2, 4, 8, 64)]
        assert all(b >= a - 1e-12 for a, b in itertools.pairwise(eces))


def test_one_bin_tells_mean_confidence_from_accuracy_and_nothing_else() -> None:
    p, right, _ = drawn(2)
    ece, mce = errors(p, right, 1)
    torch.testing.assert_close(ece, (p.mean() - right.double().mean()).abs())
    torch.testing.assert_close(ece, mce)


def test_the_frequencies_of_the_classes_for_every_image_are_calibrated() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    frequencies = labels.bincount().double() / 100
    logits = frequencies.log().expand(100, 3)
    ece, mce = errors(*top_confidence(logits, labels), 15)
    assert ece < 1e-12 and mce < 1e-12
    assert best_temperature(logits, labels) == pytest.approx(1, abs=1e-9)


def test_logarithms_of_probabilities_are_logits_and_probabilities_are_not() -> None:
    z, y = networks(0)
    p = z.softmax(dim=1)
    confidence, right = top_confidence(z, y)
    of_logarithms = top_confidence(p.log(), y)
    torch.testing.assert_close(of_logarithms[0], confidence)
    assert of_logarithms[1].equal(right)
    assert best_temperature(p.log(), y) == pytest.approx(best_temperature(z, y))
    assert (top_confidence(p, y)[0] - confidence).abs().mean() > 0.2


def test_on_an_edge_counts_the_bin_below_and_0_the_first() -> None:
    p = torch.tensor([0.0, 0.1, 0.3, 0.6, 0.7, 1.0], dtype=torch.float64)
    found = reliability(p, torch.ones(6, dtype=torch.bool), bins=10)
    assert found.images.tolist() == [2, 0, 1, 0, 0, 1, 1, 0, 0, 1]


def test_the_order_of_the_images_does_not_count() -> None:
    p, right, bins = drawn(0)
    for a, b in zip(errors(p, right, bins), errors(p.flip(0), right.flip(0), bins), strict=True):  # fmt: skip
        torch.testing.assert_close(a, b)


Z, Y = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
P, RIGHT = torch.rand(6), torch.tensor([True, False] * 3)
SURE = 9 * F.one_hot(Y, 4).double()


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: top_confidence(Z, Y, 0.0), ValueError, "above 0, got 0.0"),
        (lambda: top_confidence(Z, Y, -2.0), ValueError, "above 0, got -2.0"),
        (lambda: top_confidence(Z, Y, math.inf), ValueError, "above 0, got inf"),
        (lambda: top_confidence(Z, Y, math.nan), ValueError, "above 0, got nan"),
        (lambda: top_confidence(Z, Y[:3]), ValueError, r"got \(6, 4\) and \(3,\)"),
        (lambda: top_confidence(Z[0], Y), ValueError, r"got \(4,\) and \(6,\)"),
        (lambda: top_confidence(Z[:0], Y[:0]), ValueError, r"got \(0, 4\) and \(0,\)"),
        (lambda: top_confidence(Z, Y.float()), TypeError, "integer labels, got torch.float32"),
        (lambda: top_confidence(Z, Y + 1), ValueError, "from 0 to 3, got 1 to 4"),
        (lambda: top_confidence(Z / 0, Y), ValueError, "finite logits"),
        (lambda: best_temperature(Z * torch.nan, Y), ValueError, "finite logits, got NaN"),
        (lambda: best_temperature(Z, Y[:5]), ValueError, r"got \(6, 4\) and \(5,\)"),
        (lambda: best_temperature(SURE, Y), ValueError, "with none, T = 0 is best"),
        (lambda: best_temperature(SURE, (Y + 1) % 4), ValueError, "no T is best"),
        (lambda: best_temperature(0 * SURE, Y), ValueError, "no T is best"),
        (lambda: reliability(P, RIGHT[:2]), ValueError, r"got \(6,\) and \(2,\)"),
        (lambda: reliability(P[:0], RIGHT[:0]), ValueError, r"got \(0,\) and \(0,\)"),
        (lambda: reliability(P, RIGHT.long()), TypeError, "torch.bool, got torch.int64"),
        (lambda: reliability(P, RIGHT, 0), ValueError, "bins=0"),
        (lambda: reliability(P + 1, RIGHT), ValueError, "from 0 to 1, got 1"),
        (lambda: reliability(P * torch.nan, RIGHT), ValueError, "from 0 to 1, got nan to nan"),
    ],
)  # fmt: skip
def test_refuses_what_is_no_probability_or_has_no_best_temperature(
    call: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        call()


def test_integers_of_any_width_and_half_precision_are_labels_and_logits() -> None:
    p, right = top_confidence(Z, Y)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert top_confidence(Z, Y.to(dtype))[1].equal(right)
        z, y = networks(0)
        assert best_temperature(z, y.to(dtype)) == best_temperature(z, y)
    assert top_confidence(Z.half(), Y)[0].dtype == torch.float64
    torch.testing.assert_close(top_confidence(Z.half(), Y)[0], p, rtol=1e-2, atol=0)


# ---------------------------------------------------------------- the record

BINS = (5, 15, 50, 500)


def logits_of(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels of the 6,000 training and the 10,000 test images, by the shared trained network."""
    from cnn_lab import bench, bench_trained
    from cnn_lab.fit import predict

    model = bench_trained.trained(seed)
    for split in ("train", "test"):
        images, labels = bench.garments(split)  # type: ignore[arg-type]
        yield predict(model, images), labels


def measure(z: Tensor, y: Tensor, temperature: float) -> dict[str, Any]:
    """What a temperature makes of the images that it was not chosen on."""
    p, right = top_confidence(z, y, temperature)
    found = reliability(p, right)
    draws = torch.Generator().manual_seed(0)
    lucky = [torch.rand(p.shape, generator=draws, dtype=p.dtype) < p for _ in range(50)]
    return {
        "temperature": temperature,
        "accuracy": right.double().mean().item(),
        "confidence": p.mean().item(),
        "nll": F.cross_entropy(z.double() / temperature, y).item(),
        "mce": errors(p, right, 15)[1].item(),
        **{f"ece_{bins}": errors(p, right, bins)[0].item() for bins in BINS},
        **{
            f"honest_{bins}": sum(errors(p, r, bins)[0].item() for r in lucky) / 50
            for bins in BINS
        },
        "counts": found.images.tolist(),
        "sums": (found.confidence * found.images).tolist(),
        "hits": (found.accuracy * found.images).round().long().tolist(),
    }


def scale_network(chosen: int, seed: int) -> dict[str, dict[str, Any]]:
    """The first 5,000 test images choose the temperature, the others measure it."""
    (train, train_labels), (test, labels) = logits_of(seed)
    z, y = test[5000:], labels[5000:]
    return {
        "none": measure(z, y, 1.0),
        "held_out": measure(z, y, best_temperature(test[:5000], labels[:5000])),
        "few": measure(z, y, best_temperature(test[:chosen], labels[:chosen])),
        "training": measure(z, y, best_temperature(train, train_labels)),
    }


def scale_networks(few: int, seeds: list[int]) -> dict[str, Any]:
    from cnn_lab.record import interval, paired, repeat

    cache = Path(__file__).parents[2] / ".cache/record/calibration.jsonl"
    runs = repeat(scale_network, {"all": {"chosen": few}}, seeds, cache)["all"]
    names = {
        "none": "T = 1, as trained",
        "held_out": "T of 5,000 held-out images",
        "few": f"T of {few} held-out images",
        "training": "T of the 6,000 training images",
    }

    def values(arm: str, key: str) -> list[float]:
        return [run[arm][key] for run in runs]

    numbers = [k for k, v in runs[0]["none"].items() if isinstance(v, float)]
    rows: dict[str, Any] = {
        arm: {
            "name": name,
            **{
                key: {"values": values(arm, key), **interval(values(arm, key))}
                for key in numbers
            },
            **{
                key: torch.tensor([run[arm][key] for run in runs]).sum(0).tolist()
                for key in ("counts", "sums", "hits")
            },
        }
        for arm, name in names.items()
    }
    rows |= {
        f"bins_{bins}": {
            "name": f"{bins}",
            "none": rows["none"][f"ece_{bins}"],
            "held_out": rows["held_out"][f"ece_{bins}"],
            "honest": rows["held_out"][f"honest_{bins}"],
        }
        for bins in BINS
    }
    pairs = {
        f"{arm}_{key}": paired(values(arm, key), values("none", key))
        for arm in ("held_out", "few", "training")
        for key in ("ece_15", "mce", "nll", "accuracy")
    }
    return {"seeds": len(seeds), "arms": rows, "paired": pairs}


@pytest.mark.record
def test_record_temperatures_chosen_on_held_out_and_on_training_images(
    evidence: Any,
) -> None:
    arguments = {"few": 100, "seeds": [0, 1, 2, 3, 4]}
    found = evidence.measured("garments", arguments=arguments, run=scale_networks)
    rows = found["arms"]
    assert rows["held_out"]["ece_15"]["high"] < rows["none"]["ece_15"]["low"]
    assert rows["training"]["ece_15"]["low"] > rows["none"]["ece_15"]["high"]
    for arm in ("held_out", "few", "training"):
        assert rows[arm]["accuracy"] == rows["none"]["accuracy"]


def test_the_record_counts_every_measured_image_once() -> None:
    from cnn_site.evidence import load

    rows = load("evaluation/calibration")["measured"]["garments"]["result"]["arms"]
    for row in (rows[arm] for arm in ("none", "held_out", "few", "training")):
        found = Reliability(*(torch.tensor(row[k]) for k in ("counts", "sums", "hits")))
        assert int(found.images.sum()) == 25_000
        accuracy = sum(row["accuracy"]["values"]) / 5
        assert found.accuracy.sum().item() / 25_000 == pytest.approx(accuracy)
