from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab.fit import (
    BadData,
    EvaluationBatches,
    InMemory,
    SingleProcess,
    Step,
    TrainingBatches,
    accuracy,
    fit,
    generator,
    load_batches,
    predict,
    steps,
    to_train,
    train_steps,
)

X = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
CPU = torch.device("cpu")


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 2)
    )


def sgd(model: nn.Module, lr: float = 0.5) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def train(model: nn.Module, **settings: Any) -> list[dict[str, Any]]:
    settings = {
        "data": (X, Y),
        "epochs": 3,
        "batch_size": 16,
        "optimizer": sgd(model),
        "seed": 4,
    } | settings
    return fit(model, **settings)


def test_it_is_the_loop_that_one_would_write_by_hand() -> None:
    model, by_hand = network(), network()
    history = train(model)
    optimizer, losses = sgd(by_hand), []
    for epoch in (1, 2, 3):
        total = 0.0
        for rows in torch.randperm(50, generator=generator(4, epoch)).split(16):
            loss = F.cross_entropy(by_hand(X[rows]), Y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / 50)
    assert [h["loss"] for h in history] == losses
    assert [h["epoch"] for h in history] == [1, 2, 3]
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.parameters(), by_hand.parameters(), strict=True)
    )


def test_it_learns() -> None:
    model = network()
    train(model, epochs=30)
    assert accuracy(model, X, Y) > 0.95


def test_the_same_seed_gives_the_same_run_whatever_was_drawn_before() -> None:
    first = train(network(dropout=0.5))
    model = network(dropout=0.5)
    torch.randn(17)
    assert train(model) == first
    assert train(network(dropout=0.5), seed=5) != first


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.randn(2)
    torch.manual_seed(3)
    model = nn.Linear(6, 2)
    torch.manual_seed(3)
    train(model)
    assert torch.equal(torch.randn(2), expected)


def test_what_a_batch_draws_depends_on_seed_epoch_and_step_alone() -> None:
    drawn: list[float] = []

    def transform(x: Tensor, y: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn.append(torch.rand((), generator=g).item())
        torch.rand(
            len(drawn), generator=g
        )  # how much a step draws must not reach the next one
        return x, y

    train(network(), batch_transform=transform)
    assert len(set(drawn)) == len(drawn) == steps(50, epochs=3, batch_size=16) == 12
    assert drawn[5] == torch.rand((), generator=generator(4, 2, 1)).item()


def test_targets_may_be_a_list_with_one_entry_an_image() -> None:
    targets = [{"label": y} for y in Y]

    def loss(model: nn.Module, x: Tensor, wanted: list[dict[str, Tensor]]) -> Tensor:
        return F.cross_entropy(model(x), torch.stack([t["label"] for t in wanted]))

    as_list, as_tensor = network(), network()
    assert train(as_list, data=(X, targets), loss=loss) == train(as_tensor)


def test_masks_need_no_other_loop() -> None:
    images, masks = torch.randn(8, 1, 5, 7), torch.randint(3, (8, 5, 7))
    model = nn.Conv2d(1, 3, 3, padding=1)
    history = train(model, data=(images, masks), epochs=2)
    assert history[1]["loss"] < history[0]["loss"]
    assert 0 <= accuracy(model, images, masks) <= 1


def test_a_schedule_is_stepped_after_every_batch() -> None:
    model = network()
    optimizer = sgd(model, lr=1.0)
    total = steps(50, epochs=3, batch_size=16)
    train(
        model,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.25, total),
    )
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.25)


def test_evaluation_sees_the_model_in_evaluation_mode_and_its_results_join_the_epoch() -> (
    None
):
    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"accuracy": accuracy(model, X, Y)}

    assert all(
        set(h) == {"epoch", "loss", "accuracy"}
        for h in train(network(), evaluate=evaluate)
    )


def test_a_loss_that_is_not_finite_stops_with_its_place() -> None:
    seen: list[int] = []

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append(len(x))
        return F.cross_entropy(model(x), y) * (float("nan") if len(seen) == 6 else 1.0)

    with pytest.raises(
        FloatingPointError, match=r"epoch 2, step 1 .*learning rates \[0.5\]"
    ):
        train(network(), loss=loss)


def test_predicting_is_in_evaluation_mode_and_gives_every_module_its_mode_back() -> (
    None
):
    model = network(dropout=0.9)
    model[0].eval()
    torch.testing.assert_close(predict(model, X, batch_size=7), predict(model, X))
    assert [m.training for m in model] == [False, True, True, True]
    assert not predict(model, X).requires_grad


def test_a_detectors_lists_are_joined() -> None:
    class Detector(nn.Module):
        def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
            return [{"boxes": row[:4]} for row in x]

    found = predict(Detector(), X, batch_size=8)
    assert len(found) == 50
    assert torch.equal(found[9]["boxes"], X[9, :4])


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": 0}, {"data": (X, Y[:3])}, {"data": (X[:0], Y[:0])}],
)
def test_it_refuses_what_cannot_be_trained_on(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        train(network(), **wrong)


def test_predict_refuses_other_outputs() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(TypeError, match="tuple"):
        predict(Pair(), X)


# --- the loop under it -----------------------------------------------------------


def made_steps(model: nn.Module, **settings: Any) -> list[Step]:
    options = {
        "source": InMemory(X, Y),
        "epochs": 3,
        "batch_size": 16,
        "optimizer": sgd(model),
        "seed": 4,
    } | settings
    return list(train_steps(model, **options))


def noisy(images: Tensor, draws: Tensor) -> Tensor:
    return images + 0.1 * draws.to(images.dtype)


@pytest.mark.parametrize("done", [1, 3, 4, 7, 11])
def test_a_run_goes_on_from_any_step_without_making_the_steps_before(done: int) -> None:
    source = InMemory(X, Y, noisy, draws=6)
    whole, parted = network(dropout=0.5), network(dropout=0.5)
    expected = made_steps(whole, source=source)
    steps = train_steps(
        parted, source, epochs=3, batch_size=16, optimizer=sgd(parted), seed=4
    )
    first = [next(steps) for _ in range(done)]
    steps.close()
    rest = made_steps(parted, source=source, start_step=done)
    assert first + rest == expected and len(expected) == 12
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.parameters(), parted.parameters(), strict=True)
    )


def test_a_step_says_where_it_is() -> None:
    told = made_steps(network())
    assert [(s.epoch, s.step) for s in told][3:6] == [(1, 4), (2, 1), (2, 2)]
    assert [s.images for s in told][:4] == [16, 16, 16, 2]
    assert [s.ends_epoch for s in told][:5] == [False, False, False, True, False]


def test_who_loads_the_images_changes_nothing() -> None:
    source = InMemory(X, Y, noisy, draws=6)
    assert made_steps(network(), source=source) == made_steps(
        network(), source=source, workers=2
    )


def test_an_image_that_cannot_be_read_ends_the_run_with_its_own_message() -> None:
    class Broken(InMemory):
        def take(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, Any]:
            raise BadData("cat.jpg is not an image")

    for workers in (0, 1):
        with pytest.raises(BadData, match=r"^cat.jpg is not an image$"):
            made_steps(network(), source=Broken(X, Y), workers=workers)


def test_what_comes_before_an_epoch_is_told_which_one() -> None:
    epochs: list[int] = []

    def before(model: nn.Module, epoch: int) -> None:
        epochs.append(epoch)
        to_train(model, epoch)

    made_steps(network(), before_epoch=before)
    made_steps(network(), before_epoch=before, start_step=5)  # in the second epoch
    assert epochs == [1, 2, 3, 2, 3]


@pytest.mark.parametrize(("count", "processes"), [(50, 2), (50, 3), (33, 4), (2, 3)])
def test_the_shares_of_a_batch_are_all_of_it_and_disjoint(
    count: int, processes: int
) -> None:
    rows = torch.arange(count)
    for step in range(
        len(TrainingBatches(InMemory(rows, rows), 0, 1, 16, SingleProcess(CPU)))
    ):
        shares, sizes = [], []
        for rank in range(processes):
            plan = TrainingBatches(
                InMemory(rows, rows), 0, 1, 16, SingleProcess(CPU, processes, rank)
            )
            images, targets = plan[step]
            assert torch.equal(images, targets) and len(images) >= 1
            sizes.append(plan.share(step))
            shares += images[: plan.share(step)].tolist()  # the rest is lent
        one = TrainingBatches(InMemory(rows, rows), 0, 1, 16, SingleProcess(CPU))
        assert sorted(shares) == sorted(one[step][0].tolist())
        assert sum(sizes) == one.size(step)


def test_a_test_meets_every_image_once_in_any_number_of_processes() -> None:
    rows = torch.arange(50)
    for processes in (1, 2, 3):
        met = [
            row
            for rank in range(processes)
            for x, _ in load_batches(
                EvaluationBatches(
                    InMemory(rows, rows), 16, SingleProcess(CPU, processes, rank)
                ),
                0,
            )
            for row in x.tolist()
        ]
        assert sorted(met) == list(range(50))


# ---------------------------------------------------------------- the update of a step


def ascend_first(rho: float) -> Callable[..., None]:
    """Sharpness-aware minimisation: the gradient at the worst point within rho."""

    def update(loss, optimizer, accelerator) -> None:
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        optimizer.zero_grad()
        accelerator.backward(loss())
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        away = [rho / norm * p.grad for p in parameters]
        with torch.no_grad():
            torch._foreach_add_(parameters, away)
        optimizer.zero_grad()
        accelerator.backward(loss())
        with torch.no_grad():
            torch._foreach_sub_(parameters, away)
        optimizer.step()

    return update


def test_an_update_may_ask_for_the_loss_twice() -> None:
    model, by_hand = network(), network()
    history = train(model, epochs=1, batch_size=50, update=ascend_first(0.1))

    rows = torch.randperm(50, generator=generator(4, 1))
    parameters = list(by_hand.parameters())
    loss = F.cross_entropy(by_hand(X[rows]), Y[rows])
    slopes = torch.autograd.grad(loss, parameters)
    norm = torch.stack([g.norm() for g in slopes]).norm()
    worst = dict(by_hand.named_parameters())
    worst = {
        n: p + 0.1 / norm * g for (n, p), g in zip(worst.items(), slopes, strict=True)
    }
    moved = torch.func.functional_call(by_hand, worst, X[rows])
    there = torch.autograd.grad(F.cross_entropy(moved, Y[rows]), parameters)
    for mine, start, slope in zip(model.parameters(), parameters, there, strict=True):
        torch.testing.assert_close(mine, start - 0.5 * slope)
    assert history[0]["loss"] == pytest.approx(loss.item())  # of the first call


def test_an_update_may_clip_gradients() -> None:
    def clipped(loss, optimizer, accelerator) -> None:
        optimizer.zero_grad()
        accelerator.backward(loss())
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.01)
        optimizer.step()

    model, start = network(), network()
    train(model, epochs=1, batch_size=50, update=clipped)
    steps_made = zip(model.parameters(), start.parameters(), strict=True)
    length = torch.stack([(a - b).norm() for a, b in steps_made]).norm()
    torch.testing.assert_close(length, torch.tensor(0.5 * 0.01), rtol=1e-4, atol=0)


def test_an_update_may_add_up_the_gradients_of_several_batches() -> None:
    waiting = [0]

    def every_second(loss, optimizer, accelerator) -> None:
        if waiting[0] % 2 == 0:
            optimizer.zero_grad()
        accelerator.backward(loss() / 2)
        waiting[0] += 1
        if waiting[0] % 2 == 0:
            optimizer.step()

    small, large = network(), network()
    train(small, epochs=2, batch_size=25, update=every_second)
    train(large, epochs=2, batch_size=50)
    for a, b in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_loss_that_is_not_finite_in_a_later_call_stops_the_run() -> None:
    def twice(loss, optimizer, accelerator) -> None:
        loss()
        with torch.no_grad():
            model[0].weight.fill_(float("inf"))
        loss()

    model = network()
    with pytest.raises(FloatingPointError, match="in epoch 1, step 0"):
        train(model, update=twice)


def test_an_update_without_a_loss_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call loss\(\)"):
        train(network(), update=lambda loss, optimizer, accelerator: None)


def test_what_steps_by_a_measure_is_told_of_every_epoch() -> None:
    model = network()
    optimizer = sgd(model)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, patience=0, threshold=1e9, threshold_mode="abs"
    )  # no epoch is that much better: the rate falls after every later one
    train(
        model,
        optimizer=optimizer,
        after_epoch=lambda epoch: plateau.step(epoch["loss"]),
    )
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 0.1**2)
