"""Figures with options: the rates of a schedule, and Mixup's share and its density.

What is made here is the still figure at its default options, which stands alone in print and without scripts;
`docs/assets/widgets.js` redraws it with the same formulas when an option is changed.
"""

import base64
import html
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from cnn_site.pages import SiteError

from .base import Page, fill

Options = Mapping[str, float]
# The plots' areas in units of the SVG: the sliders below stand along them.
LEFT, RIGHT, WIDTH = 56, 352, 360


def widget(page: Page, arguments: list[str], settings: Any) -> str:
    """`[[widget schedule restarts]]`, with other defaults as YAML below it, or `[[widget mixup]]`."""
    which, *rest = arguments or [""]
    if which not in WIDGETS:
        raise SiteError(
            f"unknown widget {which!r}; expected one of {', '.join(WIDGETS)}"
        )
    return WIDGETS[which](rest, dict(settings or {}))


# --- the rates of a schedule ---


class Option(NamedTuple):
    value: float
    least: float
    most: float
    step: float  # of the arrow keys; where it is 1, only whole numbers are taken


class Schedule(NamedTuple):
    title: str
    options: tuple[str, ...]  # besides `lr` and `steps`
    line: str  # the torch expression that gives these rates
    rate: Callable[[int, Options], float]


OPTIONS = {
    "lr": Option(0.1, 0, 10, 0.01),
    "steps": Option(150, 20, 1000, 1),
    "T_max": Option(150, 1, 10_000, 1),
    "T_0": Option(10, 1, 1000, 1),
    "T_mult": Option(2, 1, 10, 1),
    "step_size": Option(50, 1, 1000, 1),
    "gamma": Option(0.1, 0, 1, 0.1),
    "warmup": Option(15, 1, 1000, 1),
    "eta_min": Option(0, 0, 10, 0.001),
    "pct_start": Option(0.3, 0.1, 0.9, 0.1),
    "div_factor": Option(25, 1, 1000, 1),
    "final_div_factor": Option(10_000, 1, 1_000_000, 1),
}


def annealed(start: float, end: float, part: float) -> float:
    """Half a cosine from `start` (part 0) to `end` (part 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def _cosine(t: int, o: Options) -> float:
    return annealed(o["lr"], o["eta_min"], t / o["T_max"])


def _restarts(t: int, o: Options) -> float:
    since, length = float(t), o["T_0"]
    while since >= length:
        since -= length
        length *= o["T_mult"]
    return annealed(o["lr"], o["eta_min"], since / length)


def _step(t: int, o: Options) -> float:
    return o["lr"] * o["gamma"] ** (t // o["step_size"])


def _warmup(t: int, o: Options) -> float:
    warm = o["warmup"]
    if t < warm:
        return o["lr"] * (1 + (warm - 1) * t / warm) / warm
    return annealed(o["lr"], o["eta_min"], (t - warm) / (o["steps"] - warm))


def _one_cycle(t: int, o: Options) -> float:
    top = o["pct_start"] * o["steps"] - 1
    first = o["lr"] / o["div_factor"]
    if t <= top:
        return annealed(first, o["lr"], t / top)
    last = first / o["final_div_factor"]
    return annealed(o["lr"], last, (t - top) / (o["steps"] - 1 - top))


SCHEDULES = {
    "cosine": Schedule(
        "Cosine annealing",
        ("T_max", "eta_min"),
        "CosineAnnealingLR(optimizer, T_max={T_max}, eta_min={eta_min})",
        _cosine,
    ),
    "restarts": Schedule(
        "Cosine with warm restarts",
        ("T_0", "T_mult", "eta_min"),
        "CosineAnnealingWarmRestarts(optimizer, T_0={T_0}, T_mult={T_mult}, eta_min={eta_min})",
        _restarts,
    ),
    "step": Schedule(
        "Step decay",
        ("step_size", "gamma"),
        "StepLR(optimizer, step_size={step_size}, gamma={gamma})",
        _step,
    ),
    "warmup": Schedule(
        "Linear warm-up, then cosine",
        ("warmup", "eta_min"),
        "SequentialLR(optimizer, [LinearLR(optimizer, start_factor=1 / {warmup}, total_iters={warmup}), "
        "CosineAnnealingLR(optimizer, T_max={steps} - {warmup}, eta_min={eta_min})], milestones=[{warmup}])",
        _warmup,
    ),
    "cycle": Schedule(
        "One-cycle",
        ("pct_start", "div_factor", "final_div_factor"),
        "OneCycleLR(optimizer, max_lr={lr}, total_steps={steps}, pct_start={pct_start}, "
        "div_factor={div_factor}, final_div_factor={final_div_factor})",
        _one_cycle,
    ),
}


def rates(kind: str, options: Options) -> list[float]:
    """The rate of each step."""
    return [SCHEDULES[kind].rate(t, options) for t in range(int(options["steps"]))]


def _schedule(arguments: list[str], settings: dict[str, float]) -> str:
    kind = arguments[0] if arguments else "cosine"
    if kind not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise SiteError(f"unknown schedule {kind!r}; expected one of {known}")
    if unknown := settings.keys() - OPTIONS.keys():
        known = ", ".join(OPTIONS)
        raise SiteError(f"unknown option {min(unknown)!r}; expected one of {known}")
    options = {name: option.value for name, option in OPTIONS.items()} | settings
    curve, t = rates(kind, options), int(options["steps"]) // 2
    return fill(
        "widget_schedule",
        kind=kind,
        schedules=SCHEDULES,
        fields=[
            {
                "name": name,
                "of": [k for k, s in SCHEDULES.items() if name in s.options],
                "value": f"{options[name]:g}",
                "least": f"{option.least:g}",
                "most": f"{option.most:.0f}" if option.most >= 1 else option.most,
                "step": f"{option.step:g}",
            }
            for name, option in OPTIONS.items()
        ],
        svg=_rates_svg(curve, options, t),
        steps=len(curve),
        t=t,
        says=f"Step {t}: rate {short(curve[t])}",
        told=f"Of {len(curve)} steps the first has a rate of {short(curve[0])}, the last {short(curve[-1])}; "
        f"the largest rate is {short(max(curve))}.",
        line=SCHEDULES[kind].line.format(
            **{name: f"{value:g}" for name, value in options.items()}
        ),
    )


def _rates_svg(curve: list[float], options: Options, t: int) -> str:
    top, steps = max(options["lr"], options["eta_min"]), len(curve)
    bottom = 168
    x = LEFT + (RIGHT - LEFT) * t / steps
    y = bottom - (bottom - 8) * curve[t] / top
    texts = [
        _text(50, 12, short(top), "y"),
        _text(50, 92, short(top / 2), "y"),
        _text(50, bottom + 4, "0"),
        _text(LEFT, bottom + 17, "0", anchor="middle"),
        _text((LEFT + RIGHT) / 2, bottom + 17, short(steps / 2), "x", "middle"),
        _text(WIDTH, bottom + 17, short(steps), "x"),
        _text((LEFT + RIGHT) / 2, bottom + 33, "step", anchor="middle"),
        f'<text class="s" text-anchor="middle" transform="translate(11 {(8 + bottom) / 2:g}) rotate(-90)">learning rate</text>',
    ]
    points = "L".join(f"{n} {-rate:.9g}" for n, rate in enumerate(curve))
    return (
        f"{_svg(bottom + 36, 'The learning rate over the steps; the text of the figure says its values.')}"
        f'<path class="ax" d="M{LEFT} 8H{RIGHT}M{LEFT} 88H{RIGHT}"/><path class="zero" d="M{LEFT} 8V{bottom}H{RIGHT}" fill="none"/>'
        f"{''.join(texts)}"
        f'<path class="front" d="M{x:.1f} 8V{bottom}"/>'
        f"{_area(bottom, f'0 {-top:g} {steps} {top:g}', points, 'visible')}"
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/></svg>'
    )


# --- Mixup's share ---

# The first 0 and the first 1 of the lab's training digits, grey levels 0 to 16 as digits to the base 17.
DIGITS = (
    "003dd30000e87f1003g0096006d004800490048001d0058000e70b40003fge00",
    "0000bf100006gg2003dggg0009gcge000130gd000000ed000000cg5000008g70",
)
SHARE = 0.75
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 4, 6, 8)
ALPHA = 0.2  # the default of the page's class
MOST = 4  # of the density's axis
POINTS = [(1 - math.cos(math.pi * k / 120)) / 2 for k in range(1, 120)]


def beta(alpha: float) -> float:
    """The beta function B(alpha, alpha)."""
    return math.exp(2 * math.lgamma(alpha) - math.lgamma(2 * alpha))


def density(alpha: float, share: float) -> float:
    """Of Beta(alpha, alpha), for shares between 0 and 1."""
    return (share * (1 - share)) ** (alpha - 1) / beta(alpha)


def larger_share(alpha: float) -> float:
    """The mean of max(share, 1 - share): one half more than the mean absolute deviation of Beta(alpha, alpha)."""
    return 0.5 + 0.25**alpha / (alpha * beta(alpha))


def _mixup(arguments: list[str], settings: dict[str, float]) -> str:
    if arguments or settings:
        raise SiteError(f"[[widget mixup]] takes no options, got {arguments or settings}")  # fmt: skip
    return fill(
        "widget_mixup",
        svg=_mixup_svg(),
        share=SHARE,
        alphas=ALPHAS,
        n=ALPHAS.index(ALPHA),
        says=f"λ = {SHARE:g}: {SHARE:g} of the 0 and {1 - SHARE:g} of the 1, in the image and in the label",
        told=f"α = {ALPHA:g}: the density at this λ is {short(density(ALPHA, SHARE))}; "
        f"on average the larger of the two shares is {short(larger_share(ALPHA))}.",
    )


def _mixup_svg() -> str:
    first, second = (_png(digit) for digit in DIGITS)
    top, bottom = 124, 244
    x = LEFT + (RIGHT - LEFT) * SHARE
    y = bottom - (bottom - top) * min(density(ALPHA, SHARE) / MOST, 1)
    parts = [
        _image(first, 0),
        _image(second, 100),
        _image(second, 200),
        _image(first, 200, f' class="over" opacity="{SHARE:g}"'),
        '<g text-anchor="middle"><text class="m" x="86" y="42">+</text><text class="m" x="186" y="42">=</text>',
        f'<text class="a" x="36" y="90">{SHARE:g} ×</text><text class="b" x="136" y="90">{1 - SHARE:g} ×</text>',
        '<text x="236" y="90">image</text><text x="322" y="90">label</text></g>',
        _label(0, 14, SHARE),
        _label(1, 50, 1 - SHARE),
        f'<path class="ax" d="M{LEFT} {top}H{RIGHT}M{LEFT} {(top + bottom) / 2:g}H{RIGHT}"/>'
        f'<path class="zero" d="M{LEFT} {top}V{bottom}H{RIGHT}" fill="none"/>',
        _text(50, top + 4, f"{MOST}"),
        _text(50, (top + bottom) / 2 + 4, f"{MOST / 2:g}"),
        _text(50, bottom + 4, "0"),
        *(
            _text(
                LEFT + (RIGHT - LEFT) * share,
                bottom + 17,
                f"{share:g}",
                anchor="middle",
            )
            for share in (0, 0.5, 1)
        ),
        f'<text class="s" text-anchor="middle" transform="translate(11 {(top + bottom) / 2:g}) rotate(-90)">density of λ</text>',
        f'<path class="front" d="M{x:.1f} {top}V{bottom}"/>',
        _area(
            bottom,
            f"0 -{MOST} 1 {MOST}",
            "L".join(f"{p:.6g} {-density(ALPHA, p):.6g}" for p in POINTS),
            "hidden",
            top,
        ),
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
    ]
    says = "A 0 and a 1, their blend with its label, and the density of the share; the text of the figure says the values."
    return f"{_svg(bottom + 20, says)}{''.join(parts)}</svg>"


def _png(digit: str) -> str:
    """An image of 8 x 8 greys, dark on white, as an address; stored, not packed, so that every zlib writes the same."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    greys = [round(255 * (1 - int(level, 17) / 16)) for level in digit]
    rows = b"".join(b"\0" + bytes(greys[8 * n : 8 * n + 8]) for n in range(8))
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows, 0))
        + chunk(b"IEND", b"")
    )
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _image(address: str, x: float, more: str = "") -> str:
    # A plain href stops the theme's instant navigation.
    return f'<image{more} x="{x:g}" width="72" height="72" style="image-rendering:pixelated" xlink:href="{address}"/>'


def _label(digit: int, y: float, share: float) -> str:
    """A bar from 0 to 1 with its class and its value."""
    return (
        f'<text x="286" y="{y:g}">{digit}</text><text class="{"ab"[digit]}" x="358" y="{y:g}" text-anchor="end">{share:g}</text>'
        f'<path class="ax" d="M286 {y + 10:g}h72"/><rect class="{"ab"[digit]} dot" x="286" y="{y + 6:g}" height="8" width="{72 * share:g}"/>'
    )


# --- of both ---


def short(x: float) -> str:
    """Three digits, written as the script writes them, so that still and redrawn figure say the same."""
    if math.isinf(x):
        return "∞"
    rounded = Decimal(f"{x:.3g}")
    if rounded and abs(rounded) < Decimal("1e-6"):
        digits, _, exponent = f"{rounded:e}".partition("e")
        return f"{digits}e{int(exponent)}".replace(
            "-", "−"
        )  # a line may break at a hyphen
    return f"{rounded:f}"


def _svg(height: float, says: str) -> str:
    return (
        f'<svg class="fig" style="--w:{WIDTH}" data-search-exclude="" viewBox="0 0 {WIDTH} {height:g}" role="img"'
        f' aria-label="{html.escape(says)}">'
    )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "end") -> str:
    kinds = f"s {kind}".strip()
    return f'<text class="{kinds}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{text}</text>'


def _area(bottom: float, box: str, points: str, overflow: str, top: float = 8) -> str:
    """The curve in its own units, upside down: its points are the numbers themselves."""
    return (
        f'<svg class="area" x="{LEFT}" y="{top:g}" width="{RIGHT - LEFT}" height="{bottom - top:g}" viewBox="{box}"'
        f' preserveAspectRatio="none" overflow="{overflow}"><path class="curve" vector-effect="non-scaling-stroke" d="M{points}"/></svg>'
    )


WIDGETS: dict[str, Callable[[list[str], dict[str, float]], str]] = {
    "schedule": _schedule,
    "mixup": _mixup,
}
