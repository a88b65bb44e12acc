"""A variant's net catches what it is there for; the timing tells a slower network from an equal one."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cnn_lab.trial import learn_by_heart
from cnn_site import proofs, speed, variants
from cnn_site.evidence import Evidence, load
from cnn_site.proofs import network_proof
from cnn_site.variants import NoInit, Variant, each_variant, reference, without_drawing
from cnn_techniques.foundations import vgg11
from cnn_techniques.modern import squeezenet1_1


class Small(nn.Module):
    """A reference of three layers, one of which drops."""

    def __init__(self, width: int = 4, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.conv(x)).mean((2, 3)))


class Renamed(Small):
    def __init__(self) -> None:
        super().__init__()
        self.stem = self.conv
        del self.conv

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.stem(x)).mean((2, 3)))


class Swapped(Small):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5, bias=False)


def variant(make: type[nn.Module], **options: object) -> Variant:
    return Variant(make, "Small", f"{__name__}.Small", pixels=16, **options)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file as a library that references may be taken from."""
    import sys

    module = type(sys)(__name__)
    module.Small = Small
    monkeypatch.setitem(sys.modules, __name__, module)


def test_the_form_of_an_equal_network_is_its_cost_and_its_net() -> None:
    assert variant(Small, net="slow").check_structure() == {
        "name": "Small",
        "params": 3 * 4 * 9 + 4 + 4 * 5 + 5,
        "macs": 3 * 4 * 9 * 14 * 14 + 4 * 5,
        "pixels": 16,
        "net": "slow",
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Small(width=5), r"conv.weight \(5, 3, 3, 3\)"),
        (lambda: Small(stride=2), "MACs"),
        (Renamed, "stem.weight|fc.weight"),
        (Swapped, "3 and 4 tensors"),
    ],
)
def test_another_width_stride_name_or_tensor_is_refused(make, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        Variant(make, "Small", f"{__name__}.Small", pixels=16).check_structure()


def test_other_names_pass_where_parameters_are_paired_by_order() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).mean((2, 3)))

    assert variant(Other, match="order").check_structure()["params"] == 137


def test_a_comparison_is_made_without_dropout_and_its_record_says_so(
    tmp_path: Path,
) -> None:
    evidence = Evidence("modern/resnet", update=True, folder=tmp_path)
    variant(Small).check_equal(evidence, torch.randn(2, 3, 9, 7))
    row = load("modern/resnet", tmp_path)["equivalence"]["Small"]
    assert row["settings"] == "dropout and drop path 0"
    assert (row["dtype"], row["modes"]) == ("float64", ["evaluation", "training"])


def test_a_large_network_is_compared_by_its_outputs_in_float32(tmp_path: Path) -> None:
    evidence = Evidence("modern/resnet", update=True, folder=tmp_path)
    found = variant(Small, net="outputs").check_equal(evidence, torch.randn(2, 3, 9, 7))
    assert (found.dtype, found.modes) == ("float32", ["evaluation"])


def test_dropout_and_drop_path_are_set_to_zero_and_counted() -> None:
    torchvision = pytest.importorskip("torchvision")
    path = torchvision.ops.StochasticDepth(0.2, "row")
    network = nn.Sequential(nn.Dropout(0.5), path, nn.Dropout(0.0))
    assert without_drawing(network) == 2
    assert (network[0].p, path.p) == (0.0, 0.0)


def test_slow_variants_run_in_the_slow_suite_only() -> None:
    fast, slow = each_variant([variant(Small), variant(Small, net="slow")]).args[1]
    assert "slow" not in [m.name for m in fast.marks]
    assert "slow" in [m.name for m in slow.marks]


def test_an_unknown_reference_is_an_error_and_not_a_skip() -> None:
    with pytest.raises(AttributeError, match="resnet19"):
        reference("torchvision.models.resnet19")


@pytest.fixture
def lasting(monkeypatch: pytest.MonkeyPatch):
    """Makes runs that last so many seconds by a clock of their own."""
    now = 0.0
    monkeypatch.setattr(time, "process_time", lambda: now)

    def make(seconds: float):
        def run() -> None:
            nonlocal now
            now += seconds

        return run

    return make


def test_the_ratio_is_the_time_of_the_one_named_through_that_of_each(lasting) -> None:
    runs = {"int8": lasting(2.0), "float32": lasting(3.0), "float16": lasting(6.0)}
    assert speed.alternating(runs, "float32") == {
        "seconds": {"int8": 2.0, "float32": 3.0, "float16": 6.0},
        "ratio": {"int8": 1.5, "float32": 1.0, "float16": 0.5},
    }
    with pytest.raises(ValueError, match="against='float64'"):
        speed.alternating(runs, "float64")


def test_every_run_is_first_in_turn(lasting) -> None:
    order: list[str] = []

    def noted(name: str):
        run = lasting(1.0)  # longer than a timing must be: one repeat
        return lambda: (order.append(name), run())

    speed.alternating({name: noted(name) for name in "bca"}, "a")
    timed = order[2 * 3 :]  # after two rounds that warm up
    assert timed == [*"abc", *"bca", *"cab"] * 2 + [*"abc"]


def runs_of_two_sizes(size: int) -> dict:
    x = torch.randn(size, size)
    return {"once": lambda: lambda: x @ x, "four times": lambda: lambda: [x @ x for _ in range(4)]}  # fmt: skip


def test_the_runs_that_a_file_builds_are_timed_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def here(task: dict) -> dict:
        firsts.append(task["first"])
        return speed._run_task(json.loads(json.dumps(task)))

    firsts: list[int] = []
    monkeypatch.setattr(speed, "_start_process", here)
    monkeypatch.setattr(speed, "LEAST", 0.005)
    found = speed.side_by_side(runs_of_two_sizes, "once", {"size": 128})
    assert list(found["arms"]) == ["once", "four times"]
    assert firsts == [0, 1, 2]  # who lies first in memory changes
    assert found["arms"]["once"]["ratio"] == 1
    assert found["arms"]["four times"]["ratio"] < 1 / 2
    assert (found["slower"], found["faster"]) == (["four times"], [])


def test_a_network_counts_as_slower_when_all_processes_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def process(ratios: list[float], task: dict) -> dict:
        if "memory" in task:
            return {"peak": {"ours": 90, "reference": 100}[task["memory"]]}
        ratio = ratios[len(told)]
        told.append(task["first"])
        one = {"ours": 1.0, "reference": ratio, "ratio": ratio}
        return dict.fromkeys(speed.PHASES, one)

    for ratios, slower in (([0.9, 0.91, 0.8], True), ([0.9, 0.95, 0.8], False)):
        told: list[int] = []
        monkeypatch.setattr(
            speed, "_start_process", lambda task, ratios=ratios: process(ratios, task)
        )
        arguments = speed.timing(variant(Small), [1, 3, 8, 8])
        found = speed.beside_its_reference(**arguments)
        assert bool(found["slower"]) is slower
        assert math.isclose(found["arms"]["forward"]["ratio"], sorted(ratios)[1])
        assert found["memory"]["ratio"] == 0.9
        assert told == [0, 1, 0]  # who lies first in memory changes


# ---------------------------------------------------------------- networks without a reference, large ones


def test_without_a_reference_parameters_and_macs_are_those_given() -> None:
    counts = (3 * 4 * 9 + 4 + 4 * 5 + 5, 3 * 4 * 9 * 14 * 14 + 4 * 5)
    alone = Variant(Small, "Small", pixels=16, counts=counts)
    assert alone.check_structure() == {
        "name": "Small",
        "params": counts[0],
        "macs": counts[1],
        "pixels": 16,
    }
    with pytest.raises(AssertionError, match="expected 1 and 2"):
        Variant(Small, "Small", pixels=16, counts=(1, 2)).check_structure()
    with pytest.raises(ValueError, match="a reference or counts"):
        Variant(Small, "Small")
    with pytest.raises(ValueError, match="has no reference"):
        alone.build_reference()


def test_a_librarys_form_is_made_once_for_its_version_and_the_code_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(name: str, **options: object) -> nn.Module:
        made.append(name)
        return reference(name, **options)

    monkeypatch.setattr(variants, "ROOT", tmp_path)
    monkeypatch.setattr(variants, "reference", counted)
    squeezenet = Variant(squeezenet1_1, "SqueezeNet", "torchvision.models.squeezenet1_1")  # fmt: skip
    first = squeezenet.check_structure()
    assert squeezenet.check_structure() == first
    assert made == ["torchvision.models.squeezenet1_1"]
    replace(squeezenet, pixels=64).check_structure()  # another key
    monkeypatch.setattr(torch, "__version__", "another")
    squeezenet.check_structure()
    assert len(made) == 3
    for path in (tmp_path / ".cache" / "reference").rglob("*.json"):
        path.write_text(path.read_text().replace("64, 3, 3, 3", "64, 3, 3, 5"))
    with pytest.raises(AssertionError, match=r"\(64, 3, 3, 5\)"):
        squeezenet.check_structure()  # it is what ours is checked against


def test_large_networks_go_to_one_worker() -> None:
    large, small, new = each_variant(
        [
            Variant(vgg11, "VGG", "torchvision.models.vgg11"),
            Variant(squeezenet1_1, "SqueezeNet", "torchvision.models.squeezenet1_1"),
            variant(Small, net="outputs"),  # not in a record yet
        ]
    ).args[1]
    assert [m.name for m in large.marks] == ["xdist_group"]
    assert large.marks[0].args == ("large",)
    assert [m.name for m in small.marks] == []
    assert [m.name for m in new.marks] == ["slow", "xdist_group"]


# ---------------------------------------------------------------- the declaration


def proof(**given: object):
    defaults = {"images": (2, 3, 9, 7), "small": Small, "small_images": (2, 3, 9, 7)}
    return network_proof([variant(Small)], **{**defaults, **given})


def test_a_network_proof_holds_compares_and_names_what_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = proof(recipe={"pixels": 8}, options={"width": 4}, speed=(2, 3, 9, 7))
    evidence = Evidence("modern/resnet", update=True, folder=tmp_path)
    tests.equal(variant(Small), evidence)
    assert list(load("modern/resnet", tmp_path)["equivalence"]) == ["Small"]
    tests.gradients(Small)
    calls = {}
    monkeypatch.setattr(
        Evidence, "measured", lambda self, name, **given: calls.update({name: given})
    )
    tests.learns(evidence)
    tests.speed(evidence)
    assert calls["learns"]["run"] is proofs.learn
    assert calls["learns"]["arguments"] == {
        "key": "Small",
        "name": "Small",
        "network": f"{__name__}.Small",
        "learner": "cnn_lab.trial.learn_digits",
        "options": {"num_classes": 10, "width": 4},
        "settings": {"pixels": 8},
        "seeds": [0, 1, 2],
    }
    assert calls["speed"]["run"] is speed.beside_its_reference
    assert calls["speed"]["arguments"]["ours"] == f"{__name__}.Small"


def test_a_network_proof_fails_where_the_network_does(tmp_path: Path) -> None:
    class Broken(Small):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.drop(self.conv(x).detach()).mean((2, 3)))

    evidence = Evidence("modern/resnet", update=True, folder=tmp_path)
    with pytest.raises(AssertionError, match=r"gradient of conv\.weight"):
        proof().equal(variant(Broken), evidence)
    with pytest.raises(AssertionError, match=r"reaches conv\.weight, conv\.bias"):
        proof().gradients(Broken)


def test_what_is_not_asked_for_is_no_test() -> None:
    assert proof(images=None).equal is None
    assert proof(small=None).gradients is None
    assert proof(speed=None).speed is None
    alone = Variant(Small, "Small", pixels=16, counts=(1, 2))
    tests = network_proof([alone], images=(2, 3, 9, 7), small=None)
    assert (tests.equal, tests.speed) == (None, None)


def test_a_network_learns_from_the_initial_weights_of_its_seed() -> None:
    def one(seed: int) -> dict:
        return proofs.learn_once(
            "cnn_techniques.modern.squeezenet.squeezenet1_1",
            "cnn_lab.trial.learn_by_heart",
            {"num_classes": 10},
            {"pixels": 32, "steps": 2},
            seed,
        )

    torch.manual_seed(0)
    direct = learn_by_heart(squeezenet1_1(num_classes=10), pixels=32, steps=2, seed=0)
    assert one(0) == direct
    assert one(1)["curve"] != direct["curve"]


@pytest.mark.parametrize(("std", "end"), [(0.02, 2.0), (1.0, 0.1)])
def test_networks_are_made_without_draws_whatever_the_memory_held(
    std: float, end: float
) -> None:
    """trunc_normal_ draws again while a number is out of range: it must find one in it."""
    weight = torch.full((100, 100), 7.0)
    with NoInit():
        nn.init.trunc_normal_(weight, std=std, a=-end, b=end)
    assert weight.count_nonzero() == 0
