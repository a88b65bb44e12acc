"""The plots of the page that compares networks: nothing lies on anything, and each dot's recipe is the one really used."""

import csv
import inspect
import re
import xml.etree.ElementTree as ET
from itertools import combinations, product

import pytest
import torchvision

from cnn_site import ROOT, pages
from cnn_site.figures.__main__ import drawings, target
from cnn_site.figures.check import figure_source
from cnn_site.figures.diagrams import text_width
from cnn_site.figures.scatter import (
    SHAPES,
    Dot,
    Label,
    Mark,
    apart,
    place,
    scatter_svg,
    ticks,
)

SOURCE = ROOT / "snippets/modern/figures/networks.py"
PLOTS = drawings(SOURCE)
SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]
each_plot = pytest.mark.parametrize("name", PLOTS)


def boxes(svg: str) -> list[tuple[str, Box]]:
    """The text of a plot and where it stands, in a font 6 % wider than Helvetica."""
    found = []
    for el in ET.fromstring(svg).iter(SVG + "text"):
        text, size = el.text or "", float(el.attrib["font-size"])
        x, y, w = float(el.attrib["x"]), float(el.attrib["y"]), text_width(text, size)
        x -= w * {"end": 1, "middle": 0.5}.get(el.get("text-anchor", ""), 0)
        found.append((text, (x, y - 0.75 * size, x + w, y + 0.2 * size)))
    return found


def collisions(svg: str) -> list[str]:
    found, labels = [], boxes(svg)
    for (t, a), (u, b) in combinations(labels, 2):
        if (
            min(a[2], b[2]) - max(a[0], b[0]) > 0
            and min(a[3], b[3]) - max(a[1], b[1]) > 0
        ):
            found.append(f"{t!r} lies on {u!r}")
    places = re.findall(r'class="pt".*?translate\(([\d.]+) ([\d.]+)\)', svg)
    for (t, a), (x, y) in product(labels, [(float(x), float(y)) for x, y in places]):
        if a[0] < x < a[2] and a[1] < y < a[3]:
            found.append(f"{t!r} lies on the dot at {x:g}, {y:g}")
    wide = float(ET.fromstring(svg).attrib["width"])
    found += [f"{t!r} is cut off" for t, a in labels if a[0] < -1 or a[2] > wide + 1]
    return found


@each_plot
def test_a_plot_is_drawn_again_to_the_same_bytes(name: str) -> None:
    assert target(SOURCE, name).read_text(encoding="utf-8") == PLOTS[name], (
        f"{name}.svg is stale: python -m cnn_site.figures networks"
    )


@each_plot
def test_no_name_lies_on_another_or_on_a_dot(name: str) -> None:
    assert collisions(str(PLOTS[name])) == []


@each_plot
def test_names_are_legible_on_a_phone_and_each_dot_tells_its_values(name: str) -> None:
    root = ET.fromstring(str(PLOTS[name]))
    assert min(float(el.attrib["font-size"]) for el in root.iter(SVG + "text")) >= 11
    dots = [g for g in root.iter(SVG + "g") if g.get("class") == "pt"]
    assert len(dots) > 10
    assert [g.attrib["tabindex"] for g in dots].count("0") == 1
    for dot in dots:
        told = dot.findtext(SVG + "title") or ""
        assert re.fullmatch(
            r".+: [\d.]+ %, [\d.]+ M parameters, [\d.]+ G MACs at \d+ px(, recipe .+)?",
            told,
        )


def test_every_weight_is_in_both_plots_of_one_pair() -> None:
    weights = [row["id"] for row, _, _ in figure_source("modern/networks")["plotted"]()]
    for axis in ("parameters", "macs"):
        svgs = [str(s) for name, s in PLOTS.items() if name.endswith(axis)]
        assert sum(s.count('class="pt"') for s in svgs) == len(weights) > 90


LINE = {"a": [Dot(1, 1, "a1", "a1"), Dot(10, 2, "a2", "a2")]}


def drawn(lines: dict[str, list[Dot]], marks: dict[str, Mark]) -> str:
    return scatter_svg("s", "t", "d", lines, marks, "x", "y")


def test_a_name_on_another_or_on_a_dot_is_found() -> None:
    svg = drawn(LINE, {"a": Mark("conv", "circle")})
    assert collisions(svg) == []
    x, y = re.findall(r"translate\(([\d.]+) ([\d.]+)\)", svg)[1]
    moved = re.sub(
        r'(class="l" font-size="[\d.]+") x="[\d.]+" y="[\d.]+"',
        rf'\1 x="{float(x) - 3}" y="{float(y) + 3}"',
        svg,
    )
    assert len(collisions(moved)) == 1
    name = re.search(r'<text class="l".*?</text>', svg)
    assert name
    doubled = svg.replace("</svg>", name[0] + "</svg>")
    assert collisions(doubled) == ["'a' lies on 'a'"]


def test_lines_that_look_alike_and_names_without_a_place_are_refused() -> None:
    lines = {**LINE, "b": [Dot(2, 2, "b", "b")]}
    mark = Mark("conv", "circle")
    with pytest.raises(ValueError, match="look alike"):
        drawn(lines, {"a": mark, "b": mark})
    with pytest.raises(ValueError, match="no free place for the name mmm"):
        drawn({"m" * 60: LINE["a"]}, {"m" * 60: mark})
    assert set(SHAPES) == {"circle", "square", "diamond", "up", "down", "cross"}


def test_a_name_in_the_way_moves_and_a_line_to_a_name_crosses_no_other() -> None:
    places = {n: [(100 + 3 * k, 100.0)] for k, n in enumerate(["one", "two", "three"])}
    found = place(places, (0, 0, 300, 300))
    labels = [label for label in found.values() if label]
    assert len(labels) == 3
    assert all(apart(a, b) for a, b in combinations(labels, 2))
    box = (0.0, 0.0, 10.0, 10.0)
    through = Label((20, 0, 30, 10), ((-5, 5), (20, 5)), 0)
    assert not apart(through, Label(box, None, 0))


def test_the_marks_of_an_axis_stand_apart() -> None:
    def narrow(x: float) -> float:
        return x / 10

    assert ticks(1, 1000, lambda v: 100 * len(f"{v:g}") * v**0.5) != []
    assert ticks(1, 1000, narrow) == [1, 10, 100, 1000]


# --- whose training the weights are from: docs/evidence/recipes.csv against torchvision's source


def weights() -> list[dict[str, str]]:
    with (ROOT / "docs/evidence/published.csv").open(newline="", encoding="utf-8") as f:
        return [r for r in csv.DictReader(f) if r["quantity"] in ("top1_v1", "top1_v2")]


def groups(seen: str, ported: bool) -> set[str]:
    """Those that torchvision's description and comment allow."""
    if ported or "ported" in seen:
        return {"own"}
    if "DeIT" in seen:
        return {"own"}
    if "new training recipe" in seen:
        return {"long"}
    # Called simple too: MobileNetV3 with AutoAugment and random erasing (references/classification),
    # Wide ResNet with 256 epochs and "not the standard training procedure" (pull request 912).
    other = "MobileNet_V3" in seen or "Wide_ResNet" in seen
    return {"own"} if other else {"simple"}


@pytest.mark.parametrize("row", weights(), ids=lambda r: r["id"])
def test_the_recipe_of_a_weight_is_what_torchvision_says(row: dict[str, str]) -> None:
    recipe = pages.recipe(row["technique"], row["row"], row["quantity"])
    assert recipe, f"docs/evidence/recipes.csv has no line for {row['id']}"
    place = re.match(r"(\w+)\.(\w+),", row["place"])
    assert place, row["place"]
    names = getattr(torchvision.models, place[1])
    seen = " ".join(names[place[2]].meta["_docs"].split()) + " " + place[1]
    lines = inspect.getsource(names).split("\n")
    starts = [n for n, line in enumerate(lines) if " = Weights(" in line]
    at = next(n for n in starts if lines[n].strip().startswith(f"{place[2]} ="))
    stop = next((n - 1 for n in starts if n > at), None)
    # The comment stands above the weights, or in them.
    port = re.search(
        r"# Weights ported from https://(\S+)", "\n".join(lines[at - 1 : stop])
    )
    assert recipe["group"] in groups(seen, port is not None)
    assert (port is not None) == ("Weights ported from" in recipe["seen"])
    if port:
        assert port[1].split("/tree")[0].rstrip("/") in recipe["seen"]


def test_each_line_of_the_recipes_is_of_a_weight_and_says_where_it_was_seen() -> None:
    used = {
        id(pages.recipe(r["technique"], r["row"], r["quantity"])) for r in weights()
    }
    with (ROOT / "docs/evidence/recipes.csv").open(newline="", encoding="utf-8") as f:
        lines = list(csv.DictReader(f))
    assert len(used) == len(lines)
    assert {r["group"] for r in lines} == {"simple", "long", "own"}
    for line in lines:
        assert re.match(r"references/|metadata|pull request|\w+\.py: ", line["seen"]), (
            line
        )
        assert (line["group"] == "own") == (line["recipe"] not in ("simple", "long"))


def test_a_weight_without_a_recipe_has_none() -> None:
    assert pages.recipe("modern/resnet", "resnet50", "top1_v3") is None
    assert pages.recipe("modern/efficientnet", "efficientnet_b0", "top1_v2") is None
