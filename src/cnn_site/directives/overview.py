"""Pages about all techniques: home, catalogue, categories, verification, bibliography, reading orders."""

import html
import json
import re
from typing import Any

from cnn_lab.options import OPTIONS
from cnn_site import CATEGORIES, ROOT, arcs, pages
from cnn_site.fences import page_blocks
from cnn_site.pages import SiteError, Technique
from cnn_site.processors import RECORD, fences

from .base import ABOUT, Page, fill, highlighted
from .comparisons import difference
from .numbers import inline_number
from .stamps import copy_block, stamp


def catalogue(page: Page, arguments: list[str], settings: Any) -> str:
    rows = [{"t": t, "stamp": stamp(t), **_cost(t)} for t in pages.techniques()]
    counts = {c: len(pages.in_category(c)) for c in CATEGORIES}
    return fill("catalogue", rows=rows, counts=counts)


def options(page: Page, arguments: list[str], settings: Any) -> str:
    """Which option of `cnn-lab train` is which technique, in the order of the command's own table."""
    rows: dict[str, list[tuple[Technique, str]]] = {}
    for slug, option in OPTIONS.items():
        t, (name, _, value) = pages.technique(slug), option.partition(" ")
        chosen = value == slug.partition("/")[2]  # one of several, by the page's name
        rows.setdefault(name if chosen else option, []).append(
            (t, value if chosen else "")
        )
    return fill("options", rows=rows)


def _cost(t: Technique) -> dict[str, Any]:
    """What the front matter's cost says of parameters: a number of the record, or a formula; empty for a practice."""
    match = re.match(r"(.+?) (?:parameters|weights)\b", (t.facts or {}).get("cost", ""))
    if not match:
        return {"cost": "", "sort": ""}
    traced = re.fullmatch(r"\[\[=([^\]]+)\]\] ?([kMG]?)", match[1])
    if not traced:
        return {"cost": match[1], "sort": ""}
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
    other_page = Page(page.site_url, page.release, t.slug)
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
            (*inline_number(other_page, path), unit)
            for path, unit in (settings or {}).get("numbers", ())
        ],
        release=page.release,
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
    """The page of each category that was verified last."""
    rows = []
    for c in CATEGORIES:
        verified = [(stamp(t), t) for t in pages.in_category(c) if t.facts]
        verified = [row for row in verified if row[0].state == "ok"]
        rows += [max(verified, key=lambda row: row[0].date)] if verified else []
    rows.sort(key=lambda row: row[0].date, reverse=True)
    return fill("latest", rows=rows)


def counts(page: Page, arguments: list[str], settings: Any) -> str:
    """The four promises as numbers; `[[counts verification]]` for the verification page."""
    written = [t for t in pages.techniques() if t.facts]
    stamps = [stamp(t) for t in written]
    compared = sum(bool(t.record.get("equivalence")) for t in written)
    comparisons = sum(len(t.record.get("equivalence", {})) for t in written)
    return fill(
        "counts",
        where=arguments[0] if arguments else "home",
        pages=len(written),
        planned=len(pages.techniques()) - len(written),
        verified=sum(s.state == "ok" for s in stamps),
        blocks=sum(s.blocks for s in stamps),
        ran=sum(s.ran for s in stamps),
        held=compared,
        comparisons=comparisons,
    )


def ledger(page: Page, arguments: list[str], settings: Any) -> str:
    rows = [(c, [(t, stamp(t)) for t in pages.in_category(c)]) for c in CATEGORIES]
    return fill("ledger", rows=rows)


def environments(page: Page, arguments: list[str], settings: Any) -> str:
    """What the pages ran on."""
    by_environment: dict[tuple[str, str, str, str], list[int]] = {}
    for t in pages.techniques():
        for name, run in t.record.get("runs", {}).items() if t.facts else ():
            device, processor = run.get("device", name), run.get("processor", "")
            row = by_environment.setdefault(
                (device, processor, run["torch"], run["python"]), [0, 0]
            )
            row[0] += 1
            row[1] += len(run["blocks"])
    return fill("environments", rows=sorted(by_environment.items()))


def processors(page: Page, arguments: list[str], settings: Any) -> str:
    """As which other processors the fences ran, and how many of those shown now."""
    if not RECORD.exists():
        raise SiteError(
            f"{RECORD.relative_to(ROOT)} is missing; make it: python -m cnn_site.processors --update-evidence"
        )
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    now = fences()
    ran = sum(h in record["pages"].get(p, ()) for p, hs in now.items() for h in hs)
    return fill(
        "processors",
        rows=record["processors"],
        made=record["made"],
        ran=ran,
        shown=sum(map(len, now.values())),
    )


def skips(page: Page, arguments: list[str], settings: Any) -> str:
    """Python blocks that are shown and not run, with the reason in the HTML comment above them."""
    rows = []
    for path in pages.written():
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
    written = {t.slug: t for t in pages.techniques() if t.facts}
    needed = {s for t in written.values() for s in t.builds_on}
    joined = [
        t
        for t in pages.techniques()
        if t.slug in needed or (t.slug in written and t.builds_on)
    ]
    try:
        order = arcs.sequence({t.slug: t.builds_on for t in joined})
    except ValueError as error:
        raise SiteError(f"builds_on: {error}") from error
    order += [slug for slug in written if slug not in order]
    before = {slug: pages.technique(slug).builds_on for slug in order}
    return fill(
        "prerequisites",
        svg=arcs.svg(order, before, [s for s in order if s not in written]),
        rows=[
            (pages.technique(s), [pages.technique(b) for b in before[s]]) for s in order
        ],
    )
