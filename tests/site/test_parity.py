"""What is no module is compared as strictly: each helper is worth the faults that it refuses."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedules

from cnn_site.parity import (
    compare_change,
    compare_draws,
    compare_metric,
    compare_rates,
    compare_steps,
)

# ---------------------------------------------------------------- optimizers


class Momentum(Optimizer):
    """SGD with momentum and coupled decay, written again; each subclass plants one fault."""

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def decay(self, group: dict[str, Any]) -> float:
        return group["weight_decay"]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                gradient = p.grad + self.decay(group) * p
                state = self.state[p]
                if "velocity" in state:
                    state["velocity"].mul_(group["momentum"]).add_(gradient)
                else:
                    state["velocity"] = gradient.clone()
                p -= group["lr"] * state["velocity"]
        return loss


class IgnoresAGroupsDecay(Momentum):
    def decay(self, group: dict[str, Any]) -> float:
        return self.defaults["weight_decay"]


class ForgetsItsState(Momentum):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "state": {}})


class KeepsTheLoss(Momentum):
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        super().step(closure)


class SlowsDown(Momentum):
    """Another rate from the eleventh step on."""

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken == 11:
            for group in self.param_groups:
                group["lr"] *= 0.99
        return super().step(closure)


def sgd(params: Any, **options: Any) -> Optimizer:
    return torch.optim.SGD(params, **options, momentum=0.9)


RATE = {"lr": 0.05}
STATE = {"momentum_buffer": "velocity"}


def test_equal_optimizers_pass_with_groups_states_closure_and_schedule() -> None:
    found = compare_steps(Momentum, sgd, options=RATE, state=STATE)
    assert found.output <= 1e-10
    assert found.modes == [
        "50 steps; three parameter groups with own decay, lr; states exchanged after 25"
    ]
    compare_steps(Momentum, sgd, options=RATE, closure=True, groups="one", steps=20)
    compare_steps(
        Momentum,
        sgd,
        options=RATE,
        state=STATE,
        schedule=lambda optimizer: schedules.CosineAnnealingLR(optimizer, 20),
        steps=20,
        only=lambda p: p.ndim == 2,
    )


@pytest.mark.parametrize(
    ("fault", "given", "message"),
    [
        (IgnoresAGroupsDecay, {}, "losses differs"),
        (ForgetsItsState, {"state": STATE}, "from the reference's state differs"),
        (KeepsTheLoss, {"closure": True}, "returned None"),
        (SlowsDown, {"groups": "one"}, r"losses differs(.|\n)*first at entry 11"),
        (Momentum, {"state": {"momentum_buffer": "v"}}, "keeps no 'v' for kernel"),
    ],
)
def test_a_faulty_optimizer_is_refused(
    fault: type[Optimizer], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        compare_steps(fault, sgd, options=RATE, **given)


def test_an_option_that_changes_nothing_and_a_still_network_prove_nothing() -> None:
    groups = ({}, {"momentum": 0.0, "dampening": 0.5}, {})  # which momentum reads
    with pytest.raises(AssertionError, match=r"dampening=0\.5 of group 1 changes"):
        compare_steps(sgd, sgd, options=RATE, groups=groups)
    with pytest.raises(AssertionError, match="kernel stays"):
        compare_steps(sgd, sgd, options={"lr": 0.0})
    with pytest.raises(ValueError, match="3 groups"):
        compare_steps(sgd, sgd, options=RATE, groups=({}, {}))
    with pytest.raises(ValueError, match="no parameter"):
        compare_steps(sgd, sgd, options=RATE, only=lambda p: False)


# ---------------------------------------------------------------- schedules


class Cosine(schedules.LRScheduler):
    """In closed form; `late` by so many steps."""

    def __init__(self, optimizer: Optimizer, total: int, late: int = 0) -> None:
        self.total, self.late = total, late
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        passed = max(self.last_epoch - self.late, 0) / self.total
        return [base * (1 + math.cos(math.pi * passed)) / 2 for base in self.base_lrs]


class CountsByItself(Cosine):
    """Its place is not in its state."""

    def get_lr(self) -> list[float]:
        calls = self.__dict__.setdefault("_calls", [])
        calls.append(0)
        passed = (len(calls) - 1) / self.total
        return [base * (1 + math.cos(math.pi * passed)) / 2 for base in self.base_lrs]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state_dict.pop("_calls", None)
        super().load_state_dict(state_dict)


def theirs(optimizer: Optimizer) -> schedules.LRScheduler:
    return schedules.CosineAnnealingLR(optimizer, 30)


def test_equal_schedules_pass_and_their_states_are_exchanged() -> None:
    found = compare_rates(lambda o: Cosine(o, 30), theirs, steps=30)
    assert found.output <= 1e-10
    assert found.modes == ["30 steps; states exchanged after 15"]


def test_momentum_and_metrics_are_compared_too() -> None:
    def cycle(optimizer: Optimizer, top: float = 0.95) -> schedules.LRScheduler:
        return schedules.OneCycleLR(optimizer, 0.5, 20, max_momentum=top)

    compare_rates(cycle, cycle, steps=19)
    with pytest.raises(AssertionError, match="momentum of group 0 differs"):
        compare_rates(lambda o: cycle(o, 0.94), cycle, steps=19)

    def plateau(optimizer: Optimizer, patience: int = 2) -> Any:
        return schedules.ReduceLROnPlateau(optimizer, patience=patience)

    metrics = [1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8]
    compare_rates(plateau, plateau, steps=10, metrics=metrics)
    with pytest.raises(AssertionError, match="lr of group 0 differs"):
        compare_rates(lambda o: plateau(o, 3), plateau, steps=10, metrics=metrics)
    with pytest.raises(ValueError, match="each of 10 steps, got 3"):
        compare_rates(plateau, plateau, steps=10, metrics=metrics[:3])


def test_a_schedule_that_is_a_step_late_is_refused_and_the_step_is_named() -> None:
    with pytest.raises(AssertionError, match="first at entry 1,"):
        compare_rates(lambda o: Cosine(o, 30, late=1), theirs, steps=30)


def test_a_schedule_whose_place_is_not_saved_is_refused() -> None:
    with pytest.raises(AssertionError, match="from the reference's state differs"):
        compare_rates(lambda o: CountsByItself(o, 30), theirs, steps=30)


def test_a_constant_rate_proves_nothing() -> None:
    def constant(optimizer: Optimizer) -> schedules.LRScheduler:
        return schedules.LambdaLR(optimizer, lambda step: 1.0)

    with pytest.raises(AssertionError, match="no rate ever changes"):
        compare_rates(constant, constant)


# ---------------------------------------------------------------- transforms

IMAGE = torch.arange(3 * 6 * 8, dtype=torch.uint8).reshape(3, 6, 8)
INPUTS = {"uint8": IMAGE, "float": IMAGE / torch.tensor(255.0).double()}
BOXES = {"left": {"x": 1, "w": 3}, "right": {"x": 5, "w": 2}}


def erase(image: Tensor, x: int, w: int) -> Tensor:
    image = image.clone()
    image[..., x : x + w] = 0
    return image


def test_equal_transforms_pass_on_bytes_and_floats() -> None:
    def another_way(image: Tensor, draw: dict[str, int]) -> Tensor:
        columns = torch.arange(image.shape[-1])
        inside = (columns >= draw["x"]) & (columns < draw["x"] + draw["w"])
        return image.masked_fill(inside, 0)

    found = compare_draws(lambda x, d: erase(x, **d), another_way, INPUTS, BOXES)
    assert (found.shape, found.modes) == ([3, 6, 8], ["left", "right"])


def jittered(image: Tensor, draw: dict[str, int]) -> Tensor:
    return erase(image, int(torch.randint(4, ())), draw["w"])  # draws a second time


def in_place(image: Tensor, draw: dict[str, int]) -> Tensor:
    image[..., draw["x"] : draw["x"] + draw["w"]] = 0
    return image


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (jittered, "ours draws again by itself"),
        (in_place, "ours writes into its input"),
        (lambda x, d: erase(x, d["x"], 3), r"uint8, right: output: \d+ of 144 entries"),
        (lambda x, d: erase(x, **d) // 2 * 2, r"uint8, left: output: \d+ of 144"),
        (lambda x, d: [erase(x, **d)] * 2, r"results are \['0', '1'\]"),
    ],
)
def test_a_faulty_transform_is_refused(fault: Callable, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        compare_draws(fault, lambda x, d: erase(x, **d), INPUTS, BOXES)


def test_draws_that_are_not_used_and_square_images_prove_nothing() -> None:
    with pytest.raises(AssertionError, match="every draw gives the same of uint8"):
        compare_draws(lambda x, d: x, lambda x, d: x, INPUTS, BOXES)
    with pytest.raises(AssertionError, match="the reference draws again"):
        compare_draws(jittered, jittered, INPUTS, BOXES)
    with pytest.raises(ValueError, match="square images"):
        compare_draws(in_place, in_place, {"uint8": IMAGE[..., :6]}, BOXES)
    with pytest.raises(ValueError, match="two or more needed"):
        compare_draws(in_place, in_place, INPUTS, {"left": BOXES["left"]})


# ---------------------------------------------------------------- metrics


def auc(scores: Tensor, positive: Tensor, ties: float = 0.5) -> dict[str, float]:
    """The share of pairs (positive, negative) in the right order; NaN where there is none."""
    gaps = scores[positive][:, None] - scores[~positive][None]
    right = (gaps > 0).double() + ties * (gaps == 0).double()
    return {"auc": float(right.mean())}


LABELS = torch.tensor([True, False, True, False])
CASES = {
    "ordinary": (torch.tensor([0.9, 0.1, 0.4, 0.6]), LABELS),
    "all wrong": (torch.tensor([0.1, 0.9, 0.2, 0.8]), LABELS),
    "ties": (torch.tensor([0.5, 0.5, 0.7, 0.7]), LABELS),
    "no negatives": (torch.tensor([0.5, 0.2]), torch.tensor([True, True])),
}


def test_equal_metrics_pass_with_zeros_and_nan_among_the_cases() -> None:
    assert compare_metric(auc, auc, CASES).modes == list(CASES)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda s, p: auc(s, p, ties=0.0), "ties: auc differs by"),
        (lambda s, p: {"auc": auc(s, p)["auc"] + 1e-6}, "ordinary: auc differs by"),
        (lambda s, p: {"auc": 0.0 if p.all() else auc(s, p)["auc"]}, "no negatives: auc: NaN in other places"),
        (lambda s, p: {"area": 0.5}, r"results are \['area'\]"),
    ],
)  # fmt: skip
def test_a_faulty_metric_is_refused(fault: Callable, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        compare_metric(fault, auc, CASES)


def test_cases_that_all_give_the_same_prove_nothing() -> None:
    with pytest.raises(AssertionError, match="every case gives the same"):
        compare_metric(auc, auc, {"a": CASES["all wrong"], "b": CASES["all wrong"]})
    with pytest.raises(ValueError, match="two cases"):
        compare_metric(auc, auc, {"a": CASES["all wrong"]})


# ---------------------------------------------------------------- changes of a network


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    )


IMAGES = torch.randn(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))


def by_torch(model: nn.Module) -> None:
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            prune.l1_unstructured(part, "weight", amount=0.5)
            prune.remove(part, "weight")


def by_hand(model: nn.Module, amount: float = 0.5, kinds: type = nn.Conv2d) -> None:
    for part in model.modules():
        if isinstance(part, kinds):
            weight = part.weight.data
            order = weight.abs().flatten().argsort()
            weight.view(-1)[order[: round(amount * weight.numel())]] = 0


def test_equal_changes_pass_in_place_and_as_another_network() -> None:
    found = compare_change(by_hand, by_torch, network(), IMAGES)
    assert (found.tensors, found.shape) == (9, [2, 3, 8, 9])

    def fold(model: nn.Module) -> nn.Module:
        return nn.Sequential(nn.utils.fuse_conv_bn_eval(model[0], model[1]), *model[2:])

    def fold_again(model: nn.Module) -> nn.Module:
        conv, norm = model[0], model[1]
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        conv.weight.data *= scale[:, None, None, None]
        conv.bias.data = (conv.bias - norm.running_mean) * scale + norm.bias
        model[1] = nn.Identity()
        return model

    compare_change(fold_again, fold, network(), IMAGES, match="order")
    compare_change(fold_again, fold, network(), IMAGES, match=None)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda model: None, "ours changed nothing"),
        (lambda model: by_hand(model, amount=0.4), "differs by"),
        (lambda model: by_hand(model[0]), "differs by"),
        (lambda model: model.append(nn.Conv2d(4, 4, 1)), r"output differs|extra"),
    ],
)
def test_a_faulty_change_is_refused(fault: Callable, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        compare_change(fault, by_torch, network(), IMAGES)


def test_a_reference_that_touches_nothing_proves_nothing() -> None:
    with pytest.raises(AssertionError, match="the reference changed nothing"):
        compare_change(by_hand, lambda model: None, network(), IMAGES)
