"""RIS and CSL-JSON say what the BibTeX says: read back, field by field, for every entry of the bibliography."""

import json
import re
from typing import Any

import pytest
from pybtex.database import Entry, parse_string

from cnn_site import citations, pages

ENTRIES = pages.bibliography().entries
each_entry = pytest.mark.parametrize("key", ENTRIES)
# Of https://github.com/citation-style-language/schema, version 1.0.2: those used here.
CSL_TYPES = {"article", "article-journal", "book", "paper-conference", "report"} | {
    "thesis",
    "webpage",
}
RIS_TYPES = {"JOUR", "CPAPER", "BOOK", "RPRT", "THES", "UNPB", "ELEC"}


def read_ris(text: str) -> dict[str, dict[str, list[str]]]:
    """Records by ID; each line is a tag, two blanks, a hyphen, a blank, a value."""
    found: dict[str, dict[str, list[str]]] = {}
    assert text.endswith("\r\n")
    record: dict[str, list[str]] = {}
    for line in text.split("\r\n")[:-1]:
        match = re.fullmatch(r"([A-Z][A-Z0-9])  - (.*)", line)
        assert match, f"no line of RIS: {line!r}"
        if match[1] == "ER":
            found[record["ID"][0]] = record
            record = {}
        else:
            assert record or match[1] == "TY", "a record begins with its type"
            record.setdefault(match[1], []).append(match[2])
    assert not record, "the last record does not end"
    return found


RIS = read_ris(citations.ris(ENTRIES))
CSL: dict[str, dict[str, Any]] = {
    item["id"]: item for item in json.loads(citations.csl_json(ENTRIES))
}


def expected(entry: Entry) -> dict[str, str]:
    """The fields of an entry as text."""
    fields = {name.lower(): pages.plain(value) for name, value in entry.fields.items()}
    for name in ("doi", "url", "eprint"):  # no LaTeX
        if name in entry.fields:
            fields[name] = entry.fields[name]
    people = []
    for person in entry.persons["author"]:
        first = " ".join(person.first_names + person.middle_names)
        last = " ".join(person.prelast_names + person.last_names)
        people.append(pages.plain(f"{last}, {first}" if first else last))
    fields["author"] = " and ".join(people)
    fields["pages"] = re.sub("[-–]+", "-", fields.get("pages", ""))
    fields.pop("archiveprefix", None)
    return {name: value for name, value in fields.items() if value}


@each_entry
def test_ris_read_back_is_the_entry(key: str) -> None:
    record = dict(RIS[key])
    assert record.pop("TY")[0] in RIS_TYPES and record.pop("ID") == [key]
    notes = record.pop("N1", [])
    back = {
        "author": " and ".join(record.pop("AU")),
        "pages": "-".join(record.pop("SP", []) + record.pop("EP", [])),
        "eprint": "".join(n[6:] for n in notes if n.startswith("arXiv:")),
    }
    container = "journal" if "journal" in ENTRIES[key].fields else "booktitle"
    names = {"TI": "title", "T2": container, "T3": "series", "PB": "publisher"}
    names |= {"PY": "year", "VL": "volume", "IS": "number", "DO": "doi", "UR": "url"}
    for tag, name in names.items():
        back[name] = "".join(record.pop(tag, []))
    assert not record, "a field that BibTeX has not"
    rest = [n for n in notes if not n.startswith("arXiv:")]
    back["howpublished"] = "".join(rest)
    assert {n: v for n, v in back.items() if v} == expected(ENTRIES[key])


@each_entry
def test_csl_read_back_is_the_entry(key: str) -> None:
    item = dict(CSL[key])
    assert item.pop("type") in CSL_TYPES and item.pop("id") == key
    people = [
        p.get("literal") or f"{p['family']}, {p['given']}" for p in item.pop("author")
    ]
    notes = item.pop("note", "").split("; ") if "note" in item else []
    container = "journal" if "journal" in ENTRIES[key].fields else "booktitle"
    back = {
        "author": " and ".join(people),
        "year": "".join(map(str, item.pop("issued")["date-parts"][0])),
        "eprint": "".join(n[6:] for n in notes if n.startswith("arXiv:")),
        "howpublished": "; ".join(n for n in notes if not n.startswith("arXiv:")),
    }
    names = {"title": "title", "container-title": container, "volume": "volume"}
    names |= {"collection-title": "series", "publisher": "publisher", "page": "pages"}
    names |= {"issue": "number", "DOI": "doi", "URL": "url"}
    for csl, name in names.items():
        back[name] = item.pop(csl, "")
    assert not item, "a field that BibTeX has not"
    assert {n: v for n, v in back.items() if v} == expected(ENTRIES[key])


def test_accents_groups_and_pages_are_written_out() -> None:
    assert "Bottou, Léon" in RIS["lecun1998gradient"]["AU"]
    assert RIS["lecun1998gradient"]["SP"] + RIS["lecun1998gradient"]["EP"] == [
        "2278",
        "2324",
    ]
    assert RIS["torchvision2026weights"]["AU"] == [
        "TorchVision maintainers and contributors"
    ]
    assert CSL["lecun1998gradient"]["author"][1] == {
        "family": "Bottou",
        "given": "Léon",
    }
    assert CSL["torchvision2026weights"]["title"] == (
        "TorchVision: Models and Pre-trained Weights"
    )
    assert CSL["hu2018squeeze"]["page"] == "7132-7141"


def test_what_latex_escapes_is_written_out() -> None:
    bibtex = "@book{a,\n  title = {R\\&D of 50\\% of\n    it},\n  author = {de la Vall{\\'e}e Poussin, Charles},\n  year = {1999},\n}"
    entries = parse_string(bibtex, "bibtex").entries
    assert read_ris(citations.ris(entries))["a"]["TI"] == ["R&D of 50% of it"]
    item = json.loads(citations.csl_json(entries))[0]
    assert item["title"] == "R&D of 50% of it"
    assert item["author"][0]["family"] == "de la Vallée Poussin"
