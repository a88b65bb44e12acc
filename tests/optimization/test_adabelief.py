"""AdaBelief makes timm's steps, which are those of algorithm 2: long where gradients agree, short where they stray."""

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
from cnn_techniques.optimization import SGD, AdaBelief, Adam, AdamW


def path(theta: Tensor, gradients: Tensor) -> Tensor:
    """Where AdaBelief goes when it is given one gradient after the other."""
    return walk(theta, gradients, lr=0.01, weight_decay=0.1)[-1]


def walk(theta: Tensor, gradients: Tensor, kind=AdaBelief, **settings) -> Tensor:
    """The points after each step."""
    weight = nn.Parameter(theta.clone())
    optimizer = kind([weight], **settings)
    points = []
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
        points.append(weight.detach().clone())
    return torch.stack(points)


DEVICE_CASES = {
    "AdaBelief": lambda: (path, (torch.randn(6, 5), torch.randn(20, 6, 5))),
}

OWN = (  # values for everything that a group may set
    {"weight_decay": 0.3},
    {"weight_decay": 0.2, "decoupled_decay": False, "lr": 0.02},
    {"betas": (0.5, 0.9), "eps": 1e-4},
)
STATE = {key: key for key in ("step", "exp_avg", "exp_avg_var")}  # timm's names
REFERENCE = partial(timm.optim.AdaBelief, rectify=False)


@pytest.mark.parametrize("eps", [1e-16, 1e-8, 1e-3])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_fifty_steps_are_those_of_timm(evidence, decay: float, eps: float) -> None:
    found = compare_steps(
        AdaBelief,
        REFERENCE,
        options={"lr": 1e-2, "weight_decay": decay, "eps": eps},
        groups=OWN,
        state=STATE,
    )
    if decay and eps in (1e-16, 1e-8):
        evidence.equivalent(
            f"timm_{eps:.0e}".replace("-", "_"),
            found,
            reference="timm.optim.AdaBelief",
            settings=f"rectify=False, lr 0.01, weight_decay 0.1, eps {eps:.0e}; "
            "fixed_decay and amsgrad are not offered",
        )


def test_fifty_steps_are_those_of_timm_when_the_rate_follows_a_schedule() -> None:
    compare_steps(
        AdaBelief,
        REFERENCE,
        options={"lr": 1e-2, "weight_decay": 0.1},
        state=STATE,
        schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50),
    )


def test_timms_saved_state_goes_on_as_it_is() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(8, 5, dtype=torch.float64)
    weights = [nn.Parameter(torch.zeros(5, dtype=torch.float64)) for _ in range(2)]
    theirs = REFERENCE([weights[0]], lr=0.1, betas=(0.7, 0.8))
    ours = AdaBelief([weights[1]], lr=0.7, eps=1e-2)  # to be overwritten
    for n, gradient in enumerate(gradients):
        if n == 4:
            weights[1].data.copy_(weights[0].data)
            ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        for weight, optimizer in zip(weights, (theirs, ours), strict=True):
            weight.grad = gradient
            if n >= 4 or optimizer is theirs:
                optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-12, atol=0)


def test_the_update_is_algorithm_2_written_with_sums_over_all_gradients() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(12, 5, dtype=torch.float64)
    theta = torch.randn(5, dtype=torch.float64)
    expected, strayed = theta.clone(), []
    for t in range(1, 13):
        ages = torch.arange(t - 1, -1, -1, dtype=torch.float64)[:, None]
        m = 0.1 * (0.9**ages * gradients[:t]).sum(0)
        strayed.append((gradients[t - 1] - m) ** 2)
        s = (0.8**ages * (0.2 * torch.stack(strayed) + 1e-3)).sum(0)
        m_hat, s_hat = m / (1 - 0.9**t), s / (1 - 0.8**t)
        expected = expected - 0.01 * m_hat / (s_hat.sqrt() + 1e-3)
    found = walk(theta, gradients, lr=0.01, betas=(0.9, 0.8), eps=1e-3)
    torch.testing.assert_close(found[-1], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("beta1", [0.5, 0.9])
@pytest.mark.parametrize("gradient", [1e-4, -1.0, 1e6])
def test_the_first_step_is_the_rate_over_beta1_whatever_the_gradient(
    gradient: float, beta1: float
) -> None:
    # m_1 = (1 - beta1) g, so that g - m_1 = beta1 g
    theta = torch.zeros(1, dtype=torch.float64)
    gradients = torch.full((1, 1), gradient, dtype=torch.float64)
    found = walk(theta, gradients, lr=0.1, betas=(beta1, 0.999), eps=1e-30)
    expected = -math.copysign(0.1 / beta1, gradient)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_the_path_does_not_depend_on_the_scale_of_the_loss() -> None:
    torch.manual_seed(0)
    theta = torch.randn(7, dtype=torch.float64)
    gradients = torch.randn(30, 7, dtype=torch.float64)
    scales = 10.0 ** torch.arange(-3, 4, dtype=torch.float64)  # one for each coordinate
    torch.testing.assert_close(
        walk(theta, gradients * scales, lr=0.01),
        walk(theta, gradients, lr=0.01),
        rtol=1e-6,
        atol=0,
    )  # eps is what is left


@pytest.mark.parametrize("beta1", [0.5, 0.9])
def test_noise_alone_is_divided_by_its_size_times_a_constant(beta1: float) -> None:
    # g_t - m_t = beta1 (g_t - m_{t-1}); variance beta1^2 * 2 / (1 + beta1) of that of g
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(5000, dtype=torch.float64))
    optimizer = AdaBelief([weight], betas=(beta1, 0.99))
    for _ in range(600):
        weight.grad = 7.0 + 3.0 * torch.randn(5000, dtype=torch.float64)
        optimizer.step()
    found = optimizer.state[weight]["exp_avg_var"].mean().item()
    assert found == pytest.approx(9 * beta1**2 * 2 / (1 + beta1), rel=0.02)


def test_steps_are_longer_than_adams_where_gradients_agree_and_not_where_they_stray() -> (
    None
):
    torch.manual_seed(0)
    noise = torch.randn(2000, 200, dtype=torch.float64)
    theta = torch.zeros(200, dtype=torch.float64)
    lengths = {}
    for scale in (0.1, 10.0):
        for kind in (AdaBelief, Adam):
            points = walk(theta, 1 + scale * noise, kind, lr=1.0, betas=(0.9, 0.99))
            lengths[kind, scale] = -points.diff(dim=0)[-1000:].mean().item()
    factor = math.sqrt(0.9**2 * 2 / 1.9)
    assert lengths[Adam, 0.1] == pytest.approx(1, rel=0.03)
    assert lengths[AdaBelief, 0.1] == pytest.approx(10 / factor, rel=0.03)
    assert lengths[AdaBelief, 10.0] / lengths[Adam, 10.0] < 1.2


def test_under_one_gradient_the_steps_grow_until_eps_holds_them() -> None:
    theta, gradients = torch.zeros(1).double(), torch.ones(4000, 1).double()
    points = walk(theta, gradients, lr=1.0, betas=(0.9, 0.99), eps=1e-8)
    steps = -points.diff(dim=0).squeeze()
    assert (steps[10:].diff() > -1e-6).all()
    limit = 1 / (math.sqrt(1e-8 / (1 - 0.99)) + 1e-8)
    assert steps[-1].item() == pytest.approx(limit, rel=1e-6)


def test_with_a_large_eps_it_is_momentum_with_a_mean() -> None:
    # ... whose rate is lr / (sqrt(eps / (1 - beta2)) + eps), at every step
    torch.manual_seed(0)
    theta = torch.randn(5, dtype=torch.float64)
    gradients = 1e-6 * torch.randn(20, 5, dtype=torch.float64)
    mean, expected = torch.zeros_like(theta), theta.clone()
    rate = 1e3 / (math.sqrt(1e-4 / (1 - 0.999)) + 1e-4)
    for t, gradient in enumerate(gradients, 1):
        mean = 0.9 * mean + 0.1 * gradient
        expected = expected - rate * mean / (1 - 0.9**t)
    found = walk(theta, gradients, lr=1e3, eps=1e-4)
    torch.testing.assert_close(found[-1] - theta, expected - theta, rtol=1e-6, atol=0)


def test_decay_is_decoupled_or_l2() -> None:
    theta = torch.full((1,), 3.0, dtype=torch.float64)
    options = {"lr": 0.1, "weight_decay": 0.5, "eps": 1e-30}
    for gradient in (1e-6, 1.0, 1e6):  # what decay adds does not depend on it
        g = torch.full((1, 1), gradient, dtype=torch.float64)
        with_decay = walk(theta, g, **options).item()
        without = walk(theta, g, lr=0.1, eps=1e-30).item()
        assert without - with_decay == pytest.approx(0.1 * 0.5 * 3.0, rel=1e-9)
    l2 = walk(theta, torch.zeros(1, 1).double(), **options, decoupled_decay=False)
    assert l2.item() == pytest.approx(3.0 - 0.1 / 0.9)


def test_a_rate_of_zero_changes_nothing() -> None:
    theta = torch.full((1,), 3.0, dtype=torch.float64)
    found = walk(theta, torch.ones(9, 1).double(), lr=0.0, weight_decay=0.5)
    assert found[-1].item() == 3.0


def test_a_gradient_of_zeros_changes_nothing() -> None:
    theta = torch.full((1,), 3.0, dtype=torch.float64)
    assert walk(theta, torch.zeros(9, 1).double())[-1].item() == 3.0


def test_a_group_added_later_counts_its_own_steps() -> None:
    early, late = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = AdaBelief([early], lr=0.1)
    for _ in range(3):
        early.grad = torch.ones(1)
        optimizer.step()
    optimizer.add_param_group({"params": [late]})
    late.grad = torch.ones(1)
    optimizer.step()
    assert late.item() == pytest.approx(1 - 0.1 / 0.9)  # a first step


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lr": -1e-3}, r"lr of 0 or more, got -0\.001"),
        ({"lr": math.nan}, "got nan"),
        ({"betas": (1.0, 0.999)}, r"got \(1\.0, 0\.999\)"),
        ({"betas": (0.0, 0.999)}, r"beta1 between 0 and 1 .* got \(0\.0, 0\.999\)"),
        ({"betas": (0.9, 1.0)}, r"beta2 from 0 to below 1, got \(0\.9, 1\.0\)"),
        ({"betas": (0.9,)}, r"got \(0\.9,\)"),
        ({"eps": 0.0}, r"eps above 0, got 0\.0"),
        ({"weight_decay": -0.1}, r"weight_decay of 0 or more, got -0\.1"),
    ],
)
def test_values_out_of_range_are_refused_as_defaults_and_in_groups(
    settings: dict[str, object], told: str
) -> None:
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=told):
        AdaBelief([weight], **settings)
    with pytest.raises(ValueError, match=told):
        AdaBelief([{"params": [weight], **settings}])


def test_what_it_cannot_optimise_is_refused_and_nothing_is_changed() -> None:
    first, table = nn.Parameter(torch.ones(1)), nn.Embedding(10, 3, sparse=True)
    optimizer = AdaBelief([first, *table.parameters()])
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
        AdaBelief([])


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
        lambda: stepped(timm.optim.AdaBelief).state_dict(),  # rectify=True
        lambda: stepped(partial(REFERENCE, fixed_decay=True)).state_dict(),
        lambda: stepped(partial(REFERENCE, amsgrad=True)).state_dict(),
        lambda: torch.optim.lr_scheduler.StepLR(stepped(SGD), 3).state_dict(),
    ],
)
def test_a_state_of_another_kind_is_refused_and_changes_nothing(other) -> None:
    optimizer = stepped(AdaBelief)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="expected a state of AdaBelief"):
        optimizer.load_state_dict(other())
    torch.testing.assert_close(optimizer.state_dict(), before)


def test_a_state_with_other_groups_or_values_is_refused_and_changes_nothing() -> None:
    optimizer = stepped(AdaBelief)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(stepped(AdaBelief, 3, 4).state_dict())
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
            "adabelief": ("AdaBelief", AdaBelief),
        }
    )
    evidence.computed("cost", rows)
    assert [row["per_parameter"] for row in rows.values()] == [1, 2, 2]


# ---------------------------------------------------------------- the race


RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # fixed before any run


def race_arm(rate: float) -> bench.Arm:
    return bench.Arm(
        "AdaBelief", optimizer=lambda m: AdaBelief(m.parameters(), lr=rate)
    )


@pytest.mark.record
def test_record_the_race(evidence) -> None:
    arguments = race.arguments(RATES, "optimization/adabelief")
    evidence.measured("race", arguments=arguments, run=partial(race.race, race_arm))


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(race.time_of_a_step, race_arm)
    evidence.measured("time", arguments={}, run=run)
