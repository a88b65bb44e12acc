"""The plots of differences and of curves say the numbers of the records; differences are of one number of seeds."""

import re

import pytest

from cnn_site import pages
from cnn_site.directives import Page, render
from cnn_site.directives.intervals import _one_number
from cnn_site.pages import SiteError

HERE = Page("https://example.org/", "")


def label(*arguments: str, plot: str = "intervals") -> str:
    drawn = render(HERE, plot, list(arguments), {})
    found = re.search(r"aria-label=&quot;(.*?)&quot;", drawn)
    assert found
    return found[1]


def test_arms_of_pages_are_drawn_with_their_intervals_and_the_largest_first() -> None:
    record = pages.recorded("training/step-decay").record["measured"]["bench"]
    pairs = record["result"]["paired"].values()
    said = label("bench", "training/step-decay", "training/warmup").split("; ")
    for pair in pairs:
        values = (100 * pair["accuracy"][k] for k in ("difference", "low", "high"))
        middle, low, high = (f"{v:+.2f}" for v in values)
        assert f"{pair['name']}: {middle}, {low} to {high}" in said
    differences = [float(s.rpartition(": ")[2].split(",")[0]) for s in said]
    assert len(said) > len(pairs) and differences == sorted(differences, reverse=True)


def test_arms_with_a_handicap_have_another_baseline_and_are_left_out() -> None:
    assert label("bench", "training/mixup").count("Mixup") == 1


def test_all_pages_of_a_race_are_drawn_but_the_baseline() -> None:
    said = label("race", "optimization")
    assert "Muon: " in said and "SGD" not in said


def test_a_curve_falls_from_the_mean_of_the_first_epoch_to_that_of_the_last() -> None:
    result = pages.recorded("optimization/lion").record["measured"]["race"]["result"]
    first, last = (
        sum(run[n] for run in result["curve"]) / result["seeds"] for n in (0, -1)
    )
    said = label("race", "optimization", plot="curves")
    assert f"Lion: {first:.2f} to {last:.3f}; " in said
    with pytest.raises(SiteError, match="no page of attention"):
        render(HERE, "curves", ["race", "attention"], {})


def test_what_was_not_measured_is_refused() -> None:
    with pytest.raises(SiteError, match="race attention"):
        render(HERE, "intervals", ["race", "attention"], {})


def test_different_numbers_of_seeds_are_refused() -> None:
    with pytest.raises(SiteError, match=r"\[5, 10\] seeds"):
        _one_number([], {5, 10})
