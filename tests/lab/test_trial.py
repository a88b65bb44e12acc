"""The one recipe learns what can be learnt, and its rows are what pages show."""

from pathlib import Path

import torch
from torch import Tensor, nn

from cnn_lab.trial import learn_by_heart, learn_digits, score_loss, trials


def small(momentum: float = 0.1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2),
        nn.BatchNorm2d(16, momentum=momentum),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(144, 10),
    )


def test_a_small_network_learns_the_digits() -> None:
    torch.manual_seed(0)
    found = learn_digits(small(), pixels=16, epochs=4, seed=0)
    assert found["accuracy"] > 0.6
    assert len(found["curve"]) == 4
    assert found["curve"][-1] < found["curve"][0]


def test_batch_norms_of_low_momentum_are_set_by_a_last_pass() -> None:
    torch.manual_seed(0)
    model = small(momentum=0.001)
    assert learn_digits(model, pixels=16, epochs=4)["accuracy"] > 0.6
    moved = model[1].running_var - 1
    assert moved.abs().min() > 0.1  # far from where it began


def test_a_batch_is_learnt_by_heart() -> None:
    torch.manual_seed(0)
    found = learn_by_heart(small(), pixels=16, steps=60, learning_rate=3e-2)
    assert found["accuracy"] == 1.0
    assert len(found["curve"]) == 60


def test_auxiliary_scores_are_not_trained() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x * torch.nan

    loss = score_loss(Two(), torch.zeros(2, 10), torch.tensor([1, 2]))
    torch.testing.assert_close(loss, torch.tensor(10.0).log())


def test_trials_are_rows_with_all_runs_in_them(tmp_path: Path) -> None:
    found = trials(run_once, [3, 4], tmp_path / "x.jsonl", {"a": ("A", {"gain": 2})})
    row = found["arms"]["a"]
    assert row["name"] == "A"
    assert row["accuracy"]["values"] == [0.6, 0.8]
    assert row["accuracy"]["mean"] == 0.7
    assert row["curve"] == [[1.0, 0.25], [1.0, 0.25]]
    assert found["seeds"] == 2


def run_once(gain: int, seed: int) -> dict[str, object]:
    return {"accuracy": gain * seed / 10, "curve": [1.0, 0.25]}
