import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cnn_lab.record import environment, interval, paired, repeat

CALLS: list[tuple[float, int]] = []


def double(value: float) -> float:
    return 2 * value


def run(*, value: float, seed: int) -> dict[str, Any]:
    CALLS.append((value, seed))
    return {"score": double(value) + seed, "curve": (1, 2)}


def other(*, value: float, seed: int) -> dict[str, Any]:
    return {"score": 0.0}


ARMS = {"low": {"value": 1.0}, "high": {"value": 10.0}}


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    CALLS.clear()


def test_the_interval_is_the_one_of_scipy() -> None:
    values = [0.91, 0.93, 0.90, 0.95, 0.94]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    found = interval(values)
    assert found == pytest.approx(
        {
            "mean": np.mean(values),
            "sd": np.std(values, ddof=1),
            "low": low,
            "high": high,
            "n": 5,
        }
    )


def test_equal_values_have_an_interval_without_width() -> None:
    assert interval([0.5, 0.5, 0.5]) == {
        "mean": 0.5,
        "sd": 0.0,
        "low": 0.5,
        "high": 0.5,
        "n": 3,
    }


@pytest.mark.parametrize("values", [[], [1.0], [1.0, float("nan")]])
def test_an_interval_needs_two_finite_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="got"):
        interval(values)


def test_pairs_are_compared_by_their_differences() -> None:
    a, b = [1.0, 5.0, 9.0], [0.9, 4.8, 8.9]
    found = paired(a, b)
    assert found["difference"] == pytest.approx(0.4 / 3)
    assert (
        found["verdict"] == "no difference at this scale"
        if found["low"] <= 0
        else "higher"
    )
    assert stats.ttest_rel(a, b).confidence_interval().low == pytest.approx(
        found["low"]
    )
    assert found["detectable"] == pytest.approx((found["high"] - found["low"]) / 2)


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([1.0, 2.0, 3.0], [0.0, 1.01, 2.02], "higher"),
        ([0.0, 1.01, 2.02], [1.0, 2.0, 3.0], "lower"),
        ([0.0, 1.0, 0.0], [0.5, 0.5, 0.2], "no difference at this scale"),
        ([1.0, 2.0], [1.0, 2.0], "no difference at this scale"),
    ],
)
def test_the_verdict_follows_the_interval(
    a: list[float], b: list[float], verdict: str
) -> None:
    assert paired(a, b)["verdict"] == verdict


def test_incomplete_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        paired([1, 2, 3], [1, 2])


def test_every_arm_runs_with_every_seed_one_seed_after_another(tmp_path: Path) -> None:
    found = repeat(run, ARMS, seeds=[0, 1], cache=tmp_path / "new" / "runs.jsonl")
    assert [r["score"] for r in found["low"]] == [2.0, 3.0]
    assert [r["score"] for r in found["high"]] == [20.0, 21.0]
    assert CALLS == [(1.0, 0), (10.0, 0), (1.0, 1), (10.0, 1)]


def test_what_is_done_is_not_done_again_and_reads_the_same(tmp_path: Path) -> None:
    cache = tmp_path / "runs.jsonl"
    first = repeat(run, ARMS, seeds=range(2), cache=cache)
    CALLS.clear()
    again = repeat(run, ARMS, seeds=range(3), cache=cache)
    assert CALLS == [(1.0, 2), (10.0, 2)]
    assert again["low"][:2] == first["low"]


def test_a_run_that_was_stopped_goes_on_even_after_half_a_line(tmp_path: Path) -> None:
    cache = tmp_path / "runs.jsonl"
    repeat(run, ARMS, seeds=[0], cache=cache)
    cache.write_text(cache.read_text()[:-20])
    CALLS.clear()
    assert repeat(run, ARMS, seeds=[0], cache=cache)["high"][0]["score"] == 20.0
    assert CALLS == [(10.0, 0)]
    CALLS.clear()
    repeat(run, ARMS, seeds=[0], cache=cache)
    assert CALLS == []


def test_results_of_other_code_or_arguments_are_not_taken(tmp_path: Path) -> None:
    cache = tmp_path / "runs.jsonl"
    repeat(run, {"a": {"value": 1.0}}, seeds=[0], cache=cache)
    assert repeat(other, {"a": {"value": 1.0}}, seeds=[0], cache=cache)["a"] == [
        {"score": 0.0}
    ]
    CALLS.clear()
    repeat(run, {"a": {"value": 2.0}}, seeds=[0], cache=cache)
    assert CALLS == [(2.0, 0)]


MODULE = """
def double(value):
    return 2 * value


class Network:
    slope = 1

    def __call__(self, value):
        return self.slope * value


def run(value, seed):
    def loss(x):
        return double(x)

    return {"score": loss(Network()(value)) + seed}
"""


def imported(path: Path, text: str) -> ModuleType:
    """The module that `text` is, as a process sees it that starts now."""
    path.write_text(text)
    os.utime(path, ns=(0, len(imports)))  # two writes may share a time
    imports.append(path)
    spec = importlib.util.spec_from_file_location(f"planted_{len(imports)}", path)
    module = importlib.util.module_from_spec(spec)
    exec(compile(text, str(path), "exec"), vars(module))
    return module


imports: list[Path] = []


@pytest.mark.parametrize(
    ("old", "new", "score"),
    [
        ("2 * value", "3 * value", 3.0),  # used in a closure only
        ("slope = 1", "slope = 5", 10.0),  # of a class
        ("return double", "# a comment\n        return double", 2.0),
    ],
)
def test_a_helper_that_changes_makes_the_run_again(
    tmp_path: Path, old: str, new: str, score: float
) -> None:
    cache, arms = tmp_path / "runs.jsonl", {"a": {"value": 1.0}}
    first = imported(tmp_path / "proof.py", MODULE)
    assert repeat(first.run, arms, seeds=[0], cache=cache)["a"] == [{"score": 2.0}]
    second = imported(tmp_path / "proof.py", MODULE.replace(old, new))
    assert repeat(second.run, arms, seeds=[0], cache=cache)["a"] == [{"score": score}]
    assert cache.read_text().count('"arm"') == (1 if score == 2.0 else 2)


def test_the_environment_says_what_a_reader_needs() -> None:
    facts = environment()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", facts["date"])
    assert set(facts) == {
        "date",
        "python",
        "torch",
        "torchvision",
        "processor",
        "threads",
        "device",
    }
    assert facts["threads"] >= 1
    assert json.loads(json.dumps(facts)) == facts
