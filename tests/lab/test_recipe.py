"""What the options of a run mean: optimizer, schedule, loss, mixing, mean, precision."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.data import TensorDataset

from cnn_lab import checkpoint, networks
from cnn_lab.data import digits
from cnn_lab.fit import generator
from cnn_lab.options import Norm, Optimizer, Schedule
from cnn_lab.own import Datasets
from cnn_lab.prepare import prepared
from cnn_lab.recipe import (
    Precision,
    Recipe,
    Settings,
    Strategy,
    make_loss,
    make_mix,
    make_optimizer,
    make_schedule,
)
from cnn_lab.saved import LAST
from cnn_lab.show import Silent
from cnn_lab.stop import Refused
from cnn_lab.train import train
from cnn_techniques.training import CutMix, Mixup, WeightEMA

TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
OTHER: dict[str, Any] = {
    "network": "resnet18", "data": "cifar10", "size": 24, "epochs": 9, "batch_size": 7,
    "optimizer": Optimizer.radam, "learning_rate": 0.3, "weight_decay": 0.2,
    "schedule": Schedule.step_decay, "warmup": 1.5, "augment": "cutout, augmix",
    "mixup": 0.4, "cutmix": 0.6, "label_smoothing": 0.1, "weight_ema": 0.9,
    "clip": 0.7, "accumulate": 2, "sam": 0.1, "plateau_patience": 4,
    "norm": Norm.group_and_layer_normalization,
    "stochastic_depth": 0.2, "dropblock": 0.1,
    "validate": 0.1, "patience": 3,
    "mixed_precision": Precision.bf16, "channels_last": True, "compile": True,
    "deterministic": True, "seed": 5, "strategy": Strategy.gradual,
    "weights": "imagenet", "last": 3, "decay": 0.5,
}  # fmt: skip


def tiny(**options: Any) -> Recipe:
    return Recipe(TINY, **{"size": 8, "epochs": 1, **options})


def ended(recipe: Recipe, folder: Path, **told: Any) -> tuple[dict[str, Any], Any]:
    """The result of a run, and its last checkpoint."""
    result = train(recipe, folder, **told)
    return result, checkpoint.load(folder / LAST)


# --- JSON ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Recipe)])
def test_every_option_comes_back_from_json(name: str) -> None:
    with_it = {"schedule": Schedule.constant, name: OTHER[name]}
    if name == "patience":
        with_it["validate"] = 0.1
    recipe = Recipe(**{"network": "LeNet5", **with_it})
    assert getattr(recipe, name) != getattr(Recipe("LeNet5"), name)
    assert Recipe(**json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"augment": "flop"}, "unknown augmentation 'flop'"),
        ({"mixup": 0.2, "cutmix": 1.0}, "cannot be combined"),
        ({"warmup": 5}, "one-cycle has a warm-up of its own"),
        ({"warmup": 5, "schedule": "constant"}, r"warmup \(5\) must be less than"),
        ({"clip": -1.0}, r"clip is -1.0, expected at least 0"),
        ({"stochastic_depth": 1.0}, "stochastic_depth is 1.0, expected 0 to 0.999999"),
        ({"optimizer": "lino"}, "unknown optimizer 'lino'; expected sgd-mom.* lion"),
        ({"schedule": "cosine"}, "unknown schedule 'cosine'; expected .*cosine-ann"),
        ({"norm": "layer"}, "unknown norm 'layer'; expected .*group-and-layer"),
        ({"mixup": 0.001}, "expected alpha 0, or 0.01 or more, got alpha=0.001"),
        ({"cutmix": 0.001}, "expected alpha of 0.01 or more, got alpha=0.001"),
        ({"sam": 0.1, "mixed_precision": "fp16"}, r"sam \(0.1\) takes two gradients"),
        ({"sam": 0.1, "norm": "batch-normalization"}, "not those of norm batch-norm"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    found: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        Recipe("LeNet5", **found)


# --- the learning rate ---------------------------------------------------------------


def rates(recipe: Recipe, per_epoch: int, ratio: float = 0.25) -> list[list[float]]:
    """The rate of every step, of two groups, as the loop steps them."""
    weights = [nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    lr = recipe.learning_rate
    groups = [{"params": [weights[0]]}, {"params": [weights[1]], "lr": lr * ratio}]
    optimizer = make_optimizer(recipe, groups)
    schedule = make_schedule(recipe, optimizer, per_epoch)
    seen = []
    for _ in range(recipe.epochs * per_epoch):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return seen


def between(start: float, end: float, share: float) -> float:
    """Half a cosine from start to end."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def expected(kind: str, t: int, total: int) -> float:
    """The rate of step t (from 0) of so many, as a share of the highest."""
    if kind in ("constant", "reduce-on-plateau"):  # before an epoch has ended
        return 1.0
    if kind == "step-decay":
        return float(0.1 ** sum(t >= max(n * total // 3, n) for n in (1, 2)))
    if kind == "cosine-annealing":
        return (1 + math.cos(math.pi * t / total)) / 2
    # One-cycle, as torch documents it: three tenths rise; more where that is no step.
    top = 0.3 * (total + 1) - 1 if total > 2 else 0.5
    if t <= top:
        return between(1 / 25, 1, t / top)
    return between(1, 1 / 25e4, (t - top) / (total - top))


@pytest.mark.parametrize(("epochs", "per_epoch"), [(1, 1), (1, 3), (3, 7), (5, 20)])
@pytest.mark.parametrize("kind", Schedule)
@pytest.mark.parametrize("optimizer", Optimizer)
def test_the_rate_follows_the_equation_of_its_schedule(
    kind: Schedule, optimizer: Optimizer, epochs: int, per_epoch: int
) -> None:
    recipe = Recipe("LeNet5", epochs=epochs, schedule=kind, optimizer=optimizer)
    total = epochs * per_epoch
    seen = rates(recipe, per_epoch)
    assert len(seen) == total
    for t, (rate, other) in enumerate(seen):
        assert rate == pytest.approx(1e-3 * expected(kind, t, total), rel=1e-9)
        assert other == pytest.approx(rate / 4, rel=1e-9)


def test_the_last_steps_rate_is_small_but_not_the_zero_that_no_batch_would_feel() -> (
    None
):
    last = {
        kind: rates(Recipe("LeNet5", epochs=2, schedule=kind), 50)[-1][0] / 1e-3
        for kind in Schedule
    }
    assert last["constant"] == 1
    assert last["step-decay"] == pytest.approx(0.01)
    assert last["cosine-annealing"] == pytest.approx((1 - math.cos(math.pi / 100)) / 2)
    assert 4e-6 < last["one-cycle"] < 1e-3
    assert last["reduce-on-plateau"] == 1


@pytest.mark.parametrize("kind", sorted(set(Schedule) - {Schedule.one_cycle}))
@pytest.mark.parametrize("epochs_of_warmup", [0.1, 0.5, 1.0, 2.3])
def test_the_rate_rises_on_a_line_before_the_schedule_begins(
    kind: Schedule, epochs_of_warmup: float
) -> None:
    recipe = Recipe("LeNet5", epochs=4, schedule=kind, warmup=epochs_of_warmup)
    seen = rates(recipe, 10)
    warm = round(10 * epochs_of_warmup)
    rise = [rate for rate, _ in seen[: warm + 1]]
    line = [1e-3 / warm + t * (1e-3 - 1e-3 / warm) / warm for t in range(warm + 1)]
    assert rise == pytest.approx(line, rel=1e-9)
    after = [1e-3 * expected(kind, t, 40 - warm) for t in range(40 - warm)]
    assert [rate for rate, _ in seen[warm:]] == pytest.approx(after, rel=1e-9)
    assert [other for _, other in seen] == pytest.approx([r / 4 for r, _ in seen])


def test_a_warm_up_never_takes_the_last_step() -> None:
    for kind in set(Schedule) - {Schedule.one_cycle}:
        for epochs, per_epoch, warmup in ((1, 1, 0.9), (2, 1, 1.6), (1, 2, 0.99)):
            recipe = Recipe("LeNet5", epochs=epochs, schedule=kind, warmup=warmup)
            assert rates(recipe, per_epoch)[-1][0] > 0


def test_one_cycle_moves_the_momentum_against_the_rate() -> None:
    for kind in (Optimizer.sgd_momentum, Optimizer.adamw):
        recipe = Recipe("LeNet5", epochs=1, optimizer=kind)
        weight = nn.Parameter(torch.ones(2, 2))
        optimizer = make_optimizer(recipe, [{"params": [weight]}])
        schedule = make_schedule(recipe, optimizer, 99)
        seen = []
        for _ in range(99):
            group = optimizer.param_groups[0]
            seen.append(group.get("momentum", group.get("betas", (0,))[0]))
            optimizer.step()
            schedule.step()
        assert seen[0] == 0.95
        assert seen[29] == pytest.approx(0.85)
        assert seen[-1] == pytest.approx(0.95, abs=1e-3)


def test_a_run_makes_the_steps_that_its_schedule_was_made_for(tmp_path: Path) -> None:
    _, state = ended(tiny(epochs=2, batch_size=500), tmp_path)
    assert state["done"] == 2 * 3  # 1,200 images
    assert state["schedule"]["last_epoch"] == 6


# --- the optimizer -------------------------------------------------------------------


@pytest.mark.parametrize("kind", Optimizer)
def test_filters_and_matrices_decay_and_biases_and_norms_do_not(
    kind: Optimizer,
) -> None:
    model = networks.build(TINY, 10)
    recipe = tiny(optimizer=kind, weight_decay=0.3)
    optimizer = make_optimizer(recipe, [{"params": list(model.parameters())}])
    decay = {
        id(p): group["weight_decay"]
        for group in optimizer.param_groups
        for p in group["params"]
    }
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(decay) == len(list(model.parameters()))
    for name, weight in model.named_parameters():
        assert decay[id(weight)] == (0.3 if weight.ndim >= 2 else 0.0), name
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}


def test_a_group_without_matrices_and_one_without_biases_are_no_empty_groups() -> None:
    bias, matrix = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, 3))
    groups = [{"params": [bias], "lr": 0.1}, {"params": [matrix]}]
    optimizer = make_optimizer(tiny(), groups)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (0.1, 0.0),
        (1e-3, 0.01),
    ]


def test_the_optimizers_are_those_of_the_pages_with_their_usual_settings() -> None:
    weight = [{"params": [nn.Parameter(torch.ones(1, 1))]}]
    made = {k: make_optimizer(tiny(optimizer=k), weight) for k in Optimizer}
    assert {k: (type(o).__module__, type(o).__name__) for k, o in made.items()} == {
        kind: (f"cnn_techniques.optimization.{kind.replace('-', '_')}", name)
        for kind, name in {
            "sgd-momentum": "SGD", "adam": "Adam", "adamw": "AdamW", "radam": "RAdam",
            "lamb": "LAMB", "adabelief": "AdaBelief", "lion": "Lion", "muon": "Muon",
        }.items()
    }  # fmt: skip
    sgd = made[Optimizer.sgd_momentum].param_groups[0]
    assert (sgd["momentum"], sgd["nesterov"]) == (0.9, True)
    assert made[Optimizer.adamw].param_groups[0]["betas"] == (0.9, 0.999)
    assert made[Optimizer.muon].param_groups[0]["match_rms_adamw"]


# --- the loss ------------------------------------------------------------------------


class Says(nn.Module):
    """Returns what it was made with, whatever it is given."""

    def __init__(self, *outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Any:
        return self.outputs if len(self.outputs) > 1 else self.outputs[0]


def by_hand(scores: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """-Σ q log p, with q = (1 - ε) y + ε / K."""
    if targets.ndim == 1:
        targets = torch.eye(scores.shape[1], dtype=scores.dtype)[targets]
    q = (1 - smoothing) * targets + smoothing / scores.shape[1]
    p = scores.exp() / scores.exp().sum(1, keepdim=True)
    return -(q * p.log()).sum(1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("soft", [False, True])
def test_the_loss_is_cross_entropy_with_the_labels_smoothed_and_the_auxiliary_ones_added(
    smoothing: float, soft: bool
) -> None:
    scores = [torch.randn(6, 5, dtype=torch.float64) for _ in range(3)]
    targets = (
        torch.rand(6, 5, dtype=torch.float64).softmax(1)
        if soft
        else torch.arange(6) % 5
    )
    loss = make_loss(tiny(label_smoothing=smoothing))
    each = [by_hand(s, targets, smoothing) for s in scores]
    nothing = torch.empty(6)
    torch.testing.assert_close(loss(Says(scores[0]), nothing, targets), each[0])
    torch.testing.assert_close(
        loss(Says(*scores), nothing, targets), each[0] + 0.3 * (each[1] + each[2])
    )
    torch.testing.assert_close(
        loss(Says(scores[0], None, None), nothing, targets), each[0]
    )


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_what_is_mixed_depends_on_the_generator_of_the_step_alone(
    options: dict[str, float],
) -> None:
    mix = make_mix(tiny(**options), 10)
    assert mix is not None
    images, labels = torch.rand(8, 3, 8, 8), torch.arange(8)
    outs = []
    for noise, key in ((1, 4), (2, 4), (3, 5)):
        torch.manual_seed(noise)
        outs.append(mix(images, labels, generator(0, 1, key)))
    assert torch.equal(outs[0][0], outs[1][0])
    assert torch.equal(outs[0][1], outs[1][1])
    assert not torch.equal(outs[0][0], outs[2][0])
    torch.manual_seed(generator(0, 1, 4).initial_seed())
    theirs: Any = Mixup(10, 0.4) if "mixup" in options else CutMix(10, 1.0)
    for mine, other in zip(outs[0], theirs(images, labels), strict=True):
        assert torch.equal(mine, other)


def test_nothing_is_mixed_unless_it_is_asked_for() -> None:
    assert make_mix(tiny(), 10) is None


# --- the mean of the weights, precision, layout --------------------------------------


def test_the_mean_of_the_weights_is_the_one_written_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[str, Tensor]] = []
    update = WeightEMA.update_parameters

    def watched(self: WeightEMA, model: nn.Module) -> None:
        kept.append({k: v.detach().clone() for k, v in model.state_dict().items()})
        update(self, model)

    monkeypatch.setattr(WeightEMA, "update_parameters", watched)
    result, state = ended(tiny(weight_ema=0.8, batch_size=100), tmp_path)
    assert len(kept) == state["done"] == 12
    # Of the batch norms' statistics too: the last ones do not fit the mean's weights.
    names = [name for name, value in kept[0].items() if value.is_floating_point()]
    assert any("running_mean" in name for name in names)
    for name in names:
        mean = kept[0][name]
        for later in kept[1:]:
            mean = 0.8 * mean + 0.2 * later[name]
        torch.testing.assert_close(state["weight_ema"][f"module.{name}"], mean)
        assert torch.equal(state["model"][name], kept[-1][name])
    # What is tested is the mean.
    recipe = tiny(weight_ema=0.8, batch_size=100)
    model, data = prepared(recipe, Settings())
    averaged = WeightEMA(model)
    averaged.load_state_dict(state["weight_ema"])
    images, labels = data.test.take(torch.arange(len(data.test)), torch.empty(597, 0))
    with torch.no_grad():
        found = averaged.module.eval()(images).argmax(1)
    assert result["accuracy"] == pytest.approx(float((found == labels).double().mean()))


def test_bfloat16_trains_on_a_cpu_and_leaves_weights_of_full_precision(
    tmp_path: Path,
) -> None:
    learn = {"epochs": 4, "learning_rate": 0.02}
    plain, _ = ended(tiny(**learn), tmp_path / "no")
    result, state = ended(
        tiny(**learn, mixed_precision=Precision.bf16), tmp_path / "bf"
    )
    assert result["loss"] != plain["loss"]  # it was used
    assert result["loss"] == pytest.approx(plain["loss"], rel=0.05)
    assert result["history"][-1]["loss"] < result["history"][0]["loss"] / 1.2
    for name, weight in state["model"].items():
        whole = torch.int64 if name.endswith("num_batches_tracked") else torch.float32
        assert weight.dtype == whole, name


def test_float16_without_a_gpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refused, match="fp16 needs a GPU; bf16 runs on a CPU too"):
        train(tiny(mixed_precision=Precision.fp16), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Watch(Silent):
    """Keeps what was true while the run was going on."""

    deterministic = False

    def step(self, step: Any) -> None:
        self.deterministic = torch.are_deterministic_algorithms_enabled()


def test_channels_last_changes_the_layout_and_not_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = {"epochs": 2, "learning_rate": 0.02}
    plain, _ = ended(tiny(**learn), tmp_path / "plain")
    seen = set()
    forward = nn.Conv2d.forward

    def watched(self: nn.Conv2d, x: Tensor) -> Tensor:
        if not x.is_meta:  # there it is only tried whether the sizes fit
            seen.add(x.is_contiguous(memory_format=torch.channels_last))
            seen.add(self.weight.is_contiguous(memory_format=torch.channels_last))
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    monkeypatch.setattr("cnn_lab.tasks.accuracies", lambda *given: {"accuracy": 0.0})
    ended(tiny(channels_last=True), tmp_path / "watched")
    assert seen == {True}
    monkeypatch.undo()
    result, state = ended(tiny(**learn, channels_last=True), tmp_path / "last")
    assert result["accuracy"] == pytest.approx(plain["accuracy"], abs=1e-3 + 1 / 597)
    assert result["loss"] == pytest.approx(plain["loss"], rel=1e-3)
    networks.build(TINY, 10).load_state_dict(state["model"])


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler on a CPU",
)
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_compile_gives_the_same_result_and_a_checkpoint_of_plain_names(
    tmp_path: Path,
) -> None:
    # All batches of one size: another would be compiled as well.
    parts = [digits(part) for part in ("train", "test")]
    learnt, tests = (
        TensorDataset(x[:256].repeat(1, 3, 1, 1), y[:256]) for x, y in parts
    )
    data = Datasets(learnt, tests, [str(n) for n in range(10)])
    recipe = tiny(size=None, epochs=3, batch_size=128, learning_rate=0.02)
    plain, _ = ended(recipe, tmp_path / "plain", data=data)
    counters.clear()
    compiled = dataclasses.replace(recipe, compile=True)
    result, state = ended(compiled, tmp_path / "compiled", data=data)
    assert counters["stats"]["unique_graphs"] == 2  # in training, and in testing
    assert result["accuracy"] == pytest.approx(plain["accuracy"], abs=1e-3 + 1 / 256)
    assert result["loss"] == pytest.approx(plain["loss"], rel=1e-3)
    networks.build(TINY, 10).load_state_dict(state["model"])


def test_deterministic_holds_during_the_run_and_not_after_it(tmp_path: Path) -> None:
    watch = Watch()
    _, strict = ended(tiny(deterministic=True), tmp_path / "strict", show=watch)
    assert watch.deterministic
    assert not torch.are_deterministic_algorithms_enabled()
    watch = Watch()
    _, plain = ended(tiny(), tmp_path / "plain", show=watch)
    assert not watch.deterministic
    for name, weight in strict["model"].items():
        assert torch.equal(weight, plain["model"][name]), name


def test_an_operation_that_is_not_the_same_twice_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
        return model(x).sum()

    monkeypatch.setattr("cnn_lab.tasks.make_loss", lambda recipe: loss)
    with pytest.raises(Refused, match=r"--deterministic: put_ does not have"):
        train(tiny(deterministic=True), tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()
