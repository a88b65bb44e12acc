"""The committed figures are those that their sources draw, cleanly drawn, and show what the modules compute."""

import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cnn_site.figures import (
    Figure,
    act,
    around,
    chain,
    conv,
    data,
    fan,
    frame,
    gate,
    grid,
    op,
    pool,
    stack,
)
from cnn_site.figures.__main__ import ROOT, drawings, sources, target
from cnn_site.figures.check import check, computed, faults
from cnn_site.figures.pictures import Mark, Picture, label_map, pictures_svg, viridis
from cnn_site.pages import is_draft

SOURCES = [
    s
    for s in sources()
    if not is_draft(ROOT / f"docs/{s.parents[1].name}/{s.stem.replace('_', '-')}.md")
]
SVG = "{http://www.w3.org/2000/svg}"


def is_diagram(source: Path) -> bool:
    return "Figure(" in source.read_text(encoding="utf-8")


DIAGRAMS = [s for s in SOURCES if is_diagram(s)]


@pytest.mark.parametrize("source", DIAGRAMS, ids=lambda s: s.stem)
def test_every_diagram_is_drawn_again_to_the_same_bytes_and_cleanly(
    source: Path,
) -> None:
    for name, figure in drawings(source).items():
        if not isinstance(figure, Figure):
            continue
        assert figure.slug == name
        assert faults(figure) == []
        committed = target(source, name)
        assert committed.is_file(), (
            f"{source}: draw it with python -m cnn_site.figures {source.stem}"
        )
        assert committed.read_text(encoding="utf-8") == figure.svg(), (
            f"{committed.relative_to(ROOT)} is stale: python -m cnn_site.figures {source.stem.replace('_', '-')}"
        )


@pytest.mark.parametrize(
    "source",
    [s for s in DIAGRAMS if "def module(" in s.read_text("utf-8")],
    ids=lambda s: s.stem,
)
def test_a_block_diagram_draws_what_its_module_computes(source: Path) -> None:
    found = runpy.run_path(str(source))
    check(
        found["figure"],
        found["module"](),
        found["leaves"]() if "leaves" in found else (),
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_every_source_has_its_figures_each_with_title_and_description(
    source: Path,
) -> None:
    slug = source.stem.replace("_", "-")
    folder = target(source, slug).parent
    committed = sorted({*folder.glob(f"{slug}.svg"), *folder.glob(f"{slug}-*.svg")})
    assert committed, f"{source}: no figure in {folder.relative_to(ROOT)}"
    for path in committed:
        root = ET.parse(path).getroot()
        for tag in ("title", "desc"):
            found = root.find(SVG + tag)
            assert found is not None, f"{path}: no <{tag}>"
            assert found.text, f"{path}: an empty <{tag}>"
        text = path.read_text(encoding="utf-8")
        assert ' href="' not in text, f"{path}: instant navigation needs xlink:href"
        assert float(root.attrib["width"]) <= 360, f"{path}: wider than a phone"
        assert len(text) < 80_000, f"{path}: {len(text)} bytes"


def test_every_figure_has_a_source() -> None:
    names = {f"{s.parents[1].name}/{s.stem.replace('_', '-')}" for s in sources()}
    for path in (ROOT / "docs" / "figures").glob("*/*.svg"):
        name = f"{path.parent.name}/{path.stem}"
        assert any(name == n or name.startswith(n + "-") for n in names), (
            f"{path}: no source in snippets"
        )


def test_importing_the_diagrams_needs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, cnn_site.figures; print({'torch', 'matplotlib', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT / "src",
        check=True,
    )
    assert done.stdout.strip() == "set()"


# Planted faults: what `check` and `faults` must find.


def bottleneck() -> Figure:
    squeeze = stack(
        pool("Global avg pool"),
        conv("Linear 256→16", "ReLU"),
        gate("Linear 16→256", "Sigmoid"),
    )
    branch = stack(
        conv("Conv 1×1, 64", "BN · ReLU"),
        conv("Conv 3×3, 64", "BN · ReLU"),
        conv("Conv 1×1, 256", "BN"),
        frame(around(None, squeeze, "×"), "SE block"),
    )
    return Figure(
        "b",
        "t",
        "d",
        stack(
            data("x"), around(branch, side="left"), act("ReLU"), data("y"), same=False
        ),
    )


class SEBottleneck(nn.Module):
    def __init__(self, mid: int = 64, swap: bool = False) -> None:
        super().__init__()
        self.swap = swap
        self.conv1, self.bn1 = nn.Conv2d(256, mid, 1, bias=False), nn.BatchNorm2d(mid)
        self.conv2, self.bn2 = (
            nn.Conv2d(mid, mid, 3, padding=1, bias=False),
            nn.BatchNorm2d(mid),
        )
        self.conv3, self.bn3 = nn.Conv2d(mid, 256, 1, bias=False), nn.BatchNorm2d(256)
        self.relu, self.fc1, self.fc2 = (
            nn.ReLU(inplace=True),
            nn.Linear(256, 16),
            nn.Linear(16, 256),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 4 or x.shape[1] != 256:
            raise ValueError(f"expected (N, 256, H, W), got {tuple(x.shape)}")
        u = self.relu(self.bn1(self.conv1(x)))
        u = self.relu(self.bn2(self.conv2(u)))
        u = self.bn3(self.conv3(u))
        s = torch.sigmoid(self.fc2(torch.relu(self.fc1(u.mean((2, 3))))))[
            :, :, None, None
        ]
        if self.swap:  # a mistake: the gate scales the sum
            return self.relu((u + x) * s)
        return self.relu(u * s + x)


def test_a_figure_agrees_with_its_module_through_validation_in_forward() -> None:
    check(bottleneck(), SEBottleneck())
    assert computed(SEBottleneck())[1]["Conv 3×3, 64"] == 1


def test_a_wrong_width_in_a_figure_is_found() -> None:
    with pytest.raises(AssertionError, match=r"only in the figure.*Conv 3×3, 64"):
        check(bottleneck(), SEBottleneck(mid=128))


def test_a_wrong_arrow_in_a_figure_is_found() -> None:
    with pytest.raises(AssertionError, match="joined differently"):
        check(bottleneck(), SEBottleneck(swap=True))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (
            nn.Conv2d(8, 4, 1),
            nn.Sequential(nn.Conv2d(8, 2, 1), nn.Conv2d(2, 4, 5, padding=2)),
        )
        self.c = nn.MaxPool2d(3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.a(x), self.b(x), self.c(x)], 1)


def test_branches_are_held_against_a_concatenation() -> None:
    def figure(width: str) -> Figure:
        long = stack(conv("Conv 1×1", "2"), conv("Conv 5×5", width))
        parts = fan(
            conv("Conv 1×1", "4"),
            long,
            pool("Max 3×3", "stride 1"),
            merge=op("Concatenate"),
        )
        return Figure("f", "t", "d", stack(data("x"), parts, data("y")))

    check(figure("4"), Branches())
    with pytest.raises(AssertionError, match="Conv 5×5, 3"):
        check(figure("3"), Branches())


def test_a_block_can_stand_for_a_type_of_module() -> None:
    figure = Figure(
        "l", "t", "d", stack(data("x"), conv("Branches"), act("ReLU"), data("y"))
    )
    check(figure, nn.Sequential(Branches(), nn.ReLU()), leaves=(Branches,))


def test_a_line_through_a_box_is_found() -> None:
    a, b, c = data("a"), data("b"), data("c")
    assert faults(Figure("bad", "", "", grid([a], [b], [c]), chain(a, c)))


def test_a_figure_too_wide_for_a_phone_is_refused() -> None:
    with pytest.raises(ValueError, match="a phone shows"):
        Figure("wide", "", "", data("long " * 20))


def refused(call: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_pictures_refuse_what_they_cannot_show() -> None:
    refused(
        lambda: pictures_svg(
            "p", "t", "d", [("a", torch.zeros(4, 4)), ("b", torch.zeros(4, 5))]
        ),
        "one size",
    )
    refused(
        lambda: pictures_svg("p", "t", "d", [("a", torch.zeros(2, 4, 4))]),
        r"shape \(2, 4, 4\)",
    )
    refused(lambda: label_map(torch.full((2, 2), 40)), "up to 40")


def test_boxes_and_labels_are_drawn_over_a_picture() -> None:
    cells = [
        Picture(
            "scene",
            torch.zeros(64, 64),
            [Mark((8, 8, 24, 32), "7 0.98"), Mark((1, 1, 9, 9), dash=True)],
        )
    ]
    svg = pictures_svg("p", "t", "d", cells, columns=2, classes=("", "zero", "one"))
    assert "7 0.98" in svg
    assert "zero" in svg
    assert svg.count("stroke-dasharray") == 1
    assert viridis(torch.tensor([[0.0, 1.0]])).getpixel((0, 0)) == (0x44, 0x01, 0x54)
