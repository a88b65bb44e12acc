"""RAdam makes torch's steps, which are those of algorithm 2, with a factor that evens out the variance of the rate."""

import copy
import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from cnn_lab import bench
from cnn_site import race
from cnn_site.optimizers import state_of_resnet50
from cnn_site.parity import compare_steps
from cnn_techniques.optimization import SGD, Adam, AdamW, RAdam, rectification


def path(theta: Tensor, gradients: Tensor) -> Tensor:
    """Where RAdam goes when it is given one gradient after the other."""
    return walk(theta, gradients, lr=0.01, weight_decay=0.1)[-1]


def walk(theta: Tensor, gradients: Tensor, **settings) -> Tensor:
    """The points after each step."""
    weight = nn.Parameter(theta.clone())
    optimizer = RAdam([weight], **settings)
    points = []
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
        points.append(weight.detach().clone())
    return torch.stack(points)


DEVICE_CASES = {
    "RAdam": lambda: (path, (torch.randn(6, 5), torch.randn(20, 6, 5))),
}

OWN = (  # values for everything that a group may set
    {"weight_decay": 0.3, "decoupled_weight_decay": True},
    {"weight_decay": 0.0, "lr": 0.02},
    {"betas": (0.5, 0.9), "eps": 1e-3},
)
STATE = {key: key for key in ("step", "exp_avg", "exp_avg_sq")}  # torch's names


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("beta2", [0.999, 0.95, 0.6])
def test_fifty_steps_are_those_of_torch(evidence, decay: float, beta2: float) -> None:
    found = compare_steps(
        RAdam,
        torch.optim.RAdam,
        options={"lr": 1e-2, "weight_decay": decay, "betas": (0.9, beta2)},
        groups=OWN,
        state=STATE,
    )
    if decay and beta2 == 0.999:
        evidence.equivalent(
            "torch",
            found,
            reference="torch.optim.RAdam",
            settings="lr 0.01, weight_decay 0.1; maximize is not offered",
        )


def test_fifty_steps_are_those_of_torch_when_the_rate_follows_a_schedule() -> None:
    compare_steps(
        RAdam,
        torch.optim.RAdam,
        options={"lr": 1e-2, "weight_decay": 0.1},
        state=STATE,
        schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50),
    )


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("first", [RAdam, torch.optim.RAdam])
def test_a_saved_state_goes_on_as_it_is_in_the_other_class(
    first: type, decoupled: bool
) -> None:
    second = torch.optim.RAdam if first is RAdam else RAdam
    torch.manual_seed(0)
    gradients = torch.randn(16, 5, dtype=torch.float64)
    weights = [nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(2)]
    options = {"weight_decay": 0.1, "decoupled_weight_decay": decoupled}
    optimizers = [
        first([weights[0]], lr=0.1, betas=(0.7, 0.8), **options),
        second([weights[1]], lr=0.7, eps=1e-2),  # to be overwritten
    ]
    for n, gradient in enumerate(gradients):
        if n == 8:
            weights[1].data.copy_(weights[0].data)
            optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = gradient
            if n >= 8 or optimizer is optimizers[0]:
                optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-12, atol=0)


def test_the_update_is_algorithm_2_written_with_sums_over_all_gradients() -> None:
    # rho from the mean age of a gradient in v; r as a ratio of two standard deviations
    torch.manual_seed(0)
    gradients = torch.randn(40, 5, dtype=torch.float64)
    theta = torch.randn(5, dtype=torch.float64)
    beta2, expected = 0.95, theta.clone()

    def variance(rho: float) -> float:  # of the adaptive rate, to first order
        return rho / (2 * (rho - 2) * (rho - 4))

    for t in range(1, 41):
        ages = torch.arange(t, 0, -1, dtype=torch.float64)[:, None]
        weights_m, weights_v = 0.9 ** (ages - 1), beta2 ** (ages - 1)
        m_hat = (weights_m * gradients[:t]).sum(0) / weights_m.sum(0)
        v_hat = (weights_v * gradients[:t] ** 2).sum(0) / weights_v.sum(0)
        rho = 2 * ((weights_v * ages).sum() / weights_v.sum()).item() - 1
        rho_inf = 2 * 1 / (1 - beta2) - 1
        if rho > 5:
            r = math.sqrt(variance(rho_inf) / variance(rho))
            expected = expected - 0.01 * r * m_hat / v_hat.sqrt()
        else:
            expected = expected - 0.01 * m_hat
    found = walk(theta, gradients, lr=0.01, betas=(0.9, beta2), eps=1e-30)
    torch.testing.assert_close(found[-1], expected, rtol=1e-11, atol=0)


def test_the_factor_rises_to_one() -> None:
    for beta2 in (0.7, 0.9, 0.99, 0.999):
        factors = [rectification(t, beta2) for t in range(1, 20_000)]
        known = [r for r in factors if r is not None]
        assert factors[-len(known) :] == known  # never unknown again
        assert all(a <= b + 1e-12 for a, b in itertools.pairwise(known))
        assert 0 < known[0] < known[-1] <= 1
        assert known[-1] == pytest.approx(1, abs=1e-6)


def test_the_factor_evens_out_the_variance_of_the_adaptive_rate() -> None:
    # gradients are normal, so v is that of a scaled chi-square of about rho degrees
    torch.manual_seed(0)
    beta2, v = 0.99, torch.zeros(100_000, dtype=torch.float64)
    plain, rectified = [], []
    for t in range(1, 401):
        v = beta2 * v + (1 - beta2) * torch.randn_like(v) ** 2
        rate = ((1 - beta2**t) / v).sqrt()
        if t in (20, 50, 400):
            r = rectification(t, beta2)
            assert r is not None
            plain.append(rate.var().item())
            rectified.append((r * rate).var().item())
    assert max(plain) / min(plain) > 8
    assert max(rectified) / min(rectified) < 1.4


@pytest.mark.parametrize("beta2", [0.0, 0.3, 0.6])
def test_where_the_squares_are_forgotten_at_once_it_is_momentum_with_a_mean(
    beta2: float,
) -> None:
    torch.manual_seed(0)
    theta = torch.randn(5, dtype=torch.float64)
    gradients = torch.randn(30, 5, dtype=torch.float64)
    mean, expected = torch.zeros_like(theta), theta.clone()
    for t, gradient in enumerate(gradients, 1):
        mean = 0.9 * mean + 0.1 * gradient
        expected = expected - 0.1 * mean / (1 - 0.9**t)
    found = walk(theta, gradients, lr=0.1, betas=(0.9, beta2))
    torch.testing.assert_close(found[-1], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gradient", [1e-3, 1.0, -1e3])
def test_five_steps_are_as_long_as_the_gradient_and_the_sixth_starts_short(
    gradient: float,
) -> None:
    gradients = torch.full((7, 1), gradient, dtype=torch.float64)
    points = walk(torch.zeros(1, dtype=torch.float64), gradients, lr=0.1, eps=1e-30)
    steps = -points.diff(dim=0, prepend=torch.zeros(1, 1)).squeeze()
    assert steps[:5].tolist() == pytest.approx([0.1 * gradient] * 5)
    for t in (6, 7):
        r = rectification(t, 0.999)
        assert r is not None
        short = math.copysign(0.1 * r, gradient)
        assert steps[t - 1].item() == pytest.approx(short)
    assert abs(steps[5].item()) < 0.1 * 0.03


def test_from_the_sixth_on_steps_do_not_depend_on_the_scale_of_the_loss() -> None:
    torch.manual_seed(0)
    theta = torch.randn(7, dtype=torch.float64)
    gradients = torch.randn(30, 7, dtype=torch.float64)
    scales = 10.0 ** torch.arange(-3, 4, dtype=torch.float64)  # one for each coordinate
    steps = [
        walk(theta, gradients * by, lr=0.01, eps=1e-30).diff(dim=0)
        for by in (scales, torch.ones(7, dtype=torch.float64))
    ]
    torch.testing.assert_close(steps[0][5:], steps[1][5:], rtol=1e-7, atol=0)
    assert not torch.allclose(steps[0][:3], steps[1][:3], rtol=0.1)


def test_late_steps_are_those_of_adam() -> None:
    torch.manual_seed(0)
    theta = torch.zeros(5, dtype=torch.float64)
    gradients = torch.randn(400, 5, dtype=torch.float64)
    weight = nn.Parameter(theta.clone())
    adam, points = Adam([weight], lr=0.01, betas=(0.9, 0.9), eps=1e-30), []
    for gradient in gradients:
        weight.grad = gradient
        adam.step()
        points.append(weight.detach().clone())
    found = walk(theta, gradients, lr=0.01, betas=(0.9, 0.9), eps=1e-30)
    torch.testing.assert_close(
        found.diff(dim=0)[-50:],
        torch.stack(points).diff(dim=0)[-50:],
        rtol=1e-9,
        atol=0,
    )


def test_decay_is_l2_or_decoupled() -> None:
    # a gradient of zero: L2 is the gradient of a momentum step, decay a factor
    theta = torch.full((1,), 3.0, dtype=torch.float64)
    for decoupled in (False, True):
        found = walk(
            theta,
            torch.zeros(5, 1, dtype=torch.float64),
            lr=0.1,
            betas=(0.0, 0.999),
            weight_decay=0.5,
            decoupled_weight_decay=decoupled,
        )
        assert found[-1].item() == pytest.approx(3.0 * 0.95**5)
    gradients = torch.randn(9, 1, dtype=torch.float64)
    options = {"lr": 0.1, "weight_decay": 0.5}
    l2 = walk(theta, gradients, **options)
    decay = walk(theta, gradients, **options, decoupled_weight_decay=True)
    assert not torch.allclose(l2, decay, rtol=1e-3)


def test_a_rate_of_zero_changes_nothing() -> None:
    theta = torch.full((1,), 3.0, dtype=torch.float64)
    found = walk(theta, torch.ones(9, 1).double(), lr=0.0, weight_decay=0.5)
    assert found[-1].item() == 3.0


def test_a_group_added_later_counts_its_own_steps() -> None:
    early, late = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = RAdam([early], lr=0.1)
    for _ in range(3):
        early.grad = torch.ones(1)
        optimizer.step()
    optimizer.add_param_group({"params": [late]})
    late.grad = torch.ones(1)
    optimizer.step()
    assert late.item() == pytest.approx(
        0.9, rel=1e-6
    )  # a first step: rate times gradient


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lr": -1e-3}, r"lr of 0 or more, got -0\.001"),
        ({"lr": math.nan}, "got nan"),
        ({"betas": (1.0, 0.999)}, r"got \(1\.0, 0\.999\)"),
        ({"betas": (0.9, 1.0)}, r"got \(0\.9, 1\.0\)"),
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
        RAdam([weight], **settings)
    with pytest.raises(ValueError, match=told):
        RAdam([{"params": [weight], **settings}])


def test_what_it_cannot_optimise_is_refused_and_nothing_is_changed() -> None:
    first, table = nn.Parameter(torch.ones(1)), nn.Embedding(10, 3, sparse=True)
    optimizer = RAdam([first, *table.parameters()])
    (first.sum() + table(torch.tensor([1, 2])).sum()).backward()
    with pytest.raises(TypeError, match=r"dense gradients, got torch\.sparse_coo"):
        optimizer.step()
    assert first.item() == 1.0
    assert not optimizer.state
    with pytest.raises(TypeError, match=r"torch\.complex64"):
        optimizer.add_param_group(
            {"params": [nn.Parameter(torch.ones(2, dtype=torch.complex64))]}
        )
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="empty"):
        RAdam([])


def stepped(make, *shapes: int) -> torch.optim.Optimizer:
    optimizer = make([nn.Parameter(torch.ones(n)) for n in shapes or (3,)])
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    "other",
    [
        lambda: stepped(SGD).state_dict(),
        lambda: stepped(Adam).state_dict(),
        lambda: stepped(AdamW).state_dict(),
        lambda: stepped(torch.optim.Adam).state_dict(),
        lambda: torch.optim.Adam([nn.Parameter(torch.ones(3))]).state_dict(),
        lambda: stepped(torch.optim.NAdam).state_dict(),
        lambda: stepped(lambda p: torch.optim.RAdam(p, maximize=True)).state_dict(),
        lambda: torch.optim.lr_scheduler.StepLR(stepped(SGD), 3).state_dict(),
    ],
)
def test_a_state_of_another_kind_is_refused_and_changes_nothing(other) -> None:
    optimizer = stepped(RAdam)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="expected a state of RAdam"):
        optimizer.load_state_dict(other())
    torch.testing.assert_close(optimizer.state_dict(), before)


def test_a_state_with_other_groups_or_values_is_refused_and_changes_nothing() -> None:
    optimizer = stepped(RAdam)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(stepped(RAdam, 3, 4).state_dict())
    wrong = copy.deepcopy(before)
    wrong["param_groups"][0]["betas"] = (0.9, 2.0)
    with pytest.raises(ValueError, match=r"got \(0\.9, 2\.0\)"):
        optimizer.load_state_dict(wrong)
    torch.testing.assert_close(optimizer.state_dict(), before)


def test_the_state_is_two_numbers_for_every_parameter(evidence) -> None:
    rows = state_of_resnet50(
        {
            "momentum": ("SGD with momentum", partial(SGD, momentum=0.9)),
            "adam": ("Adam", Adam),
            "radam": ("RAdam", RAdam),
        }
    )
    evidence.computed("cost", rows)
    assert [row["per_parameter"] for row in rows.values()] == [1, 2, 2]


# ---------------------------------------------------------------- the race


RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # fixed before any run


def race_arm(rate: float) -> bench.Arm:
    return bench.Arm("RAdam", optimizer=lambda m: RAdam(m.parameters(), lr=rate))


@pytest.mark.record
def test_record_the_race(evidence) -> None:
    arguments = race.arguments(RATES, "optimization/radam")
    evidence.measured("race", arguments=arguments, run=partial(race.race, race_arm))


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(race.time_of_a_step, race_arm)
    evidence.measured("time", arguments={}, run=run)
