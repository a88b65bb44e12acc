"""Adam makes torch's steps, which are those of algorithm 1, with AMSGrad those of Reddi et al. corrected for the start."""

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
from cnn_techniques.optimization import SGD, Adam, AdamW, RAdam


def path(theta: Tensor, gradients: Tensor) -> Tensor:
    """Where Adam with AMSGrad goes when it is given one gradient after the other."""
    return walk(theta, gradients, lr=0.01, weight_decay=0.1, amsgrad=True)


def walk(theta: Tensor, gradients: Tensor, **settings) -> Tensor:
    weight = nn.Parameter(theta.clone())
    optimizer = Adam([weight], **settings)
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    return weight.detach()


DEVICE_CASES = {
    "Adam": lambda: (path, (torch.randn(6, 5), torch.randn(20, 6, 5))),
}

OWN = (  # values for everything that a group may set
    {"weight_decay": 0.3},
    {"weight_decay": 0.0, "lr": 0.02},
    {"betas": (0.5, 0.9), "eps": 1e-3},
)
STATE = {key: key for key in ("step", "exp_avg", "exp_avg_sq")}  # torch's names
LARGEST = {"max_exp_avg_sq": "max_exp_avg_sq"}


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_fifty_steps_are_those_of_torch(evidence, decay: float, amsgrad: bool) -> None:
    # with the default beta2 the mean of the square grows for all of 50 steps, and
    # the largest one would be the last one
    betas = (0.9, 0.8) if amsgrad else (0.9, 0.999)
    options = {"lr": 1e-2, "weight_decay": decay, "betas": betas, "amsgrad": amsgrad}
    found = compare_steps(
        Adam,
        torch.optim.Adam,
        options=options,
        groups=OWN,
        state=STATE | LARGEST if amsgrad else STATE,
    )
    if decay:
        evidence.equivalent(
            "amsgrad" if amsgrad else "torch",
            found,
            reference="torch.optim.Adam",
            settings=f"lr 0.01, weight_decay 0.1, {betas=}, {amsgrad=}; maximize is not "
            "offered",
        )


def test_fifty_steps_are_those_of_torch_when_one_group_takes_the_largest_mean() -> None:
    compare_steps(
        Adam,
        torch.optim.Adam,
        options={"lr": 1e-2},
        groups=({"amsgrad": True, "betas": (0.5, 0.8)}, {"lr": 0.02}, {"eps": 1e-3}),
    )


def test_fifty_steps_are_those_of_torch_when_the_rate_follows_a_schedule() -> None:
    compare_steps(
        Adam,
        torch.optim.Adam,
        options={"lr": 1e-2, "weight_decay": 0.1},
        state=STATE,
        schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50),
    )


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("first", [Adam, torch.optim.Adam])
def test_a_saved_state_goes_on_as_it_is_in_the_other_class(
    first: type, amsgrad: bool
) -> None:
    second = torch.optim.Adam if first is Adam else Adam
    torch.manual_seed(0)
    gradients = torch.randn(8, 5, dtype=torch.float64)
    weights = [nn.Parameter(torch.zeros(5, dtype=torch.float64)) for _ in range(2)]
    optimizers = [
        first([weights[0]], lr=0.1, betas=(0.7, 0.8), amsgrad=amsgrad),
        second([weights[1]], lr=0.7, eps=1e-2),  # to be overwritten
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


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_update_is_algorithm_1_written_with_sums_over_all_gradients(
    amsgrad: bool,
) -> None:
    # m_t and v_t as sums over the history; AMSGrad takes the largest v_1, ..., v_t
    torch.manual_seed(0)
    gradients = torch.randn(12, 5, dtype=torch.float64)
    gradients[3] *= 10  # so that the largest mean is not the last one
    theta = torch.randn(5, dtype=torch.float64)
    expected, squares = theta.clone(), []
    given = []
    for t in range(1, 13):
        given.append(gradients[t - 1] + 0.1 * expected)  # L2
        ages = torch.arange(t - 1, -1, -1, dtype=torch.float64)[:, None]
        weights_m, weights_v = 0.9**ages, 0.8**ages
        m_hat = (weights_m * torch.stack(given)).sum(0) / weights_m.sum(0)
        squares.append(0.2 * (weights_v * torch.stack(given) ** 2).sum(0))
        v = torch.stack(squares).amax(0) if amsgrad else squares[-1]
        expected = expected - 0.01 * m_hat / ((v / (1 - 0.8**t)).sqrt() + 1e-8)
    found = walk(
        theta,
        gradients,
        lr=0.01,
        betas=(0.9, 0.8),
        weight_decay=0.1,
        amsgrad=amsgrad,
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def one(value: float, gradient: float, **settings: object) -> float:
    given = (torch.tensor([x], dtype=torch.float64) for x in (value, gradient))
    theta, g = given
    return walk(theta, g[None], **settings).item()


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("gradient", [1e-12, -1e-3, 1.0, -1e6])
def test_the_first_step_is_as_long_as_the_rate_whatever_the_gradient(
    gradient: float, amsgrad: bool
) -> None:
    after = one(3.0, gradient, lr=0.1, eps=1e-30, amsgrad=amsgrad)
    assert after == pytest.approx(3.0 - math.copysign(0.1, gradient), rel=1e-12)


def test_the_longest_step_is_one_after_a_long_time_of_zeros() -> None:
    # (1 - beta1) / sqrt(1 - beta2) rates; paper, section 2.1
    gradients = torch.zeros(3000, 1, dtype=torch.float64)
    gradients[-1] = -5.0
    theta = torch.zeros(1, dtype=torch.float64)
    found = walk(theta, gradients, lr=0.01, betas=(0.5, 0.99)).item()
    assert found == pytest.approx(0.01 * 0.5 / math.sqrt(0.01), rel=1e-6)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_path_does_not_depend_on_the_scale_of_the_loss(amsgrad: bool) -> None:
    torch.manual_seed(0)
    theta = torch.randn(7, dtype=torch.float64)
    gradients = torch.randn(30, 7, dtype=torch.float64)
    scales = 10.0 ** torch.arange(-3, 4, dtype=torch.float64)  # one for each coordinate
    torch.testing.assert_close(
        walk(theta, gradients * scales, lr=0.01, amsgrad=amsgrad),
        walk(theta, gradients, lr=0.01, amsgrad=amsgrad),
        rtol=1e-4,
        atol=0,
    )  # eps is what is left


def test_the_path_does_not_turn_with_the_bowl() -> None:
    # ... because every coordinate is divided by its own root; that of SGD does
    half = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)
    hessian = torch.tensor([1.0, 100.0], dtype=torch.float64).diag()
    ends = {}
    for kind in (Adam, SGD):
        for turn in (torch.eye(2, dtype=torch.float64), half):
            weight = nn.Parameter(turn @ torch.ones(2, dtype=torch.float64))
            optimizer = kind([weight], lr=0.005)
            for _ in range(100):
                weight.grad = turn @ hessian @ turn.T @ weight.detach()
                optimizer.step()
            ends.setdefault(kind, []).append(turn.T @ weight.detach())
    assert (ends[Adam][0] - ends[Adam][1]).norm() > 0.1
    torch.testing.assert_close(*ends[SGD], rtol=1e-9, atol=1e-12)


def test_without_memory_it_is_a_step_along_the_sign() -> None:
    theta = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    gradients = torch.tensor(
        [[5.0, -1.0, 1e-3], [-2.0, -7.0, 4.0]], dtype=torch.float64
    )
    torch.testing.assert_close(
        walk(theta, gradients, lr=0.1, betas=(0.0, 0.0), eps=1e-30),
        theta - 0.1 * gradients.sign().sum(0),
    )


def test_with_a_large_eps_it_is_momentum_with_a_mean() -> None:
    torch.manual_seed(0)
    theta = torch.randn(5, dtype=torch.float64)
    gradients = torch.randn(20, 5, dtype=torch.float64)
    mean, expected = torch.zeros_like(theta), theta.clone()
    for t, gradient in enumerate(gradients, 1):
        mean = 0.9 * mean + 0.1 * gradient
        expected = expected - 0.1 * mean / (1 - 0.9**t)
    found = walk(theta, gradients, lr=0.1 * 1e9, eps=1e9)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_amsgrad_never_forgets_the_largest_mean() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Adam([weight], lr=0.01, betas=(0.9, 0.9), amsgrad=True)
    largest = []
    for gradient in (1.0, 100.0, *[1.0] * 200):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        largest.append(optimizer.state[weight]["max_exp_avg_sq"].item())
    assert largest == sorted(largest)
    assert largest[-1] == pytest.approx(0.9 * 0.1 * 1 + 0.1 * 100**2)
    assert optimizer.state[weight]["exp_avg_sq"].item() == pytest.approx(1.0, rel=1e-3)


def test_amsgrad_is_adam_while_the_mean_of_the_square_grows() -> None:
    theta = torch.zeros(3, dtype=torch.float64)
    gradients = torch.arange(1.0, 21.0, dtype=torch.float64)[:, None].expand(20, 3)
    plain = walk(theta, gradients, lr=0.01)
    torch.testing.assert_close(walk(theta, gradients, lr=0.01, amsgrad=True), plain)


@pytest.mark.parametrize(
    ("settings", "end"),
    [
        ({"betas": (0.0, 1 / 17)}, 1.0),
        ({"betas": (0.0, 1 / 17), "amsgrad": True}, -1.0),
        ({}, -1.0),
    ],
)
def test_where_memory_is_short_adam_goes_up_a_slope_that_amsgrad_goes_down(
    settings: dict[str, object], end: float
) -> None:
    # gradients 4, -1, -1: the mean slope is 2 / 3, so the minimum in [-1, 1] is -1
    x = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Adam([x], lr=0.01, **settings)
    for t in range(3000):
        x.grad = torch.full_like(x, 4.0 if t % 3 == 0 else -1.0)
        optimizer.step()
        x.data.clamp_(-1, 1)
    assert x.item() == pytest.approx(end, abs=0.05)


def test_decay_is_l2_in_the_gradient_and_no_decay_of_weights() -> None:
    # the first step has the length of the rate, whatever the penalty
    for l2 in (0.0, 0.5, 50.0):
        after = one(3.0, 1.0, lr=0.1, weight_decay=l2, eps=1e-30)
        assert after == pytest.approx(2.9, rel=1e-12)
    assert one(3.0, 0.0, lr=0.1, weight_decay=0.5, eps=1e-30) == pytest.approx(2.9)


def test_without_decay_adamw_makes_the_same_steps() -> None:
    torch.manual_seed(0)
    theta, gradients = torch.randn(5).double(), torch.randn(20, 5).double()
    weight = nn.Parameter(theta.clone())
    optimizer = AdamW([weight], lr=0.01, weight_decay=0.0)
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    torch.testing.assert_close(weight.detach(), walk(theta, gradients, lr=0.01))


def test_a_rate_of_zero_changes_nothing() -> None:
    assert one(3.0, 1.0, lr=0.0, weight_decay=0.5) == 3.0


def test_a_group_added_later_counts_its_own_steps() -> None:
    early, late = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = Adam([early], lr=0.1)
    for _ in range(3):
        early.grad = torch.ones(1)
        optimizer.step()
    optimizer.add_param_group({"params": [late]})
    late.grad = torch.ones(1)
    optimizer.step()
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
        Adam([weight], **settings)
    with pytest.raises(ValueError, match=told):
        Adam([{"params": [weight], **settings}])


def test_what_it_cannot_optimise_is_refused_and_nothing_is_changed() -> None:
    first, table = nn.Parameter(torch.ones(1)), nn.Embedding(10, 3, sparse=True)
    optimizer = Adam([first, *table.parameters()])
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
        Adam([])


def stepped(make, *shapes: int) -> torch.optim.Optimizer:
    optimizer = make([nn.Parameter(torch.ones(n)) for n in shapes or (3,)])
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def without_largest() -> dict[str, object]:
    saved = stepped(Adam).state_dict()
    saved["param_groups"][0]["amsgrad"] = True
    return saved


@pytest.mark.parametrize(
    "other",
    [
        lambda: stepped(SGD).state_dict(),
        lambda: stepped(AdamW).state_dict(),
        lambda: stepped(RAdam).state_dict(),
        lambda: stepped(torch.optim.AdamW).state_dict(),
        lambda: torch.optim.AdamW([nn.Parameter(torch.ones(3))]).state_dict(),
        lambda: stepped(torch.optim.RAdam).state_dict(),
        lambda: stepped(lambda p: torch.optim.Adam(p, maximize=True)).state_dict(),
        lambda: torch.optim.lr_scheduler.StepLR(stepped(SGD), 3).state_dict(),
        without_largest,
    ],
)
def test_a_state_of_another_kind_is_refused_and_changes_nothing(other) -> None:
    optimizer = stepped(Adam)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="expected a state of Adam"):
        optimizer.load_state_dict(other())
    torch.testing.assert_close(optimizer.state_dict(), before)


def test_a_state_with_other_groups_or_values_is_refused_and_changes_nothing() -> None:
    optimizer = stepped(Adam)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(stepped(Adam, 3, 4).state_dict())
    wrong = copy.deepcopy(before)
    wrong["param_groups"][0]["betas"] = (0.9, 2.0)
    with pytest.raises(ValueError, match=r"got \(0\.9, 2\.0\)"):
        optimizer.load_state_dict(wrong)
    torch.testing.assert_close(optimizer.state_dict(), before)


def test_the_state_is_two_numbers_for_every_parameter_three_with_amsgrad(
    evidence,
) -> None:
    rows = state_of_resnet50(
        {
            "momentum": ("SGD with momentum", partial(SGD, momentum=0.9)),
            "adam": ("Adam", Adam),
            "amsgrad": ("Adam with AMSGrad", partial(Adam, amsgrad=True)),
        }
    )
    evidence.computed("cost", rows)
    assert [row["per_parameter"] for row in rows.values()] == [1, 2, 3]


# ---------------------------------------------------------------- the race


RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # fixed before any run


def race_arm(rate: float) -> bench.Arm:
    return bench.Arm("Adam", optimizer=lambda m: Adam(m.parameters(), lr=rate))


@pytest.mark.record
def test_record_the_race(evidence) -> None:
    arguments = race.arguments(RATES, "optimization/adam")
    evidence.measured("race", arguments=arguments, run=partial(race.race, race_arm))


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(race.time_of_a_step, race_arm)
    evidence.measured("time", arguments={}, run=run)
