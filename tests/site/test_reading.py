"""What stands around a page: what it builds on, what builds on it, how long it takes to read."""

import re
from pathlib import Path

import pytest

from cnn_site import ROOT, pages, reading
from cnn_site.directives import Page, render
from cnn_site.fences import MODULES, CodeBlock

TECHNIQUES = [t for t in pages.techniques() if t.facts]


def test_used_by_is_the_inverse_of_builds_on() -> None:
    forward = {(t.slug, b) for t in TECHNIQUES for b in t.builds_on}
    backward = {
        (u.slug, t.slug) for t in pages.techniques() for u in reading.used_by(t)
    }
    assert forward and backward == forward


@pytest.mark.parametrize("t", TECHNIQUES, ids=lambda t: t.slug)
def test_the_facts_lead_to_written_pages_only(t: pages.Technique) -> None:
    told = render(Page("", "", t.slug), "technique", [t.slug], None)
    for slug in re.findall(r'href="/([a-z]+/[a-z0-9-]+)\.md"', told):
        assert pages.technique(slug).facts, slug
    around = [*t.builds_on, *(u.slug for u in reading.used_by(t))]
    for other in map(pages.technique, around):
        assert (f'href="/{other.slug}.md"' in told) == bool(other.facts)
        assert other.short in told


def test_what_is_needed_through_others_stands_in_the_order_to_read_it() -> None:
    t = pages.technique("modern/efficientnet-v2")
    slugs = [u.slug for u in reading.through(t)]
    assert not set(slugs) & set(t.builds_on)
    first = slugs.index("foundations/alexnet")
    assert (
        first < slugs.index("modern/mobilenet-v1") < slugs.index("modern/mobilenet-v2")
    )
    for n, slug in enumerate(slugs):
        assert set(pages.technique(slug).builds_on) <= set(slugs[:n])
    assert reading.through(pages.technique("foundations/lenet-5")) == []


PAGE = """---
title: CBAM
---

{words}

[[numbers cost]]
first: {many}

```{{.py title="cbam.py"}}
{many}
```

## Exercises

{many}

## See also

{words}
"""


def test_minutes_count_words_and_new_lines_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "attention/cbam.md"
    path.parent.mkdir()
    shown = PAGE.format(words="word " * 300, many="word " * 5000)
    path.write_text(shown, encoding="utf-8")
    t = pages.technique("attention/cbam")
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    own = str(MODULES / "attention/cbam.py")
    other = str(MODULES / "attention/bam.py")
    code = ["import torch", *["x = 1"] * 59, *[""] * 500, *["y = 2"] * 400]
    origins = [(own, 1)] * 560 + [(other, 1)] * 400
    block = CodeBlock("py", (), "cbam.py", "\n".join(code), tuple(origins), 1)
    assert reading.minutes(t, block) == 2 * 300 / 200 + 60 / 20


def test_the_conventions_state_the_rule_for_minutes() -> None:
    told = (ROOT / "docs/conventions.md").read_text(encoding="utf-8")
    assert f"{reading.WORDS} words of the text per minute" in told
    assert f"{reading.LINES} lines of the copied block" in told
