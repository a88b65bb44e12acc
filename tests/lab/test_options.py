"""Each technique that is an option: it has an effect, and a run with it can be stopped."""

import csv
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils

from cnn_lab import checkpoint, networks, prepare, schedules, transfer
from cnn_lab.augment import AUGMENTATIONS
from cnn_lab.cli import _arm
from cnn_lab.evaluate import load_network
from cnn_lab.norms import NORMS, replace_norms
from cnn_lab.optimizers import OPTIMIZERS
from cnn_lab.options import (
    NO_OPTION,
    OPTIONS,
    Augmentation,
    Norm,
    Optimizer,
    Schedule,
)
from cnn_lab.recipe import Recipe
from cnn_lab.regularizers import REGULARIZERS, InTraining, regularize
from cnn_lab.saved import LAST
from cnn_lab.schedules import SCHEDULES
from cnn_lab.show import Silent
from cnn_lab.stop import Stopped
from cnn_lab.train import train
from cnn_techniques.optimization import SGD, BatchNorm2d, GroupNorm
from cnn_techniques.training import DropBlock, StochasticDepth

DOCS = Path(__file__).parents[2] / "docs"
TINY = "ResNet(BasicBlock, (1, 1), width=4, small_images=True)"
BASE = Recipe(TINY, size=8, epochs=1, batch_size=600)  # two steps


# --- the tables and the catalogue ----------------------------------------------------


@cache
def catalogue() -> dict[str, bool]:
    """Slugs of training and optimization, and whether there is a page."""
    with (DOCS / "catalogue.csv").open(encoding="utf-8", newline="") as file:
        slugs = [f"{row['category']}/{row['slug']}" for row in csv.DictReader(file)]
    return {
        slug: (DOCS / f"{slug}.md").exists()
        for slug in slugs
        if slug.startswith(("training/", "optimization/"))
    }


def test_every_technique_is_an_option_or_it_is_said_why_not() -> None:
    assert not OPTIONS.keys() & NO_OPTION.keys()
    assert OPTIONS.keys() | NO_OPTION.keys() == catalogue().keys()


@pytest.mark.parametrize("slug", OPTIONS)
def test_an_option_or_its_value_has_the_name_of_the_page(slug: str) -> None:
    """But for two pages that have two options each, and the strategies of transfer."""
    name = slug.partition("/")[2]
    words = re.split(r"[ -]", OPTIONS[slug].replace("--", ""))
    others = {
        "gradient-accumulation-and-clipping": {"accumulate", "clip"},
        "feature-extraction": {"strategy", "features"},
        "fine-tuning": {"strategy", "discriminative"},
    }
    assert others.get(name, set(name.split("-"))) <= set(words)


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (OPTIMIZERS, Optimizer),
        (SCHEDULES, Schedule),
        (AUGMENTATIONS, Augmentation),
        (NORMS, set(Norm) - {Norm.network}),
        (REGULARIZERS, BASE.regularizers),
    ],
    ids=["optimizers", "schedules", "augmentations", "norms", "regularizers"],
)
def test_a_table_makes_what_the_command_offers_and_nothing_else(
    table: dict[str, Any], names: Any
) -> None:
    assert set(table) == set(names)


def test_the_pages_can_be_made_from_the_options_without_torch() -> None:
    code = "import sys, cnn_lab.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- each in a run -------------------------------------------------------------------


def asked(option: str, baseline: Recipe = BASE) -> Recipe:
    """The baseline with an option, read as the command reads it."""
    words = re.findall(r"--(\S+) (\S+)", option)
    return _arm(baseline, " and ".join("=".join(pair) for pair in words))


class StopsAfter(Silent):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, step: object) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def stopped(recipe: Recipe, folder: Path, steps: int) -> None:
    with pytest.raises(Stopped):
        train(recipe, folder, show=StopsAfter(steps))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Tensor]:
    """The weights that a run without the option ends with."""

    @cache
    def weights(recipe: Recipe) -> Tensor:
        folder = tmp_path_factory.mktemp("plain")
        train(recipe, folder)
        return weights_of(folder)

    return weights


def weights_of(folder: Path) -> Tensor:
    """The weights of a run's tested network, in a row."""
    state = checkpoint.load(folder / LAST)
    weights = state["weight_ema"] or state["model"]
    return torch.cat([v.flatten() for v in weights.values() if v.is_floating_point()])


@pytest.mark.parametrize("slug", OPTIONS)
def test_an_option_changes_the_run_and_the_run_goes_on_to_the_same_bytes(
    slug: str, tmp_path: Path, plain: Callable[[Recipe], Tensor]
) -> None:
    baseline = BASE
    if slug in ("training/warmup", "training/reduce-on-plateau"):
        baseline = asked("--schedule constant --epochs 2")
    recipe = asked(OPTIONS[slug], baseline)
    if recipe == BASE:  # the default optimizer and schedule, each against another
        baseline = asked("--optimizer adam --schedule constant")
    train(recipe, tmp_path / "whole")
    stopped(recipe, tmp_path / "run", 1)
    train(recipe, tmp_path / "run", resume=True)
    kept = [(tmp_path / name / LAST).read_bytes() for name in ("whole", "run")]
    assert kept[0] == kept[1]
    if slug == "training/reduce-on-plateau":  # nothing falls in two epochs; see below
        return
    weights, without = weights_of(tmp_path / "whole"), plain(baseline)
    assert weights.shape != without.shape or not torch.equal(weights, without)


# --- state of torch's own ------------------------------------------------------------

OF_TORCH: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd-momentum": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "radam": torch.optim.RAdam,
}


def torchs_one_cycle(optimizer: Any, steps: int) -> lr_scheduler.LRScheduler:
    rates = [group["lr"] for group in optimizer.param_groups]
    return lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps + 1)


SCHEDULES_OF_TORCH: dict[str, schedules.Make] = {
    "one-cycle": torchs_one_cycle,
    "cosine-annealing": lr_scheduler.CosineAnnealingLR,
    "step-decay": lambda o, n: lr_scheduler.MultiStepLR(
        o, [max(n // 3, 1), max(2 * n // 3, 2)], 0.1
    ),
}


def torchs_warm_up(
    make: schedules.Make, optimizer: Any, steps: int, warm: int
) -> lr_scheduler.LRScheduler:
    if not warm:
        return make(optimizer, steps)
    after = make(optimizer, steps - warm)
    rising = lr_scheduler.LinearLR(optimizer, 1 / warm, total_iters=warm)
    return lr_scheduler.SequentialLR(optimizer, [rising, after], [warm])


def torchs_mean(model: nn.Module, decay: float, **_: Any) -> swa_utils.AveragedModel:
    average = swa_utils.get_ema_multi_avg_fn(decay)
    return swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)


@pytest.mark.parametrize(
    ("optimizer", "schedule", "steps"),
    [
        ("sgd-momentum", "step-decay", 5),
        ("adam", "cosine-annealing", 2),  # in the warm-up
        ("adamw", "one-cycle", 4),
        ("radam", "cosine-annealing", 5),
    ],
)
def test_a_run_that_was_begun_with_torchs_own_classes_goes_on(
    optimizer: str,
    schedule: str,
    steps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warm = {} if schedule == "one-cycle" else {"warmup": 1.0}
    recipe = Recipe(
        "LeNet5", size=32, epochs=3, batch_size=400, learning_rate=1e-2,
        optimizer=optimizer, schedule=schedule, weight_ema=0.5, **warm,  # type: ignore[arg-type]
    )  # fmt: skip
    with monkeypatch.context() as older:
        older.setitem(OPTIMIZERS, optimizer, OF_TORCH[optimizer])
        older.setitem(SCHEDULES, schedule, SCHEDULES_OF_TORCH[schedule])
        older.setattr("cnn_lab.recipe.warmed_up", torchs_warm_up)
        older.setattr(prepare, "WeightEMA", torchs_mean)
        whole = train(recipe, tmp_path / "older")
        stopped(recipe, tmp_path / "run", steps)
    result = train(recipe, tmp_path / "run", resume=True)
    assert result["curve"] == pytest.approx(whole["curve"], rel=1e-3)
    torch.testing.assert_close(
        weights_of(tmp_path / "run"),
        weights_of(tmp_path / "older"),
        rtol=1e-3,
        atol=1e-4,
    )


# --- the plateau ---------------------------------------------------------------------


@pytest.mark.parametrize("validate", [0.0, 0.2])
def test_the_rate_falls_after_epochs_without_a_gain(
    validate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a rate that changes next to nothing, neither loss nor accuracy gets better."""
    seen: list[float] = []
    step = SGD.step

    def watched(self: SGD, *given: Any) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self, *given)

    monkeypatch.setattr(SGD, "step", watched)
    recipe = Recipe(
        "LeNet5", epochs=6, batch_size=600, optimizer=Optimizer.sgd_momentum,
        schedule=Schedule.reduce_on_plateau, plateau_patience=1, learning_rate=1e-5,
        validate=validate,
    )  # fmt: skip
    train(recipe, tmp_path / "run")
    epochs = seen[::2]
    assert epochs == pytest.approx([1e-5] * 3 + [1e-6] * 2 + [1e-7], rel=1e-6)
    del seen[:]
    stopped(recipe, tmp_path / "stopped", 5)
    train(recipe, tmp_path / "stopped", resume=True)
    assert seen[::2] == pytest.approx(epochs, rel=1e-9)


def test_an_epoch_of_the_warm_up_is_no_plateau() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    rates = schedules.warmed_up(schedules.constant, optimizer, 60, 20)
    schedule = schedules.OnPlateau(optimizer, rates, 20, 0)
    seen = []
    for epoch in range(6):
        for _ in range(10):
            optimizer.step()
            schedule.step()
        schedule.end_epoch({"loss": 1.0})
        seen.append(optimizer.param_groups[0]["lr"])
        assert epoch or seen == [pytest.approx(0.05 + 0.05 / 20)]
    # Two epochs rise; the first after them is the best one, and none is better.
    assert seen[1:] == pytest.approx([0.1, 0.01, 0.001, 1e-4, 1e-5])


# --- norms ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (3, 1), (16, 8), (48, 24), (64, 32), (256, 32)]
)
def test_a_group_has_two_channels_or_more(channels: int, groups: int) -> None:
    norm = NORMS[Norm.group_and_layer_normalization](nn.BatchNorm2d(channels))
    assert isinstance(norm, GroupNorm)
    assert norm.num_groups == groups


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (Norm.batch_normalization, BatchNorm2d),
        (Norm.group_and_layer_normalization, GroupNorm),
    ],
)
def test_every_batch_norm_is_replaced_and_hands_on_scale_and_shift(
    name: Norm, kind: type[nn.Module]
) -> None:
    model = networks.build(TINY, 10)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    before = model.state_dict()
    count = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    replace_norms(model, name)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert sum(isinstance(m, kind) for m in model.modules()) == count > 4
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    replace_norms(model, name)  # a second run with the same model
    with pytest.raises(ValueError, match=r"with nn\.BatchNorm2d to replace"):
        replace_norms(networks.build("LeNet5", 10), name)


def test_a_checkpoint_with_another_norm_is_loaded_and_gone_on_from(
    tmp_path: Path,
) -> None:
    recipe = asked("--norm group-and-layer-normalization")
    train(recipe, tmp_path / "run")
    model, state = load_network(tmp_path / "run" / LAST)
    assert any(isinstance(m, GroupNorm) for m in model.modules())
    weights = str(tmp_path / "run" / LAST)
    more = asked(f"--weights {weights}", recipe)
    given = transfer.initial_weights(more)
    assert given.without_averages
    begun, _ = prepare.prepared(more, prepare.Settings())
    for name, value in begun.state_dict().items():
        assert torch.equal(value, state["model"][name]), name
    # Of batch norms to group norms too: scale and shift are handed on.
    train(BASE, tmp_path / "base")
    more = asked(f"--weights {tmp_path / 'base' / LAST}", recipe)
    begun, _ = prepare.prepared(more, prepare.Settings())
    state = checkpoint.load(tmp_path / "base" / LAST)
    for name, value in begun.state_dict().items():
        assert torch.equal(value, state["model"][name]), name


# --- regularisers --------------------------------------------------------------------


def hooked(model: nn.Module) -> dict[str, Any]:
    """Names of modules, and the layers that their outputs go through in training."""
    return {
        name: hook.layer
        for name, module in model.named_modules()
        for hook in module._forward_hooks.values()
        if isinstance(hook, InTraining)
    }


OFF = dict.fromkeys(REGULARIZERS, 0.0)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "resnet": (
        lambda: networks.build(TINY, 10),
        ["layer1.0.attention", "layer2.0.attention"],
    ),
    "torchvision": (
        lambda: torchvision.models.resnet18(num_classes=10),
        [f"layer{n}.{k}.bn2" for n in (1, 2, 3, 4) for k in (0, 1)],
    ),
    "convnext": (
        lambda: networks.build("ConvNeXt((1, 2), (8, 16), drop_path=0.9)", 10),
        ["drop_path"] * 3,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_branches_are_dropped_in_training_by_the_linear_rule_and_nowhere_else(
    name: str,
) -> None:
    make, expected = NETWORKS[name]
    torch.manual_seed(0)
    model, images = make(), torch.randn(4, 3, 32, 32)
    names, before = list(model.state_dict()), model.eval()(images)
    for _ in range(2):  # a second time takes the place of the first
        regularize(model, {**OFF, "stochastic-depth": 0.6}, (3, 32, 32))
    layers = hooked(model)
    assert all(n.endswith(end) for n, end in zip(layers, expected, strict=True))
    assert all(isinstance(layer, StochasticDepth) for layer in layers.values())
    rates = [0.6 * (k + 1) / len(expected) for k in range(len(expected))]
    assert [layer.p for layer in layers.values()] == pytest.approx(rates)
    assert list(model.state_dict()) == names
    assert torch.equal(model.eval()(images), before)
    model.train()
    assert not torch.equal(model(images), model(images))
    regularize(model, OFF, (3, 32, 32))
    assert not hooked(model)


def test_a_branch_that_is_dropped_leaves_the_shortcut() -> None:
    block = networks.build(TINY, 10).layer1[0]  # type: ignore[index]
    regularize(block, {**OFF, "stochastic-depth": 0.9999}, (4, 8, 8))
    images = torch.rand(3, 4, 8, 8)
    torch.manual_seed(0)
    assert torch.equal(block.train()(images), images)


def test_blocks_are_dropped_behind_the_last_two_stages() -> None:
    model = networks.build(TINY, 10)
    regularize(model, {**OFF, "dropblock": 0.2}, (3, 24, 24))
    layers = hooked(model)
    assert list(layers) == ["layer1.0", "layer2.0"]
    assert [(v.p, v.block_size) for v in layers.values()] == [(0.2, 7), (0.2, 7)]
    regularize(model, {**OFF, "dropblock": 0.2}, (3, 8, 8))
    assert [v.block_size for v in hooked(model).values()] == [7, 3]  # of 8 and 4
    assert all(isinstance(v, DropBlock) for v in hooked(model).values())
    assert model.training
    resnet = torchvision.models.resnet18()
    regularize(resnet, {**OFF, "dropblock": 0.1}, (3, 224, 224))
    assert list(hooked(resnet)) == ["layer3.1", "layer4.1"]
    model.eval()
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("name", "network", "told"),
    [
        ("stochastic-depth", "LeNet5", "expected residual blocks .* got LeNet5"),
        ("dropblock", "VisionTransformer(4, 1, 2, 8, 16, image_size=32)", "two sizes"),
    ],
)
def test_a_network_that_has_no_place_for_it_is_refused_before_anything_is_written(
    name: str, network: str, told: str, tmp_path: Path
) -> None:
    recipe = asked(f"--{name} 0.1", Recipe(network, epochs=1))
    with pytest.raises(ValueError, match=told):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
