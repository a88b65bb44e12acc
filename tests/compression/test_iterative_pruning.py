"""Rounds of pruning and training: what is zero stays it, rewinding goes back, and what each is worth."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from cnn_lab import bench_trained
from cnn_lab.record import interval, paired, repeat
from cnn_site import ROOT
from cnn_site.parity import compare_change
from cnn_techniques.compression import (
    apply_masks,
    magnitude_masks,
    prunable,
    prune_iteratively,
    pruning_rounds,
    shuffled,
    sparsity_of,
)

NO_DEVICE_CASES = "it orders and zeroes weights, and trains with what it is given"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip


IMAGES = torch.randn(4, 3, 11, 9, generator=torch.Generator().manual_seed(0))


def a_step(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Gradient descent on the size of the output, without a draw."""
    images = IMAGES.to(next(model.parameters()))
    grads = torch.autograd.grad(model(images).square().sum(), list(model.parameters()))
    with torch.no_grad():
        for parameter, grad in zip(model.parameters(), grads, strict=True):
            parameter -= 0.01 * grad
    apply_masks(model, masks)


def written_out(model: nn.Module) -> None:
    """Three rounds by sorting all magnitudes, without the functions of the page."""
    start = copy.deepcopy(model.state_dict())
    names = ["0.weight", "2.weight", "5.weight"]
    for left in (0.2 ** (1 / 3), 0.2 ** (2 / 3), 0.2):
        state = model.state_dict()
        flat = torch.cat([state[name].abs().flatten() for name in names])
        gone = round((1 - left) * len(flat))
        limit = flat.sort().values[gone - 1]
        masks = {name: state[name].abs() > limit for name in names}
        model.load_state_dict(start)
        a_step_of(model, masks)


def a_step_of(model: nn.Module, masks: dict[str, Tensor]) -> None:
    for name, weight in model.named_parameters():
        if name in masks:
            weight.data = weight.data * masks[name]
    a_step(model, masks)


def test_rounds_with_rewinding_are_those_written_out(evidence) -> None:
    comparison = compare_change(
        lambda model: (
            prune_iteratively(
                model, a_step, 0.8, 3, rewind_to=copy.deepcopy(model.state_dict())
            )
            and None
        ),
        written_out,
        network(),
        IMAGES,
    )
    evidence.equivalent(
        "rounds",
        comparison,
        reference="three rounds written out: sort, cut, go back, train",
        settings="80 % of the weights in three rounds, one step of training each",
    )


def test_each_round_takes_the_same_share_of_what_is_left() -> None:
    shares = pruning_rounds(0.9, 4)
    left = [1.0, *(1 - s for s in shares)]
    ratios = [b / a for a, b in pairwise(left)]
    assert ratios == pytest.approx([0.1**0.25] * 4)
    assert shares[-1] == pytest.approx(0.9)
    assert pruning_rounds(0.7, 1) == pytest.approx([0.7])


def test_what_one_round_takes_no_later_one_gives_back() -> None:
    model, seen = network(), []

    def train(trained: nn.Module, masks: dict[str, Tensor]) -> None:
        a_step(trained, masks)
        seen.append(masks)

    masks = prune_iteratively(model, train, 0.9, 5)
    for earlier, later in pairwise(seen):
        assert all(not (later[n] & ~earlier[n]).any() for n in later)
    assert sparsity_of(masks) == pytest.approx(0.9, abs=0.01)
    for name, weight in prunable(model).items():
        assert (weight[~masks[name]] == 0).all()


def test_rewinding_trains_from_the_given_weights_in_every_round() -> None:
    model = network()
    start = copy.deepcopy(model.state_dict())
    a_step(model, magnitude_masks(model, 0.0))
    begun = []

    def train(trained: nn.Module, masks: dict[str, Tensor]) -> None:
        expected = {n: v * masks[n] if n in masks else v for n, v in start.items()}
        begun.append(
            all(torch.equal(v, expected[n]) for n, v in trained.state_dict().items())
        )
        a_step(trained, masks)

    prune_iteratively(model, train, 0.8, 3, rewind_to=start)
    assert begun == [True, True, True]
    begun.clear()
    prune_iteratively(model, train, 0.8, 3)
    assert begun == [False, False, False]


def test_one_round_is_one_shot_pruning() -> None:
    ours, once = network(), network()
    prune_iteratively(ours, a_step, 0.6, 1)
    masks = magnitude_masks(once, 0.6)
    apply_masks(once, masks)
    a_step(once, masks)
    for a, b in zip(ours.parameters(), once.parameters(), strict=True):
        assert torch.equal(a, b)


def test_shuffled_masks_keep_as_many_of_each_layer() -> None:
    masks = magnitude_masks(network(), 0.7)
    torch.manual_seed(0)
    other = shuffled(masks)
    for name, mask in masks.items():
        assert other[name].shape == mask.shape and other[name].sum() == mask.sum()
    assert any(not torch.equal(other[n], m) for n, m in masks.items())


def test_a_wrong_sparsity_and_no_round_are_refused() -> None:
    for sparsity in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"sparsity={sparsity}, rounds=2"):
            prune_iteratively(network(), a_step, sparsity, 2)
    with pytest.raises(ValueError, match=r"rounds=0"):
        pruning_rounds(0.5, 0)


# ---------------------------------------------------------------- numbers


ROUNDS = 6
WAYS = ["one_shot", "iterative", "rewound"]  # the last makes the drawn masks too


def one_way(way: str, rounds: int, seed: int) -> dict[str, object]:
    """Accuracy after each of the rounds; each halves the weights that are left."""
    epochs, rate = bench_trained.AGAIN_EPOCHS, bench_trained.AGAIN_RATE
    found: list[float] = []

    def train(
        model: nn.Module, masks: dict[str, Tensor], epochs: int, rate: float
    ) -> None:
        bench_trained.train(
            model,
            seed,
            epochs=epochs,
            rate=rate,
            update=bench_trained.keeping(model, masks),
        )
        found.append(bench_trained.score(model))

    final = 1 - 0.5**rounds
    if way == "one_shot":
        for r in range(1, rounds + 1):  # as many epochs as the rounds have by then
            model = bench_trained.trained(seed)
            prune_iteratively(
                model, lambda m, k, r=r: train(m, k, r * epochs, rate), 1 - 0.5**r, 1
            )
        return {"accuracies": found}
    model = bench_trained.trained(seed)
    if way == "iterative":
        prune_iteratively(model, lambda m, k: train(m, k, epochs, rate), final, rounds)
        return {"accuracies": found}
    start = copy.deepcopy(bench_trained.untrained(seed).state_dict())

    def whole(model: nn.Module, masks: dict[str, Tensor]) -> None:
        train(model, masks, bench_trained.EPOCHS, 0.1)

    drawn: list[dict[str, Tensor]] = []

    def rewound(model: nn.Module, masks: dict[str, Tensor]) -> None:
        drawn.append(masks)
        whole(model, masks)

    prune_iteratively(model, rewound, final, rounds, rewind_to=start)
    chosen, found = found, []
    for r, masks in enumerate(drawn):
        torch.manual_seed(1000 * seed + r)
        other, model = shuffled(masks), bench_trained.untrained(seed)
        apply_masks(model, other)
        bench_trained.train(model, seed, update=bench_trained.keeping(model, other))
        found.append(bench_trained.score(model))
    return {"accuracies": chosen, "random": found}


def once_from_the_start(rounds: int, seed: int) -> dict[str, object]:
    """Accuracy of networks cut in one round and trained from the first weights."""
    start = copy.deepcopy(bench_trained.untrained(seed).state_dict())
    found: list[float] = []

    def whole(model: nn.Module, masks: dict[str, Tensor]) -> None:
        bench_trained.train(model, seed, update=bench_trained.keeping(model, masks))
        found.append(bench_trained.score(model))

    for r in range(1, rounds + 1):
        model = bench_trained.trained(seed)
        prune_iteratively(model, whole, 1 - 0.5**r, 1, rewind_to=start)
    return {"accuracies": found}


def paired_at(runs: dict[str, list[dict[str, list[float]]]], r: int) -> dict[str, dict]:
    """Accuracy of all ways after round r, and what the rounds and the choice of the mask change."""
    values = {
        way: [run["accuracies"][r] for run in runs_of] for way, runs_of in runs.items()
    }
    row: dict[str, dict] = {
        way: {**interval(found), "values": found} for way, found in values.items()
    }
    row["rounds_matter"] = paired(values["iterative"], values["one_shot"])
    row["rounds_matter_rewound"] = paired(values["rewound"], values["once_rewound"])
    row["choice_matters"] = paired(values["rewound"], values["random"])
    row["once_against_random"] = paired(values["once_rewound"], values["random"])
    return row


def five_ways(ways: list[str], rounds: int, seeds: list[int]) -> dict[str, object]:
    folder = ROOT / ".cache/record"
    arms = {way: {"way": way, "rounds": rounds} for way in ways}
    runs = repeat(one_way, arms, seeds, folder / "iterative_pruning.jsonl")
    runs["random"] = [{"accuracies": run["random"]} for run in runs["rewound"]]
    once = {"once_rewound": {"rounds": rounds}}
    runs |= repeat(once_from_the_start, once, seeds, folder / "iterative_once.jsonl")
    first, again = bench_trained.EPOCHS, bench_trained.AGAIN_EPOCHS
    return {
        "seeds": len(seeds),
        "epochs": {
            "again": first + rounds * again,
            "rewound": first + rounds * first,
            "once_rewound": first + first,
        },
        "arms": {
            f"round_{r + 1}": {
                "name": f"{100 - 100 * 0.5 ** (r + 1):.1f} %",
                **paired_at(runs, r),
            }
            for r in range(rounds)
        },
    }


@pytest.mark.record
def test_record_five_ways_to_the_same_sparsity(evidence) -> None:
    arguments = {"ways": WAYS, "rounds": ROUNDS, "seeds": list(bench_trained.SEEDS)}
    evidence.measured("garments", arguments=arguments, run=five_ways)
