"""BibTeX entries as RIS and as CSL-JSON, for those who keep their references in another program."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pybtex.database import Entry, Person

from .pages import plain

# Type of RIS, type of CSL 1.0.2.
TYPES = {
    "article": ("JOUR", "article-journal"),
    "inproceedings": ("CPAPER", "paper-conference"),
    "book": ("BOOK", "book"),
    "techreport": ("RPRT", "report"),
    "phdthesis": ("THES", "thesis"),
}
PREPRINT, PAGE = ("UNPB", "article"), ("ELEC", "webpage")  # of @misc


def ris(entries: Mapping[str, Entry]) -> str:
    """All entries, by their keys, in RIS, lines ended as its specification wants them."""
    return "".join(
        f"{tag}  - {value}\r\n"
        for key, entry in entries.items()
        for tag, value in _ris(key, entry)
    )


def csl_json(entries: Mapping[str, Entry]) -> str:
    """All entries, by their keys, as a CSL-JSON array."""
    items = [_csl(key, entry) for key, entry in entries.items()]
    return json.dumps(items, indent=1, ensure_ascii=False) + "\n"


def _types(entry: Entry) -> tuple[str, str]:
    if entry.type == "misc":
        return PREPRINT if "eprint" in entry.fields else PAGE
    return TYPES[entry.type]


def _text(entry: Entry, name: str) -> str:
    return " ".join(plain(entry.fields.get(name, "")).split())


def _container(entry: Entry) -> str:
    return _text(entry, "journal") or _text(entry, "booktitle")


def _name(person: Person) -> tuple[str, str]:
    """(given, family); a group has no given name."""
    given = person.first_names + person.middle_names
    family = person.prelast_names + person.last_names + person.lineage_names
    return plain(" ".join(given)), plain(" ".join(family))


def _notes(entry: Entry) -> list[str]:
    """What neither format has a field for."""
    arxiv = f"arXiv:{entry.fields['eprint']}" if "eprint" in entry.fields else ""
    return [n for n in (arxiv, _text(entry, "howpublished"), _text(entry, "note")) if n]


def _pages(entry: Entry) -> list[str]:
    return [p for p in entry.fields.get("pages", "").split("-") if p]


def _ris(key: str, entry: Entry) -> Iterator[tuple[str, str]]:
    yield "TY", _types(entry)[0]
    yield "ID", key
    for given, family in map(_name, entry.persons.get("author", [])):
        yield "AU", f"{family}, {given}" if given else family
    first, *rest = _pages(entry) or [""]
    for tag, value in (
        ("TI", _text(entry, "title")),
        ("T2", _container(entry)),
        ("T3", _text(entry, "series")),
        ("PB", _text(entry, "publisher")),
        ("PY", entry.fields.get("year", "")),
        ("VL", entry.fields.get("volume", "")),
        ("IS", entry.fields.get("number", "")),
        ("SP", first),
        ("EP", rest[-1] if rest else ""),
        ("DO", entry.fields.get("doi", "")),
        ("UR", entry.fields.get("url", "")),
        *(("N1", note) for note in _notes(entry)),
    ):
        if value:
            yield tag, value
    yield "ER", ""


def _csl(key: str, entry: Entry) -> dict[str, Any]:
    people = [
        {"family": family, "given": given} if given else {"literal": family}
        for given, family in map(_name, entry.persons.get("author", []))
    ]
    year = entry.fields.get("year", "")
    item: dict[str, Any] = {
        "id": key,
        "type": _types(entry)[1],
        "title": _text(entry, "title"),
        "author": people,
        "container-title": _container(entry),
        "collection-title": _text(entry, "series"),
        "publisher": _text(entry, "publisher"),
        "issued": {"date-parts": [[int(year)]]} if year else None,
        "volume": entry.fields.get("volume", ""),
        "issue": entry.fields.get("number", ""),
        "page": "-".join(_pages(entry)),
        "DOI": entry.fields.get("doi", ""),
        "URL": entry.fields.get("url", ""),
        "note": "; ".join(_notes(entry)),
    }
    return {name: value for name, value in item.items() if value}
