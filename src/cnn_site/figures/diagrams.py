"""Block diagrams as small SVG: boxes coloured by role, put together by stack, row, fan, around, frame and grid.

Everything is placed by arithmetic on estimated text widths, so the same source gives the same bytes on every machine.
A unit is a pixel of a phone; a figure wider than WIDTH is an error, not a scroll bar.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from html import escape
from itertools import pairwise

WIDTH = 356
ROLES = {  # one hue a role, at least 3:1 against the page; site.css has the same for the dark scheme
    "data": "#6f777e",  # tensors: input, output, feature maps
    "conv": "#28557f",  # layers with weights
    "norm": "#147a80",  # normalisation
    "act": "#8d6200",  # activations
    "pool": "#3f7a2c",  # pooling and resampling: no weights
    "gate": "#6b3183",  # attention and gates
    "loss": "#a1391c",  # losses and targets
    "op": "#6f777e",  # sum, product, concatenation
}
FONT = (
    "-apple-system,BlinkMacSystemFont,Segoe UI,Roboto,Helvetica Neue,Arial,sans-serif"
)
DARK = {
    "data": "#98a2aa",
    "conv": "#8dbbe6",
    "norm": "#5cc5c8",
    "act": "#e0b650",
    "pool": "#8fce7a",
    "gate": "#d2abe9",
    "loss": "#f0957a",
    "op": "#98a2aa",
}
Point = tuple[float, float]


def text_width(text: str, size: float) -> float:
    """An estimate, some 6 % above Helvetica, so that wider system fonts still fit their boxes."""
    return size * sum(
        0.31
        if c in "iljtfrI.,:;'|!()[] ·/"
        else 0.9
        if c in "mwMW@%→"
        else 0.7
        if c.isupper()
        else 0.58
        for c in text
    )


def alone(roles: Iterable[str] = ()) -> str:
    """Rules for a file opened by itself, so that it follows the system's scheme; inert inside a page."""
    dark = "".join(
        f"svg:root .fig-{r}{{fill:{DARK[r]};stroke:{DARK[r]}}}" for r in roles
    )
    return (
        "<style>svg:root{color:#1c2227;background:#fdfdfb}@media(prefers-color-scheme:dark)"
        f"{{svg:root{{color:#dfe3e5;background:#13171b}}{dark}}}</style>"
    )


def head(
    slug: str,
    title: str,
    desc: str,
    w: float,
    h: float,
    roles: Iterable[str] = (),
    more: str = "",
    role: str = "img",
) -> str:
    """The first lines of every figure: size, title and description for those who do not see it.

    `role`: "group" where parts of the figure are reached by the keyboard; what is in an "img" is not.
    """
    i = f"fig-{slug}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg"{more} class="fig" viewBox="0 0 {num(w)} {num(h)}" '
        f'width="{num(w)}" style="--w:{num(w)}" role="{role}" aria-labelledby="{i}-t {i}-d" font-family="{FONT}">\n'
        f'<title id="{i}-t">{escape(title)}</title><desc id="{i}-d">{escape(desc)}</desc>{alone(roles)}'
    )


def num(v: float) -> str:
    return f"{round(v * 2) / 2:g}"


class Item:
    """Something with a size and a spine: where, from its left edge, data flows through it from top to bottom."""

    w = h = spine = x = y = 0.0
    head = True  # does an arrow into it end in an arrowhead

    def place(self, x: float, y: float) -> None:
        self.x, self.y = x, y

    def draw(self, c: Canvas) -> None:
        pass

    def inp(self) -> Point:
        return self.x + self.spine, self.y

    def out(self) -> Point:
        return self.x + self.spine, self.y + self.h

    def ends(self) -> tuple[Item, Item]:
        """The items that an arrow into it reaches, and that an arrow out of it comes from."""
        return self, self


class Box(Item):
    def __init__(
        self, label: str, sub: str = "", *, role: str, w: float = 0, rows: int = 1
    ):
        self.label, self.sub, self.role, self.rows = label, sub, role, rows
        self.lines = [(t, 13) for t in label.split("\n")] + [
            (t, 11) for t in sub.split("\n") if t
        ]
        self.resize(w or max(44, *(text_width(t, s) + 20 for t, s in self.lines)))
        self.h = 13 + sum(s + 3 for _, s in self.lines)

    def resize(self, w: float) -> None:
        self.w, self.spine = w, w / 2

    def draw(self, c: Canvas) -> None:
        c.rect(
            self.role,
            self.x,
            self.y,
            self.w,
            self.h,
            min(self.h / 2, 15) if self.role == "data" else 6,
        )
        y = self.y + (self.h - sum(s + 3 for _, s in self.lines)) / 2 - 1.5
        for t, s in self.lines:
            y += s + 3
            c.text(t, self.x + self.w / 2, y - 0.2 * s, s)


data, conv, norm, act = (partial(Box, role=r) for r in ("data", "conv", "norm", "act"))
pool, gate, loss = (partial(Box, role=r) for r in ("pool", "gate", "loss"))


def op(label: str, sub: str = "", w: float = 0) -> Box:
    """A one-character label makes a circle."""
    b = Box(label, sub, role="op", w=w)
    if len(label) == 1:
        b.lines, b.h = [(label, 15)], 22
        b.resize(22)
    return b


class Tensor(Item):
    """A feature map as a slab, `size` tall and `depth` thick, with its labels below."""

    def __init__(
        self,
        label: str,
        sub: str = "",
        size: float = 60,
        depth: float = 10,
        role: str = "data",
    ):
        self.label, self.sub, self.size, self.depth, self.role, self.slant = (
            label,
            sub,
            size,
            depth,
            role,
            size * 0.3,
        )
        self.face = depth + self.slant
        self.lines = [(label, 12)] + [(t, 11) for t in sub.split("\n") if t]
        self.w = max(self.face, *(text_width(t, z) for t, z in self.lines))
        self.mid, self.foot = (size + self.slant) / 2, 4 + 14 * len(self.lines)
        self.h, self.spine = size + self.slant + self.foot, self.w / 2

    def draw(self, c: Canvas) -> None:
        x, y, s, d, k = (
            self.x + (self.w - self.face) / 2,
            self.y + self.slant,
            self.size,
            self.depth,
            self.slant,
        )
        c.poly(
            self.role,
            (x, y + s),
            (x, y),
            (x + k, y - k),
            (x + k + d, y - k),
            (x + k + d, y - k + s),
            (x + d, y + s),
        )
        c.poly(self.role, (x, y), (x + d, y), (x + d, y + s), (x, y + s))
        c.poly(
            self.role,
            (x + d, y),
            (x + d + k, y - k),
            (x + d + k, y - k + s),
            (x + d, y + s),
        )
        for n, (t, z) in enumerate(self.lines):
            c.text(t, self.x + self.spine, self.y + self.h - self.foot + 15 + 14 * n, z)


class Stack(Item):
    """Top to bottom, joined by arrows; a string between two items is written beside their arrow."""

    def __init__(
        self,
        *items: Item | str,
        gap: float = 16,
        same: bool = True,
        arrows: bool = True,
    ):
        self.items: list[Item] = [i for i in items if not isinstance(i, str)]
        self.arrows, self.notes, k = arrows, {}, 0
        for i in items:
            k += not isinstance(i, str)
            if isinstance(i, str):
                self.notes[k] = i
        boxes = [b for b in self.items if isinstance(b, Box) and b.h != 22]
        for b in boxes if same else ():
            b.resize(max(b.w for b in boxes))
        frames = [f for f in self.items if isinstance(f, Frame)]
        for f in frames if same else ():  # the same edges
            f.widen(max(g.spine for g in frames), max(g.w - g.spine for g in frames))
        self.gaps = [0.0] + [
            gap + 6 * (k in self.notes) for k in range(1, len(self.items))
        ]
        self.spine = max(i.spine for i in self.items)
        right = [i.w - i.spine for i in self.items] + [
            8 + text_width(t, 11) for t in self.notes.values()
        ]
        self.w, self.h = (
            self.spine + max(right),
            sum(i.h for i in self.items) + sum(self.gaps),
        )
        self.head = self.items[0].head

    def place(self, x: float, y: float) -> None:
        super().place(x, y)
        for i, g in zip(self.items, self.gaps, strict=True):
            i.place(x + self.spine - i.spine, y + g)
            y += g + i.h

    def draw(self, c: Canvas) -> None:
        for k, i in enumerate(self.items):
            i.draw(c)
            if k and self.arrows:
                c.arrow(self.items[k - 1], i)
            if k in self.notes:
                c.text(
                    self.notes[k],
                    i.inp()[0] + 8,
                    i.y - self.gaps[k] / 2 + 3,
                    11,
                    "start",
                )

    def inp(self) -> Point:
        return self.items[0].inp()

    def out(self) -> Point:
        return self.items[-1].out()

    def ends(self) -> tuple[Item, Item]:
        return self.items[0].ends()[0], self.items[-1].ends()[1]


class Row(Item):
    """Left to right, centred; with `arrows`, joined at half height."""

    def __init__(self, *items: Item, gap: float = 16, arrows: bool = False):
        self.items, self.gap, self.arrows = items, gap, arrows
        mids = [getattr(i, "mid", i.h / 2) for i in items]
        self.mid = max(mids)
        self.w = sum(i.w for i in items) + gap * (len(items) - 1)
        self.h, self.spine = (
            self.mid + max(i.h - m for i, m in zip(items, mids, strict=True)),
            self.w / 2,
        )

    def place(self, x: float, y: float) -> None:
        super().place(x, y)
        for i in self.items:
            i.place(x, y + self.mid - getattr(i, "mid", i.h / 2))
            if isinstance(i, Tensor):  # labels on one line
                i.h = y + self.h - i.y
            x += i.w + self.gap

    def draw(self, c: Canvas) -> None:
        y = self.y + self.mid
        for a, b in pairwise(self.items if self.arrows else ()):
            c.line([(edge(a)[1] + 2, y), (edge(b)[0] - 2, y)])
            c.edges.append((a.ends()[1], b.ends()[0]))
        for i in self.items:
            i.draw(c)


def edge(i: Item) -> Point:
    """Left and right end of an item at half height."""
    left, width = (
        (i.x + (i.w - i.face) / 2, i.face) if isinstance(i, Tensor) else (i.x, i.w)
    )
    return left, left + width


class Fan(Item):
    """Branches side by side from one input, which meet in `merge`, drawn as wide as all of them."""

    head = False

    def __init__(self, *branches: Item, merge: Box, gap: float = 10):
        self.branches, self.merge, self.gap, self.fork = branches, merge, gap, Item()
        self.w = sum(b.w for b in branches) + gap * (len(branches) - 1)
        self.h = 28 + max(b.h for b in branches) + 20 + merge.h
        merge.resize(self.w)
        starts = [
            sum(b.w + gap for b in branches[:k]) + b.spine
            for k, b in enumerate(branches)
        ]
        near = min(
            starts, key=lambda v: abs(v - self.w / 2)
        )  # straight down into a branch that is almost below
        self.spine = merge.spine = near if abs(near - self.w / 2) < 14 else self.w / 2

    def place(self, x: float, y: float) -> None:
        super().place(x, y)
        self.merge.place(x, y + self.h - self.merge.h)
        for b in self.branches:
            b.place(x, y + 28)
            x += b.w + self.gap

    def draw(self, c: Canvas) -> None:
        x, y = self.inp()
        for b in self.branches:
            bx = b.inp()[0]
            c.line([(x, y), (x, y + 10), (bx, y + 10), b.inp()], b.head)
            b.draw(c)
            c.line([b.out(), (bx, self.merge.y)])
            c.edges += [(self.fork, b.ends()[0]), (b.ends()[1], self.merge)]
        self.merge.draw(c)

    def ends(self) -> tuple[Item, Item]:
        return self.fork, self.merge


class Around(Item):
    """`body` on the spine and `via` beside it (None: a bare line); both meet in `merge`."""

    head = False

    def __init__(
        self,
        body: Item | None,
        via: Item | None = None,
        merge: str = "+",
        side: str = "right",
        gap: float = 16,
    ):
        self.body, self.via, self.merge, self.right, self.fork = (
            body,
            via,
            op(merge),
            side == "right",
            Item(),
        )
        left = max(self.merge.spine, body.spine if body else 0)
        right = max(self.merge.w - self.merge.spine, body.w - body.spine if body else 0)
        vw = via.w if via else 4
        self.deep = max(body.h + 20 if body else 0, via.h + 26 if via else 0)
        self.h, self.w = self.deep + 18 + self.merge.h, left + right + gap + vw
        self.spine = left if self.right else vw + gap + left
        self.off = left + right + gap if self.right else 0  # left edge of via

    def place(self, x: float, y: float) -> None:
        super().place(x, y)
        if self.body:
            self.body.place(x + self.spine - self.body.spine, y + 20)
        if self.via:
            self.via.place(x + self.off, y + 24 + (self.deep - 26 - self.via.h) / 2)
        self.merge.place(x + self.spine - self.merge.spine, y + self.h - self.merge.h)

    def draw(self, c: Canvas) -> None:
        (x, y), m = self.inp(), self.merge
        into = (m.x + m.w if self.right else m.x, m.y + m.h / 2)
        for part, ends in ((self.body, None), (self.via, into)):
            if part:
                px, py = part.inp()
                c.line(
                    [(x, y), (px, py)]
                    if not ends
                    else [(x, y + 6), (px, y + 6), (px, py)],
                    part.head,
                )
                part.draw(c)
                c.line(
                    [part.out(), m.inp()]
                    if not ends
                    else [part.out(), (part.out()[0], into[1]), into]
                )
                c.edges += [(self.fork, part.ends()[0]), (part.ends()[1], m)]
            else:
                vx = self.x + self.off + 2
                c.line(
                    [(x, y), m.inp()]
                    if not ends
                    else [(x, y + 6), (vx, y + 6), (vx, into[1]), into]
                )
                c.edges.append((self.fork, m))
        m.draw(c)

    def out(self) -> Point:
        return self.merge.out()

    def ends(self) -> tuple[Item, Item]:
        return self.fork, self.merge


class Frame(Item):
    """A dashed outline with a name around a part."""

    def __init__(self, item: Item, label: str, pad: float = 10):
        self.item, self.label, self.pad = item, label, pad
        self.w = max(item.w, text_width(label, 11)) + 2 * pad
        self.left, self.head = (self.w - item.w) / 2, item.head
        self.spine, self.h = self.left + item.spine, item.h + 2 * pad + 12

    def widen(self, left: float, right: float) -> None:
        self.left += left - self.spine
        self.spine, self.w = left, left + right

    def place(self, x: float, y: float) -> None:
        super().place(x, y)
        self.item.place(x + self.left, y + self.pad + 12)

    def draw(self, c: Canvas) -> None:
        c.rect("frame", self.x, self.y, self.w, self.h, 8)
        right = (
            self.spine < text_width(self.label, 11) + 12
        )  # keep the name off the line that comes in
        c.text(
            self.label,
            self.x + (self.w - 8 if right else 8),
            self.y + 14,
            11,
            "end" if right else "start",
        )
        self.item.draw(c)

    def inp(self) -> Point:
        return self.item.inp()

    def out(self) -> Point:
        return self.item.out()

    def ends(self) -> tuple[Item, Item]:
        return self.item.ends()


class Grid(Item):
    """Rows of items in columns (None: an empty cell); its arrows are given as links."""

    def __init__(
        self,
        *rows: list[Item | None],
        hgap: float = 30,
        vgap: float = 22,
        same: bool = True,
    ):
        n = max(len(r) for r in rows)
        self.rows, self.hgap, self.vgap = (
            [[*r, *[None] * (n - len(r))] for r in rows],
            hgap,
            vgap,
        )
        for col in zip(*self.rows, strict=True):
            boxes = [b for b in col if isinstance(b, Box) and b.h != 22]
            for b in boxes if same else ():
                b.resize(max(b.w for b in boxes))
        self.ws = [
            max((i.w for i in col if i), default=0)
            for col in zip(*self.rows, strict=True)
        ]
        self.hs = [
            max((i.h for i in r if i and getattr(i, "rows", 1) == 1), default=0)
            for r in self.rows
        ]
        for k, r in enumerate(self.rows):
            for b in (b for b in r if isinstance(b, Box) and b.rows > 1):
                b.h = sum(self.hs[k : k + b.rows]) + vgap * (b.rows - 1)
        self.w, self.h = (
            sum(self.ws) + hgap * (n - 1),
            sum(self.hs) + vgap * (len(rows) - 1),
        )
        self.spine = self.w / 2

    def place(self, x: float, y: float) -> None:
        super().place(x, y)
        for r, h in zip(self.rows, self.hs, strict=True):
            cx = x
            for i, w in zip(r, self.ws, strict=True):
                if i:
                    i.place(cx + (w - i.w) / 2, y + max(0, h - i.h) / 2)
                cx += w + self.hgap
            y += h + self.vgap

    def draw(self, c: Canvas) -> None:
        for i in (i for r in self.rows for i in r if i):
            i.draw(c)


class Link:
    """An arrow from `a` to `b`; `ports` names the side it leaves and the side it enters (l, r, t, b)."""

    def __init__(
        self,
        a: Item,
        b: Item,
        ports: str = "bt",
        label: str = "",
        dash: bool = False,
        reach: float = 14,
    ):
        self.a, self.b, self.ports, self.label, self.dash, self.reach = (
            a,
            b,
            ports,
            label,
            dash,
            reach,
        )

    def draw(self, c: Canvas) -> None:
        (ax, ay), (bx, by) = port(self.a, self.ports[0]), port(self.b, self.ports[1])
        across, ends_across = (p in "lr" for p in self.ports)
        if across and self.b.y < ay < self.b.y + self.b.h:  # level with it: go straight
            by = ay
        if not across and self.b.x < ax < self.b.x + self.b.w and not ends_across:
            bx = ax
        if self.ports in ("rr", "ll"):
            x = (
                max(ax, bx) + self.reach
                if self.ports == "rr"
                else min(ax, bx) - self.reach
            )
            pts = [(ax, ay), (x, ay), (x, by), (bx, by)]
        elif across and ends_across:
            pts = (
                [(ax, ay), ((ax + bx) / 2, ay), ((ax + bx) / 2, by), (bx, by)]
                if ay != by
                else [(ax, ay), (bx, by)]
            )
        elif across or ends_across:
            pts = [(ax, ay), (bx, ay) if across else (ax, by), (bx, by)]
        else:
            pts = (
                [(ax, ay), (ax, (ay + by) / 2), (bx, (ay + by) / 2), (bx, by)]
                if ax != bx
                else [(ax, ay), (bx, by)]
            )
        c.line(pts, True, self.dash)
        c.edges.append((self.a.ends()[1], self.b.ends()[0]))
        (x0, y0), (x1, y1) = max(
            pairwise(pts), key=lambda s: abs(s[0][0] - s[1][0]) + abs(s[0][1] - s[1][1])
        )
        if y0 == y1:
            c.text(self.label, (x0 + x1) / 2 - 2, y0 - 5, 11)
        else:
            c.text(self.label, x0 + 6, (y0 + y1) / 2 + 4, 11, "start")


def port(i: Item, side: str) -> Point:
    if side in "tb":
        return i.inp() if side == "t" else i.out()
    return (i.x if side == "l" else i.x + i.w), i.y + i.h / 2


def chain(*items: Item, ports: str = "bt", label: str = "") -> list[Link]:
    return [Link(a, b, ports, label) for a, b in pairwise(items)]


class Canvas:
    """Collects shapes by kind, so that every colour and size is written once, and the edges of the drawn graph."""

    def __init__(self) -> None:
        self.shapes: dict[str, list[str]] = {}
        self.texts: dict[tuple[float, str], list[str]] = {}
        self.paths: dict[bool, list[str]] = {False: [], True: []}
        self.heads: list[str] = []
        self.edges: list[tuple[Item, Item]] = []

    def rect(self, role: str, x: float, y: float, w: float, h: float, r: float) -> None:
        if role == "op" and h == 22:
            r = 11
        xywh = zip(("x", "y", "width", "height", "rx"), (x, y, w, h, r), strict=True)
        self.shapes.setdefault(role, []).append(
            "<rect " + " ".join(f'{k}="{num(v)}"' for k, v in xywh) + "/>"
        )

    def poly(self, role: str, *pts: Point) -> None:
        self.shapes.setdefault(role, []).append(
            '<path d="M' + "L".join(f"{num(x)} {num(y)}" for x, y in pts) + 'Z"/>'
        )

    def text(
        self, text: str, x: float, y: float, size: float, align: str = "middle"
    ) -> None:
        if text:
            self.texts.setdefault((size, align), []).append(
                f'<text x="{num(x)}" y="{num(y)}">{escape(text)}</text>'
            )

    def arrow(self, a: Item, b: Item) -> None:
        self.line([a.out(), b.inp()], b.head)
        self.edges.append((a.ends()[1], b.ends()[0]))

    def line(
        self, pts: list[Point], head: bool = True, dash: bool = False, r: float = 7
    ) -> None:
        """A line of horizontal and vertical pieces with rounded corners."""
        pts = pts[:1] + [
            q for p, q in pairwise(pts) if abs(p[0] - q[0]) + abs(p[1] - q[1]) > 0.5
        ]
        (x0, y0), (x1, y1) = pts[-2:]
        if head:
            ux, uy = sign(x1 - x0), sign(y1 - y0)
            self.heads.append(
                f"M{num(x1)} {num(y1)}"
                + (f"l{-7 * ux} -4v8z" if ux else f"l-4 {-7 * uy}h8z")
            )
            pts = [*pts[:-1], (x1 - 6 * ux, y1 - 6 * uy)]
        d = f"M{num(pts[0][0])} {num(pts[0][1])}"
        for a, b, e in zip(pts, pts[1:], pts[2:], strict=False):
            k = min(
                r,
                (abs(b[0] - a[0]) + abs(b[1] - a[1])) / 2,
                (abs(e[0] - b[0]) + abs(e[1] - b[1])) / 2,
            )
            (px, py), (qx, qy) = (
                (b[0] + k * sign(p[0] - b[0]), b[1] + k * sign(p[1] - b[1]))
                for p in (a, e)
            )
            d += f"L{num(px)} {num(py)}Q{num(b[0])} {num(b[1])} {num(qx)} {num(qy)}"
        self.paths[dash].append(d + f"L{num(pts[-1][0])} {num(pts[-1][1])}")


def sign(v: float) -> int:
    return (v > 0.01) - (v < -0.01)


class Figure:
    def __init__(
        self,
        slug: str,
        title: str,
        desc: str,
        root: Item,
        links: list[Link] | None = None,
    ):
        self.slug, self.title, self.desc, self.root, self.links = (
            slug,
            title,
            desc,
            root,
            links or [],
        )
        side = {
            p: max((k.reach for k in self.links if k.ports == p), default=0)
            for p in ("ll", "rr")
        }
        self.left, self.w, self.h = (
            side["ll"] + 2,
            root.w + sum(side.values()) + 4,
            root.h + 4,
        )
        if self.w > WIDTH + 4:
            raise ValueError(f"{slug} is {self.w:.0f} wide; a phone shows {WIDTH + 4}")

    def canvas(self, c: Canvas | None = None) -> Canvas:
        c = c or Canvas()
        self.root.place(self.left, 2)
        self.root.draw(c)
        for k in self.links:
            k.draw(c)
        return c

    def svg(self) -> str:
        """The picture. Attributes hold the light scheme and work in every viewer; classes are for the site's style sheet."""
        c = self.canvas()
        roles = [r for r in c.shapes if r != "frame"]
        s = [head(self.slug, self.title, self.desc, self.w, self.h, roles)]
        if "frame" in c.shapes:
            s.append(
                '<g fill="none" stroke="currentColor" stroke-opacity=".5" stroke-dasharray="4 3">'
                + "".join(c.shapes.pop("frame"))
                + "</g>"
            )
        s += [
            f'<g class="fig-{role}" fill="{ROLES[role]}" fill-opacity=".12" stroke="{ROLES[role]}" stroke-width="1.3">'
            + "".join(shapes)
            + "</g>"
            for role, shapes in c.shapes.items()
        ]
        s.append(
            '<g class="fig-line" opacity=".75" fill="none" stroke="currentColor" stroke-width="1.5">'
        )
        s += [
            f'<path{" stroke-dasharray=" + chr(34) + "4 3" + chr(34) if k else ""} d="{"".join(d)}"/>'
            for k, d in c.paths.items()
            if d
        ]
        s.append(
            f'<path fill="currentColor" stroke="none" d="{"".join(c.heads)}"/></g><g class="fig-text" fill="currentColor">'
        )
        s += [
            f'<g font-size="{z:g}" text-anchor="{a}">' + "".join(t) + "</g>"
            for (z, a), t in c.texts.items()
        ]
        return "\n".join(s) + "</g></svg>\n"


stack, row, fan, around, frame, grid, tensor, link = (
    Stack,
    Row,
    Fan,
    Around,
    Frame,
    Grid,
    Tensor,
    Link,
)


def maps(
    sizes: Iterable[tuple[int, int, str]],
    scale: float = 8,
    gap: float = 11,
    least: float = 14,
) -> Row:
    """A network's maps side by side, of (pixels, channels, name); slabs grow more slowly than what they stand for."""
    slabs = (
        Tensor(
            f"{pixels}²",
            f"{channels}\n{name}",
            size=least + scale * pixels**0.5,
            depth=2 + channels**0.4,
            role="conv" if channels > 3 else "data",
        )
        for pixels, channels, name in sizes
    )
    return Row(*slabs, gap=gap)
