"""A comparison of the lab as a plot in the site's own dress: each arm's difference from the baseline, with its interval."""

import html
import math
from typing import Any

from cnn_site import pages
from cnn_site.pages import SiteError

from .base import Page

LEFT, RIGHT, ROW = 8, 392, 44


def intervals(page: Page, arguments: list[str], settings: Any) -> str:
    """Paired differences from a baseline, in points of accuracy, drawn.

    `[[intervals lab/compare#techniques]]`: of a measured result of the lab. `[[intervals bench SLUG ...]]`: of the arms
    of these pages on the bench, without its handicaps. `[[intervals race CATEGORY]]`: of the pages that were raced.
    """
    if "#" in arguments[0]:
        rows, seeds = _compared(arguments[0])
    elif arguments[0] == "bench":
        rows, seeds = _arms(arguments[1:])
    else:
        rows, seeds = _raced(arguments[1])
    if not rows:
        raise SiteError(f"no measured result for [[intervals {' '.join(arguments)}]]")
    says = "; ".join(
        f"{row['name']}: {100 * row['difference']:+.2f}, {100 * row['low']:+.2f} to {100 * row['high']:+.2f}"
        for row in rows
    )
    caption = f"Accuracy less the baseline's, in points: the mean and the 95 % interval of {seeds} pairs."
    return (
        f"<figure><raw>{html.escape(_svg(rows, says))}</raw>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _compared(place: str) -> tuple[list[dict[str, Any]], int]:
    slug, _, name = place.partition("#")
    result = pages.recorded(slug).record.get("measured", {}).get(name, {})
    rows = result.get("result", {}).get("differences", {}).values()
    return list(rows), result.get("result", {}).get("seeds", 0)


def _arms(slugs: list[str]) -> tuple[list[dict[str, Any]], int]:
    """The arms whose baseline is the bench's as it is, the largest difference first."""
    rows, seeds = [], set()
    for slug in slugs:
        result = pages.recorded(slug).record["measured"]["bench"]["result"]
        for pair in result["paired"].values():
            if pair["handicap"] == "none" and not pair.get("diverged"):
                rows.append({"name": pair["name"], **pair["accuracy"]})
                seeds.add(result["seeds"])
    return _one_number(rows, seeds)


def _raced(category: str) -> tuple[list[dict[str, Any]], int]:
    rows, seeds = [], set()
    for t in pages.in_category(category):
        result = t.record.get("measured", {}).get("race", {}).get("result", {})
        if "paired" in result:
            rows.append({"name": result["name"], **result["paired"]["accuracy"]})
            seeds.add(result["seeds"])
    return _one_number(rows, seeds)


def _one_number(
    rows: list[dict[str, Any]], seeds: set[int]
) -> tuple[list[dict[str, Any]], int]:
    if len(seeds) > 1:
        raise SiteError(
            f"arms with {sorted(seeds)} seeds cannot stand under one caption"
        )
    rows.sort(key=lambda row: -row["difference"])
    return rows, next(iter(seeds), 0)


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
