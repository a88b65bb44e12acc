"""LAMB takes timm's steps and those of algorithm 2, each a fixed part of the norm of what it changes."""

import copy
import math
from functools import partial
from typing import Any

import pytest
import timm.optim
import torch
from torch import Tensor, nn

from cnn_lab import bench
from cnn_site import race
from cnn_site.optimizers import state_of_resnet50
from cnn_site.parity import compare_steps
from cnn_techniques.optimization import LAMB, AdamW


def path(theta: Tensor, gradients: Tensor, **settings: object) -> Tensor:
    """Where LAMB goes when it is given one gradient after the other."""
    weight = nn.Parameter(theta.clone())
    optimizer = LAMB([weight], **{"lr": 0.01, "weight_decay": 0.1, **settings})  # type: ignore[arg-type]
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    return weight.detach()


DEVICE_CASES = {
    "LAMB": lambda: (path, (torch.randn(6, 5), torch.randn(20, 6, 5))),
}

OWN = (  # values for everything that a group may set
    {"weight_decay": 0.3},
    {"weight_decay": 0.0, "lr": 0.02, "always_adapt": False},
    {"betas": (0.5, 0.9), "eps": 1e-3},
)
STATE = {key: key for key in ("exp_avg", "exp_avg_sq")}


def timm_lamb(groups: Any, **options: Any) -> torch.optim.Optimizer:
    """timm's, with the count of steps that its first step would make."""
    options = {"always_adapt": True, **options}
    optimizer = timm.optim.Lamb(groups, max_grad_norm=None, **options)
    for group in optimizer.param_groups:
        group["step"] = torch.tensor(0.0)
    return optimizer


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("adapt", [True, False])
def test_fifty_steps_are_those_of_timm(evidence, decay: float, adapt: bool) -> None:
    own = [{**group} for group in OWN]
    own[1]["always_adapt"] = not adapt
    found = compare_steps(
        LAMB,
        timm_lamb,
        options={"lr": 1e-2, "weight_decay": decay, "always_adapt": adapt},
        groups=own if decay else "three",
        state=STATE,
    )
    if decay and adapt:
        evidence.equivalent(
            "timm",
            found,
            reference="timm.optim.Lamb",
            settings="max_grad_norm=None, always_adapt=True but where weight_decay is 0; lr 0.01, weight_decay 0.1",
        )


def test_fifty_steps_are_those_of_timm_when_the_rate_follows_a_schedule() -> None:
    compare_steps(
        LAMB,
        timm_lamb,
        options={"lr": 1e-2, "weight_decay": 0.1},
        state=STATE,
        schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50),
    )


def test_the_update_is_algorithm_2_written_with_sums_over_all_gradients() -> None:
    # every step: a direction of unit length, times the rate, times the norm of x
    torch.manual_seed(0)
    gradients = torch.randn(12, 5, dtype=torch.float64)
    theta = torch.randn(5, dtype=torch.float64)
    x = theta.clone()
    for t in range(1, 13):
        ages = torch.arange(t - 1, -1, -1, dtype=torch.float64)[:, None]
        weights_m, weights_v = 0.9**ages, 0.999**ages
        m_hat = (weights_m * gradients[:t]).sum(0) / weights_m.sum(0)
        v_hat = (weights_v * gradients[:t] ** 2).sum(0) / weights_v.sum(0)
        direction = m_hat / (v_hat.sqrt() + 1e-6) + 0.1 * x
        unit = direction / direction.square().sum().sqrt()
        x = x - 0.01 * x.square().sum().sqrt() * unit
    torch.testing.assert_close(path(theta, gradients), x, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shape", [(7,), (4, 3), (4, 2, 3, 3)])
def test_every_step_is_the_same_part_of_the_norm_of_a_parameter(
    scale: float, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    before = scale * torch.randn(shape, dtype=torch.float64)
    gradients = torch.randn(4, *shape, dtype=torch.float64)
    for t in range(1, 5):
        start = path(before, gradients[: t - 1])
        after = path(before, gradients[:t])
        assert ((after - start).norm() / start.norm()).item() == pytest.approx(
            0.01, rel=1e-9
        )


def test_the_first_step_of_equal_weights_is_the_same_for_each_of_them() -> None:
    # the signs of the gradients, as long as the weights: theta = 3, lr = 0.1
    gradient = torch.tensor([[5.0, -1e-3, 1e3]], dtype=torch.float64)
    theta = torch.full((3,), 3.0, dtype=torch.float64)
    after = path(theta, gradient, lr=0.1, weight_decay=0.0, eps=1e-30)
    torch.testing.assert_close(
        after, theta.new_tensor([2.7, 3.3, 2.7]), rtol=1e-12, atol=0
    )


def test_the_path_does_not_depend_on_the_scale_of_the_loss() -> None:
    torch.manual_seed(0)
    theta = torch.randn(7, dtype=torch.float64)
    gradients = torch.randn(30, 7, dtype=torch.float64)
    settings = {"eps": 1e-20}
    torch.testing.assert_close(
        path(theta, 1e5 * gradients, **settings),
        path(theta, gradients, **settings),
        rtol=1e-10,
        atol=0,
    )


def test_without_decay_a_layer_that_is_scaled_takes_the_scaled_path() -> None:
    torch.manual_seed(0)
    theta = torch.randn(7, dtype=torch.float64)
    gradients = torch.randn(30, 7, dtype=torch.float64)
    small = path(theta, gradients, weight_decay=0.0, eps=1e-20)
    large = path(1e3 * theta, gradients / 1e3, weight_decay=0.0, eps=1e-20)
    torch.testing.assert_close(large, 1e3 * small, rtol=1e-10, atol=0)


def test_without_adaptation_and_decay_it_is_adam() -> None:
    torch.manual_seed(0)
    theta = torch.randn(7, dtype=torch.float64)
    gradients = torch.randn(30, 7, dtype=torch.float64)
    weight = nn.Parameter(theta.clone())
    adam = torch.optim.Adam([weight], lr=0.01, eps=1e-6)
    for gradient in gradients:
        weight.grad = gradient
        adam.step()
    torch.testing.assert_close(
        path(theta, gradients, weight_decay=0.0, always_adapt=False),
        weight.detach(),
        rtol=1e-10,
        atol=0,
    )


def test_from_zero_the_first_step_is_adams_and_the_next_ones_are_parts_of_it() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    ones = -torch.ones(11, 3, dtype=torch.float64)
    after = path(zero, ones, weight_decay=0.0, eps=1e-30)
    torch.testing.assert_close(
        after, torch.full_like(after, 0.01 * 1.01**10), rtol=1e-10, atol=0
    )


def test_a_gradient_of_zero_shrinks_weights_by_the_rate_whatever_the_decay() -> None:
    theta = torch.tensor([3.0, -4.0], dtype=torch.float64)
    for decay in (0.001, 1.0):
        after = path(theta, torch.zeros(1, 2).double(), weight_decay=decay)
        torch.testing.assert_close(after, 0.99 * theta, rtol=1e-12, atol=0)
    after = path(theta, torch.zeros(1, 2).double(), weight_decay=0.0)
    assert torch.equal(after, theta)


def test_a_rate_of_zero_changes_no_weight() -> None:
    assert torch.equal(path(torch.ones(2), torch.ones(3, 2), lr=0.0), torch.ones(2))


def test_a_group_added_later_counts_its_own_steps() -> None:
    early, late = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    settings: dict[str, Any] = {"weight_decay": 0.0, "always_adapt": False}
    optimizer = LAMB([early], lr=0.1, **settings)
    for _ in range(3):
        early.grad = torch.ones(1)
        optimizer.step()
    optimizer.add_param_group({"params": [late]})
    late.grad = torch.ones(1)
    optimizer.step()
    assert [group["step"] for group in optimizer.param_groups] == [4, 1]
    assert late.item() == pytest.approx(0.9, rel=1e-6)  # a first step, of full length


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lr": -1e-3}, r"lr of 0 or more, got -0\.001"),
        ({"lr": math.nan}, "got nan"),
        ({"betas": (1.0, 0.999)}, r"got \(1\.0, 0\.999\)"),
        ({"betas": (0.9, -0.1)}, r"got \(0\.9, -0\.1\)"),
        ({"betas": (0.9,)}, "two betas"),
        ({"eps": 0.0}, r"eps above 0, got 0\.0"),
        ({"weight_decay": -0.1}, r"weight_decay of 0 or more, got -0\.1"),
    ],
)
def test_values_out_of_range_are_refused_as_defaults_and_in_groups(
    settings: dict[str, object], told: str
) -> None:
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=told):
        LAMB([weight], **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=told):
        LAMB([{"params": [weight], **settings}])


def test_what_it_cannot_optimise_is_refused() -> None:
    table = nn.Embedding(10, 3, sparse=True)
    optimizer = LAMB(table.parameters())
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(
        TypeError, match=r"dense gradient, got layout torch\.sparse_coo"
    ):
        optimizer.step()
    with pytest.raises(TypeError, match=r"torch\.complex64"):
        LAMB([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    with pytest.raises(ValueError, match="empty"):
        LAMB([])


def stepped(kind: type, groups: int = 1, **settings: object) -> torch.optim.Optimizer:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(groups)]
    optimizer: torch.optim.Optimizer = kind(
        [{"params": [weight]} for weight in weights], lr=0.5, **settings
    )
    sum(weight.sum() for weight in weights).backward()
    optimizer.step()
    return optimizer


def test_a_state_of_timm_is_loaded_as_it_is_and_its_steps_go_on() -> None:
    optimizer = stepped(LAMB)
    theirs = stepped(timm.optim.Lamb, max_grad_norm=None)
    theirs.step()
    optimizer.load_state_dict(copy.deepcopy(theirs.state_dict()))
    optimizer.step()
    assert optimizer.param_groups[0]["step"] == 3
    never_stepped = timm.optim.Lamb([nn.Parameter(torch.ones(2))])
    optimizer.load_state_dict(never_stepped.state_dict())
    optimizer.step()
    assert optimizer.param_groups[0]["step"] == 1


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (AdamW, {}),
        (torch.optim.Adam, {}),
        (timm.optim.Lion, {}),
    ],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_state_of_another_optimizer_or_of_other_groups_is_refused_as_a_whole(
    kind: type, settings: dict[str, object], groups: int
) -> None:
    optimizer = stepped(LAMB)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=f"state of 1 groups .* got {groups} groups"):
        optimizer.load_state_dict(stepped(kind, groups, **settings).state_dict())
    with pytest.raises(ValueError, match="got 2 groups"):
        optimizer.load_state_dict(stepped(LAMB, 2).state_dict())
    assert str(optimizer.state_dict()) == str(before)


def test_the_state_is_two_numbers_for_every_parameter(evidence) -> None:
    rows = state_of_resnet50({"adamw": ("AdamW", AdamW), "lamb": ("LAMB", LAMB)})
    evidence.computed("cost", rows)
    assert [row["per_parameter"] for row in rows.values()] == [2, 2]


# ---------------------------------------------------------------- the race


RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # fixed before any run


def race_arm(rate: float) -> bench.Arm:
    return bench.Arm(
        "LAMB", optimizer=lambda m: LAMB(m.parameters(), lr=rate, weight_decay=0.01)
    )


@pytest.mark.record
def test_record_the_race(evidence) -> None:
    arguments = race.arguments(RATES, "optimization/lamb")
    evidence.measured("race", arguments=arguments, run=partial(race.race, race_arm))


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(race.time_of_a_step, race_arm)
    evidence.measured("time", arguments={}, run=run)
