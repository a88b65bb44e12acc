"""A variant's net catches what it is there for; the timing tells a slower network from an equal one."""

import math
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cnn_site import speed
from cnn_site.evidence import Evidence, load
from cnn_site.variants import Variant, each, reference, without_drawing


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
    assert variant(Small, net="slow").form() == {
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
        Variant(make, "Small", f"{__name__}.Small", pixels=16).form()


def test_other_names_pass_where_parameters_are_paired_by_order() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).mean((2, 3)))

    assert variant(Other, match="order").form()["params"] == 137


def test_a_comparison_is_made_without_dropout_and_its_record_says_so(
    tmp_path: Path,
) -> None:
    evidence = Evidence("modern/resnet", update=True, folder=tmp_path)
    variant(Small).hold(evidence, torch.randn(2, 3, 9, 7))
    row = load("modern/resnet", tmp_path)["equivalence"]["Small"]
    assert row["settings"] == "dropout and drop path 0"
    assert (row["dtype"], row["modes"]) == ("float64", ["evaluation", "training"])


def test_a_large_network_is_compared_by_its_outputs_in_float32(tmp_path: Path) -> None:
    evidence = Evidence("modern/resnet", update=True, folder=tmp_path)
    found = variant(Small, net="outputs").hold(evidence, torch.randn(2, 3, 9, 7))
    assert (found.dtype, found.modes) == ("float32", ["evaluation"])


def test_dropout_and_drop_path_are_set_to_zero_and_counted() -> None:
    torchvision = pytest.importorskip("torchvision")
    path = torchvision.ops.StochasticDepth(0.2, "row")
    network = nn.Sequential(nn.Dropout(0.5), path, nn.Dropout(0.0))
    assert without_drawing(network) == 2
    assert (network[0].p, path.p) == (0.0, 0.0)


def test_slow_variants_run_in_the_slow_suite_only() -> None:
    rows = each([variant(Small), variant(Small, net="slow")]).args[1]
    assert [[m.name for m in row.marks] for row in rows] == [[], ["slow"]]


def test_an_unknown_reference_is_an_error_and_not_a_skip() -> None:
    with pytest.raises(AttributeError, match="resnet19"):
        reference("torchvision.models.resnet19")


def test_the_ratio_is_the_references_time_through_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "process_time", lambda: now)

    def lasting(seconds: float):
        def run() -> None:
            nonlocal now
            now += seconds

        return run

    found = speed._alternating({"ours": lasting(2.0), "reference": lasting(3.0)})
    assert found == {"ours": 2.0, "reference": 3.0, "ratio": 1.5}


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
            speed, "_process", lambda task, ratios=ratios: process(ratios, task)
        )
        found = speed.beside_its_reference(variant(Small), [1, 3, 8, 8])
        assert bool(found["slower"]) is slower
        assert math.isclose(found["arms"]["forward"]["ratio"], sorted(ratios)[1])
        assert found["memory"]["ratio"] == 0.9
        assert told == [0, 1, 0]  # who lies first in memory changes
