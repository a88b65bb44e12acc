"""The bench is what its page says, and its baseline is recorded with every handicap."""

import json

import pytest
import torch
from torch import nn

from cnn_lab import bench
from cnn_lab.fit import cross_entropy
from cnn_site import ROOT, pages
from cnn_site import bench as arms_of
from cnn_site.evidence import load
from cnn_techniques.modern.resnet import BasicBlock

Json = dict[str, object]


def baseline_arm(handicap: str) -> bench.Arm:
    return bench.Arm("Baseline", handicap=handicap)


def run_the_baseline(handicaps: list[str], seeds: list[int]) -> Json:
    return {"seeds": len(seeds), "arms": arms_of.runs(baseline_arm, handicaps, seeds)}


@pytest.mark.record
def test_record_the_baseline_with_every_handicap(evidence) -> None:
    arguments = {"handicaps": list(bench.HANDICAPS), "seeds": list(bench.SEEDS)}
    result = evidence.measured("baseline", arguments=arguments, run=run_the_baseline)
    plain = result["arms"]["none"]["accuracy"]["mean"]
    assert 0.85 < plain < 0.90  # neither saturated nor untrained


def test_the_smallest_difference_follows_from_the_baselines_spread(evidence) -> None:
    rows = {}
    for handicap, row in load("lab/bench")["measured"]["baseline"]["result"][
        "arms"
    ].items():
        rows[handicap] = {
            f"smallest_{n}": bench.smallest_difference(row, n) for n in (5, 10)
        }
    evidence.computed("bench", rows)


def test_arms_stand_beside_the_baseline_that_there_is() -> None:
    stale = []
    for t in pages.techniques():
        entry = t.record.get("measured", {}).get("bench") if t.facts else None
        if entry and entry["arguments"]["baseline"] != arms_of.baseline_hash():
            stale.append(f"docs/evidence/{t.slug}.json: bench has another baseline")
    assert not stale, "\n".join(stale)


def test_the_network_is_that_of_the_page() -> None:
    network = bench.network()
    assert sum(p.numel() for p in network.parameters()) == 77_754
    sizes = [tuple(m.shape[1:]) for m in network.features(torch.zeros(2, 1, 28, 28))]
    assert sizes == [(16, 14, 14), (32, 7, 7), (64, 4, 4)]


def test_attention_is_put_into_every_branch_and_changes_no_other_weight() -> None:
    torch.manual_seed(3)
    plain = bench.network()
    torch.manual_seed(3)
    gated = bench.network(lambda channels: nn.Conv2d(channels, channels, 1))
    state = gated.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in plain.state_dict().items())
    blocks = [m for m in gated.modules() if isinstance(m, BasicBlock)]
    assert [b.attention.in_channels for b in blocks] == [16, 32, 64]


@pytest.fixture
def few_garments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve images of each class, which a network can tell apart."""

    def garments(split: str, root: object = None) -> tuple[torch.Tensor, torch.Tensor]:
        draw = torch.Generator().manual_seed(int(split == "test"))
        labels = torch.arange(120) % 10
        images = 0.1 * torch.randn(120, 1, 28, 28, generator=draw)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[0, 2 * label : 2 * label + 8] += 2
        return images, labels

    monkeypatch.setattr(bench, "garments", garments)
    monkeypatch.setattr(
        bench, "HANDICAPS", {"none": {"images": 120, "wrong": 0.0, "epochs": 2}}
    )


@pytest.mark.usefixtures("few_garments")
def test_a_run_is_the_same_again_and_another_with_another_seed() -> None:
    first, again, other = (bench.run(bench.Arm("a"), seed) for seed in (0, 0, 1))
    assert first == again
    assert first["curve"] != other["curve"]
    assert len(first["curve"]) == 2
    assert 0 <= first["shifted"] <= 1


@pytest.mark.usefixtures("few_garments")
def test_a_run_that_diverges_says_so_and_has_no_accuracy() -> None:
    def endless(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model, x, y) * float("inf")

    runs = [bench.run(bench.Arm("a", loss=endless), seed) for seed in (0, 1)]
    assert runs == [{"diverged": True}] * 2
    row = bench.row("a", runs)
    assert row == {"name": "a", "diverged": 2, "seeds": 2}
    assert bench.against(row, row) == {"name": "a", "diverged": 2}


@pytest.mark.usefixtures("few_garments")
def test_an_unknown_handicap_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown handicap 'late'; expected 'none'"):
        bench.run(bench.Arm("a", handicap="late"), 0)


def test_wrong_labels_are_as_many_as_asked_for_and_the_same_again() -> None:
    labels = torch.arange(10).repeat(1000)
    changed = bench.wrong(labels, 0.4, seed=0)
    assert torch.equal(changed, bench.wrong(labels, 0.4, seed=0))
    # A tenth of the labels that are drawn anew is drawn as it was.
    assert (changed != labels).double().mean().item() == pytest.approx(0.36, abs=0.02)
    assert torch.equal(bench.wrong(labels, 0.0, seed=0), labels)


def test_shifted_images_are_the_same_images_moved_by_up_to_three_pixels() -> None:
    images = torch.zeros(500, 1, 28, 28)
    images[:, 0, 14, 14] = 1
    moved = bench.shifted(images)
    places = moved.flatten(1).argmax(dim=1)
    rows, columns = places // 28 - 14, places % 28 - 14
    assert moved.flatten(1).sum(dim=1).eq(1).all()
    assert set(rows.tolist()) == set(columns.tolist()) == set(range(-3, 4))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="lacks the files of Fashion-MNIST"):
        bench.garments("train", ROOT / "tests")


def test_a_comparison_with_another_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0123: run this again"):
        arms_of.beside_the_baseline(baseline_arm, ["none"], seeds=5, baseline="0123")


def test_more_seeds_than_the_baseline_has_are_refused() -> None:
    hash_ = arms_of.baseline_hash()
    with pytest.raises(ValueError, match="expected 2 to 10 seeds"):
        arms_of.beside_the_baseline(baseline_arm, ["none"], seeds=11, baseline=hash_)


def test_the_baseline_beside_itself_differs_by_nothing() -> None:
    row = load("lab/bench")["measured"]["baseline"]["result"]["arms"]["none"]
    pair = bench.against(row, row)["accuracy"]
    assert (pair["difference"], pair["low"], pair["high"]) == (0, 0, 0)
    assert json.dumps(pair)
