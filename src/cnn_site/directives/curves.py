"""Training losses of a race: a small plot for each page, its own curve before those of all others."""

import html
import math
import statistics
from typing import Any

from cnn_site import pages
from cnn_site.pages import SiteError

from .base import Page

COLUMNS, LEFT, WIDTH, GAP, HEIGHT, ROW = 3, 28, 108, 22, 84, 124
TICKS = (1.0, 0.3, 0.1)


def curves(page: Page, arguments: list[str], settings: Any) -> str:
    """`[[curves race optimization]]`: the loss by epoch, mean of the seeds, of each page that has the result."""
    name, category = arguments
    losses = {}
    for t in pages.in_category(category):
        result = t.record.get("measured", {}).get(name, {}).get("result", {})
        if "curve" in result:
            epochs = zip(*result["curve"], strict=True)
            losses[result["name"]] = [statistics.fmean(values) for values in epochs]
    if not losses:
        raise SiteError(f"no page of {category} has a measured result {name!r}")
    says = "; ".join(f"{n}: {v[0]:.2f} to {v[-1]:.3f}" for n, v in losses.items())
    caption = "Training loss by epoch, mean of the seeds, on a logarithmic scale: one optimiser before the others."
    return (
        f"<figure><raw>{html.escape(_svg(losses, says))}</raw>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _svg(losses: dict[str, list[float]], says: str) -> str:
    values = [v for curve in losses.values() for v in curve]
    high, low = math.log(max(values)), math.log(min(values))

    def path(curve: list[float], left: float, top: float) -> str:
        step = WIDTH / (len(curve) - 1)
        points = (
            f"{left + n * step:.1f} {y(value, top):.1f}"
            for n, value in enumerate(curve)
        )
        return "M" + "L".join(points)

    def y(value: float, top: float) -> float:
        return top + (high - math.log(value)) / (high - low) * HEIGHT

    parts = []
    for n, (name, own) in enumerate(losses.items()):
        row, column = divmod(n, COLUMNS)
        left, top = LEFT + column * (WIDTH + GAP), row * ROW + 22
        parts.append(
            f'<text class="s" x="{left}" y="{top - 8}">{html.escape(name)}</text>'
        )
        others = "".join(path(c, left, top) for o, c in losses.items() if o != name)
        parts.append(f'<path class="others" d="{others}"/>')
        parts.append(f'<path class="curve" d="{path(own, left, top)}"/>')
        for tick in TICKS if column == 0 else ():
            at = y(tick, top) + 4
            parts.append(
                f'<text class="s" x="{LEFT - 4}" y="{at:.1f}" text-anchor="end">{tick:g}</text>'
            )
    bottom = math.ceil(len(losses) / COLUMNS) * ROW
    for x, text, anchor in (
        (LEFT, "epoch 1", "start"),
        (LEFT + WIDTH, str(len(own)), "end"),
    ):
        parts.append(
            f'<text class="s" x="{x}" y="{bottom}" text-anchor="{anchor}">{text}</text>'
        )
    return (
        f'<svg class="fig" style="--w:400" data-search-exclude="" viewBox="0 0 400 {bottom + 4}" role="img"'
        f' aria-label="{html.escape(says)}">{"".join(parts)}</svg>'
    )
