"""A grid of labelled pictures in the style of the diagrams: one WebP inside an SVG; boxes and labels are drawn over it.

A cell is `(label, image)` or a `Picture`. An image is a PIL image or an array: (H, W) greys in 0..1 (or 0..255 if of an
integer type), (H, W, 3) or (3, H, W) colours. `viridis(map)` makes a feature map's picture, `label_map(labels)` a mask's.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from .diagrams import WIDTH, head, num, text_width

# One colour a class, the same in both schemes; neighbours differ in lightness too. 0 is the background's.
CLASSES = (
    "#3c4248",
    "#88ccee",
    "#ddcc77",
    "#cc6677",
    "#44aa99",
    "#aa4499",
    "#ee7733",
    "#5ec962",
    "#6f8fe0",
    "#c9b3f2",
    "#e9e4d8",
)
# Every eighth step of matplotlib's viridis, so that drawing needs no matplotlib.
VIRIDIS = [
    "440154",
    "471365",
    "482475",
    "463480",
    "414487",
    "3b528b",
    "355f8d",
    "2f6c8e",
    "2a788e",
    "25848e",
    "21918c",
    "1e9c89",
    "22a884",
    "2fb47c",
    "44bf70",
    "5ec962",
    "7ad151",
    "9bd93c",
    "bddf26",
    "dfe318",
    "fde725",
]


@dataclass(frozen=True)
class Mark:
    """A box over a picture, in the picture's own pixels: x0, y0, x1, y1. `dash` is for the truth beside a prediction."""

    box: Sequence[float]
    label: str = ""
    colour: str = "#fde725"
    dash: bool = False


@dataclass(frozen=True)
class Picture:
    label: str
    image: Any
    marks: Sequence[Mark] = field(default_factory=tuple)


def rgb(colour: str) -> tuple[int, int, int]:
    c = colour.lstrip("#")
    return int(c[:2], 16), int(c[2:4], 16), int(c[4:], 16)


def picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    a = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if a.ndim == 3 and a.shape[0] in (1, 3) and a.shape[-1] not in (1, 3):
        a = a.transpose(1, 2, 0)
    if a.ndim == 3 and a.shape[-1] == 1:
        a = a[..., 0]
    if a.ndim not in (2, 3) or (a.ndim == 3 and a.shape[-1] != 3):
        raise ValueError(
            f"expected (H, W), (H, W, 3) or (3, H, W), got shape {a.shape}"
        )
    if a.dtype.kind == "f":
        a = (a.clip(0, 1) * 255).round()
    return Image.fromarray(a.astype("uint8")).convert("RGB")


def viridis(
    values: Any, low: float | None = None, high: float | None = None
) -> Image.Image:
    """A feature map's picture. Give `low` and `high` where several maps share a scale."""
    a = np.asarray(
        values.detach().cpu() if hasattr(values, "detach") else values, dtype=float
    )
    low, high = (
        float(a.min()) if low is None else low,
        float(a.max()) if high is None else high,
    )
    t = ((a - low) / (high - low or 1)).clip(0, 1) * (len(VIRIDIS) - 1)
    table = np.array([rgb(c) for c in VIRIDIS], dtype=float)
    k = np.minimum(t.astype(int), len(VIRIDIS) - 2)
    part = (t - k)[..., None]
    return Image.fromarray(
        (table[k] * (1 - part) + table[k + 1] * part).round().astype("uint8")
    )


def label_map(labels: Any, over: Any = None, ignore: int = 255) -> Image.Image:
    """A colour per class. With `over`, classes other than 0 are laid over that picture at 60 %."""
    a = np.asarray(
        labels.detach().cpu() if hasattr(labels, "detach") else labels
    ).astype(int)
    valid = a != ignore
    if (
        a.ndim != 2
        or a[valid].min(initial=0) < 0
        or a[valid].max(initial=0) >= len(CLASSES)
    ):
        raise ValueError(
            f"expected (H, W) classes 0..{len(CLASSES) - 1}, got {a.shape}, up to {a.max()}"
        )
    table = np.array([rgb(c) for c in CLASSES])
    out = table[np.where(valid, a, 0)]
    out[~valid] = 128
    if over is not None:
        base = np.asarray(picture(over))
        out = np.where((valid & (a > 0))[..., None], 0.4 * base + 0.6 * out, base)
    return Image.fromarray(out.round().astype("uint8"))


def drawn_marks(
    marks: Sequence[Mark], x: float, y: float, scale: float, w: float, h: float
) -> str:
    parts = []
    for m in marks:
        x0, y0, x1, y1 = (float(v) * scale for v in m.box)
        rect = f'x="{num(x + x0)}" y="{num(y + y0)}" width="{num(x1 - x0)}" height="{num(y1 - y0)}" fill="none"'
        dash = ' stroke-dasharray="3 3"' if m.dash else ""
        parts.append(
            f'<rect {rect} stroke="#000" stroke-opacity=".6" stroke-width="3"/>'
        )
        parts.append(f'<rect {rect} stroke="{m.colour}" stroke-width="1.5"{dash}/>')
        if m.label:
            tw = text_width(m.label, 11) + 6
            tx = min(max(x0, 0), max(w - tw, 0))
            ty = y0 - 15 if y0 >= 15 else min(y1, h - 15)
            parts.append(
                f'<rect x="{num(x + tx)}" y="{num(y + ty)}" width="{num(tw)}" height="15" fill="#000" fill-opacity=".75"/>'
                f'<text class="on" x="{num(x + tx + tw / 2)}" y="{num(y + ty + 11)}" fill="{m.colour}">{escape(m.label)}</text>'
            )
    return "".join(parts)


def legend(names: Sequence[tuple[str, str]], top: float) -> tuple[str, float]:
    """Squares with names, in as many lines as they need; returns the drawing and its height."""
    parts, x, y = [], 2.0, top
    for text, colour in names:
        w = 18 + text_width(text, 11) + 12
        if x > 2 and x + w > WIDTH:
            x, y = 2.0, y + 18
        parts.append(
            f'<rect x="{num(x)}" y="{num(y)}" width="11" height="11" fill="{colour}" stroke="currentColor" stroke-opacity=".4"/>'
        )
        parts.append(
            f'<text x="{num(x + 16)}" y="{num(y + 10)}" text-anchor="start">{escape(text)}</text>'
        )
        x += w
    return "".join(parts), (y + 18 - top if names else 0)


def pictures_svg(
    slug: str,
    title: str,
    desc: str,
    cells: Sequence[tuple[str, Any] | Picture],
    columns: int = 4,
    quality: int = 75,
    classes: Sequence[str] = (),
) -> str:
    """Photos are lossy at two pixels a unit; pictures of at most 128 pixels a side are kept exactly, as sharp squares.

    All pictures have one shape. `classes` names the colours of label maps, from class 0 on; a name "" is left out.
    """
    pictures = [c if isinstance(c, Picture) else Picture(*c) for c in cells]
    images = [picture(p.image) for p in pictures]
    if len({i.size for i in images}) != 1:
        raise ValueError(
            f"expected pictures of one size, got {sorted({i.size for i in images})}"
        )
    (iw, ih), gap = images[0].size, 6
    side = (WIDTH - gap * (columns - 1)) / columns
    high = side * ih / iw
    exact = max(iw, ih) <= 128
    pw, ph = (iw, ih) if exact else (round(2 * side), round(2 * high))
    foot = 22 if any(p.label for p in pictures) else gap
    lines = -(-len(images) // columns)
    sheet = Image.new("RGB", (pw * columns, ph * lines))
    under, over, i = [], [], f"fig-{slug}"
    for k, (p, image) in enumerate(zip(pictures, images, strict=True)):
        col, line = k % columns, k // columns
        sheet.paste(
            image if exact else image.resize((pw, ph), Image.Resampling.LANCZOS),
            (col * pw, line * ph),
        )
        x, y = col * (side + gap) + 2, line * (high + foot)
        under.append(
            f'<svg x="{x:.6g}" y="{y:.6g}" width="{side:.6g}" height="{high:.6g}" viewBox="{col * pw} {line * ph} {pw} {ph}">'
            f'<use xlink:href="#{i}-p"/></svg>'
        )
        over.append(drawn_marks(p.marks, x, y, side / iw, side, high))
        if p.label:
            over.append(
                f'<text x="{num(x + side / 2)}" y="{num(y + high + 14)}">{escape(p.label)}</text>'
            )
    buf = io.BytesIO()
    if exact:
        sheet.save(buf, "WEBP", lossless=True, method=6)
    else:
        sheet.save(buf, "WEBP", quality=quality, method=6)
    pixels = ' style="image-rendering:pixelated"' if exact else ""
    code = base64.b64encode(buf.getvalue()).decode()
    image_tag = (
        f'<image id="{i}-p" width="{sheet.width}" height="{sheet.height}"{pixels} '
        f'xlink:href="data:image/webp;base64,{code}"/>'
    )
    h = (high + foot) * lines
    key, key_height = legend(
        [(n, CLASSES[k]) for k, n in enumerate(classes) if n], h + 2
    )
    top = head(
        slug,
        title,
        desc,
        WIDTH + 4,
        h + key_height,
        more=' xmlns:xlink="http://www.w3.org/1999/xlink"',
    )
    return (
        f"{top}<defs>{image_tag}</defs>\n{''.join(under)}\n"
        f'<g font-size="11" text-anchor="middle" fill="currentColor">{"".join(over)}{key}</g></svg>\n'
    )
