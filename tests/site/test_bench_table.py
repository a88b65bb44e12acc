"""The table of the bench: every value stands below its own head, whichever of the measures a page has."""

import re

import pytest

from cnn_site import pages
from cnn_site.directives import Page, render
from cnn_site.pages import SiteError

ALONE = [
    t.slug
    for t in pages.techniques()
    if t.facts and "bench" in t.record.get("measured", {})
]
TOGETHER = ["all", *dict.fromkeys(slug.partition("/")[0] for slug in ALONE)]


def whole(html: str) -> list[int]:
    """How many columns each row spans, the heads first."""
    rows = re.findall(r"<tr[ >].*?</tr>", html, re.S)[1:]  # below the kinds
    return [
        sum(int(span or 1) for span in re.findall(r"<t[hd](?: colspan=\"(\d+)\")?", re.sub(r' scope="\w+"| class="\w+"', "", row)))
        for row in rows
    ]  # fmt: skip


@pytest.mark.parametrize("slug", ALONE)
def test_rows_of_a_page_have_a_cell_below_every_head(slug: str) -> None:
    spans = whole(render(Page("https://example.org/", "", slug), "bench", [], {}))
    assert len(spans) > 1
    assert set(spans) == {spans[0]}


@pytest.mark.parametrize("which", TOGETHER)
def test_rows_of_many_pages_have_a_cell_below_every_head(which: str) -> None:
    spans = whole(render(Page("https://example.org/", ""), "bench", [which], {}))
    assert len(spans) > 1
    assert set(spans) == {spans[0]}


def test_what_costs_nothing_has_no_columns_of_zeros() -> None:
    here = Page("https://example.org/", "", "training/step-decay")
    assert "Memory, %" not in render(here, "bench", [], {})
    there = Page("https://example.org/", "", "attention/simam")
    assert "Memory, %" in render(there, "bench", [], {})


def test_named_pages_stand_in_the_order_of_the_catalogue_and_no_others() -> None:
    page = Page("https://example.org/", "")
    table = render(page, "bench", ["training/warmup", "training/step-decay"], {})
    assert re.findall(r'scope="row"><a href="/([^"]+).md"', table) == [
        "training/step-decay",
        "training/warmup",
    ]
    with pytest.raises(SiteError, match="unknown 'training/warm-up'"):
        render(page, "bench", ["training/step-decay", "training/warm-up"], {})
