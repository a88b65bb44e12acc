import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cnn_lab import bench
from cnn_lab.data import digits
from cnn_lab.fit import accuracy, fit, steps
from cnn_lab.record import interval, paired, repeat
from cnn_site import race
from cnn_site.optimizers import state_of_resnet50
from cnn_site.parity import compare_steps
from cnn_techniques.optimization import AdamW


def path(theta: Tensor, gradients: Tensor) -> Tensor:
    """Where AdamW goes when it is given one gradient after the other."""
    weight = nn.Parameter(theta.clone())
    optimizer = AdamW([weight], lr=0.01, weight_decay=0.1)
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    return weight.detach()


DEVICE_CASES = {
    "AdamW": lambda: (path, (torch.randn(6, 5), torch.randn(20, 6, 5))),
}


OWN = (  # values for everything that a group may set
    {"weight_decay": 0.3},
    {"weight_decay": 0.0, "lr": 0.02},
    {"betas": (0.5, 0.9), "eps": 1e-3},
)
STATE = {key: key for key in ("step", "exp_avg", "exp_avg_sq")}  # torch's names


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_fifty_steps_are_those_of_torch(evidence, decay: float) -> None:
    options = {"lr": 1e-2, "weight_decay": decay}
    found = compare_steps(
        AdamW, torch.optim.AdamW, options=options, groups=OWN, state=STATE
    )
    if decay:
        evidence.equivalent(
            "torch",
            found,
            reference="torch.optim.AdamW",
            settings="lr 0.01, weight_decay 0.1; amsgrad is not offered",
        )


def test_fifty_steps_are_those_of_torch_when_the_rate_follows_a_schedule() -> None:
    compare_steps(
        AdamW,
        torch.optim.AdamW,
        options={"lr": 1e-2, "weight_decay": 0.1},
        state=STATE,
        schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50),
    )


def test_the_update_is_algorithm_2_written_with_sums_over_all_gradients() -> None:
    # m_t and v_t as sums over the history instead of a recursion
    torch.manual_seed(0)
    gradients = torch.randn(12, 5, dtype=torch.float64)
    theta = torch.randn(5, dtype=torch.float64)
    expected = theta.clone()
    for t in range(1, 13):
        ages = torch.arange(t - 1, -1, -1, dtype=torch.float64)[:, None]
        weights_m, weights_v = 0.9**ages, 0.999**ages
        m_hat = (weights_m * gradients[:t]).sum(0) / weights_m.sum(0)
        v_hat = (weights_v * gradients[:t] ** 2).sum(0) / weights_v.sum(0)
        expected = (1 - 0.01 * 0.1) * expected - 0.01 * m_hat / (v_hat.sqrt() + 1e-8)
    torch.testing.assert_close(path(theta, gradients), expected, rtol=1e-12, atol=0)


def one(value: float, gradient: float, **settings: object) -> float:
    weight = nn.Parameter(torch.tensor([value], dtype=torch.float64))
    weight.grad = torch.tensor([gradient], dtype=torch.float64)
    AdamW([weight], **settings).step()  # type: ignore[arg-type]
    return weight.item()


@pytest.mark.parametrize("gradient", [1e-12, -1e-3, 1.0, -1e6])
def test_the_first_step_is_as_long_as_the_rate_whatever_the_gradient(
    gradient: float,
) -> None:
    after = one(3.0, gradient, lr=0.1, weight_decay=0.0, eps=1e-30)
    assert after == pytest.approx(3.0 - math.copysign(0.1, gradient), rel=1e-12)


def test_a_gradient_of_zero_leaves_the_decay_alone() -> None:
    assert one(3.0, 0.0, lr=0.1, weight_decay=0.5) == pytest.approx(
        3.0 * (1 - 0.1 * 0.5), rel=1e-15
    )


def test_decay_shrinks_by_the_same_factor_whatever_the_gradients_size() -> None:
    for gradient in (1e-6, 1.0, 1e6):
        with_decay = one(3.0, gradient, lr=0.1, weight_decay=0.5, eps=1e-30)
        without = one(3.0, gradient, lr=0.1, weight_decay=0.0, eps=1e-30)
        assert without - with_decay == pytest.approx(0.1 * 0.5 * 3.0, rel=1e-12)


def test_l2_in_the_gradient_is_not_decay_under_adam() -> None:
    # ... because the first step then has the size of the rate again, decay or not
    for l2 in (0.0, 0.5, 50.0):
        after = one(3.0, 1.0 + l2 * 3.0, lr=0.1, weight_decay=0.0, eps=1e-30)
        assert after == pytest.approx(2.9, rel=1e-12)


def test_the_path_does_not_depend_on_the_scale_of_the_loss() -> None:
    torch.manual_seed(0)
    theta = torch.randn(7, dtype=torch.float64)
    gradients = torch.randn(30, 7, dtype=torch.float64)
    scales = 10.0 ** torch.arange(-3, 4, dtype=torch.float64)  # one for each coordinate
    torch.testing.assert_close(
        path(theta, gradients * scales), path(theta, gradients), rtol=1e-4, atol=0
    )  # eps is what is left


def test_without_memory_it_is_a_step_along_the_sign() -> None:
    theta = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    weight = nn.Parameter(theta.clone())
    optimizer = AdamW([weight], lr=0.1, betas=(0.0, 0.0), eps=1e-30, weight_decay=0.0)
    for gradient in ([5.0, -1.0, 1e-3], [-2.0, -7.0, 4.0]):
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        theta = theta - 0.1 * weight.grad.sign()
        optimizer.step()
    torch.testing.assert_close(weight.detach(), theta)


def test_a_rate_of_zero_changes_nothing() -> None:
    assert one(3.0, 1.0, lr=0.0, weight_decay=0.5) == 3.0


def test_a_group_added_later_counts_its_own_steps() -> None:
    early, late = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = AdamW([early], lr=0.1, weight_decay=0.0)
    for _ in range(3):
        early.grad = torch.ones(1)
        optimizer.step()
    optimizer.add_param_group({"params": [late]})
    late.grad = torch.ones(1)
    optimizer.step()
    assert late.item() == pytest.approx(0.9, rel=1e-6)  # a first step, of full length


def test_a_bowl_is_gone_down_to_where_decay_and_gradient_are_equal() -> None:
    # no decay: the minimum itself; the rate falls, so that the last steps are short
    weight = nn.Parameter(torch.tensor([5.0, -3.0], dtype=torch.float64))
    optimizer = AdamW([weight], lr=0.1, weight_decay=0.0)
    scale = torch.tensor([1.0, 1e4], dtype=torch.float64)
    for t in range(2000):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - t / 2000)
        weight.grad = scale * (weight.detach() - 1.0)
        optimizer.step()
    torch.testing.assert_close(
        weight.detach(), torch.ones_like(weight), atol=1e-3, rtol=0
    )


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
        AdamW([weight], **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=told):
        AdamW([{"params": [weight], **settings}])


def test_what_it_cannot_optimise_is_refused() -> None:
    table = nn.Embedding(10, 3, sparse=True)
    optimizer = AdamW(table.parameters())
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(
        TypeError, match=r"dense gradient, got layout torch\.sparse_coo"
    ):
        optimizer.step()
    with pytest.raises(TypeError, match=r"torch\.complex64"):
        AdamW([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    with pytest.raises(ValueError, match="empty"):
        AdamW([])


def test_the_state_is_two_numbers_for_every_parameter(evidence) -> None:
    rows = state_of_resnet50(
        {
            "sgd": ("SGD", partial(torch.optim.SGD, momentum=0.0)),
            "momentum": ("SGD with momentum", partial(torch.optim.SGD, momentum=0.9)),
            "adamw": ("AdamW", AdamW),
        }
    )
    evidence.computed("cost", rows)
    assert [row["per_parameter"] for row in rows.values()] == [0, 1, 2]


def small_network() -> nn.Module:
    def block(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

    return nn.Sequential(
        *block(1, 16), *block(16, 32), nn.MaxPool2d(2), *block(32, 64),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def digits_with(
    kind: str, lr: float, weight_decay: float, epochs: int, seed: int
) -> dict[str, object]:
    """Train the small network with one optimizer; the rate falls along a cosine."""
    images, labels = digits("train")
    torch.manual_seed(seed)
    model = small_network()
    optimizer: torch.optim.Optimizer
    if kind == "adamw":
        optimizer = AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay
        )
    count = steps(len(labels), epochs=epochs, batch_size=64)
    test = digits("test")
    try:
        history = fit(
            model,
            (images, labels),
            epochs=epochs,
            batch_size=64,
            optimizer=optimizer,
            schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count),
            evaluate=lambda net: {"accuracy": accuracy(net, *test)},
            seed=seed,
        )
    except FloatingPointError:  # the loss was not finite
        return {"diverged": True}
    return {
        "accuracy": [row["accuracy"] for row in history],
        "loss": [row["loss"] for row in history],
    }


def adamw_against_sgd(
    arms: dict[str, dict[str, object]],
    names: dict[str, str],
    pairs: dict[str, str],
    epochs: int,
    seeds: int,
) -> dict[str, object]:
    """Every arm over the same seeds: the same initial weights and order of images."""
    results = repeat(
        digits_with,
        {arm: {**given, "epochs": epochs} for arm, given in arms.items()},
        range(seeds),
        Path(__file__).parents[2] / ".cache/record/adamw.jsonl",
    )
    rows = {
        arm: arm_of(runs, name=names[arm], **arms[arm]) for arm, runs in results.items()
    }
    return {
        "arms": rows,
        "paired": {
            arm: {
                "name": f"{names[arm]} − {names[other]}",
                **paired(
                    rows[arm]["accuracy"]["values"], rows[other]["accuracy"]["values"]
                ),
            }
            for arm, other in pairs.items()
            if "diverged" not in {**rows[arm], **rows[other]}
        },
    }


def arm_of(runs: list[dict], **row: object) -> dict[str, object]:
    """What the runs of an arm came to; nothing but that, where one of them diverged."""
    if any("diverged" in run for run in runs):
        return {**row, "diverged": True}
    for quantity in ("accuracy", "loss"):
        values = [run[quantity][-1] for run in runs]
        row[quantity] = {"values": values, **interval(values)}
    return {**row, "curve": [run["loss"] for run in runs]}


@pytest.mark.record
def test_adamw_paired_against_sgd_with_momentum_at_three_rates_each(evidence) -> None:
    evidence.measured(
        "digits",
        arguments={
            "arms": {
                "adamw_low": {"kind": "adamw", "lr": 1e-4, "weight_decay": 0.01},
                "adamw": {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.01},
                "adamw_high": {"kind": "adamw", "lr": 1e-2, "weight_decay": 0.01},
                "sgd_low": {"kind": "sgd", "lr": 0.01, "weight_decay": 5e-4},
                "sgd": {"kind": "sgd", "lr": 0.1, "weight_decay": 5e-4},
                "sgd_high": {"kind": "sgd", "lr": 1.0, "weight_decay": 5e-4},
            },
            "names": {
                "adamw_low": "AdamW, lr 0.0001",
                "adamw": "AdamW, lr 0.001 (default)",
                "adamw_high": "AdamW, lr 0.01",
                "sgd_low": "SGD, lr 0.01",
                "sgd": "SGD, lr 0.1",
                "sgd_high": "SGD, lr 1",
            },
            "pairs": {
                "adamw": "sgd",
                "adamw_low": "sgd_low",
                "adamw_high": "sgd_high",
            },
            "epochs": 20,
            "seeds": 5,
        },
        run=adamw_against_sgd,
    )


# ---------------------------------------------------------------- the race


RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # fixed before any run


def race_arm(rate: float) -> bench.Arm:
    return bench.Arm(
        "AdamW", optimizer=lambda m: AdamW(m.parameters(), lr=rate, weight_decay=0.01)
    )


@pytest.mark.record
def test_record_the_race(evidence) -> None:
    arguments = race.arguments(RATES, "optimization/adamw")
    evidence.measured("race", arguments=arguments, run=partial(race.race, race_arm))


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(race.time_of_a_step, race_arm)
    evidence.measured("time", arguments={}, run=run)
