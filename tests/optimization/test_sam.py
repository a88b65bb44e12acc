"""SAM makes the steps of algorithm 1 over any optimizer, refuses a missing closure, and keeps batch norm's statistics."""

import copy
import io
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim import SGD

from cnn_lab import bench
from cnn_lab.fit import AcceleratorLike, accuracy, fit
from cnn_site import race
from cnn_site.parity import compare_steps
from cnn_techniques.optimization import (
    LAMB,
    SAM,
    AdamW,
    Lion,
    Muon,
    running_statistics_kept,
)


def path(start: Tensor, curvature: Tensor, rho: float = 0.05) -> Tensor:
    """Five steps of SAM down a bowl."""
    w = nn.Parameter(start.clone())
    optimizer = SAM(nn.Module(), SGD([w], lr=0.1), rho)

    def closure() -> Tensor:
        loss = (curvature * w * w).sum() / 2
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    return w.detach()


DEVICE_CASES = {
    "SAM": lambda: (path, (torch.randn(6, 5), torch.rand(6, 5))),
}


def over_sgd(groups: Any, rho: float, **options: Any) -> SAM:
    return SAM(nn.Module(), SGD(groups, **options), rho)


class WrittenOut(torch.optim.Optimizer):
    """Algorithm 1 with one vector of all parameters, and SGD with momentum by hand."""

    def __init__(self, groups: Any, rho: float, **options: Any) -> None:
        super().__init__(groups, options)
        self.rho = rho

    def step(self, closure: Any) -> Tensor:  # type: ignore[override]
        parameters = [p for group in self.param_groups for p in group["params"]]
        w = torch.cat([p.detach().flatten() for p in parameters])
        loss = closure()
        g = torch.cat([p.grad.flatten() for p in parameters])
        self._write(parameters, w + self.rho * g / g.square().sum().sqrt())
        closure()
        gradients = [p.grad.clone() for p in parameters]
        self._write(parameters, w)
        for group in self.param_groups:
            for p in group["params"]:
                gradient = gradients[[q is p for q in parameters].index(True)]
                v = self.state[p].get("momentum_buffer", torch.zeros_like(p))
                v = (
                    group["momentum"] * v
                    + gradient
                    + group["weight_decay"] * p.detach()
                )
                self.state[p]["momentum_buffer"] = v
                p.data = p.data - group["lr"] * v
        return loss  # type: ignore[no-any-return]

    @staticmethod
    def _write(parameters: list[nn.Parameter], vector: Tensor) -> None:
        with torch.no_grad():
            for p, part in zip(
                parameters, vector.split([p.numel() for p in parameters]), strict=True
            ):
                p.copy_(part.view_as(p))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rho": self.rho, "base": "SGD"}


@pytest.mark.parametrize("rho", [0.3, 0.01])
def test_fifty_steps_are_those_of_algorithm_1(evidence, rho: float) -> None:
    found = compare_steps(
        over_sgd,
        WrittenOut,
        options={"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "rho": rho},
        groups=[{"lr": 0.02}, {"weight_decay": 0.0}, {"momentum": 0.5}],
        state={"momentum_buffer": "momentum_buffer"},
        closure=True,
    )
    if rho == 0.3:
        evidence.equivalent(
            "paper",
            found,
            reference="algorithm 1 of the paper, written out with one vector of all parameters",
            settings="SGD with lr 0.01, momentum 0.9, weight_decay 0.1; rho 0.3",
        )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8, momentum=None), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    ).double()  # fmt: skip


def data(count: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 1, 8, 7, dtype=torch.float64, generator=generator)
    return images, torch.arange(count) % 10


def through_sam(loss: Any, optimizer: SAM, accelerator: AcceleratorLike) -> None:  # type: ignore[override]
    """The lab's hook of a step: SAM asks for the batch's loss twice."""

    def closure() -> Tensor:
        value: Tensor = loss()
        accelerator.backward(value)
        return value

    optimizer.step(closure)


def two_passes(
    loss: Any, optimizer: torch.optim.Optimizer, accelerator: AcceleratorLike
) -> None:
    """The same without SAM: the second gradient from a copy of the network."""
    model: nn.Module = loss.model
    names = dict(model.named_parameters())
    value = loss()
    gradients = torch.autograd.grad(value, list(names.values()))
    norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
    shifted = {
        name: (p + 0.1 * g / norm).detach().requires_grad_()
        for (name, p), g in zip(names.items(), gradients, strict=True)
    }
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    logits = functional_call(model, {**shifted, **buffers}, (loss.inputs,))
    second = torch.autograd.grad(
        F.cross_entropy(logits, loss.targets), list(shifted.values())
    )
    for p, g in zip(names.values(), second, strict=True):
        p.grad = g
    optimizer.step()


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_through_the_labs_loop_it_is_two_passes_written_out(
    evidence, kind: str
) -> None:
    results = []
    for sam in (True, False):
        model = network()
        base: torch.optim.Optimizer = (
            SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
            if kind == "SGD"
            else AdamW(model.parameters(), lr=0.01)
        )
        optimizer = SAM(model, base, 0.1) if sam else base
        history = fit(
            model,
            data(),
            epochs=3,
            batch_size=16,
            optimizer=optimizer,
            schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9),
            update=through_sam if sam else two_passes,  # type: ignore[arg-type]
            evaluate=lambda net: {"accuracy": accuracy(net, *data())},
        )
        results.append((history, model.state_dict()))
    (ours, state), (theirs, expected) = results
    for name, value in expected.items():  # buffers too: running statistics, their count
        torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-12)
    assert state["1.num_batches_tracked"] == 9
    assert ours == [pytest.approx(row, rel=1e-9) for row in theirs]
    assert ours[0]["loss"] != ours[-1]["loss"]


def closure_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    images, labels = data()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: AdamW(p, lr=0.01),
        lambda p: LAMB(p, lr=0.01),
        lambda p: Lion(p, lr=0.01),
        lambda p: Muon(p, lr=0.01, dtype=torch.float64),
    ],
    ids=["SGD", "Adam", "AdamW", "LAMB", "Lion", "Muon"],
)
def test_without_rho_it_is_the_base_optimizer_itself(make: Any) -> None:
    plain, model = network(), network()
    base = make(plain.parameters())
    optimizer = SAM(model, make(model.parameters()), rho=0.0)
    closures = closure_of(plain, base), closure_of(model, optimizer)
    for _ in range(5):
        expected, loss = base.step(closures[0]), optimizer.step(closures[1])
        assert torch.equal(loss, expected)
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not torch.equal(plain[0].weight, network()[0].weight)  # type: ignore[index]


def test_epsilon_has_the_length_rho_over_all_parameters_and_raises_the_loss_most() -> (
    None
):
    # for a loss that is linear, by rho * |g|; nowhere else on the sphere by as much
    torch.manual_seed(0)
    a, b = torch.randn(3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    v, w = nn.Parameter(torch.ones_like(a)), nn.Parameter(torch.ones_like(b))
    optimizer = SAM(nn.Module(), SGD([v, w], lr=0.0), rho=0.7)
    seen = []

    def closure() -> Tensor:
        loss = (a * v).sum() + (b * w).sum()
        loss.backward()
        seen.append((loss.item(), torch.cat([v.detach(), w.detach().flatten()])))
        return loss

    optimizer.step(closure)
    (low, start), (high, there) = seen
    g = torch.cat([a, b.flatten()])
    torch.testing.assert_close(there - start, 0.7 * g / g.norm())
    assert high - low == pytest.approx(0.7 * g.norm().item(), rel=1e-12)
    others = torch.randn(1000, 7, dtype=torch.float64)
    others = 0.7 * others / others.norm(dim=1, keepdim=True)
    assert (others @ g).max() < high - low


def test_on_a_bowl_the_step_is_a_closed_form() -> None:
    # gradient H w at w, so H (w + rho H w / |H w|) at w + epsilon
    torch.manual_seed(0)
    start = torch.randn(4, dtype=torch.float64)
    h = torch.rand(4, dtype=torch.float64)
    w = start
    for _ in range(5):
        w = w - 0.1 * h * (w + 0.3 * h * w / (h * w).norm())
    torch.testing.assert_close(path(start, h, 0.3), w, rtol=1e-12, atol=0)


def test_in_a_bowl_it_ends_by_stepping_from_side_to_side() -> None:
    # w = -(w - lr * h * (w + rho)), so w = lr * h * rho / (2 - lr * h)
    w = nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    optimizer = SAM(nn.Module(), SGD([w], lr=0.1), rho=0.5)

    def closure() -> Tensor:
        loss = (2 * w * w / 2).sum()
        loss.backward()
        return loss

    ends = []
    for _ in range(500):
        optimizer.step(closure)
        ends.append(w.item())
    assert abs(ends[-1]) == pytest.approx(0.1 * 2 * 0.5 / (2 - 0.1 * 2), rel=1e-9)
    assert ends[-1] == pytest.approx(-ends[-2], rel=1e-9)


def test_the_path_does_not_depend_on_where_the_loss_is_scaled_but_by_the_rate() -> None:
    # epsilon has no scale; the second gradient has that of the loss
    torch.manual_seed(0)
    start = torch.randn(4, dtype=torch.float64)
    h = torch.rand(4, dtype=torch.float64)
    w = nn.Parameter(start.clone())
    optimizer = SAM(nn.Module(), SGD([w], lr=0.1 / 100), rho=0.3)

    def closure() -> Tensor:
        loss = 100 * (h * w * w).sum() / 2
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    torch.testing.assert_close(w.detach(), path(start, h, 0.3), rtol=1e-12, atol=0)


def test_the_running_statistics_are_those_of_the_first_pass() -> None:
    model, expected = network(), network()
    optimizer = SAM(model, SGD(model.parameters(), lr=0.1), rho=5.0)
    optimizer.step(closure_of(model, optimizer))
    expected(data()[0])
    for name, value in expected.named_buffers():
        assert torch.equal(model.get_buffer(name), value), name
    forgetful = network()
    optimizer = SAM(nn.Module(), SGD(forgetful.parameters(), lr=0.1), rho=5.0)
    optimizer.step(closure_of(forgetful, optimizer))
    assert forgetful.get_buffer("1.num_batches_tracked") == 2
    assert not torch.allclose(
        forgetful.get_buffer("1.running_var"), expected.get_buffer("1.running_var")
    )


def test_norms_that_track_nothing_or_are_in_evaluation_mode_stay_as_they_are() -> None:
    model = nn.Sequential(
        nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3)
    )
    model.eval()
    images = torch.randn(8, 3)
    expected = model(images)
    with running_statistics_kept(model):
        assert torch.equal(model(images), expected)
        model.train()
        model(images)
    assert [m.track_running_stats for m in model] == [False, True]  # type: ignore[attr-defined]
    assert model[1].num_batches_tracked == 0


def test_after_an_error_in_the_second_pass_weights_and_norms_are_as_before() -> None:
    model = network()
    optimizer = SAM(model, SGD(model.parameters(), lr=0.1), rho=1.0)
    usual, calls = closure_of(model, optimizer), []

    def closure() -> Tensor:
        calls.append(copy.deepcopy(model.state_dict()))
        if len(calls) == 2:
            raise FloatingPointError("the loss is nan")
        return usual()  # type: ignore[no-any-return]

    with pytest.raises(FloatingPointError, match="the loss is nan"):
        optimizer.step(closure)
    first, second = calls
    assert not torch.equal(second["0.weight"], first["0.weight"])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, first[name]), name
    assert all(m.track_running_stats for m in model if isinstance(m, nn.BatchNorm2d))  # type: ignore[attr-defined]


def test_the_closure_is_called_twice_with_cleared_gradients_and_its_first_loss_returned() -> (
    None
):
    w = nn.Parameter(torch.tensor([2.0]))
    optimizer = SAM(nn.Module(), SGD([w], lr=0.1), rho=1.0)
    w.grad = torch.tensor([1e6])  # of another batch
    seen = []

    def closure() -> Tensor:
        seen.append((torch.is_grad_enabled(), w.grad))
        loss = (w * w).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4.0
    assert seen == [(True, None)] * 2
    assert w.item() == pytest.approx(2 - 0.1 * 2 * 3)


def test_a_missing_closure_is_refused_before_anything_is_changed() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = SAM(model, SGD(model.parameters(), lr=0.1))
    F.cross_entropy(model.eval()(data()[0]), data()[1]).backward()
    gradient = model[0].weight.grad.clone()  # type: ignore[index]
    with pytest.raises(ValueError, match=r"expected step\(closure\).* got None"):
        optimizer.step()
    assert torch.equal(model[0].weight.grad, gradient)  # type: ignore[index]
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)


def test_a_closure_without_backward_and_a_sparse_gradient_are_refused() -> None:
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="closure\\(\\) calls no backward"):
        SAM(nn.Module(), SGD([w], lr=0.1)).step(lambda: w.sum())
    table = nn.Embedding(10, 3, sparse=True)

    def closure() -> Tensor:
        loss = table(torch.tensor([1, 2])).sum()
        loss.backward()
        return loss  # type: ignore[no-any-return]

    before = table.weight.detach().clone()
    with pytest.raises(
        TypeError, match=r"dense gradient, got layout torch\.sparse_coo"
    ):
        SAM(table, SGD(table.parameters(), lr=0.1)).step(closure)
    assert torch.equal(table.weight, before)


@pytest.mark.parametrize("rho", [-0.05, math.inf, math.nan])
def test_a_rho_that_is_no_length_is_refused(rho: float) -> None:
    base = SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    with pytest.raises(ValueError, match=f"rho of 0 or more, got {rho}"):
        SAM(nn.Module(), base, rho)


def test_a_base_that_is_no_optimizer_is_refused() -> None:
    with pytest.raises(TypeError, match="expected an optimizer as base, got <class"):
        SAM(nn.Module(), SGD)  # type: ignore[arg-type]


def test_a_gradient_of_zero_gives_no_epsilon() -> None:
    start = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(path(start, torch.ones(3, dtype=torch.float64), 0.5), start)


def test_parameters_without_a_gradient_are_left_alone() -> None:
    seen, unseen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SAM(nn.Module(), SGD([seen, unseen], lr=0.1, weight_decay=0.5))

    def closure() -> Tensor:
        loss = (seen * seen).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (seen < 1).all()
    assert torch.equal(unseen, torch.ones(2))


@pytest.mark.parametrize("holds", ["SAM", "base"])
def test_a_schedule_may_hold_either_and_a_group_may_be_added(holds: str) -> None:
    base = SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    optimizer = SAM(nn.Module(), base)
    held = optimizer if holds == "SAM" else base
    schedule = torch.optim.lr_scheduler.StepLR(held, 1, gamma=0.5)
    held.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.2})

    def closure() -> Tensor:
        loss = sum((p * p).sum() for g in base.param_groups for p in g["params"])
        loss.backward()  # type: ignore[union-attr]
        return loss  # type: ignore[return-value]

    optimizer.step(closure)
    schedule.step()
    for each in (optimizer, base):
        assert each.param_groups[0]["lr"] == 0.05
        assert len(each.param_groups) == 2


def test_a_run_goes_on_from_its_saved_state_as_if_it_had_not_stopped() -> None:
    def made(model: nn.Module, rho: float) -> SAM:
        return SAM(model, SGD(model.parameters(), lr=0.1, momentum=0.9), rho)

    model = network()
    optimizer = made(model, 0.2)
    for _ in range(3):
        optimizer.step(closure_of(model, optimizer))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    other = network()
    resumed = made(other, 0.05)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert resumed.rho == 0.2
    for m, o in ((model, optimizer), (other, resumed)):
        for _ in range(3):
            o.step(closure_of(m, o))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def stepped(make: Any, groups: int = 1) -> torch.optim.Optimizer:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(groups)]
    optimizer: torch.optim.Optimizer = make(
        [{"params": [weight]} for weight in weights]
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([(w * w).sum() for w in weights]).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return optimizer


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: SGD(groups, lr=0.1, momentum=0.9),
        lambda groups: AdamW(groups),
        lambda groups: SAM(nn.Module(), AdamW(groups)),
    ],
    ids=["its base alone", "another optimizer", "SAM over another base"],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_state_of_another_optimizer_or_of_other_groups_is_refused_as_a_whole(
    make: Any, groups: int
) -> None:
    optimizer = stepped(lambda g: over_sgd(g, 0.05, lr=0.1, momentum=0.9))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(
        ValueError, match=f"SAM over SGD with 1 .* with {groups} groups"
    ):
        optimizer.load_state_dict(stepped(make, groups).state_dict())
    with pytest.raises(ValueError, match="with 2 groups"):
        optimizer.load_state_dict(
            stepped(lambda g: over_sgd(g, 0.05, lr=0.1), 2).state_dict()
        )
    without = {key: value for key, value in before.items() if key != "rho"}
    with pytest.raises(ValueError, match=r"got base and rho \('SGD', None\)"):
        optimizer.load_state_dict(without)
    assert str(optimizer.state_dict()) == str(before)


def test_a_step_takes_two_gradients_and_the_state_is_that_of_its_base(evidence) -> None:
    rows = {}
    for key, name in (("momentum", "SGD with momentum"), ("sam", "SAM over it")):
        model, calls = network(), []
        base = SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = SAM(model, base) if key == "sam" else base
        usual = closure_of(model, optimizer)
        handle = model[8].register_full_backward_hook(  # type: ignore[index]
            lambda module, before, after, calls=calls: calls.append(module)
        )
        optimizer.step(usual)
        handle.remove()
        kept = [
            value
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor) and value.ndim
        ]
        params = sum(p.numel() for p in model.parameters())
        numbers = sum(value.numel() for value in kept)
        rows[key] = {
            "name": name,
            "gradients": len(calls),
            "per_parameter": numbers // params,
        }
        assert numbers % params == 0
    evidence.computed("cost", rows)
    assert [row["gradients"] for row in rows.values()] == [1, 2]
    assert [row["per_parameter"] for row in rows.values()] == [1, 1]


# ---------------------------------------------------------------- the race


RATES = (0.01, 0.03, 0.1, 0.3, 1.0)  # fixed before any run


def race_arm(rate: float) -> bench.Arm:
    def make(model: nn.Module) -> SAM:
        base = torch.optim.SGD(
            model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4
        )
        return SAM(model, base, rho=0.05)

    return bench.Arm("SAM", optimizer=make, update=lambda: through_sam)


@pytest.mark.record
def test_record_the_race(evidence) -> None:
    arguments = race.arguments(RATES, "optimization/sam")
    evidence.measured("race", arguments=arguments, run=partial(race.race, race_arm))


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(race.time_of_a_step, race_arm)
    evidence.measured("time", arguments={}, run=run)
