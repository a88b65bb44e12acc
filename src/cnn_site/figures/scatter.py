"""Scatter plots with a name beside each line of dots: `scatter_svg`.

Names are placed by search on estimated text widths, so that none lies on another or on a dot, and the same source gives the
same bytes on every machine. Each dot tells its values: to the pointer by its <title>, to the keyboard because it can be reached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from .diagrams import ROLES, Point, head, text_width

SIZE = 11.5  # of names, in pixels of a phone
R = 4.2  # of a dot
WIDTH, HEIGHT = 356, 400
LEFT, RIGHT, TOP, BOTTOM = 28, 8, 20, 42  # what axes and their names need
Rect = tuple[float, float, float, float]
SHAPES = {  # paths around 0, 0 of about equal area
    "circle": f"M-{R} 0a{R} {R} 0 1 0 {2 * R} 0a{R} {R} 0 1 0 -{2 * R} 0z",
    "square": "M-3.8 -3.8h7.6v7.6h-7.6z",
    "diamond": "M0 -5.3l5.3 5.3l-5.3 5.3l-5.3 -5.3z",
    "up": "M0 -5.2l5 8.8h-10z",
    "down": "M0 5.2l5 -8.8h-10z",
    "cross": "M-1.7 -5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z",
}


@dataclass(frozen=True)
class Dot:
    """A place in the plot, which thing it is (the same in every plot of a pair), and what it says."""

    x: float
    y: float
    key: str
    says: str


@dataclass(frozen=True)
class Mark:
    """How the dots of a line look: a role of the palette and a shape."""

    role: str
    shape: str


@dataclass(frozen=True)
class Label:
    """A name: its box, where a thin line leads to it from its dot (None: it stands beside it), and its price."""

    box: Rect
    lead: tuple[Point, Point] | None
    price: float


def scatter_svg(
    slug: str,
    title: str,
    desc: str,
    lines: Mapping[str, Sequence[Dot]],
    marks: Mapping[str, Mark],
    xlabel: str,
    ylabel: str,
) -> str:
    """Draw named lines of dots over a logarithmic x axis.

    Args:
        lines: name -> its dots, joined in this order; x above 0.
        marks: name -> colour and shape of its dots.

    Raises ValueError if a name finds no free place, or two lines look alike.
    """
    looks = [marks[name] for name in lines]
    if len(set(looks)) < len(looks):
        raise ValueError(f"{slug}: two of {', '.join(lines)} look alike")
    xs = [d.x for dots in lines.values() for d in dots]
    ys = [d.y for dots in lines.values() for d in dots]
    left, right = math.log10(min(xs)), math.log10(max(xs))
    pad = 0.05 * (right - left)
    left, right = left - pad, right + pad
    step = next(s for s in (1, 2, 5, 10, 20) if (max(ys) - min(ys)) / s <= 8)
    pad = 0.04 * (max(ys) - min(ys))
    low, high = min(ys) - pad, max(ys) + pad

    def px(x: float) -> float:
        share = (math.log10(x) - left) / (right - left)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def py(y: float) -> float:
        share = (y - low) / (high - low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)

    places = {name: [(px(d.x), py(d.y)) for d in dots] for name, dots in lines.items()}
    out = [
        head(slug, title, desc, WIDTH, HEIGHT, role="group").replace(
            'class="fig"', 'class="fig scatter"', 1
        )
    ]
    out += [
        f'<path d="M{LEFT} {py(y)}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".12"/>'
        f'<text class="t" font-size="11" text-anchor="end" x="{LEFT - 5}" y="{py(y) + 4:.1f}" fill="currentColor">{y}</text>'
        for y in range(step * math.ceil(low / step), math.floor(high) + 1, step)
    ]
    floor = HEIGHT - BOTTOM
    out += [
        f'<path d="M{px(x)} {floor}v4" stroke="currentColor"/>'
        f'<text class="t" font-size="11" text-anchor="middle" x="{px(x)}" y="{floor + 17}" fill="currentColor">{x:g}</text>'
        for x in ticks(10**left, 10**right, px)
    ]
    out.append(
        f'<path d="M{LEFT} {floor}H{WIDTH - RIGHT}" stroke="currentColor"/>'
        f'<text font-size="11" text-anchor="end" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" fill="currentColor">{escape(xlabel)}</text>'
        f'<text font-size="11" x="0" y="10" fill="currentColor">{escape(ylabel)}</text>'
    )
    for name, points in places.items():
        path = "M" + "L".join(f"{x} {y}" for x, y in points)
        out.append(
            f'<path d="{path}" fill="none" stroke="{ink(marks[name])}" stroke-opacity=".6" stroke-width="1.2"/>'
        )
    labels = place(places, (LEFT + 1, TOP - 8, WIDTH, floor - 1))
    if not all(labels.values()):
        lost = [name for name, label in labels.items() if label is None]
        raise ValueError(f"{slug}: no free place for the name {', '.join(lost)}")
    for label in labels.values():
        if label and label.lead:
            (a, b), (c, e) = label.lead
            out.append(
                f'<path d="M{a:.1f} {b:.1f}L{c:.1f} {e:.1f}" stroke="currentColor" stroke-opacity=".55" stroke-width=".8"/>'
            )
    first = min((d for dots in lines.values() for d in dots), key=lambda d: (d.x, d.y))
    for name, dots in lines.items():
        out.append(f'<g fill="{ink(marks[name])}">')
        for d, (x, y) in zip(dots, places[name], strict=True):
            reach = 0 if d is first else -1  # one stop for Tab, then the arrow keys
            out.append(
                f'<g class="pt" tabindex="{reach}" role="img" data-k="{escape(d.key)}" transform="translate({x} {y})">'
                f'<title>{escape(d.says)}</title><path d="{SHAPES[marks[name].shape]}"/></g>'
            )
        out.append("</g>")
    for name, label in labels.items():
        if label:
            x0, _, _, y1 = label.box
            out.append(
                f'<text class="l" font-size="{SIZE}" x="{x0:.1f}" y="{y1 - 0.22 * SIZE:.1f}" fill="currentColor">{escape(name)}</text>'
            )
    return "\n".join(out) + "</svg>\n"


def ink(mark: Mark) -> str:
    return f"var(--{mark.role},{ROLES[mark.role]})"


def ticks(low: float, high: float, px: object) -> list[float]:
    """1, 2, 5, 10 … between `low` and `high`, as many as stand apart."""
    assert callable(px)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        values = [float(f"{m}e{e}") for e in decades for m in mantissas]
        values = [v for v in values if low <= v <= high]
        widths = [text_width(f"{v:g}", 11) for v in values]
        apart = [px(b) - px(a) for a, b in pairwise(values)]
        need = [(a + b) / 2 + 8 for a, b in pairwise(widths)]
        if all(a >= b for a, b in zip(apart, need, strict=True)):
            return values
    return values


def place(
    places: Mapping[str, Sequence[Point]], frame: Rect
) -> dict[str, Label | None]:
    """For each name the place beside one of its dots that costs least, given the others': a few rounds of improvement."""
    dots = [p for points in places.values() for p in points]
    lines = [pair for points in places.values() for pair in pairwise(points)]
    free = {
        n: candidates(n, points, dots, lines, frame) for n, points in places.items()
    }
    # Those with the fewest places first.
    names = sorted(free, key=lambda n: (len(free[n]), n))
    chosen: dict[str, Label | None] = dict.fromkeys(names)
    for _ in range(12):
        before = dict(chosen)
        for name in names:
            others = [c for n, c in chosen.items() if n != name and c]
            fit = [c for c in free[name] if all(apart(c, o) for o in others)]
            best = min(fit, key=lambda c: c.price, default=None)
            if best is None and free[name]:  # the cheapest; those in its way move
                best = free[name][0]
                for n, c in chosen.items():
                    if c and n != name and not apart(best, c):
                        chosen[n] = None
                free[name] = [*free[name][1:], best]
            chosen[name] = best
        if chosen == before:
            break
    return {name: chosen[name] for name in places}


def candidates(
    name: str,
    points: Sequence[Point],
    dots: Sequence[Point],
    lines: Sequence[tuple[Point, Point]],
    frame: Rect,
) -> list[Label]:
    w, h = 1.1 * text_width(name, SIZE), SIZE  # a reader's font may be a wide one
    foreign = [d for d in dots if d not in points]
    labels = []
    for n, (x, y) in enumerate(points):
        end = 0 if n in (0, len(points) - 1) else 4  # rather at an end of the line
        for far in (7, 11, 16, 23, 31, 40):
            for turn in range(16):
                c, s = math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)
                # The box's nearest side is `far` from the dot in this direction.
                mx = x + c * far + w / 2 * max(-1, min(1, 2.5 * c))
                my = y - s * far - h / 2 * max(-1, min(1, 2.5 * s))
                box = (mx - w / 2, my - h / 2, mx + w / 2, my + h / 2)
                if not within(box, frame) or any(near(box, d) for d in dots):
                    continue
                crossed = sum(cuts(line, box) for line in lines)
                lead = None
                if far > 11:
                    to = (max(box[0], min(x, box[2])), max(box[1], min(y, box[3])))
                    far_off = math.dist((x, y), to)
                    if far_off < 1:
                        continue
                    k = (R + 1) / far_off
                    at = (x + (to[0] - x) * k, y + (to[1] - y) * k)
                    lead = (at, to)
                    if any(d != (x, y) and beside(lead, d) for d in dots):
                        continue
                price = far + end + 14 * crossed + (6 if lead else 0)
                own = gap(box, (x, y))
                if not lead and any(gap(box, d) < own + 3 for d in foreign):
                    price += 18  # whose name is it?
                # Beside reads more easily than above or below.
                labels.append(Label(box, lead, price + 2 * abs(s)))
    return sorted(labels, key=lambda label: label.price)


def within(box: Rect, frame: Rect) -> bool:
    return (
        box[0] >= frame[0]
        and box[1] >= frame[1]
        and box[2] <= frame[2]
        and box[3] <= frame[3]
    )


def gap(box: Rect, dot: Point) -> float:
    """From the box to the middle of a dot; 0 in it."""
    dx = max(box[0] - dot[0], 0, dot[0] - box[2])
    return math.hypot(dx, max(box[1] - dot[1], 0, dot[1] - box[3]))


def near(box: Rect, dot: Point) -> bool:
    """A dot under the box, or as good as."""
    x, y = dot
    return box[0] - R - 1 < x < box[2] + R + 1 and box[1] - R < y < box[3] + R


def meet(a: Rect, b: Rect, by: float = -1.5) -> bool:
    """Two boxes overlap, or nearly."""
    return (
        min(a[2], b[2]) - max(a[0], b[0]) > by
        and min(a[3], b[3]) - max(a[1], b[1]) > by
    )


def apart(a: Label, b: Label) -> bool:
    led = (a.lead and cuts(a.lead, b.box)) or (b.lead and cuts(b.lead, a.box))
    return not meet(a.box, b.box) and not led


def cuts(line: tuple[Point, Point], box: Rect) -> bool:
    """A piece of a straight line lies in the box (Liang and Barsky's clipping)."""
    (x, y), (x1, y1) = line
    dx, dy, start, stop = x1 - x, y1 - y, 0.0, 1.0
    for p, q in (
        (-dx, x - box[0]),
        (dx, box[2] - x),
        (-dy, y - box[1]),
        (dy, box[3] - y),
    ):
        if p == 0:
            if q < 0:
                return False
        elif p < 0:
            start = max(start, q / p)
        else:
            stop = min(stop, q / p)
    return start < stop


def beside(line: tuple[Point, Point], dot: Point) -> bool:
    """The line passes a dot closely."""
    (x, y), (x1, y1) = line
    length = math.dist(*line) or 1
    t = max(
        0,
        min(1, ((dot[0] - x) * (x1 - x) + (dot[1] - y) * (y1 - y)) / length**2),
    )
    return math.dist(dot, (x + t * (x1 - x), y + t * (y1 - y))) < R
