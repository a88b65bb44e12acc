"""matplotlib plots in the style of the diagrams: `plot_svg` gives small SVG that follows the page's colour scheme."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.figure import Figure as Plot

from .diagrams import ROLES, head

INK = "#010203"  # stands for the page's text colour
SERIES = {r: ROLES[r] for r in ("conv", "act", "gate", "pool", "loss", "data")}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "mathtext.default": "regular",
    "figure.figsize": (356 / 72, 230 / 72),
    "figure.dpi": 72,
    "figure.constrained_layout.use": True,
    "savefig.transparent": True,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 1.0,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(
        color=SERIES.values(),
        linestyle=["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1))],
    ),
}
DROP = {
    "font-family",
    "stroke-linejoin",
    "stroke-linecap",
    "font-style",
    "font-variant",
    "font-weight",
    "font-stretch",
}


def colour(value: str) -> str:
    value = value.replace(INK, "currentColor")
    for role, hexa in SERIES.items():
        value = value.replace(hexa, f"var(--{role},{hexa})")
    return value


def shorten(value: str, digits: int = 1) -> str:
    value = re.sub(r"-?\d+\.\d+", lambda m: f"{round(float(m[0]), digits):g}", value)
    return (
        re.sub(r"\s+", " ", re.sub(r"\s*([A-Za-z])\s*", r"\1", value))
        if value[:1] == "M"
        else value
    )


def clean(el: ET.Element, prefix: str, used: set[str]) -> None:
    """Shorten one element and those in it: attributes only, the text that a reader sees is left alone."""
    for child in list(el):
        clean(child, prefix, used)
        tag, style = child.tag.split("}")[-1], child.get("style", "")
        if (
            tag in ("metadata", "style")
            or (tag in ("g", "defs") and not len(child))
            or (tag == "path" and style == "fill:none")
        ):
            el.remove(child)
        elif tag == "g" and not child.attrib:  # a group without a purpose
            at = list(el).index(child)
            el.remove(child)
            for k, grandchild in enumerate(child):
                el.insert(at + k, grandchild)
    el.tail = None
    if not (el.tag.endswith("text") or el.tag.endswith("tspan")):
        el.text = None
    for key, value in list(el.attrib.items()):
        if key == "id":
            el.attrib.pop(key) if value not in used else el.set(
                key, f"{prefix}-{value}"
            )
        elif key == "style":
            rules = []
            for rule in re.sub(r"\s*([:;])\s*", r"\1", value).strip(";").split(";"):
                prop, v = rule.split(":", 1)
                if prop == "font":
                    prop, v = "font-size", "".join(re.findall(r"[\d.]+px", v)[:1])
                rules += [f"{prop}:{colour(shorten(v, 2))}"] if prop not in DROP else []
            el.set(key, ";".join(rules))
        elif key == "transform" and re.fullmatch(r"rotate\(-?0 .*\)", value):
            el.attrib.pop(key)
        else:
            el.set(key, shorten(value))
        link = el.get(key, "")
        if "#" in link and key != "id":
            el.set(key, re.sub(r"(^#|url\(#)([^)]+)", rf"\1{prefix}-\2", link))
        if key.endswith("}href"):
            el.set(
                "xlink:href", el.attrib.pop(key)
            )  # a plain href stops instant navigation


def plot_svg(fig: Plot, slug: str, title: str, desc: str) -> str:
    """Close `fig` and return it as SVG: text is text, colours are variables with the light scheme as fallback."""
    buf, i = io.StringIO(), f"fig-{slug}"
    with plt.rc_context({"svg.hashsalt": slug}):
        fig.savefig(buf, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(fig)
    root = ET.fromstring(buf.getvalue())
    w, h = (float(v) for v in root.attrib["viewBox"].split()[2:])
    clean(root, i, set(re.findall(r'(?:href="#|url\(#)([^")]+)', buf.getvalue())))
    body = "\n".join(ET.tostring(e, encoding="unicode") for e in root)
    body = (
        re.sub(r' xmlns(:\w+)?="[^"]*"', "", body)
        .replace("ns0:", "")
        .replace("svg:", "")
    )
    top = head(
        slug,
        title,
        desc,
        w,
        h,
        more=' xmlns:xlink="http://www.w3.org/1999/xlink" stroke-linejoin="round"',
    )
    return f"{top}\n{body}</svg>\n"
