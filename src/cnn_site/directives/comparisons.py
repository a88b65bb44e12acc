"""Checked against: the boxes of a page, and the table of all of them."""

import html
import math
from typing import Any

from cnn_site import pages
from cnn_site.pages import SiteError

from .base import Page, fill


def equivalence(page: Page, arguments: list[str], settings: Any) -> str:
    """The box: checked against what, how far apart. Names choose what gets a box; the rest stands in a table."""
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
    variants = t.record.get("computed", {}).get("cost", {}).values()
    return fill(
        "equivalence",
        t=t,
        rows=boxes,
        more=more,
        forms=sum("net" in row for row in variants),
        devices=_devices(t.record),
    )


def differences(page: Page, arguments: list[str], settings: Any) -> str:
    """Every comparison of every record."""
    rows = [
        (t, _equivalence_row(n, r))
        for t in pages.techniques()
        if t.facts
        for n, r in t.record.get("equivalence", {}).items()
    ]
    return fill("differences", rows=rows)


def _equivalence_row(name: str, row: dict[str, Any]) -> dict[str, Any]:
    if "bounds" not in row:
        raise SiteError(
            f"the comparison {name!r} with {row['reference']} has no bounds; make it again: "
            "pytest --update-evidence, of its proof, slow tests too"
        )
    double = row["dtype"] != "float32"  # integers are held as exactly
    short = {"float64": "f64", "float32": "f32"}.get(row["dtype"], row["dtype"])
    items = [
        (f"{kind}, {short}", row[kind], bound, "dot" if double else "dot hollow")
        for kind, bound in row["bounds"].items()
    ]
    sizes = ", ".join(f"{kind.split(',')[0]} {difference(v)}" for kind, v, *_ in items)
    allowed = ", ".join(
        f"{kind} {bound:g}".replace("e-0", "e-")
        for kind, bound in row["bounds"].items()
    )
    return {
        **row,
        "torch": row["torch"].split("+")[0],
        "name": name,
        "told": f"{sizes} in {row['dtype']}, of the largest entry",
        "what": f"Tolerance (shaded): {allowed}.",
        "strip": strip(
            items,
            f"Largest differences on a logarithmic axis: {sizes}; tolerance: {allowed}",
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


def strip(items: list[tuple[str, float, float, str]], label: str) -> str:
    """Differences on a logarithmic axis, the tolerance of each as a shaded field."""
    low, high, left, right = -17, -3, 124, 390

    def x(value: float) -> float:
        return left + (right - left) * (math.log10(max(value, 1e-17)) - low) / (
            high - low
        )

    height = 30 + 26 * len(items)
    out = [
        f'<svg class="fig strip" data-search-exclude viewBox="0 0 400 {height}" role="img" aria-label="{html.escape(label)}">',
    ]
    for n, (_, _, bound, _) in enumerate(items):
        top, bottom, edge = 4 + 26 * n, 30 + 26 * n, f"{x(bound):.0f}"
        out.append(f'<path class="ok" d="M{left} {top}H{edge}V{bottom}H{left}z"/>')
        out.append(f'<path class="tol" d="M{edge} {top}V{bottom}"/>')
    for e in range(low, high + 1, 4):
        power = f'10<tspan dy="-5" font-size="9">−{abs(e)}</tspan>'
        out.append(f'<path class="ax" d="M{x(10.0**e):.0f} 4V{height - 24}"/>')
        out.append(
            f'<text class="s" x="{x(10.0**e):.0f}" y="{height - 6}" text-anchor="middle">{"0" if e == low else power}</text>'
        )
    for n, (name, value, _, kind) in enumerate(items):
        out.append(
            f'<text x="0" y="{24 + 26 * n}">{name}</text><circle class="{kind}" cx="{x(value):.0f}" cy="{20 + 26 * n}" r="5.5"/>'
        )
    return "".join(out) + "</svg>"
