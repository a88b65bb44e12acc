"""A comparison of the lab as a plot in the site's own dress: each arm's difference from the baseline, with its interval."""

import html
import math
from typing import Any

from cnn_site import pages
from cnn_site.pages import SiteError

from .base import Page

LEFT, RIGHT, ROW = 8, 392, 44


def intervals(page: Page, arguments: list[str], settings: Any) -> str:
    """`[[intervals lab/compare#techniques]]`: the paired differences of a measured result, in points of accuracy."""
    slug, _, name = arguments[0].partition("#")
    result = pages.recorded(slug).record.get("measured", {}).get(name, {})
    rows = list(result.get("result", {}).get("differences", {}).values())
    if not rows:
        raise SiteError(
            f"docs/evidence/{slug}.json has no measured result {name!r} with differences"
        )
    seeds = result["result"]["seeds"]
    says = "; ".join(
        f"{row['name']}: {100 * row['difference']:+.2f}, {100 * row['low']:+.2f} to {100 * row['high']:+.2f}"
        for row in rows
    )
    caption = f"Accuracy less the baseline's, in points: the mean and the 95 % interval of {seeds} pairs."
    return (
        f"<figure><raw>{html.escape(_svg(rows, says))}</raw>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _svg(rows: list[dict[str, Any]], says: str) -> str:
    """A row for each arm, its name above its interval, so that long names fit a phone."""
    ends = [0.0, *(100 * row[end] for row in rows for end in ("low", "high"))]
    step = 10 ** math.floor(math.log10(max(ends) - min(ends)))
    step = step / 2 if (max(ends) - min(ends)) / step < 4 else step
    first, last = math.floor(min(ends) / step), math.ceil(max(ends) / step)

    def x(points: float) -> float:
        share = (points / step - first) / (last - first)
        return round(LEFT + share * (RIGHT - LEFT), 1)

    bottom = ROW * len(rows) + 4
    parts = []
    for tick in range(first, last + 1):
        at, kind = x(tick * step), "ax" if tick else "zero"
        parts.append(f'<path class="{kind}" d="M{at} 4V{bottom}"/>')
        label = f"{tick * step:+g}".replace("-", "−") if tick else "0"
        anchor = {first: "start", last: "end"}.get(tick, "middle")
        edge = {first: 0, last: 400}.get(tick, at)
        parts.append(
            f'<text class="s" x="{edge}" y="{bottom + 16}" text-anchor="{anchor}">{label}</text>'
        )
    for n, row in enumerate(rows):
        y = ROW * n + 34
        low, middle, high = (x(100 * row[key]) for key in ("low", "difference", "high"))
        parts.append(f'<text x="0" y="{y - 15}">{html.escape(row["name"])}</text>')
        parts.append(f'<path class="whisker" d="M{low} {y}H{high}"/>')
        parts.append(f'<circle class="dot" cx="{middle}" cy="{y}" r="4.5"/>')
    return (
        f'<svg class="fig" style="--w:400" data-search-exclude="" viewBox="0 0 400 {bottom + 22}" role="img"'
        f' aria-label="{html.escape(says)}">{"".join(parts)}</svg>'
    )
