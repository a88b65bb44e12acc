"""The page on what was asked for: every row has lines, and a place or a reason; places exist.

The specification is not in the repository, so that its lines can be counted here and not read.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from markdown.extensions.toc import slugify

from cnn_site import ROOT, pages
from cnn_techniques.modern import mobilenet_v3_large, resnet50

DOCS = ROOT / "docs"
PAGE = DOCS / "from-the-specification.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
GUIDE = re.compile(r"<!-- link: (\S+) -->")
SPAN = re.compile(r"(\d+)(?:–(\d+))?")
LINES = range(5, 678)  # of the specification
NOTHING = 162  # so many of them ask for nothing: blank lines and rules


class Row(NamedTuple):
    asked: str
    here: str
    why: str

    @property
    def lines(self) -> list[range]:
        told = re.search(r" \(([\d–, ]+)\)$", self.asked)
        assert told, f"no lines in: {self.asked}"
        spans = [SPAN.fullmatch(span) for span in told[1].split(", ")]
        assert all(spans), self.asked
        return [range(int(s[1]), int(s[2] or s[1]) + 1) for s in spans if s]


def rows() -> Iterator[Row]:
    for line in TEXT.split("\n"):
        if line.startswith("| ") and not line.startswith("| Asked for"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == 3, line
            yield Row(*cells)


ROWS = list(rows())


def anchors(page: Path) -> set[str]:
    """The ids of a page's headings, and those that are written into it."""
    text = page.read_text(encoding="utf-8")
    found = set(re.findall(r"\bid=\"([^\"]+)\"|\{[^}\n]*#([\w-]+)", text))
    ids = {one or other for one, other in found}
    text = re.sub(r"^ *(`{3,}).*?^ *\1", "", text, flags=re.M | re.S)
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        ids.add(slugify(re.sub(r"[`*]|\{[^}]*\}", "", heading).strip(), "-"))
    return ids


def test_a_row_has_lines_and_a_place_or_a_reason() -> None:
    for row in ROWS:
        for span in row.lines:
            assert span and span[0] in LINES and span[-1] in LINES, row.asked
        place = LINK.search(row.here) or GUIDE.search(row.here) or "`" in row.here
        assert row.here, f"nothing tells where it stands: {row.asked}"
        # *copy and run* is a part of every page, no place by itself in a table
        assert place or "*" in row.here or row.why, f"no place, no reason: {row.asked}"


def test_every_line_that_asks_for_something_has_a_row() -> None:
    covered = {line for row in ROWS for span in row.lines for line in span}
    gaps = sorted(set(LINES) - covered)
    assert len(gaps) == NOTHING, f"no row has one of the lines {gaps}"


def test_every_place_exists() -> None:
    places = set(LINK.findall(TEXT))
    assert len(places) > 100
    for name, anchor in sorted(places):
        page = DOCS / name
        assert page.is_file(), f"{PAGE.name} leads to {name}, which is not there"
        assert not anchor or anchor in anchors(page), f"{name} has no #{anchor}"


def test_a_place_that_does_not_exist_is_seen() -> None:
    assert "numbers" in anchors(DOCS / "modern/resnet.md")
    assert "the-papers-networks" in anchors(DOCS / "segmentation/fcn.md")
    assert "held-against" in anchors(DOCS / "modern/resnet.md"), "written by hand"
    assert "no-such-heading" not in anchors(DOCS / "modern/resnet.md")


def test_every_file_that_is_named_exists() -> None:
    for row in ROWS:
        for name in re.findall(r"`([^`\s]+)`", LINK.sub("", row.here)):
            assert (ROOT / name).exists(), f"{name} is not in the repository"


def test_every_technique_that_was_asked_for_is_linked() -> None:
    linked = {name for row in ROWS for name, _ in LINK.findall(row.here)}
    asked = {f"{t.slug}.md" for t in pages.techniques() if t.asked_for}
    assert asked, "the catalogue says which were asked for"
    assert not asked - linked, sorted(asked - linked)


def test_a_guide_that_is_there_is_linked() -> None:
    for name in sorted(set(GUIDE.findall(TEXT))):
        assert not (DOCS / name).exists(), f"{name} is there: link it at its marks"


def test_the_parameters_with_ten_classes_are_those_that_are_told() -> None:
    with torch.device("meta"):
        for title, network in (
            ("ResNet-50", resnet50(10)),
            ("MobileNetV3-Large", mobilenet_v3_large(10)),
        ):
            millions = sum(p.numel() for p in network.parameters()) / 1e6
            assert f"{title} {millions:.1f} M" in TEXT
