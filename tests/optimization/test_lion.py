"""Lion takes timm's steps and those of algorithm 2, all of one length, and refuses what it cannot optimise."""

import copy
import math
from functools import partial

import pytest
import timm.optim
import torch
from torch import Tensor, nn

from cnn_lab import bench
from cnn_site import race
from cnn_site.optimizers import state_of_resnet50
from cnn_site.parity import compare_steps
from cnn_techniques.optimization import AdamW, Lion


def path(theta: Tensor, gradients: Tensor, **settings: object) -> Tensor:
    """Where Lion goes when it is given one gradient after the other."""
    weight = nn.Parameter(theta.clone())
    optimizer = Lion([weight], **{"lr": 0.01, "weight_decay": 0.1, **settings})  # type: ignore[arg-type]
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    return weight.detach()


DEVICE_CASES = {
    "Lion": lambda: (path, (torch.randn(6, 5), torch.randn(20, 6, 5))),
}

OWN = (  # values for everything that a group may set
    {"weight_decay": 0.3},
    {"weight_decay": 0.0, "lr": 0.02},
    {"betas": (0.95, 0.98)},
)
STATE = {"exp_avg": "exp_avg"}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("closure", [False, True])
def test_fifty_steps_are_those_of_timm(evidence, decay: float, closure: bool) -> None:
    found = compare_steps(
        Lion,
        timm.optim.Lion,
        options={"lr": 1e-2, "weight_decay": decay},
        groups=OWN,
        state=STATE,
        closure=closure,
    )
    if decay and not closure:
        evidence.equivalent(
            "timm",
            found,
            reference="timm.optim.Lion",
            settings="lr 0.01, weight_decay 0.1; caution and corrected_weight_decay are not offered",
        )


def test_fifty_steps_are_those_of_timm_when_the_rate_follows_a_schedule() -> None:
    compare_steps(
        Lion,
        timm.optim.Lion,
        options={"lr": 1e-2, "weight_decay": 0.1},
        state=STATE,
        schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50),
    )


def test_the_update_is_algorithm_2_written_with_sums_over_all_gradients() -> None:
    # c_t is a sum over the history: beta1 of the old mean, whose ages count by beta2
    torch.manual_seed(0)
    gradients = torch.randn(12, 5, dtype=torch.float64)
    theta = torch.randn(5, dtype=torch.float64)
    expected = theta.clone()
    for t in range(1, 13):
        ages = torch.arange(t - 2, -1, -1, dtype=torch.float64)[:, None]
        m = ((1 - 0.99) * 0.99**ages * gradients[: t - 1]).sum(0)
        upwards = 0.9 * m + 0.1 * gradients[t - 1] > 0
        expected = (1 - 0.01 * 0.1) * expected - 0.01 * (2 * upwards.double() - 1)
    torch.testing.assert_close(path(theta, gradients), expected, rtol=1e-12, atol=0)


def test_every_weight_moves_by_the_rate_at_every_step() -> None:
    torch.manual_seed(0)
    theta = torch.zeros(1000, dtype=torch.float64)
    gradients = torch.randn(5, 1000, dtype=torch.float64)
    before = theta
    for t in range(1, 6):
        after = path(theta, gradients[:t], weight_decay=0.0)
        torch.testing.assert_close(
            (after - before).abs(), torch.full_like(theta, 0.01), rtol=1e-12, atol=0
        )
        before = after


def test_the_first_step_is_along_the_sign_of_the_gradient() -> None:
    gradient = torch.tensor([[1e-30, -1e-3, 0.0, 1e6]], dtype=torch.float64)
    after = path(torch.zeros(4, dtype=torch.float64), gradient)
    assert after.tolist() == [-0.01, 0.01, 0.0, -0.01]


def test_the_path_does_not_depend_on_the_scale_of_the_loss() -> None:
    torch.manual_seed(0)
    theta = torch.randn(7, dtype=torch.float64)
    gradients = torch.randn(30, 7, dtype=torch.float64)
    scales = 10.0 ** torch.arange(-9, 12, 3, dtype=torch.float64)  # one per coordinate
    assert torch.equal(path(theta, gradients * scales), path(theta, gradients))


def test_without_memory_it_is_a_step_along_the_sign_of_each_gradient() -> None:
    torch.manual_seed(0)
    theta = torch.randn(7, dtype=torch.float64)
    gradients = torch.randn(9, 7, dtype=torch.float64)
    found = path(theta, gradients, betas=(0.0, 0.99), weight_decay=0.0)
    expected = theta - 0.01 * gradients.sign().sum(0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_with_equal_betas_it_steps_along_the_sign_of_the_momentum() -> None:
    torch.manual_seed(0)
    theta = torch.randn(7, dtype=torch.float64)
    gradients = torch.randn(9, 7, dtype=torch.float64)
    found = path(theta, gradients, betas=(0.9, 0.9), weight_decay=0.0)
    m, expected = torch.zeros_like(theta), theta.clone()
    for gradient in gradients:
        m = 0.9 * m + 0.1 * gradient
        expected = expected - 0.01 * m.sign()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_decay_holds_every_weight_within_one_over_its_strength() -> None:
    # theta <- (1 - lr * decay) * theta -+ lr: where both terms are equal, it stays
    gradients = -torch.ones(3000, 2, dtype=torch.float64)
    start = torch.tensor([0.0, 9.0], dtype=torch.float64)
    after = path(start, gradients, lr=0.01, weight_decay=0.5)
    torch.testing.assert_close(
        after, torch.full_like(after, 1 / 0.5), rtol=1e-5, atol=0
    )


def test_a_gradient_of_zero_does_not_stop_a_weight() -> None:
    gradients = torch.zeros(1001, 1, dtype=torch.float64)
    gradients[0] = 1e-6
    after = path(torch.zeros(1, dtype=torch.float64), gradients, weight_decay=0.0)
    assert after.item() == pytest.approx(-0.01 * 1001, rel=1e-12)


def test_a_rate_of_zero_changes_no_weight() -> None:
    gradients = torch.ones(3, 2)
    assert torch.equal(path(torch.ones(2), gradients, lr=0.0), torch.ones(2))


def test_a_bowl_is_gone_down_with_a_rate_that_falls() -> None:
    weight = nn.Parameter(torch.tensor([5.0, -3.0], dtype=torch.float64))
    optimizer = Lion([weight], lr=0.1)
    for t in range(2000):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - t / 2000)
        weight.grad = weight.new_tensor([1.0, 1e4]) * (weight.detach() - 1.0)
        optimizer.step()
    torch.testing.assert_close(
        weight.detach(), torch.ones_like(weight), atol=0.02, rtol=0
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lr": -1e-3}, r"lr of 0 or more, got -0\.001"),
        ({"lr": math.inf}, "got inf"),
        ({"betas": (1.0, 0.99)}, r"got \(1\.0, 0\.99\)"),
        ({"betas": (0.9, math.nan)}, r"got \(0\.9, nan\)"),
        ({"betas": (0.9,)}, "two betas"),
        ({"weight_decay": -0.1}, r"weight_decay of 0 or more, got -0\.1"),
    ],
)
def test_values_out_of_range_are_refused_as_defaults_and_in_groups(
    settings: dict[str, object], told: str
) -> None:
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=told):
        Lion([weight], **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=told):
        Lion([{"params": [weight], **settings}])


def test_what_it_cannot_optimise_is_refused() -> None:
    table = nn.Embedding(10, 3, sparse=True)
    optimizer = Lion(table.parameters())
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(
        TypeError, match=r"dense gradient, got layout torch\.sparse_coo"
    ):
        optimizer.step()
    with pytest.raises(TypeError, match=r"torch\.complex64"):
        Lion([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    with pytest.raises(ValueError, match="empty"):
        Lion([])


def stepped(kind: type, groups: int = 1, **settings: object) -> torch.optim.Optimizer:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(groups)]
    optimizer: torch.optim.Optimizer = kind(
        [{"params": [weight]} for weight in weights], lr=0.5, **settings
    )
    sum(weight.sum() for weight in weights).backward()
    optimizer.step()
    return optimizer


def test_saved_states_are_loaded_by_timm_as_they_are_and_back() -> None:
    for giver, taker in ((Lion, timm.optim.Lion), (timm.optim.Lion, Lion)):
        given, other = stepped(giver), stepped(taker)
        for _ in range(2):  # torch adds an option of its own when it loads
            other.load_state_dict(copy.deepcopy(given.state_dict()))
        assert other.param_groups[0]["lr"] == 0.5
        other.step()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (AdamW, {}),
        (torch.optim.RMSprop, {}),
    ],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_state_of_another_optimizer_or_of_other_groups_is_refused_as_a_whole(
    kind: type, settings: dict[str, object], groups: int
) -> None:
    optimizer = stepped(Lion)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=f"state of 1 groups .* got {groups} groups"):
        optimizer.load_state_dict(stepped(kind, groups, **settings).state_dict())
    with pytest.raises(ValueError, match="got 2 groups"):
        optimizer.load_state_dict(stepped(Lion, 2).state_dict())
    assert str(optimizer.state_dict()) == str(before)


def test_the_state_is_one_number_for_every_parameter(evidence) -> None:
    rows = state_of_resnet50({"adamw": ("AdamW", AdamW), "lion": ("Lion", Lion)})
    evidence.computed("cost", rows)
    assert [row["per_parameter"] for row in rows.values()] == [2, 1]


# ---------------------------------------------------------------- the race


RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)  # fixed before any run


def race_arm(rate: float) -> bench.Arm:
    return bench.Arm(
        "Lion", optimizer=lambda m: Lion(m.parameters(), lr=rate, weight_decay=0.1)
    )


@pytest.mark.record
def test_record_the_race(evidence) -> None:
    arguments = race.arguments(RATES, "optimization/lion")
    evidence.measured("race", arguments=arguments, run=partial(race.race, race_arm))


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(race.time_of_a_step, race_arm)
    evidence.measured("time", arguments={}, run=run)
