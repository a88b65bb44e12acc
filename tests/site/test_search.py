"""What the search is given: no code, formulas or facts in the index; other names and sentences in search/pages.js."""

import ast
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from cnn_site import pages
from cnn_site.fences import MODULES
from cnn_site.markdown import Unsearched

TECHNIQUES = [t for t in pages.techniques() if t.facts]


@pytest.fixture(scope="module")
def entries(built_site: Path) -> list[dict[str, Any]]:
    path = built_site / "search/search_index.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["docs"])


@pytest.fixture(scope="module")
def known(built_site: Path) -> dict[str, dict[str, str]]:
    text = (built_site / "search/pages.js").read_text(encoding="utf-8")
    told = re.fullmatch(r"self\.pages = (\{.*?),?\n\};\n*", text, re.S)
    assert told, text[:200]
    return dict(json.loads(told[1] + "}"))


def test_the_index_holds_no_code_and_no_facts(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        text, where = entry["text"], entry["location"]
        if where.startswith("tutorials/"):  # cells of a notebook: assets/search.js
            continue
        for debris in (
            "<pre>",
            "import torch",
            "@inproceedings",
            "@misc",
            "First public",
        ):
            assert debris not in text, f"{where}: {debris}"


def test_no_entry_without_a_title_of_its_own(entries: list[dict[str, Any]]) -> None:
    alike = [e["location"] for e in entries if e["title"] == "CNN Techniques"]
    assert alike == [""], "a heading inside what is left out makes an empty entry"


@pytest.mark.parametrize("t", TECHNIQUES, ids=lambda t: t.slug)
def test_a_page_is_found_by_its_other_names_and_its_code(
    t: pages.Technique,
    entries: list[dict[str, Any]],
    known: dict[str, dict[str, str]],
) -> None:
    page = known[f"{t.slug}/"]
    assert page["aliases"] == ", ".join(t.aliases)
    assert html.unescape(page["about"]) == t.facts["description"]
    (first,) = (e["text"] for e in entries if e["location"] == f"{t.slug}/")
    tree = ast.parse((MODULES / f"{t.slug.replace('-', '_')}.py").read_text())
    public = [getattr(node, "name", "_") for node in tree.body]
    names = [name for name in public if not name.startswith("_")]
    assert names
    assert f"<sup><sub>{' '.join(names)}</sub></sup>" in first


def test_pages_that_the_index_leaves_out_are_not_told(
    known: dict[str, dict[str, str]],
) -> None:
    assert "lab/transfer/" in known
    assert not [url for url in known if url.startswith(("api/", "tags/"))]


@pytest.mark.parametrize(
    ("element", "left_out"),
    [
        ('<div class="language-python highlight">', True),
        ('<div class="highlight output">', True),
        ('<div class="arithmatex" id="eq-1">', True),
        ('<div class="highlights">', False),
        ('<h2 id="cite">', True),
        ('<h2 id="numbers">', False),
        ("<math><mi>r</mi><mo>=</mo><mn>16</mn></math>", False),
        ("<math><msub><mi>z</mi><mi>c</mi></msub></math>", True),
    ],
)
def test_what_is_left_out(element: str, left_out: bool) -> None:
    assert ("data-search-exclude" in Unsearched().run(element)) == left_out
