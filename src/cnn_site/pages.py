"""What the site knows of its techniques, read from files: front matter, catalogue, bibliography, published numbers.

Needs neither torch nor MkDocs, so that a build is quick; every reader is cached until its file changes.
"""

import csv
import difflib
import functools
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pybtex.database import BibliographyData, Entry, parse_string

from . import BESIDE, CATEGORIES, ROOT
from .evidence import load

DOCS = ROOT / "docs"
CATALOGUE = DOCS / "catalogue.csv"
T = TypeVar("T")
# libyaml's, where PyYAML was built with it: ten times as fast.
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
REQUIRED = {
    "title": str,
    "description": str,
    "year": int,
    "tags": list,
    "builds_on": list,
}
OPTIONAL = {
    "papers": list,
    "sources": list,
    "cost": str,
    "needs": list,  # packages besides torch and torchvision that the copied block imports
    "aliases": list,  # what people type who do not know the name
    "level": str,
    "draft": bool,
}
LEVELS = ("introductory", "intermediate", "advanced")
# Packages that are imported under another name, and what calls one that torch asks for.
MODULES = {"scikit-learn": "sklearn", "scikit-image": "skimage", "pillow": "PIL"}
BEHIND = {"onnxscript": "torch.onnx.export"}


class SiteError(ValueError):
    """A page, record or table that cannot be shown: the message names file, place and cure."""


def until_changed(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Caches a reader by its file's time of change."""
    results: dict[Path, tuple[int, T]] = {}

    @functools.wraps(read)
    def cached(path: Path) -> T:
        changed = path.stat().st_mtime_ns
        if path not in results or results[path][0] != changed:
            results[path] = changed, read(path)
        return results[path][1]

    return cached


@dataclass(frozen=True)
class Technique:
    """A row of the catalogue, with its page's front matter once there is a page."""

    slug: str
    category: str
    planned_title: str
    planned_year: int | None
    held_against: str
    shown_to_work_by: str
    asked_for: bool
    facts: dict[str, Any] | None  # front matter; None: planned, or a draft

    @property
    def title(self) -> str:
        return str(self.facts["title"]) if self.facts else self.planned_title

    @property
    def short(self) -> str:
        return self.title.split(" (")[0]

    @property
    def year(self) -> int | None:
        return self.facts["year"] if self.facts else self.planned_year

    @property
    def path(self) -> Path:
        return DOCS / f"{self.slug}.md"

    @property
    def record(self) -> dict[str, Any]:
        return load(self.slug)

    @property
    def builds_on(self) -> list[str]:
        return list(self.facts["builds_on"]) if self.facts else []

    @property
    def aliases(self) -> list[str]:
        """What people type who do not know the name."""
        return list((self.facts or {}).get("aliases", []))

    @property
    def keys(self) -> list[str]:
        """Of the papers, or of the sources of a practice page."""
        return (
            [*self.facts.get("papers", []), *self.facts.get("sources", [])]
            if self.facts
            else []
        )


@until_changed
def front_matter(path: Path) -> dict[str, Any]:
    """The facts of a technique's page; SiteError for a field that is missing, misspelt or of another type."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    if not text.startswith("---\n"):
        raise SiteError(
            f"{name}, line 1: front matter is missing; expected --- and {', '.join(REQUIRED)}"
        )
    facts: dict[str, Any] = yaml.load(text.split("\n---\n", 1)[0][4:], SafeLoader)
    known = {**REQUIRED, **OPTIONAL}
    for key in facts:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            cure = (
                f"did you mean {near[0]!r}?"
                if near
                else f"known are {', '.join(known)}"
            )
            raise SiteError(
                f"{name}, line {_line_of(text, key)}: unknown front matter field {key!r}; {cure}"
            )
        if not isinstance(facts[key], known[key]):
            raise SiteError(
                f"{name}, line {_line_of(text, key)}: {key} is {facts[key]!r}, expected {known[key].__name__}"
            )
    missing = [key for key in REQUIRED if key not in facts]
    if "papers" not in facts and "sources" not in facts:
        missing.append("papers (or sources)")
    if missing:
        raise SiteError(f"{name}, line 1: front matter lacks {', '.join(missing)}")
    if facts.get("level", LEVELS[0]) not in LEVELS:
        raise SiteError(
            f"{name}, line {_line_of(text, 'level')}: level is {facts['level']!r}, expected one of {', '.join(LEVELS)}"
        )
    for package in facts.get("needs", []):
        if package not in packages():
            near = difflib.get_close_matches(str(package), packages(), 1)
            cure = (
                f"did you mean {near[0]!r}?"
                if near
                else "add it to an extra of pyproject.toml and to constraints*.txt"
            )
            raise SiteError(
                f"{name}, line {_line_of(text, 'needs')}: needs names the unknown package {package!r}; {cure}"
            )
    return facts


def _line_of(text: str, key: str) -> int:
    return next(
        (n for n, line in enumerate(text.split("\n"), 1) if line.startswith(f"{key}:")),
        1,
    )


def line_of(path: Path, key: str) -> int:
    """The line of a front matter field, 1 where it is missing."""
    return _line_of(path.read_text(encoding="utf-8"), key)


@until_changed
def _packages(path: Path) -> list[str]:
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    wanted = [w for extra in project["optional-dependencies"].values() for w in extra]
    return [re.split(r"[^\w.-]", name)[0] for name in wanted]


def packages() -> list[str]:
    """Those that the project's tests install."""
    return _packages(ROOT / "pyproject.toml")


def package(module: str) -> str:
    """What one installs to import a module: `scikit-learn` for `sklearn`."""
    return {m: p for p, m in MODULES.items()}.get(module, module)


def module(package: str) -> str:
    """What one imports of a package."""
    return MODULES.get(package, package.replace("-", "_"))


def needs(path: Path) -> list[str]:
    """The packages besides torch and torchvision that a technique's copied block imports."""
    return list(front_matter(path).get("needs", []))


DRAFT = re.compile(r"\A---\n(?:(?!---\n).*\n)*?draft: true\b")


@until_changed
def _is_draft(path: Path) -> bool:
    return bool(DRAFT.match(path.read_text(encoding="utf-8")))


def is_draft(path: Path) -> bool:
    """Whether the page says `draft: true`; the rest of its front matter may be wrong."""
    return path.exists() and _is_draft(path)


def written() -> list[Path]:
    """The Markdown pages of the site that are no drafts."""
    return [p for p in sorted(DOCS.rglob("*.md")) if not is_draft(p)]


def drafts() -> list[Path]:
    """The pages of techniques that say `draft: true`."""
    paths = [DOCS / f"{slug}.md" for slug in _catalogue_rows(CATALOGUE)]
    return [path for path in paths if is_draft(path)]


def refuse_drafts(release: str) -> None:
    """SiteError that names every draft in a release."""
    told = [
        f"{path.relative_to(ROOT)}, line {line_of(path, 'draft')}: draft: true in the release {release}; "
        "finish the page and drop the line, or release without the page"
        for path in drafts()
        if release
    ]
    if told:
        raise SiteError("\n".join(told))


@until_changed
def _catalogue_rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {f"{r['category']}/{r['slug']}": r for r in csv.DictReader(file)}


def techniques() -> list[Technique]:
    """All techniques in the order of the catalogue."""
    paths = [f"{DOCS}/{slug}.md" for slug in _catalogue_rows(CATALOGUE)]
    changed = [os.stat(p).st_mtime_ns if os.path.exists(p) else None for p in paths]
    return list(_techniques(DOCS, CATALOGUE.stat().st_mtime_ns, *changed))


@functools.lru_cache(maxsize=1)  # every page asks for all of them
def _techniques(*changed: object) -> list[Technique]:
    rows = _catalogue_rows(CATALOGUE)
    return [_technique(slug, row) for slug, row in rows.items()]


def technique(slug: str, drafts: bool = False) -> Technique:
    """A row of the catalogue; with `drafts`, the front matter of a draft too."""
    technique_path(slug)
    return _technique(slug, _catalogue_rows(CATALOGUE)[slug], drafts)


def technique_path(slug: str) -> Path:
    """Where a technique's page stands, whatever it holds; SiteError for an unknown technique."""
    rows = _catalogue_rows(CATALOGUE)
    if slug not in rows:
        near = difflib.get_close_matches(slug, rows, 1)
        cure = f"did you mean {near[0]!r}?" if near else "see docs/catalogue.csv"
        raise SiteError(f"unknown technique {slug!r}; {cure}")
    return DOCS / f"{slug}.md"


def recorded(slug: str) -> Technique:
    """Whose record a page shows: a technique, or a page beside them (`lab/train`), which is no technique."""
    folder = slug.partition("/")[0]
    if folder in BESIDE and (DOCS / "evidence" / f"{slug}.json").exists():
        return Technique(slug, folder, slug, None, "", "", False, None)
    return technique(slug)


def _technique(slug: str, row: dict[str, str], drafts: bool = False) -> Technique:
    page = DOCS / f"{slug}.md"
    shown = page.exists() and (drafts or not is_draft(page))
    return Technique(
        slug=slug,
        category=row["category"],
        planned_title=row["title"],
        planned_year=int(row["year"]) if row.get("year") else None,
        held_against=row["held_against"],
        shown_to_work_by=row["shown_to_work_by"],
        asked_for=row["asked_for"] == "yes",
        facts=front_matter(page) if shown else None,
    )


def in_category(category: str) -> list[Technique]:
    if category not in CATEGORIES:
        raise SiteError(
            f"unknown category {category!r}; expected one of {', '.join(CATEGORIES)}"
        )
    return [t for t in techniques() if t.category == category]


@until_changed
def _bibliography(path: Path) -> BibliographyData:
    return parse_string(path.read_text(encoding="utf-8"), "bibtex")


def bibliography() -> BibliographyData:
    return _bibliography(DOCS / "references.bib")


def paper(key: str) -> Entry:
    entries = bibliography().entries
    if key not in entries:
        near = difflib.get_close_matches(key, list(entries), 1)
        raise SiteError(
            f"unknown paper key {key!r}; "
            + (
                f"did you mean {near[0]!r}?"
                if near
                else "add it to docs/references.bib"
            )
        )
    return entries[key]


def paper_url(entry: Entry) -> str:
    """Where a reader finds it: the DOI, else arXiv, else the address of the entry."""
    fields = entry.fields
    if "doi" in fields:
        return f"https://doi.org/{fields['doi']}"
    if "eprint" in fields:
        return f"https://arxiv.org/abs/{fields['eprint']}"
    return str(fields.get("url", ""))


@functools.cache
def plain(text: str) -> str:
    """A BibTeX field as text."""
    from pybtex.richtext import Text

    return str(Text.from_latex(text.replace("\\&", "&")))


def authors(entry: Entry) -> list[str]:
    """Family names."""
    people = entry.persons.get("author", []) or entry.persons.get("editor", [])
    return [plain(" ".join(p.prelast_names + p.last_names)) for p in people]


def short_cite(key: str) -> str:
    """`Hu et al. 2018`."""
    entry = paper(key)
    names = authors(entry)
    who = (
        names[0]
        if len(names) == 1
        else " and ".join(names)
        if len(names) == 2
        else f"{names[0]} et al."
        if names
        else plain(entry.fields["title"])
    )
    return f"{who} {entry.fields.get('year', '')}".strip()


def venue(entry: Entry) -> str:
    fields = entry.fields
    return plain(
        fields.get("booktitle")
        or fields.get("journal")
        or fields.get("publisher")
        or fields.get("howpublished")
        or ""
    )


def bibtex(key: str) -> str:
    """The entry as it stands in the file: a writer would escape what is escaped already."""
    paper(key)  # SiteError for an unknown key
    entries = _entries(DOCS / "references.bib")
    if key not in entries:
        raise SiteError(
            f"docs/references.bib: the entry {key} does not end in a line with one brace"
        )
    return entries[key]


@until_changed
def _entries(path: Path) -> dict[str, str]:
    text = path.read_text(encoding="utf-8")
    matches = re.finditer(r"^@\w+\{([^,]+),.*?^\}", text, re.M | re.S)
    return {m[1]: m[0] for m in matches}


@until_changed
def _published(path: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {
            (r["technique"], r["row"], r["quantity"]): r for r in csv.DictReader(file)
        }


def published(slug: str, row: str, quantity: str) -> dict[str, str] | None:
    """A published number with its unit, conditions, source key and place in the source."""
    return _published(DOCS / "evidence" / "published.csv").get((slug, row, quantity))


@until_changed
def _recipes(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def recipe(slug: str, row: str, quantity: str) -> dict[str, str] | None:
    """By which training recipe the weights of a published accuracy were made: its group, name, and where that was seen."""
    for line in _recipes(DOCS / "evidence" / "recipes.csv"):
        same = (line["technique"], line["quantity"]) == (slug, quantity)
        if same and fnmatchcase(row, line["rows"]):
            return line
    return None
