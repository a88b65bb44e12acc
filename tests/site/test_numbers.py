"""Notes under tables of numbers say their conditions once."""

from cnn_site.directives import render
from cnn_site.directives.base import Page
from cnn_site.directives.numbers import _joined


def test_conditions_that_differ_in_numbers_alone_are_said_once() -> None:
    rows = [f"one crop of {n} px, ImageNet-1K" for n in (224, 240, 288)]
    assert _joined(rows) == "one crop of 224, 240, 288 px, ImageNet-1K"
    assert _joined([*rows, "ten crops"]) == "; ".join([*rows, "ten crops"])
    assert _joined([rows[0], rows[0], rows[1]]) == "; ".join(rows[:2])  # whose is whose


def test_what_no_processor_changes_is_said_with_its_date_alone() -> None:
    page = Page("https://example.org/", "", "guides/tools")
    column = {"head": "Last release", "measured": "releases.version"}
    table = {"columns": [column], "rows": ["onnx"]}
    assert "thread" in render(page, "numbers", ["guides/tools#releases"], table)
    shown = render(
        page, "numbers", ["guides/tools#releases"], {**table, "hardware": False}
    )
    assert "As of <time>20" in shown
    assert "thread" not in shown
