"""What each `[[directive]]` of a page shows, as HTML from the templates beside this file.

A function here is a directive: it gets the page, the words after its name and the YAML below it. Links are written as
`/path/from/docs.md`; MkDocs checks them and makes them relative.
"""

import html
import json
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pygments  # type: ignore[import-untyped]
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]

from . import CATEGORIES, ROOT, arcs, glyphs, pages, snake
from .fences import Block, page_blocks, runnable
from .pages import SiteError, Technique

log = logging.getLogger(
    "mkdocs.plugins.cnn_site"
)  # a warning here fails a strict build
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
KINDS = ("computed", "measured", "published")
LETTERS = "abcdefghijklmnop"
ABOUT = {
    "foundations": "The networks everything else is measured against.",
    "modern": "Residual, dense, mobile and re-parameterised backbones.",
    "attention": "Blocks that weigh channels and places by what they see.",
    "training": "Augmentation, transfer, schedules, regularisation.",
    "optimization": "Optimizers, normalisation, precision, parallelism.",
    "detection": "Boxes: one-stage, two-stage, set prediction.",
    "segmentation": "Masks: per pixel and per instance.",
    "compression": "Distil, prune, quantise, fold, export.",
    "evaluation": "Metrics, calibration, explanation, cost.",
}
TEMPLATES.globals |= {"glyph": glyphs.svg, "about": ABOUT, "categories": CATEGORIES}


@dataclass
class Page:
    """The page being rendered; `slug` is set by its `[[technique ...]]`."""

    site_url: str
    release: str
    slug: str = ""

    @property
    def technique(self) -> Technique:
        if not self.slug:
            raise SiteError(
                "this page has not said which technique it is about: begin with [[technique category/slug]]"
            )
        return pages.technique(self.slug)

    @property
    def address(self) -> str:
        """The address to cite: of the release."""
        return f"{self.site_url.rstrip('/')}/{self.release or '<release>'}/{self.slug}/"


def render(page: Page, name: str, arguments: list[str], settings: Any) -> str:
    if name not in DIRECTIVES:
        raise SiteError(
            f"unknown directive [[{name}]]; known are {', '.join(DIRECTIVES)}"
        )
    return DIRECTIVES[name](page, arguments, settings)


def fill(template: str, **values: Any) -> str:
    return TEMPLATES.get_template(f"{template}.html").render(**values)


# --- the technique page -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stamp:
    """Whether every block of a page ran as it is shown now."""

    state: str  # ok, stale, none
    blocks: int
    ran: int = 0
    date: str = ""
    torch: str = ""
    gpu: str = ""

    @property
    def word(self) -> str:
        return {"ok": "verified", "stale": "stale", "none": "not yet verified"}[
            self.state
        ]


def stamp(t: Technique) -> Stamp:
    blocks = list(runnable(page_blocks(t.path))) if t.facts else []
    runs = t.record.get("runs", {})
    if "cpu" not in runs:
        return Stamp("none", len(blocks))
    run, hashes = runs["cpu"], [b.hash for b in blocks]
    ran = sum(h in run["blocks"] for h in hashes)
    gpu = next(
        (
            r.get("device", name)
            for name, r in runs.items()
            if name != "cpu" and r["blocks"] == hashes
        ),
        "",
    )
    return Stamp(
        "ok" if run["blocks"] == hashes else "stale",
        len(blocks),
        ran,
        run["date"],
        run["torch"],
        gpu,
    )


def technique(page: Page, arguments: list[str], settings: Any) -> str:
    page.slug = arguments[0]
    t, now = page.technique, stamp(page.technique)
    if not t.facts:
        raise SiteError(f"docs/{t.slug}.md is missing")
    if now.state != "ok":
        log.warning(
            f"docs/{t.slug}.md: the blocks shown are not those of its record; run: pytest --update-evidence docs/{t.slug}.md"
        )
    if not t.keys:
        raise SiteError(
            f"docs/{t.slug}.md: papers (or sources) is empty; the first one is what the page is about"
        )
    key = t.keys[0]
    return fill(
        "technique",
        t=t,
        stamp=now,
        paper=pages.short_cite(key),
        paper_url=pages.paper_url(pages.paper(key)),
        module=f"cnn_techniques.{snake(t.slug).replace('/', '.')}",
        builds_on=[pages.technique(s) for s in t.builds_on],
        cost=re.sub(
            r"\[\[=([^\]]+)\]\]",
            lambda m: inline_number(page, m[1])[0],
            t.facts.get("cost", ""),
        ),
    )


def ran(page: Page, arguments: list[str], settings: Any) -> str:
    """Date, seconds and hash of the copy-and-run block."""
    t = page.technique
    block = copy_block(t)
    run = t.record.get("runs", {}).get("cpu", {"blocks": [], "seconds": []})
    seconds = dict(zip(run["blocks"], run["seconds"], strict=True)).get(
        block.hash, math.nan
    )
    return fill("ran", t=t, stamp=stamp(t), hash=block.hash, seconds=seconds)


def copy_block(t: Technique) -> Block:
    """The titled block under Copy and run."""
    name = t.slug.split("/")[1].replace("-", "_") + ".py"
    for block in page_blocks(t.path):
        if block.title == name:
            return block
    raise SiteError(f'docs/{t.slug}.md has no fence {{.py title="{name}"}}')


def numbers(page: Page, arguments: list[str], settings: Any) -> str:
    """A table of the record: one row a variant, each column of one kind."""
    t, record = page.technique, page.technique.record
    table = arguments[0]
    base = record.get("computed", {}).get(table) or _arms(record, table)
    if base is None:
        raise SiteError(
            f"docs/evidence/{t.slug}.json has neither a computed table nor a measured result {table!r}"
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
        made = [_cell(t, record, base, key, column, kind) for key in chosen]
        for key, cell in zip(chosen, made, strict=True):
            cells[key].append(cell)
        note = _note(t, record, table, column, kind, chosen)
        told = json.dumps(note, sort_keys=True)
        if note and told not in marks:
            marks[told] = LETTERS[len(notes)]
            notes.append(note)
        columns.append(
            {"head": column["head"], "kind": kind, "mark": marks.get(told, "")}
        )
    groups: list[list[Any]] = []
    for c in columns:
        if groups and groups[-1][0] == c["kind"]:
            groups[-1][1] += 1
        else:
            groups.append([c["kind"], 1])
    rows = [
        {
            "name": base[key].get("name", key) if key in base else key,
            "cells": cells[key],
        }
        for key in chosen
    ]
    return fill(
        "numbers",
        t=t,
        label=settings.get("label", "Numbers"),
        first=settings.get("first", ""),
        groups=groups,
        columns=columns,
        rows=rows,
        notes=notes,
    )


def _arms(record: dict[str, Any], name: str) -> dict[str, Any] | None:
    result = record.get("measured", {}).get(name, {}).get("result", {})
    arms: dict[str, Any] | None = result.get("arms")
    return arms


def _cell(
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
        return {"kind": kind, "text": _number(value, column, digits), "pm": ""}
    if kind == "computed":
        value = base.get(key, {}).get(column["computed"])
    else:
        name, _, quantity = column["measured"].rpartition(".")
        value = (
            ((_arms(record, name) if name else base) or {}).get(key, {}).get(quantity)
        )
    if isinstance(value, dict):
        half = (value["high"] - value["low"]) / 2
        return {
            "kind": kind,
            "text": _number(value["mean"], column),
            "pm": "± " + _number(half, column),
        }
    return {"kind": kind, "text": _number(value, column), "pm": ""}


def _number(value: Any, column: dict[str, Any], digits: int | None = None) -> str:
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
        conditions = list(dict.fromkeys(r["conditions"] for r in rows))
        places: dict[str, list[str]] = {}
        for r in rows:
            places.setdefault(r["source"], []).append(r["place"])
        sources = [
            {
                "name": pages.short_cite(k),
                "url": pages.paper_url(pages.paper(k)),
                "place": "; ".join(dict.fromkeys(v)) if len(set(v)) < 3 else "",
            }
            for k, v in places.items()
        ]
        return {
            "text": " ".join(filter(None, [text, _sentence("; ".join(conditions))])),
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
        where = entry["environment"]
        arms = entry["result"].get("arms", {})
        values = [
            arms[k].get(column["measured"].rpartition(".")[2])
            for k in keys
            if k in arms
        ]
        seeds = next((v["n"] for v in values if isinstance(v, dict)), None)
        told = (
            f"Mean over {seeds} seeds ± half of the 95 % interval, last epoch."
            if seeds
            else ""
        )
        return {
            "text": " ".join(filter(None, [text, told, _sentence(hardware(where))])),
            "sources": [],
            "record": True,
        }
    return {"text": text, "sources": [], "record": False} if text else None


def hardware(where: dict[str, Any]) -> str:
    threads = where.get("threads", 1)
    plural = "s" if threads != 1 else ""
    return f"{where['processor']}, {threads} thread{plural}, torch {where['torch'].split('+')[0]}, {where['date']}"


def _sentence(text: str) -> str:
    return text if not text or text.endswith(".") else text + "."


def inline_number(page: Page, expression: str) -> tuple[str, str]:
    """`cost.resnet50.params/1e6:.2f` -> ("25.56", "computed"); the first word is a table, a measured result, or `published`."""
    m = re.fullmatch(
        r"\s*([\w.+-]+?)\s*(?:([/*])\s*([\d.e+-]+))?\s*(?::(.*))?", expression
    )
    if not m:
        raise SiteError(
            f"[[={expression}]]: expected path, optionally /divisor and :format"
        )
    names, record = m[1].split("."), page.technique.record
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
        value = record.get("computed", {}).get(names[0]) or record.get(
            "measured", {}
        ).get(names[0], {}).get("result")
        for n in names[1:]:
            if isinstance(value, list) and n.lstrip("-").isdigit():
                value = value[int(n)]
            elif isinstance(value, dict) and n in value:
                value = value[n]
            else:
                has = (
                    f"; there is {', '.join(map(str, value))}"
                    if isinstance(value, dict)
                    else ""
                )
                raise SiteError(
                    f"[[={expression}]]: docs/evidence/{page.slug}.json has no {n!r}{has}"
                )
    if m[2]:
        value = value / float(m[3]) if m[2] == "/" else value * float(m[3])
    return format(value, m[4] or ("," if isinstance(value, int) else "")), kind


def equivalence(page: Page, arguments: list[str], settings: Any) -> str:
    """The box: held against what, how far apart. Names choose what gets a box; the rest stands in a table."""
    t, rows = page.technique, page.technique.record.get("equivalence", {})
    if not rows:
        raise SiteError(
            f"docs/evidence/{t.slug}.json has no equivalence; run: pytest --update-evidence tests/... of it"
        )
    first = arguments or list(rows)[:1]
    unknown = [name for name in first if name not in rows]
    if unknown:
        raise SiteError(
            f"docs/evidence/{t.slug}.json has no equivalence {unknown[0]!r}; there is {', '.join(rows)}"
        )
    boxes = [_equivalence_row(name, rows[name]) for name in first]
    more = [
        _equivalence_row(name, row) for name, row in rows.items() if name not in first
    ]
    return fill("equivalence", t=t, rows=boxes, more=more, devices=_devices(t.record))


def _equivalence_row(name: str, row: dict[str, Any]) -> dict[str, Any]:
    double = row["dtype"] != "float32"  # integers are held as exactly
    short = {"float64": "f64", "float32": "f32"}.get(row["dtype"], row["dtype"])
    bound = (
        {"output": 1e-10, "gradient": 1e-8, "buffers": 1e-10}
        if double
        else {"output": 1e-5}
    )
    items = [
        (f"{what}, {short}", row[what], "dot" if double else "dot hollow")
        for what in ("output", "gradient", "buffers")
        if row.get(what) is not None
    ]
    told = ", ".join(f"{what.split(',')[0]} {difference(v)}" for what, v, _ in items)
    return {
        **row,
        "torch": row["torch"].split("+")[0],
        "name": name,
        "told": f"{told} in {row['dtype']}, of the largest entry",
        "what": "Tolerance: the shaded field.",
        "strip": strip(
            items,
            bound["output"],
            f"Largest differences on a logarithmic axis: {told}; the tolerance is {bound['output']:g}",
        ),
        "output_text": difference(row.get("output")),
        "gradient_text": difference(row.get("gradient")),
    }


def difference(value: float | None) -> str:
    return (
        "–"
        if value is None
        else "0"
        if value == 0
        else f"{value:.1e}".replace("e-0", "e-")
    )


def _devices(record: dict[str, Any]) -> dict[str, Any] | None:
    for run in record.get("devices", {}).values():
        rows = run["rows"].values()
        worst = {d: difference(max(r[d] for r in rows)) for d in ("float64", "float32")}
        return {
            "name": run["device"],
            "date": run["date"],
            "torch": run["torch"],
            **worst,
        }
    return None


def strip(items: list[tuple[str, float, str]], tolerance: float, label: str) -> str:
    """Differences on a logarithmic axis, the tolerance as a shaded field."""
    low, high, left, right = -17, -3, 100, 390

    def x(value: float) -> float:
        return left + (right - left) * (math.log10(max(value, 1e-17)) - low) / (
            high - low
        )

    height = 30 + 26 * len(items)
    out = [
        f'<svg class="fig strip" data-search-exclude viewBox="0 0 400 {height}" role="img" aria-label="{html.escape(label)}">',
        f'<path class="ok" d="M{left} 4H{x(tolerance):.0f}V{height - 24}H{left}z"/>',
    ]
    for e in range(low, high + 1, 4):
        power = f'10<tspan dy="-5" font-size="9">−{abs(e)}</tspan>'
        out.append(f'<path class="ax" d="M{x(10.0**e):.0f} 4V{height - 24}"/>')
        out.append(
            f'<text class="s" x="{x(10.0**e):.0f}" y="{height - 6}" text-anchor="middle">{"0" if e == low else power}</text>'
        )
    out.append(f'<path class="tol" d="M{x(tolerance):.0f} 0V{height - 22}"/>')
    for n, (name, value, kind) in enumerate(items):
        out.append(
            f'<text x="0" y="{24 + 26 * n}">{name}</text><circle class="{kind}" cx="{x(value):.0f}" cy="{20 + 26 * n}" r="5.5"/>'
        )
    return "".join(out) + "</svg>"


def corrections(page: Page, arguments: list[str], settings: Any) -> str:
    return fill("corrections", found=pages.corrections(page.slug))


def cite(page: Page, arguments: list[str], settings: Any) -> str:
    t = page.technique
    date = stamp(t).date
    note = (
        f"CNN Techniques, release {page.release}, verified {date}"
        if page.release
        else "CNN Techniques, development version, not for citing"
    )
    fields = {
        "title": t.title,
        "author": "Khateeb, Deyaa and {CNN Techniques contributors}",
        "year": date[:4],
        "note": note,
        "url": page.address,
    }
    body = ",\n".join(f"  {k:<7} = {{{v}}}" for k, v in fields.items())
    mine = f"@misc{{cnn-techniques-{t.slug.split('/')[1]},\n{body}\n}}"
    return fill(
        "cite",
        release=page.release,
        address=page.address,
        page_bibtex=code("this page", mine),
        papers=[code(pages.short_cite(k), pages.bibtex(k)) for k in t.keys],
    )


def code(title: str, text: str) -> str:
    return f'<div class="language-bibtex highlight"><span class="filename">{html.escape(title)}</span><pre><code>{highlighted(text, "bibtex")}</code></pre></div>'


# --- pages about all techniques ---------------------------------------------------------------------------------------


def catalogue(page: Page, arguments: list[str], settings: Any) -> str:
    rows = [{"t": t, "stamp": stamp(t), **_cost(t)} for t in pages.techniques()]
    counts = {c: sum(r["t"].category == c for r in rows) for c in CATEGORIES}
    return fill("catalogue", rows=rows, counts=counts)


def _cost(t: Technique) -> dict[str, Any]:
    """What the front matter's cost says of parameters: a number of the record, or a formula; empty for a practice."""
    told = re.match(r"(.+?) (?:parameters|weights)\b", (t.facts or {}).get("cost", ""))
    if not told:
        return {"cost": "", "sort": ""}
    traced = re.fullmatch(r"\[\[=([^\]]+)\]\] ?([kMG]?)", told[1])
    if not traced:
        return {"cost": told[1], "sort": ""}
    shown = inline_number(Page("", "", t.slug), traced[1])[0]
    scale = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[traced[2]]
    size = float(shown.replace(",", "")) * scale
    return {"cost": f"{shown} {traced[2]}".strip(), "sort": size}


def cards(page: Page, arguments: list[str], settings: Any) -> str:
    rows = [(c, pages.in_category(c)) for c in CATEGORIES]
    return fill(
        "cards",
        rows=[(c, len(ts), ([t for t in ts if t.facts] or ts)[:3]) for c, ts in rows],
    )


def about(page: Page, arguments: list[str], settings: Any) -> str:
    """The sentence of a category."""
    if arguments[0] not in ABOUT:
        raise SiteError(
            f"unknown category {arguments[0]!r}; expected one of {', '.join(ABOUT)}"
        )
    return f'<p class="lead">{html.escape(ABOUT[arguments[0]])}</p>'


def specimen(page: Page, arguments: list[str], settings: Any) -> str:
    """One page's promises at work, for the home page; `numbers` lists what to show, as [expression, unit]."""
    t = pages.technique(arguments[0])
    row = next(
        iter(
            t.record.get(
                "equivalence",
                {"": {"dtype": "float64", "reference": "", "output": None}},
            ).values()
        )
    )
    about = Page(page.site_url, page.release, t.slug)
    return fill(
        "specimen",
        t=t,
        stamp=stamp(t),
        row=row,
        difference=difference(row["output"]),
        excerpt=highlighted(
            "\n".join(b.code for b in page_blocks(t.path) if b.is_excerpt), "python"
        ),
        output=html.escape(copy_block(t).output or ""),
        numbers=[
            (*inline_number(about, path), unit)
            for path, unit in (settings or {}).get("numbers", ())
        ],
        release=page.release,
    )


def highlighted(text: str, language: str) -> str:
    return str(
        pygments.highlight(
            text, get_lexer_by_name(language), HtmlFormatter(nowrap=True)
        )
    )


def category(page: Page, arguments: list[str], settings: Any) -> str:
    return fill(
        "category",
        rows=[
            {"t": t, "stamp": stamp(t), **_cost(t)}
            for t in pages.in_category(arguments[0])
        ],
    )


def latest(page: Page, arguments: list[str], settings: Any) -> str:
    rows = [(stamp(t), t) for t in pages.techniques() if t.facts]
    rows = sorted(
        (r for r in rows if r[0].state == "ok"), key=lambda r: r[0].date, reverse=True
    )
    return fill("latest", rows=rows[:6])


def counts(page: Page, arguments: list[str], settings: Any) -> str:
    """The four promises as numbers; `[[counts verification]]` for the verification page."""
    there = [t for t in pages.techniques() if t.facts]
    stamps = [stamp(t) for t in there]
    held = sum(bool(t.record.get("equivalence")) for t in there)
    comparisons = sum(len(t.record.get("equivalence", {})) for t in there)
    return fill(
        "counts",
        where=arguments[0] if arguments else "home",
        pages=len(there),
        planned=len(pages.techniques()) - len(there),
        verified=sum(s.state == "ok" for s in stamps),
        blocks=sum(s.blocks for s in stamps),
        ran=sum(s.ran for s in stamps),
        held=held,
        comparisons=comparisons,
    )


def ledger(page: Page, arguments: list[str], settings: Any) -> str:
    rows = [(c, [(t, stamp(t)) for t in pages.in_category(c)]) for c in CATEGORIES]
    return fill("ledger", rows=rows)


def differences(page: Page, arguments: list[str], settings: Any) -> str:
    """Every comparison of every record."""
    rows = [
        (t, _equivalence_row(n, r))
        for t in pages.techniques()
        if t.facts
        for n, r in t.record.get("equivalence", {}).items()
    ]
    return fill("differences", rows=rows)


def environments(page: Page, arguments: list[str], settings: Any) -> str:
    """What the pages ran on."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for t in pages.techniques():
        for name, run in t.record.get("runs", {}).items() if t.facts else ():
            row = found.setdefault(
                (run.get("device", name), run["torch"], run["python"]), [0, 0]
            )
            row[0] += 1
            row[1] += len(run["blocks"])
    return fill("environments", rows=sorted(found.items()))


def skips(page: Page, arguments: list[str], settings: Any) -> str:
    """Python blocks that are shown and not run, with the reason in the HTML comment above them."""
    rows = []
    for path in sorted((ROOT / "docs").rglob("*.md")):
        lines = path.read_text(encoding="utf-8").split("\n")
        for block in page_blocks(path):
            if "notest" in block.classes:
                reason = (
                    lines[block.line - 2]
                    .strip()
                    .removeprefix("<!--")
                    .removesuffix("-->")
                    .strip()
                )
                rows.append(
                    (path.relative_to(ROOT / "docs").as_posix(), block.line, reason)
                )
    return fill("skips", rows=rows)


def references(page: Page, arguments: list[str], settings: Any) -> str:
    users: dict[str, list[Technique]] = {}
    for t in pages.techniques():
        for key in t.keys:
            users.setdefault(key, []).append(t)
    entries = sorted(
        pages.bibliography().entries.items(),
        key=lambda kv: (kv[1].fields.get("year", ""), kv[0]),
    )
    rows = [
        {
            "key": k,
            "authors": ", ".join(pages.authors(e)),
            "title": pages.plain(e.fields["title"]),
            "venue": pages.venue(e),
            "year": e.fields.get("year", ""),
            "url": pages.paper_url(e),
            "users": users.get(k, []),
        }
        for k, e in entries
    ]
    return fill("references", rows=rows)


def order(page: Page, arguments: list[str], settings: Any) -> str:
    """A reading order: slugs in YAML, in order; what has no page yet is text."""
    return fill(
        "order",
        rows=[(pages.technique(row["slug"]), row.get("why", "")) for row in settings],
    )


def prerequisites(page: Page, arguments: list[str], settings: Any) -> str:
    """The graph of `builds_on`: the pages there are and the planned ones they need, each below those it builds on."""
    there = {t.slug: t for t in pages.techniques() if t.facts}
    needed = {s for t in there.values() for s in t.builds_on}
    joined = [
        t
        for t in pages.techniques()
        if t.slug in needed or (t.slug in there and t.builds_on)
    ]
    try:
        order = arcs.sequence({t.slug: t.builds_on for t in joined})
    except ValueError as error:
        raise SiteError(f"builds_on: {error}") from error
    order += [slug for slug in there if slug not in order]
    before = {slug: pages.technique(slug).builds_on for slug in order}
    return fill(
        "prerequisites",
        svg=arcs.svg(order, before, [s for s in order if s not in there]),
        rows=[
            (pages.technique(s), [pages.technique(b) for b in before[s]]) for s in order
        ],
    )


DIRECTIVES: dict[str, Callable[[Page, list[str], Any], str]] = {
    f.__name__: f
    for f in (
        technique, ran, numbers, equivalence, corrections, cite, catalogue, cards, about, specimen, category, latest, counts, ledger,
        differences, environments, skips, references, order, prerequisites,
    )
}  # fmt: skip
