"""Numbers of a record: tables whose columns are of one kind each, and single ones in a sentence."""

import itertools
import json
import re
from typing import Any

from cnn_site import pages
from cnn_site.pages import SiteError, Technique

from .base import Page, fill, terminal

KINDS = ("computed", "measured", "published")
LETTERS = "abcdefghijklmnop"


def numbers(page: Page, arguments: list[str], settings: Any) -> str:
    """A table of the record: one row a variant, each column of one kind.

    `[[numbers lab/compare#techniques]]` is a table of another record; `names: {key: name}` renames rows;
    `hardware: false` where what was measured does not depend on it: the date alone is said.
    """
    slug, _, table = arguments[0].rpartition("#")
    t = pages.recorded(slug) if slug else page.technique
    record = t.record
    base = record.get("computed", {}).get(table) or _arms(record, table)
    if base is None:
        raise SiteError(
            f"docs/evidence/{t.slug}.json has neither a computed table nor a measured result {table!r}"
        )
    if not isinstance(settings, dict) or not isinstance(settings.get("columns"), list):
        raise SiteError(
            f"expected YAML with a list of columns below it, got {settings!r}"
        )
    lost = [key for key in settings.get("rows") or () if key not in base]
    if lost:
        raise SiteError(
            f"table {table!r} has no row {lost[0]!r}; there is {', '.join(base)}"
        )
    chosen = settings.get("rows") or list(base)
    columns: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    marks: dict[str, str] = {}
    cells: dict[str, list[dict[str, Any]]] = {key: [] for key in chosen}
    for column in settings["columns"]:
        kind = next((k for k in KINDS if k in column), None)
        if kind is None:
            raise SiteError(f"column {column} names none of {', '.join(KINDS)}")
        made = [cell(t, record, base, key, column, kind) for key in chosen]
        for key, made_cell in zip(chosen, made, strict=True):
            cells[key].append(made_cell)
        column = {"hardware": settings.get("hardware", True), **column}
        note = _note(t, record, table, column, kind, chosen)
        note_key = json.dumps(note, sort_keys=True)
        if note and note_key not in marks:
            marks[note_key] = LETTERS[len(notes)]
            notes.append(note)
        columns.append(
            {"head": column["head"], "kind": kind, "mark": marks.get(note_key, "")}
        )
    rows = [
        {
            "name": settings.get("names", {}).get(key)
            or base.get(key, {}).get("name", key),
            "cells": cells[key],
        }
        for key in chosen
    ]
    return fill(
        "numbers",
        t=t,
        label=settings.get("label", "Numbers"),
        first=settings.get("first", ""),
        groups=groups_of([c["kind"] for c in columns]),
        columns=columns,
        rows=rows,
        notes=notes,
    )


def recorded(page: Page, arguments: list[str], settings: Any) -> str:
    """A command too costly for the tests, and what it printed when its record was made.

    `[[recorded lab/train#evaluated]]`, or of one arm `[[recorded lab/transfer#garments.features]]`.
    """
    slug, _, path = arguments[0].rpartition("#")
    t = pages.recorded(slug) if slug else page.technique
    name, _, arm = path.partition(".")
    entry = t.record.get("measured", {}).get(name, {})
    result = entry.get("result", {})
    result = result.get("arms", {}).get(arm, {}) if arm else result
    if not {"command", "output"} <= set(result):
        raise SiteError(
            f"docs/evidence/{t.slug}.json has no measured result {path!r} with a command and its output"
        )
    return fill(
        "recorded",
        t=t,
        shown=terminal(result["command"], result["output"].rstrip("\n")),
        where=_sentence(hardware(entry["environment"])),
        speeds="images/s" in result["output"],
    )


def groups_of(kinds: list[str]) -> list[tuple[str, int]]:
    """Runs of columns of one kind: the heads above the heads."""
    return [(kind, len(list(run))) for kind, run in itertools.groupby(kinds)]


def _arms(record: dict[str, Any], name: str) -> dict[str, Any] | None:
    result = record.get("measured", {}).get(name, {}).get("result", {})
    arms: dict[str, Any] | None = result.get("arms")
    return arms


def cell(
    t: Technique,
    record: dict[str, Any],
    base: dict[str, Any],
    key: str,
    column: dict[str, Any],
    kind: str,
) -> dict[str, Any]:
    value: Any = None
    if kind == "published":
        row = pages.published(t.slug, key, column["published"])
        value = float(row["value"]) if row else None
        digits = (
            len(row["value"].partition(".")[2])
            if row and "digits" not in column
            else column.get("digits")
        )
        return {"kind": kind, "text": number(value, column, digits), "pm": ""}
    if kind == "computed":
        value = base.get(key, {}).get(column["computed"])
    else:
        name, _, quantity = column["measured"].rpartition(".")
        row = ((_arms(record, name) if name else base) or {}).get(key, {})
        value = row.get(quantity, "diverged" if row.get("diverged") else None)
    if isinstance(value, dict):
        half = (value["high"] - value["low"]) / 2
        return {
            "kind": kind,
            "text": number(value["mean"], column),
            "pm": "± " + number(half, column),
        }
    return {"kind": kind, "text": number(value, column), "pm": ""}


def number(value: Any, column: dict[str, Any], digits: int | None = None) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " × ".join(str(v) for v in value)
    scaled = value / float(column.get("per", 1))
    digits = column.get("digits", digits)
    return (
        f"{scaled:,.{digits}f}"
        if digits is not None
        else f"{scaled:,g}"
        if isinstance(scaled, float) and column.get("per")
        else f"{value:,}"
    )


def _note(
    t: Technique,
    record: dict[str, Any],
    table: str,
    column: dict[str, Any],
    kind: str,
    keys: list[str],
) -> dict[str, Any] | None:
    """Unit and conditions under the table: typed for computed numbers, from record and published.csv for the others."""
    text = column.get("note", "")
    if kind == "published":
        rows = [
            r
            for r in (pages.published(t.slug, key, column["published"]) for key in keys)
            if r
        ]
        if not rows:
            raise SiteError(
                f"docs/evidence/published.csv has no {column['published']!r} of {t.slug} for {', '.join(keys)}"
            )
        by_source: dict[str, list[dict[str, str]]] = {}
        for r in rows:
            by_source.setdefault(r["source"], []).append(r)
        sources = [
            {
                "name": pages.short_cite(key),
                "url": pages.paper_url(pages.paper(key)),
                "place": "; ".join(places) if len(places) < 3 else "",
                "version": "; ".join(dict.fromkeys(r["version"] for r in cited)),
            }
            for key, cited in by_source.items()
            if (places := list(dict.fromkeys(r["place"] for r in cited)))
        ]
        return {
            "text": " ".join(
                filter(
                    None, [text, _sentence(_joined([r["conditions"] for r in rows]))]
                )
            ),
            "sources": sources,
            "record": False,
        }
    if kind == "measured":
        name = column["measured"].rpartition(".")[0] or table
        entry = record["measured"].get(name)
        if entry is None:
            raise SiteError(
                f"docs/evidence/{t.slug}.json has no measured result {name!r}"
            )
        environment = entry["environment"]
        where = (
            hardware(environment)
            if column["hardware"]
            else f"As of {environment['date']}"
        )
        arms = entry["result"].get("arms", {})
        values = [
            arms[k].get(column["measured"].rpartition(".")[2])
            for k in keys
            if k in arms
        ]
        seeds = next((v["n"] for v in values if isinstance(v, dict)), None)
        trained = "epochs" in entry["arguments"] or any(
            "curve" in arms[k] for k in keys if k in arms
        )
        last = ", last epoch" if trained else ""
        seeds_text = (
            f"Mean over {seeds} seeds ± half of the 95 % interval{last}."
            if seeds
            else ""
        )
        return {
            "text": " ".join(filter(None, [text, seeds_text, _sentence(where)])),
            "sources": [],
            "record": True,
        }
    return {"text": text, "sources": [], "record": False} if text else None


def hardware(environment: dict[str, Any]) -> str:
    threads = environment.get("threads", 1)
    plural = "s" if threads != 1 else ""
    return f"{environment['processor']}, {threads} thread{plural}, torch {environment['torch'].split('+')[0]}, {environment['date']}"


def _joined(conditions: list[str]) -> str:
    """The rows' conditions; where three or more differ in numbers alone, one, with the numbers in the order of the rows."""
    different = list(dict.fromkeys(conditions))
    shapes = {re.sub(r"\d+", "#", c) for c in different}
    if len(conditions) < 3 or len(different) < len(conditions) or len(shapes) > 1:
        return "; ".join(different)
    columns = zip(*(re.findall(r"\d+", c) for c in conditions), strict=True)
    numbers = iter([c[:1] if len(set(c)) == 1 else c for c in columns])
    return re.sub(r"\d+", lambda m: ", ".join(next(numbers)), conditions[0])


def _sentence(text: str) -> str:
    return text if not text or text.endswith(".") else text + "."


def resolve(value: Any, names: list[str]) -> Any:
    """What stands at a path of keys and list places; LookupError with the names there are."""
    for n in names:
        if isinstance(value, list) and n.lstrip("-").isdigit():
            value = value[int(n)]
        elif isinstance(value, dict) and n in value:
            value = value[n]
        else:
            has = f"; there is {', '.join(value)}" if isinstance(value, dict) else ""
            raise LookupError(f"{n!r}{has}")
    return value


EXPRESSION = re.compile(r"\s*([\w.+-]+?)\s*(?:([/*])\s*([\d.e+-]+))?\s*(?::(.*))?")


def place(page: Page, expression: str) -> tuple[str, str]:
    """Whose record an inline number is of, and its path there: (`modern/resnet`, `cost.resnet50.params`)."""
    slug, _, rest = expression.rpartition("#")
    match = EXPRESSION.fullmatch(rest)
    return slug.strip() or page.slug, match[1] if match else rest


def inline_number(page: Page, expression: str) -> tuple[str, str]:
    """`cost.resnet50.params/1e6:.2f` -> ("25.56", "computed"); the first word is a table, a measured result, or `published`.

    `modern/resnet#cost.resnet50.params` is the number of another page.
    """
    slug, _, rest = expression.rpartition("#")
    if slug:
        return inline_number(Page(page.site_url, page.release, slug.strip()), rest)
    m = EXPRESSION.fullmatch(expression)
    if not m:
        raise SiteError(
            f"[[={expression}]]: expected path, optionally /divisor and :format"
        )
    recorded_page = pages.recorded(page.slug) if page.slug else page.technique
    names, record = m[1].split("."), recorded_page.record
    if names[0] == "published":
        row = pages.published(page.slug, names[1], names[2])
        if row is None:
            raise SiteError(
                f"[[={expression}]]: docs/evidence/published.csv has no {names[2]!r} of {page.slug}, row {names[1]!r}"
            )
        value: Any = float(row["value"]) if m[4] else row["value"]
        kind = "published"
    else:
        kind = "computed" if names[0] in record.get("computed", {}) else "measured"
        entry = record.get("measured", {}).get(names[0], {})
        measured = {**entry.get("result", {}), "arguments": entry.get("arguments")}
        value = record.get("computed", {}).get(names[0]) or measured
        try:
            value = resolve(value, names[1:])
        except LookupError as error:
            raise SiteError(
                f"[[={expression}]]: docs/evidence/{page.slug}.json has no {error}"
            ) from None
    if m[2]:
        value = value / float(m[3]) if m[2] == "/" else value * float(m[3])
    shown = format(value, m[4] or ("," if isinstance(value, int) else ""))
    return shown if isinstance(value, str) else shown.replace("-", "−"), kind
