"""Networks and data of one's own: found, refused, and treated as any other."""

import importlib
import json
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

import cnn_lab.cli
from cnn_lab import checkpoint, own
from cnn_lab.evaluate import evaluate, load_network
from cnn_lab.export import export
from cnn_lab.fit import BadData, SingleProcess, TrainingBatches
from cnn_lab.own import GIVEN, Datasets, data_set, is_code
from cnn_lab.prepare import workers_for
from cnn_lab.recipe import Recipe, Settings, Strategy
from cnn_lab.saved import BEST, CONFIG, LAST
from cnn_lab.show import Silent
from cnn_lab.stop import Refused, Stopped
from cnn_lab.train import train

NETS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, num_classes=10, channels=1, outputs=None):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
        )
        self.classifier = nn.Linear(16, outputs or num_classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))

small = Small

def lambdas(num_classes):  # what meta tensors cannot do, and what draws numbers
    model = Small(num_classes)
    model.scale = float(torch.rand(3).sum()) * 0 + model.classifier.weight[0, 0].item()
    return model

def none(num_classes):
    pass

def raises(num_classes):
    return [][num_classes]

def narrow(num_classes):
    return Small(outputs=num_classes - 1)

def flat(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

def alone():
    return Small()

class Fails(Small):
    def forward(self, x):
        return self.nothing(x)

class Dict(Small):
    def forward(self, x):
        return {"out": super().forward(x)}

number = 5
"""
DATA = """
import random
import numpy as np
import torch
from torch.utils.data import Dataset
from cnn_lab.own import Datasets

class Noise(Dataset):
    classes = ["dark", "light"]

    def __init__(self, count):
        self.targets = [n % 2 for n in range(count)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        drawn = torch.rand(()) + random.random() + np.random.rand()
        return torch.rand(1, 8, 8) * 0.1 + drawn * 0.1 + self.targets[row], row % 2

def noise():
    return Datasets(Noise(50), Noise(20))

def fails():
    return open("absent")
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "noisy.py").write_text(DATA)
    (tmp_path / "halfway.py").write_text("import torch\n\nimport not_there\n")
    (tmp_path / "wrong.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("nets", "noisy", "halfway", "wrong"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def tiny(network: str = "nets:small", **options: Any) -> Recipe:
    return Recipe(network, **{"size": 8, "epochs": 2, "batch_size": 300, **options})


def noisy(**options: Any) -> Recipe:
    given = {"data": "noisy:noise", "size": None, "batch_size": 20, **options}
    return tiny(**given)


class StopsAfter(Silent):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, step: object) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


# --- names ---------------------------------------------------------------------------


def test_which_names_are_code() -> None:
    for name in ("mynet:small", "a.b.c:Net", "_x:y"):
        assert is_code(name), name
    for name in (
        "resnet18",
        "folder:photos",
        "lambda c: c",
        "ResNet(x, a=b:c)",
        "a:",
        ":b",
        "a:b.c",
        "C:\\x",
    ):
        assert not is_code(name), name


# --- a network -----------------------------------------------------------------------


def test_its_run_is_that_of_the_same_module_given(here: Path) -> None:
    by_name = train(tiny(), here / "name")
    torch.manual_seed(0)
    small = own.function("nets:Small")
    model = small(10)
    before = model.classifier.weight.detach().clone()
    given = train(tiny("my own"), here / "given", model=model)
    assert by_name["history"] == given["history"]
    assert not model.classifier.weight.equal(before)  # trained in place
    states = [checkpoint.load(here / n / LAST) for n in ("name", "given")]
    for name, tensor in states[0]["model"].items():
        assert tensor.equal(states[1]["model"][name])
    assert states[1]["recipe"]["network"] == f"{GIVEN}: my own"


def test_code_that_needs_numbers_and_draws_some_builds_the_same_twice(
    here: Path,
) -> None:
    train(tiny("nets:lambdas"), here / "a")
    train(tiny("nets:lambdas"), here / "b")
    assert (here / "a" / LAST).read_bytes() == (here / "b" / LAST).read_bytes()


@pytest.mark.parametrize("given", [False, True])
def test_it_is_stopped_resumed_evaluated_and_exported(given: bool, here: Path) -> None:
    small = own.function("nets:Small")

    def more() -> dict[str, Any]:
        torch.manual_seed(1)
        return {"model": small(2), "data": noisy_data()} if given else {}

    recipe = noisy(validate=0.2)
    if given:
        recipe = tiny("mine", size=None, batch_size=20, validate=0.2)
    whole = train(recipe, here / "whole", **more())
    with pytest.raises(Stopped):
        train(recipe, here / "run", show=StopsAfter(3), **more())
    result = train(recipe, here / "run", resume=True, **more())
    for name in (LAST, BEST):
        kept = [(here / run / name).read_bytes() for run in ("whole", "run")]
        assert kept[0] == kept[1], name
    assert result["accuracy"] == whole["accuracy"]
    asked: dict[str, Any] = {"network": "nets:small"}
    data: Any = "noisy:noise"
    if given:
        asked, data = {"model": small(2)}, noisy_data()
    found = evaluate(here / "run" / BEST, data, **asked)
    assert found["accuracy"] == result["accuracy"] and found["images"] == 20
    told = export(here / "run" / BEST, data=data, **asked)
    assert told["difference"] < 1e-4 and Path(told["file"]).exists()


def noisy_data() -> Datasets:
    found: Datasets = own.function("noisy:noise")()
    return found


def test_a_checkpoint_alone_has_no_code_run(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(noisy(epochs=1), here / "run")
    for module in ("nets", "noisy"):
        sys.modules.pop(module)
        (here / f"{module}.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(ValueError, match=r"trust that code.*--network nets:small"):
        load_network(here / "run" / LAST)
    with pytest.raises(BadData, match=r"trust that code.*--data noisy:noise"):
        evaluate(here / "run" / LAST, model=small_of_2())


def small_of_2() -> nn.Module:
    namespace: dict[str, Any] = {}
    exec(NETS, namespace)  # the module of that name is another one now
    model: nn.Module = namespace["Small"](2)
    return model


def test_a_run_that_was_given_its_network_says_so(here: Path) -> None:
    model = own.function("nets:Small")(10)
    recipe = tiny("resnet18")
    with pytest.raises(Stopped):
        train(recipe, here / "run", model=model, show=StopsAfter(1))
    with pytest.raises(Refused, match=f"network '{GIVEN}: resnet18', not 'resnet18'"):
        train(recipe, here / "run", resume=True)
    saved = json.loads((here / "run" / CONFIG).read_text())
    with pytest.raises(ValueError, match="give it again as model="):
        train(Recipe(**{**recipe.to_json(), "network": saved["network"]}), here / "new")
    assert not (here / "new").exists()


def test_strategies_know_its_classifier(here: Path) -> None:
    train(tiny(epochs=1), here / "before")
    start = checkpoint.load(here / "before" / LAST)["model"]
    options = {"weights": str(here / "before" / LAST), "strategy": Strategy.features}
    train(tiny(epochs=1, **options), here / "after")
    after = checkpoint.load(here / "after" / LAST)["model"]
    for name, tensor in after.items():
        assert tensor.equal(start[name]) == name.startswith("features."), name


WRONG = {
    "absent:net": "there is no module 'absent', neither in",
    "nets.more:net": "there is no module 'nets.more'",
    "nets:absent": r"nets has no function 'absent'; it has Small, small, lambdas",
    "nets:number": "nets has no function 'number'",
    "halfway:net": r"halfway cannot be imported: ModuleNotFoundError.*'not_there'.*"
    r"\(halfway.py, line 3\)",
    "wrong:net": r"wrong cannot be imported: SyntaxError",
    "nets:none": "returned a NoneType, expected a torch.nn.Module",
    "nets:raises": r"\(num_classes=10\) failed: IndexError.*\(nets.py, line 27\)",
    "nets:alone": r"failed: TypeError: alone\(\) got an unexpected keyword",
    "nets:narrow": r"gives \(2, 9\) for a batch.*expected scores \(2, 10\)",
    "nets:Fails": r"cannot be trained.*AttributeError.*\(nets.py, line 4\d\)",
    "nets:Dict": r"gives dict for a batch.*expected scores \(2, 10\)",
    "nets:flat": "no Conv2d, which tells how many channels",
}


@pytest.mark.parametrize("network", WRONG)
def test_a_network_that_is_none_is_refused_in_a_line(
    network: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ValueError, match=WRONG[network]):
        train(tiny(network), here / "run")
    asked = ["cnn-lab", "train", network, "--size", "8", "--out", "run"]
    monkeypatch.setattr(sys, "argv", asked)
    with pytest.raises(SystemExit) as ended:
        cnn_lab.cli.main()
    error = capsys.readouterr().err
    assert ended.value.code == 1 and error.count("\n") == 1, error
    assert error.startswith("cnn-lab: ") and not (here / "run").exists()


# --- data ----------------------------------------------------------------------------


def pairs(count: int, shape: tuple[int, ...] = (1, 8, 8)) -> TensorDataset:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(count, *shape, generator=draw)
    return TensorDataset(images, torch.arange(count) % 2)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2:UserWarning")
def test_any_number_of_workers_draws_the_same(here: Path) -> None:
    kept = []
    for workers in (None, 2):
        folder = here / f"run-{workers}"
        train(noisy(mixup=0.2), folder, Settings(workers=workers))
        kept.append((folder / LAST).read_bytes())
    assert kept[0] == kept[1]


def test_what_an_image_draws_follows_from_its_step_and_leaves_no_trace() -> None:
    source = data_set(noisy_data()).train
    _seed()
    expected = _drawn()
    _seed()
    plans = [
        TrainingBatches(source, 0, epoch, 20, SingleProcess(torch.device("cpu")))
        for epoch in (1, 2)
    ]
    first, again, later = plans[0][1], plans[0][1], plans[1][1]
    assert first[0].equal(again[0])
    order = [sorted(batch[0].flatten().tolist()) for batch in (first, later)]
    assert order[0] != order[1]
    images = source.take(torch.tensor([4, 4]), torch.tensor([[0.2], [0.7]]).double())[0]
    assert not images[0].equal(images[1])
    tests = [source.take(torch.tensor([4]), torch.empty(1, 0))[0] for _ in range(2)]
    assert tests[0].equal(tests[1])
    assert _drawn() == expected


def _seed() -> None:
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)


def _drawn() -> tuple[float, float, float]:
    return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002


def test_a_pair_and_a_subset_are_read() -> None:
    found = data_set(Datasets(pairs(20), pairs(6), ["a", "b"]), 0.25)
    assert found.validation is not None
    assert [len(s) for s in (found.train, found.validation, found.test)] == [15, 5, 6]
    assert found.image == (1, 8, 8) and found.counts == {}
    noise = own.function("noisy:Noise")
    found = data_set((noise(20), noise(6)))
    assert found.classes == ["dark", "light"] and found.counts["test"] == [3, 3]
    part = Datasets(Subset(noise(20), [0, 2, 3]), noise(6), ["a", "b"])
    assert data_set(part).counts["train"] == [2, 1]
    # Each class in proportion where it is told.
    held = data_set((noise(20), noise(6)), 0.2)
    assert held.counts["validation"] == [2, 2] and held.counts["train"] == [8, 8]
    wide = data_set(Datasets(pairs(4, (1, 8, 6)), pairs(2, (1, 8, 6)), ["a", "b"]))
    assert wide.image == (1, 8, 6)


def test_a_collate_of_ones_own_makes_the_batches() -> None:
    def twice(items: list[Any]) -> tuple[Tensor, Tensor]:
        images, labels = zip(*items, strict=True)
        return 2 * torch.stack(images), torch.stack(labels)

    plain, own_ = (
        data_set(Datasets(pairs(4), pairs(4), ["a", "b"], **more))
        for more in ({}, {"collate": twice})
    )
    rows, none = torch.arange(4), torch.empty(4, 0)
    assert own_.test.take(rows, none)[0].equal(2 * plain.test.take(rows, none)[0])


class Of(Dataset[Any]):
    """The same item again and again."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Any:
        if isinstance(self.items[row], Exception):
            raise self.items[row]
        return self.items[row]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(1, 8, 8), 0)])


IMAGE = torch.zeros(1, 8, 8)
NOT_DATA = {
    "a stream": (Stream(), "train data, a Stream, have no length"),
    "a list of nothing": (Of(), "the train data have no image"),
    "no dataset": (5, "train data, a int, have no length"),
    "a dict": (Of({"x": IMAGE}), r"expected \(image, label\), got a dict"),
    "a picture": (Of((Image.new("L", (8, 8)), 0)), "do not make a batch.*got a Image"),
    "bytes": (Of((IMAGE.byte(), 0)), r"expected floating-point.*got torch.uint8"),
    "flat": (Of((torch.zeros(64), 0)), r"\(N, C, H, W\), got torch.float32 \(3, 64\)"),
    "sizes": (Of((IMAGE, 0), (torch.zeros(1, 9, 9), 0)), "stack expects each tensor"),
    "a label too many": (Of((IMAGE, 2)), r"labels from 0 to 1.*got \[2, 2, 2\]"),
    "a label below": (Of((IMAGE, -1)), "labels from 0 to 1"),
    "a share": (Of((IMAGE, 0.5)), "labels from 0 to 1"),
    "an error": (
        Of(KeyError("x")),
        r"train image 0: KeyError: 'x' \(test_own.py, line",
    ),
    "another size": (pairs(4, (3, 8, 8)), r"training images \(3, 8, 8\)"),
}


@pytest.mark.parametrize("kind", NOT_DATA)
def test_data_that_are_none_are_refused(kind: str) -> None:
    data, told = NOT_DATA[kind]
    with pytest.raises((ValueError, BadData), match=told):
        data_set(Datasets(data, pairs(2), ["a", "b"]))


def test_other_data_that_are_none_are_refused(here: Path) -> None:
    two = pairs(4)
    for given, validate, told in (
        (two, 0.0, "data is a TensorDataset, expected a pair"),
        ((two, two), 0.0, "the classes are None, expected the names"),
        (Datasets(two, two, ["a"]), 0.0, r"the classes are \['a'\]"),
        (Datasets(two, two, ["a", "b"], two), 0.0, "set validate, such as 0.1"),
    ):
        with pytest.raises(ValueError, match=told):
            data_set(given, validate)
    for options, told in (
        ({"size": 8}, r"size \(8\) is not for data of one's own"),
        ({"augment": "cutout"}, r"augment \(cutout\) is not for data"),
        ({"data": "noisy:absent"}, "noisy has no function 'absent'"),
        ({"data": "noisy:fails"}, r"failed: FileNotFoundError.*\(noisy.py, line 25\)"),
    ):
        with pytest.raises(ValueError, match=told):
            train(noisy(**options), here / "run")
    assert not (here / "run").exists()


def test_a_broken_image_in_the_middle_loses_no_epoch(here: Path) -> None:
    data = noisy_data()
    data.test.targets[13] = None  # what it adds to an image
    with pytest.raises(BadData, match=r"test image 13: TypeError.*\(noisy.py"):
        train(noisy(), here / "run", data=data)
    assert checkpoint.load(here / "run" / LAST)["untested"]["epoch"] == 1


def test_other_data_are_noticed_when_a_run_goes_on(here: Path) -> None:
    recipe, model = tiny("x", size=None, batch_size=10), small_of_2()
    names, test = ["a", "b"], pairs(6)
    data = Datasets(pairs(40), test, names)
    with pytest.raises(Stopped):
        train(recipe, here / "run", model=model, data=data, show=StopsAfter(1))
    changed = pairs(40)
    changed.tensors[0][39] += 1
    for other, told in (
        (Datasets(pairs(41), test, names), "images 40, now 41"),
        (Datasets(pairs(40), test, ["a", "c"]), r"classes \['a', 'b'\]"),
        (Datasets(changed, test, names), "as many images, but not the same"),
    ):
        with pytest.raises(Refused, match=told):
            train(recipe, here / "run", model=model, data=other, resume=True)
    train(recipe, here / "run", model=model, data=data, resume=True)
    with pytest.raises(BadData, match=r"trust that code.*package.module:function"):
        evaluate(here / "run" / LAST, model=model)
    with pytest.raises(BadData, match="has other classes than the checkpoint"):
        evaluate(here / "run" / LAST, Datasets(test, test, ["a", "c"]), model=model)
    with pytest.raises(BadData, match=r"class 0 is 'dark', in the checkpoint 'a'"):
        evaluate(here / "run" / LAST, noisy_pair(), model=model)
    with pytest.raises(ValueError, match="data is a TensorDataset, expected a pair"):
        evaluate(here / "run" / LAST, test, model=model)
    found = evaluate(here / "run" / LAST, (test, test), model=model)
    assert [row["name"] for row in found["classes"]] == ["a", "b"]


def noisy_pair() -> tuple[Any, Any]:
    return noisy_data().train, noisy_data().test


def test_what_cannot_be_sent_to_spawned_workers_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Local(TensorDataset):
        pass

    recipe, names, workers = tiny("x", size=None), ["a", "b"], Settings(workers=1)
    plain = Datasets(pairs(4), pairs(4), names)
    learnt = Datasets(Local(*pairs(4).tensors), pairs(4), names)
    tests = Datasets(pairs(4), Local(*pairs(4).tensors), names)
    own.can_be_sent(data_set(learnt).train)
    train(recipe, here / "run", model=small_of_2(), data=plain)
    monkeypatch.setattr(own.multiprocessing, "get_start_method", lambda: "spawn")
    own.can_be_sent(data_set(plain).train)
    told = "the Dataset cannot be given to other processes"
    for data in (learnt, tests):
        with pytest.raises(ValueError, match=told):
            train(recipe, here / "other", workers, model=small_of_2(), data=data)
    with pytest.raises(ValueError, match=told):
        evaluate(here / "run" / LAST, tests, workers, model=small_of_2())
    assert not (here / "other").exists()


def test_workers_are_none_unless_asked_for() -> None:
    found = data_set(noisy_data())
    assert workers_for(Settings(), found) == 0
    assert workers_for(Settings(workers=3), found) == 3
