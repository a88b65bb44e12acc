"""One table over many techniques: the rows of all their records, or one row a page."""

import math
from typing import Any

from cnn_site import pages
from cnn_site.pages import SiteError, Technique

from .base import Page, fill
from .numbers import KINDS, cell, groups_of, hardware, number, resolve


def across(page: Page, arguments: list[str], settings: Any) -> str:
    """Every technique of the categories `of` that has the table: `[[across cost]]`.

    `only` lists rows as "category/slug row", in order; `without` leaves some out. A published column may name several
    quantities, of which each row shows the first it has; with `show: conditions` it says what the number is of.

    With `rows: pages` the table is a measured result, each page has one row, and a column names a path in that result.
    `mean: geometric` in a column adds a last row. The table can be sorted by any column.

    More that a column may have:
        result: the measured result that the path is in, where it is not the table's.
        recipe: a published accuracy; shows whose training recipe its weights are from.
        shape: of the images; a measured value of the one variant that a page timed, shown where the images were of that shape.
        limits: [low, high] that values cannot leave; where an interval does, the single runs are shown in its place.
        most: a name; the table can be filtered by a largest value of this column, and two rows can be set side by side.
    """
    table, one_a_page = arguments[0], settings.get("rows") == "pages"
    columns = settings["columns"]
    written = [t for c in settings["of"] for t in pages.in_category(c) if t.facts]
    rows = []
    for t in written:
        record = t.record
        result = record.get("measured", {}).get(table, {}).get("result")
        if one_a_page and result:
            results = {n: entry["result"] for n, entry in record["measured"].items()}
            values = [
                (resolve(results, [c.get("result", table), *_path(c)]), c)
                for c in columns
            ]
            cells = [{**_cell(v, c), "kind": "measured"} for v, c in values]
            rows.append(_row(t, "", t.short, cells))
        elif not one_a_page:
            base = record.get("computed", {}).get(table) or (result or {}).get(
                "arms", {}
            )
            for key, row in base.items():
                if any(r["key"].endswith(f" {key}") for r in rows):
                    continue  # another page's network, shown beside for comparison
                cells = [_of_table(t, record, base, key, c) for c in columns]
                rows.append(_row(t, key, row.get("name", key), cells))
    if only := settings.get("only"):
        rows = [_chosen(rows, name) for name in only]
    for name in settings.get("without", ()):
        rows.remove(_chosen(rows, name))
    if not rows:
        raise SiteError(f"no technique of {settings['of']} has a table {table!r}")
    timed = {c["measured"].partition(".")[0] for c in columns if "shape" in c}
    timed |= {c["result"] for c in columns if "result" in c}
    made = [
        line for name in (table, *sorted(timed)) for line in _hardware(written, name)
    ]
    shown = [
        {
            "head": c["head"],
            "kind": _kind(c),
            "most": c.get("most", ""),
            "col": n,
            "per": float(c.get("per", 1)),
        }
        for n, c in enumerate(columns, 1)
    ]
    return fill(
        "across",
        label=settings.get("label", "All networks"),
        first=settings.get("first", "Network"),
        groups=groups_of([_kind(c) for c in columns]),
        columns=shown,
        rows=rows,
        budget=any(c["most"] for c in shown),
        mean=_means(rows, columns),
        notes=[c["note"] for c in columns if c.get("note")] + made,
    )


def _kind(column: dict[str, Any]) -> str:
    return "published" if "recipe" in column else next(k for k in KINDS if k in column)


def _path(column: dict[str, Any]) -> list[str]:
    return str(column["measured"]).split(".")


def _row(
    t: Technique, key: str, name: str, cells: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "key": f"{t.slug} {key}",
        "family": t.short,
        "url": f"/{t.slug}.md",
        "name": name,
        "cells": cells,
    }


def _of_table(
    t: Technique,
    record: dict[str, Any],
    base: dict[str, Any],
    key: str,
    column: dict[str, Any],
) -> dict[str, Any]:
    if "recipe" in column:
        recipe = pages.recipe(t.slug, key, column["recipe"])
        text = recipe["recipe"] if recipe else "–"
        return _text_cell(text, "published", text if recipe else None)
    if "shape" in column:
        return _timed(record, key, column)
    kind = _kind(column)
    if kind == "published":
        several = column["published"]
        several = several if isinstance(several, list) else [several]
        published = [row for q in several if (row := pages.published(t.slug, key, q))]
        shown_field = column.get("show", "value")
        if not published or shown_field != "value":
            text = published[0][shown_field] if published else "–"
            kind = "published" if shown_field == "value" else "published words"
            return _text_cell(text, kind, text if published else None)
        column = {**column, "published": published[0]["quantity"]}
        value: Any = float(published[0]["value"])
    else:
        value = base.get(key, {}).get(column[kind].rpartition(".")[2])
    shown = cell(t, record, base, key, column, kind)
    if not isinstance(value, dict):
        return {**shown, "value": value}
    low, high = column.get("limits", (-math.inf, math.inf))
    if value["low"] < low or value["high"] > high:
        runs = [number(v, column) for v in sorted(value["values"])]
        shown["pm"] = f"({', '.join(runs)})"
    return {**shown, "value": value["mean"]}


def _text_cell(text: str, kind: str, value: Any) -> dict[str, Any]:
    return {"kind": kind, "text": text, "pm": "", "value": value}


def _timed(record: dict[str, Any], key: str, column: dict[str, Any]) -> dict[str, Any]:
    """What was measured of this variant, a dash for all others of its family, and for images of another shape."""
    name, *path = _path(column)
    entry = record.get("measured", {}).get(name)
    arguments = entry["arguments"] if entry else {}
    own = arguments.get("ours", "").rpartition(".")[2] == key
    if not own or arguments["shape"] != column["shape"]:
        return _text_cell("–", "measured", None)
    return _cell(resolve(entry["result"], path), column) | {"kind": "measured"}


def _chosen(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for row in rows:
        if row["key"] == name:
            return row
    raise SiteError(f"no row {name!r}; there is {', '.join(r['key'] for r in rows)}")


def _cell(value: Any, column: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {"text": number(value, column), "pm": "", "value": value}
    half = (value["high"] - value["low"]) / 2  # of the 95 % interval
    text, pm = number(value["mean"], column), "± " + number(half, column)
    return {"text": text, "pm": pm, "value": value["mean"]}


def _means(
    rows: list[dict[str, Any]], columns: list[dict[str, Any]]
) -> list[str] | None:
    """The last row: the geometric mean of the columns that ask for it."""
    if not any(c.get("mean") for c in columns):
        return None
    shown = []
    for n, column in enumerate(columns):
        values = [r["cells"][n]["value"] for r in rows if r["cells"][n]["value"]]
        wanted = column.get("mean") == "geometric" and values
        mean = (
            math.exp(math.fsum(map(math.log, values)) / len(values)) if wanted else None
        )
        shown.append(number(mean, column) if wanted else "")
    return shown


def _hardware(written: list[Technique], table: str) -> list[str]:
    """With what the measured rows were made, each once."""
    made = [t.record.get("measured", {}).get(table) for t in written]
    return list(
        dict.fromkeys(hardware(entry["environment"]) + "." for entry in made if entry)
    )
