"""SGD makes torch's steps, which are Polyak's and, from another point of view, those of Sutskever et al."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from cnn_lab import bench
from cnn_site import race
from cnn_site.optimizers import state_of_resnet50
from cnn_site.parity import compare_steps
from cnn_techniques.optimization import SGD, Adam


def path(theta: Tensor, gradients: Tensor) -> Tensor:
    """Where Nesterov's momentum goes when it is given one gradient after the other."""
    weight = nn.Parameter(theta.clone())
    optimizer = SGD([weight], lr=0.01, momentum=0.9, weight_decay=0.1, nesterov=True)
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    return weight.detach()


DEVICE_CASES = {
    "SGD": lambda: (path, (torch.randn(6, 5), torch.randn(20, 6, 5))),
}

OWN = (  # values for everything that a group may set
    {"weight_decay": 0.3, "dampening": 0.4},
    {"momentum": 0.5, "lr": 0.02},
    {"momentum": 0.8, "nesterov": True},
)
STATE = {"momentum_buffer": "momentum_buffer"}  # torch's name
BOWL = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)  # its Hessian


def down(start: Tensor, steps: int, hessian: Tensor = BOWL, **settings) -> list[Tensor]:
    """The points of a descent in the bowl theta @ hessian @ theta / 2."""
    weight = nn.Parameter(start.clone())
    optimizer = SGD([weight], **settings)
    points = [start]
    for _ in range(steps):
        weight.grad = hessian @ weight.detach()
        optimizer.step()
        points.append(weight.detach().clone())
    return points


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_fifty_steps_are_those_of_torch(evidence, decay: float) -> None:
    options = {"lr": 1e-2, "momentum": 0.9, "weight_decay": decay}
    found = compare_steps(
        SGD, torch.optim.SGD, options=options, groups=OWN, state=STATE
    )
    if decay:
        evidence.equivalent(
            "torch",
            found,
            reference="torch.optim.SGD",
            settings="lr 0.01, momentum 0.9, weight_decay 0.1; maximize is not offered",
        )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fifty_steps_are_those_of_torch_when_the_rate_follows_a_schedule(
    momentum: float,
) -> None:
    compare_steps(
        SGD,
        torch.optim.SGD,
        options={"lr": 1e-2, "momentum": momentum, "weight_decay": 0.1},
        state=STATE if momentum else None,
        schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50),
    )


@pytest.mark.parametrize("first", [SGD, torch.optim.SGD])
def test_a_saved_state_goes_on_as_it_is_in_the_other_class(first: type) -> None:
    second = torch.optim.SGD if first is SGD else SGD
    torch.manual_seed(0)
    gradients = torch.randn(8, 5, dtype=torch.float64)
    weights = [nn.Parameter(torch.zeros(5, dtype=torch.float64)) for _ in range(2)]
    optimizers = [
        first([weights[0]], lr=0.1, momentum=0.9),
        second([weights[1]], lr=0.7, momentum=0.3, nesterov=True),  # to be overwritten
    ]
    for n, gradient in enumerate(gradients):
        if n == 4:
            weights[1].data.copy_(weights[0].data)
            optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = gradient
            if n >= 4 or optimizer is optimizers[0]:
                optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-12, atol=0)


def test_the_points_are_those_of_the_heavy_ball() -> None:
    # Polyak: x_{k+1} = x_k - alpha * gradient + beta * (x_k - x_{k-1})
    alpha, beta = 0.1, 0.8
    start = torch.tensor([2.0, -1.0], dtype=torch.float64)
    before, x, expected = start, start, [start]
    for _ in range(40):
        before, x = x, x - alpha * BOWL @ x + beta * (x - before)
        expected.append(x)
    found = down(start, 40, lr=alpha, momentum=beta)
    torch.testing.assert_close(
        torch.stack(found), torch.stack(expected), rtol=1e-11, atol=1e-15
    )


def test_nesterovs_points_are_those_at_which_sutskever_et_al_take_the_gradient() -> (
    None
):
    # v <- mu * v - epsilon * gradient(theta + mu * v), theta <- theta + v
    mu, epsilon = 0.8, 0.1
    theta = torch.tensor([2.0, -1.0], dtype=torch.float64)
    v, ahead = torch.zeros_like(theta), []
    for _ in range(40):
        ahead.append(theta + mu * v)
        v = mu * v - epsilon * BOWL @ ahead[-1]
        theta = theta + v
    found = down(ahead[0], 39, lr=epsilon, momentum=mu, nesterov=True)
    torch.testing.assert_close(
        torch.stack(found), torch.stack(ahead), rtol=1e-11, atol=1e-15
    )


def test_the_velocity_is_a_sum_of_all_gradients_each_kept_by_mu_per_step() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(12, 5, dtype=torch.float64)
    theta = torch.randn(5, dtype=torch.float64)
    expected = theta.clone()
    for t in range(1, 13):
        ages = torch.arange(t - 1, -1, -1, dtype=torch.float64)[:, None]
        expected = expected - 0.1 * (0.9**ages * gradients[:t]).sum(0)
    weight = nn.Parameter(theta.clone())
    optimizer = SGD([weight], lr=0.1, momentum=0.9)
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("nesterov", [False, True])
def test_under_one_gradient_the_steps_grow_to_one_over_one_minus_mu(
    nesterov: bool,
) -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SGD([weight], lr=0.1, momentum=0.9, nesterov=nesterov)
    for t in range(1, 200):
        before = weight.item()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        terms = t + nesterov  # Nesterov's step has one more term of the series
        assert before - weight.item() == pytest.approx(
            0.1 * (1 - 0.9**terms) / (1 - 0.9), rel=1e-9
        )


def test_dampening_as_large_as_momentum_is_a_mean_that_starts_at_the_first_gradient() -> (
    None
):
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SGD([weight], lr=0.1, momentum=0.75, dampening=0.75)
    for gradient, mean in ((4.0, 4.0), (4.0, 4.0), (0.0, 3.0), (3.0, 3.0)):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        assert optimizer.state[weight]["momentum_buffer"].item() == mean


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("curvature", [0.3, 20.0])
def test_it_is_stable_up_to_a_rate_of_two_times_one_plus_mu_over_the_curvature(
    mu: float, curvature: float
) -> None:
    hessian = torch.tensor([[curvature]], dtype=torch.float64)
    start = torch.ones(1, dtype=torch.float64)
    limit = 2 * (1 + mu) / curvature
    below = down(start, 1000, hessian, lr=0.99 * limit, momentum=mu)
    above = down(start, 1000, hessian, lr=1.01 * limit, momentum=mu)
    assert below[-1].abs() < 0.05
    assert above[-1].abs() > 20


def test_with_polyaks_rate_and_momentum_the_error_falls_by_the_root_of_the_condition() -> (
    None
):
    # curvatures 1 to 100: the factor per step is (10 - 1) / (10 + 1), and without
    # momentum at best (100 - 1) / (100 + 1)
    hessian = torch.tensor([1.0, 30.0, 100.0], dtype=torch.float64).diag()
    start = torch.ones(3, dtype=torch.float64)
    ball = {"lr": 4 / (10 + 1) ** 2, "momentum": (9 / 11) ** 2}
    plain = {"lr": 2 / 101, "momentum": 0.0}
    for settings, factor in ((ball, 9 / 11), (plain, 99 / 101)):
        points = down(start, 150, hessian, **settings)
        seen = (points[150].norm() / points[100].norm()) ** (1 / 50)
        assert seen.item() == pytest.approx(factor, rel=0.02)


@pytest.mark.parametrize("mu", [0.0, 0.9, 0.99])
def test_the_noise_at_the_bottom_grows_as_the_rate_over_one_minus_mu(mu: float) -> None:
    # stationary variance under gradients h * theta + noise, from the 2 x 2 recursion
    h, lr = 1.0, 0.01
    expected = lr * (1 + mu) / (h * (1 - mu) * (2 * (1 + mu) - lr * h))
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(2000, dtype=torch.float64))
    optimizer = SGD([weight], lr=lr, momentum=mu)
    for _ in range(1500):
        weight.grad = h * weight.detach() + torch.randn_like(weight)
        optimizer.step()
    assert weight.detach().square().mean().item() == pytest.approx(expected, rel=0.1)
    assert expected == pytest.approx(lr / (1 - mu) / 2, rel=0.01)


def test_the_path_turns_with_the_bowl() -> None:
    angle = torch.tensor(0.7, dtype=torch.float64)
    turn = torch.stack(
        [
            torch.stack([angle.cos(), -angle.sin()]),
            torch.stack([angle.sin(), angle.cos()]),
        ]
    )
    start = torch.tensor([2.0, -1.0], dtype=torch.float64)
    straight = down(start, 30, lr=0.1)
    turned = down(turn @ start, 30, turn @ BOWL @ turn.T, lr=0.1)
    torch.testing.assert_close(
        torch.stack(turned), torch.stack(straight) @ turn.T, rtol=1e-10, atol=1e-14
    )


def test_the_velocity_is_no_alias_of_the_gradient() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = SGD([weight], lr=1.0, momentum=0.5)
    weight.grad = torch.ones(2)
    for _ in range(2):
        optimizer.step()
        assert weight.grad.tolist() == [1, 1]
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    assert optimizer.state[weight]["momentum_buffer"].tolist() == [0.75, 0.75]


def test_without_momentum_no_state_is_kept() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = SGD([weight], lr=0.5, momentum=0.0)
    weight.grad = torch.ones(2)
    optimizer.step()
    assert weight.tolist() == [0.5, 0.5]
    assert not optimizer.state


def test_decay_is_l2_in_the_gradient() -> None:
    torch.manual_seed(0)
    theta = torch.randn(4, dtype=torch.float64)
    with_decay, by_hand = nn.Parameter(theta.clone()), nn.Parameter(theta.clone())
    first = SGD([with_decay], lr=0.1, weight_decay=0.3)
    second = SGD([by_hand], lr=0.1)
    for gradient in torch.randn(5, 4, dtype=torch.float64):
        with_decay.grad = gradient
        by_hand.grad = gradient + 0.3 * by_hand.detach()
        first.step()
        second.step()
    torch.testing.assert_close(with_decay, by_hand, rtol=1e-12, atol=0)


def test_a_rate_of_zero_changes_nothing() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    SGD([weight], lr=0.0, weight_decay=0.5).step()
    assert weight.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lr": -1e-3}, r"lr of 0 or more, got -0\.001"),
        ({"lr": math.nan}, "got nan"),
        ({"lr": math.inf}, "got inf"),
        ({"momentum": 1.0}, r"momentum from 0 to below 1, got 1\.0"),
        ({"momentum": -0.5}, r"momentum from 0 to below 1, got -0\.5"),
        ({"dampening": 1.5}, r"dampening from 0 to below 1, got 1\.5"),
        ({"weight_decay": -0.1}, r"weight_decay of 0 or more, got -0\.1"),
        ({"nesterov": True, "momentum": 0.0}, "with nesterov, got momentum 0"),
        ({"nesterov": True, "dampening": 0.1}, r"and dampening 0\.1"),
    ],
)
def test_values_out_of_range_are_refused_as_defaults_and_in_groups(
    settings: dict[str, object], told: str
) -> None:
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=told):
        SGD([weight], **settings)
    with pytest.raises(ValueError, match=told):
        SGD([{"params": [weight], **settings}])


def test_what_it_cannot_optimise_is_refused_and_nothing_is_changed() -> None:
    first, table = nn.Parameter(torch.ones(1)), nn.Embedding(10, 3, sparse=True)
    optimizer = SGD([first, *table.parameters()])
    (first.sum() + table(torch.tensor([1, 2])).sum()).backward()
    with pytest.raises(TypeError, match=r"dense gradients, got torch\.sparse_coo"):
        optimizer.step()
    assert first.item() == 1.0
    with pytest.raises(TypeError, match=r"torch\.complex64"):
        optimizer.add_param_group(
            {"params": [nn.Parameter(torch.ones(2, dtype=torch.complex64))]}
        )
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="empty"):
        SGD([])


def stepped(make, *shapes: int) -> torch.optim.Optimizer:
    optimizer = make([nn.Parameter(torch.ones(n)) for n in shapes or (3,)])
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    "other",
    [
        lambda: stepped(Adam).state_dict(),
        lambda: stepped(torch.optim.AdamW).state_dict(),
        lambda: stepped(torch.optim.RMSprop).state_dict(),
        lambda: torch.optim.Adagrad([nn.Parameter(torch.ones(3))]).state_dict(),
        lambda: stepped(
            lambda p: torch.optim.SGD(p, momentum=0.9, maximize=True)
        ).state_dict(),
        lambda: torch.optim.lr_scheduler.StepLR(stepped(SGD), 3).state_dict(),
        lambda: {**stepped(SGD).state_dict(), "state": {0: {"exp_avg": torch.ones(3)}}},
    ],
)
def test_a_state_of_another_kind_is_refused_and_changes_nothing(other) -> None:
    optimizer = stepped(SGD)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="expected a state of SGD"):
        optimizer.load_state_dict(other())
    torch.testing.assert_close(optimizer.state_dict(), before)


def test_a_state_with_other_groups_or_values_is_refused_and_changes_nothing() -> None:
    optimizer = stepped(SGD)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(stepped(SGD, 3, 4).state_dict())
    wrong = copy.deepcopy(before)
    wrong["param_groups"][0]["momentum"] = 2.0
    with pytest.raises(ValueError, match=r"got 2\.0"):
        optimizer.load_state_dict(wrong)
    torch.testing.assert_close(optimizer.state_dict(), before)


def test_the_state_is_one_number_for_every_parameter(evidence) -> None:
    rows = state_of_resnet50(
        {
            "sgd": ("SGD", partial(SGD, momentum=0.0)),
            "momentum": ("SGD with momentum", partial(SGD, momentum=0.9)),
            "nesterov": ("SGD with Nesterov's momentum", partial(SGD, nesterov=True)),
            "adam": ("Adam", Adam),
        }
    )
    evidence.computed("cost", rows)
    assert [row["per_parameter"] for row in rows.values()] == [0, 1, 1, 2]


# ---------------------------------------------------------------- the race


RATES = (0.01, 0.03, 0.1, 0.3, 1.0)  # fixed before any run


def race_arm(rate: float) -> bench.Arm:
    return bench.Arm(
        "SGD with momentum",
        optimizer=lambda m: SGD(
            m.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4
        ),
    )


@pytest.mark.record
def test_record_the_race(evidence) -> None:
    arguments = race.arguments(RATES, "optimization/sgd-momentum")
    evidence.measured("race", arguments=arguments, run=partial(race.race, race_arm))


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(race.time_of_a_step, race_arm)
    evidence.measured("time", arguments={}, run=run)
