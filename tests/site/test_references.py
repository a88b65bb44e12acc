"""The bibliography: every key is known, used and well formed."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pybtex.database import BibliographyData, Entry, parse_string
from pybtex.exceptions import PybtexError

from cnn_site import ROOT
from cnn_site.pages import is_draft

BIB = "docs/references.bib"
DOI = re.compile(r"10\.\d{4,9}/[^\s{}\"<>]+")
ARXIV = re.compile(r"\d{2}(0[1-9]|1[0-2])\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7}")
NEEDED = ("title", "year")


def read_bibliography(text: str) -> BibliographyData:
    return parse_string(text, "bibtex")


def problems_of(key: str, entry: Entry) -> Iterator[str]:
    fields = entry.fields
    for name in NEEDED:
        if not fields.get(name):
            yield f"{BIB}: {key} has no {name}"
    if not entry.persons.get("author"):
        yield f"{BIB}: {key} has no author"
    if not re.fullmatch(r"\d{4}", fields.get("year", "")):
        yield f"{BIB}: {key}: year {fields.get('year')!r} is not four digits"
    if "doi" in fields and not DOI.fullmatch(fields["doi"]):
        yield f"{BIB}: {key}: DOI {fields['doi']!r} is malformed; expected 10.<registrant>/<suffix> without a host"
    if "eprint" in fields and not ARXIV.fullmatch(fields["eprint"]):
        yield f"{BIB}: {key}: arXiv id {fields['eprint']!r} is malformed; expected YYMM.NNNNN without a version"
    if (
        "eprint" in fields
        and fields.get("url", "") != f"https://arxiv.org/abs/{fields['eprint']}"
    ):
        yield f"{BIB}: {key}: url {fields.get('url')!r} is not the page of arXiv id {fields['eprint']}"
    if not {"doi", "eprint", "url"} & set(fields):
        yield f"{BIB}: {key} has no DOI, arXiv id or URL, so that nobody can find it"
    if "unverified" in fields.get("note", ""):
        yield f"{BIB}: {key} is marked unverified; check it or leave it out"


def keys_used(root: Path) -> dict[str, list[str]]:
    """Key -> the files (and lines of published.csv) that use it."""
    used: dict[str, list[str]] = {}
    for page in sorted((root / "docs").rglob("*.md")):
        match = re.match(
            r"---\n(.*?)\n---\n", page.read_text(encoding="utf-8"), re.DOTALL
        )
        facts = yaml.safe_load(match[1]) if match else None
        for field in ("papers", "sources"):
            for key in (facts or {}).get(field) or []:
                if isinstance(key, str):
                    used.setdefault(key, []).append(page.relative_to(root).as_posix())
    published = root / "docs/evidence/published.csv"
    if published.exists():
        with published.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            for row in reader:
                place = f"{published.relative_to(root).as_posix()}:{reader.line_num}"
                used.setdefault(row["source"], []).append(place)
    return used


def problems(root: Path) -> list[str]:
    entries = read_bibliography((root / BIB).read_text(encoding="utf-8")).entries
    found = [
        problem for key, entry in entries.items() for problem in problems_of(key, entry)
    ]
    used = keys_used(root)
    for key, places in sorted(used.items()):
        if key not in entries and not is_draft(root / places[0].split(":")[0]):
            found.append(f"{places[0]}: the key {key!r} is not in {BIB}")
    for key in entries:
        if key not in used:
            found.append(
                f"{BIB}: the key {key!r} is used by no page and no published number; take it out"
            )
    return found


def test_the_bibliography_is_well_formed_and_every_key_is_known_and_used() -> None:
    found = problems(ROOT)
    assert not found, "\n".join(found)


GOOD = """
@misc{a2020b, title = {T}, author = {B, A}, year = {2020}, eprint = {2001.00001}, url = {https://arxiv.org/abs/2001.00001}}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "docs/x").mkdir(parents=True)
    (tmp_path / BIB).write_text(GOOD)
    (tmp_path / "docs/x/y.md").write_text("---\ntitle: Y\npapers: [a2020b]\n---\n# Y\n")
    return tmp_path


def test_a_sound_bibliography_passes(site: Path) -> None:
    assert problems(site) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "eprint = {2001.00001}, url = {https://arxiv.org/abs/2001.00001}",
            "doi = {doi.org/10.1/x}",
            "malformed",
        ),
        ("eprint = {2001.00001}", "eprint = {2013.00001}", "malformed"),
        ("eprint = {2001.00001}", "eprint = {2001.00001v2}", "malformed"),
        ("abs/2001.00001", "abs/2001.00002", "is not the page of"),
        ("author = {B, A}, ", "", "has no author"),
        ("year = {2020}", "year = {in press}", "not four digits"),
        ("year = {2020}", "year = {2020}, note = {unverified}", "marked unverified"),
        (
            "eprint = {2001.00001}, url = {https://arxiv.org/abs/2001.00001}",
            "pages = {1--2}",
            "nobody can find it",
        ),
    ],
)
def test_a_faulty_entry_is_refused_and_named(
    site: Path, old: str, new: str, says: str
) -> None:
    assert old in GOOD
    (site / BIB).write_text(GOOD.replace(old, new))
    found = problems(site)
    assert any(says in problem and "a2020b" in problem for problem in found), found


def test_an_unknown_key_is_refused_with_the_file_that_uses_it(site: Path) -> None:
    (site / "docs/x/z.md").write_text("---\ntitle: Z\nsources:\n  - b2021c\n---\n# Z\n")
    assert problems(site) == [f"docs/x/z.md: the key 'b2021c' is not in {BIB}"]


def test_an_unknown_source_of_a_published_number_is_refused_with_its_line(
    site: Path,
) -> None:
    (site / "docs/evidence").mkdir()
    (site / "docs/evidence/published.csv").write_text(
        "id,source\none,a2020b\ntwo,b2021c\n"
    )
    assert problems(site) == [
        f"docs/evidence/published.csv:3: the key 'b2021c' is not in {BIB}"
    ]


def test_an_unused_key_is_refused(site: Path) -> None:
    (site / "docs/x/y.md").write_text("---\ntitle: Y\n---\n# Y\n")
    assert problems(site) == [
        f"{BIB}: the key 'a2020b' is used by no page and no published number; take it out"
    ]


def test_a_broken_file_is_not_read_as_an_empty_one() -> None:
    with pytest.raises(PybtexError):
        read_bibliography("@misc{a2020b, title = {T")
