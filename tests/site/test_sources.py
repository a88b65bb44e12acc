"""The floors hold, a technique is one readable file, and its sections are those that pages may name."""

from pathlib import Path

import pytest

from cnn_site import CATEGORIES, ROOT, checks, pages

FLOOR_1 = sorted((ROOT / "src/cnn_techniques").rglob("*.py"))


def finished(path: Path) -> bool:
    return not pages.is_draft(ROOT / "docs" / f"{checks.slug_of(path)}.md")


MODULES = [p for p in FLOOR_1 if p.name != "__init__.py" and finished(p)]
SNIPPETS = [p for p in sorted((ROOT / "snippets").glob("*/*.py")) if finished(p)]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def refuse(faults: list[str]) -> None:
    assert not faults, "\n" + "\n".join(faults)


each_module = pytest.mark.parametrize("path", MODULES, ids=name)
each_file = pytest.mark.parametrize("path", MODULES + SNIPPETS, ids=name)


@each_module
def test_floor_1_imports_torch_and_four_operations_of_torchvision(path: Path) -> None:
    refuse(checks.floor_1(path))


@pytest.mark.parametrize("path", sorted((ROOT / "src/cnn_lab").rglob("*.py")), ids=name)
def test_floor_2_does_not_know_the_site(path: Path) -> None:
    assert [
        f"{name(path)}:{n}: {w}"
        for n, w in checks.imports(path)
        if w.startswith("cnn_site")
    ] == []


@each_module
def test_a_technique_is_not_made_of_the_thing_it_explains(path: Path) -> None:
    refuse(checks.forbidden(path))


def test_what_is_forbidden_or_excepted_names_techniques() -> None:
    for slug in {*checks.FORBIDDEN, *checks.EXCEPTIONS}:
        pages.technique(slug)
    assert all(checks.FORBIDDEN.values()), (
        "a technique that forbids nothing is left out"
    )


@each_module
def test_a_technique_has_at_most_150_lines_of_code(path: Path) -> None:
    refuse(checks.length(path))


@each_file
def test_lines_fit_the_page(path: Path) -> None:
    refuse(checks.wide(path))


@each_file
def test_sections_are_opened_and_closed_once(path: Path) -> None:
    refuse(checks.sections(path))


@each_module
def test_a_module_and_what_is_public_in_it_is_documented_and_re_exported(
    path: Path,
) -> None:
    refuse(checks.documented(path))


@pytest.mark.parametrize("path", SNIPPETS, ids=name)
def test_a_snippet_runs_as_a_script(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import runpy

    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")


def test_the_categories_have_a_package_each() -> None:
    there = {p.parent.name for p in FLOOR_1 if p.name == "__init__.py"} - {
        "cnn_techniques"
    }
    assert there == set(CATEGORIES)


# --- a right technique is not refused, a wrong one is ----------------------------

SMALL = '''"""Scale: a number per channel.

Source: none. Legend: N images.
"""

# --8<-- [start:imports]
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:module]
def scale(x: Tensor) -> Tensor:
    """Twice."""
    return 2 * x


# --8<-- [end:module]
'''
CHECKS = (
    checks.floor_1,
    checks.forbidden,
    checks.length,
    checks.wide,
    checks.sections,
    checks.documented,
)


def faults(folder: Path, text: str) -> list[str]:
    path = folder / "attention" / "scale.py"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    (path.parent / "__init__.py").write_text("from .scale import scale as scale\n")
    return [fault for check in CHECKS for fault in check(path)]


def test_a_technique_of_two_lines_is_right(tmp_path: Path) -> None:
    assert faults(tmp_path, SMALL) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("from torch import Tensor", "import timm\nfrom torch import Tensor", "imports timm"),
        ("from torch import", "from torchvision.ops import MLP as", "torchvision.ops.MLP"),
        ("    return 2 * x", "    x = x + 1\n" * 150 + "    return x", "153 code lines, at most 150"),
        ("    return 2 * x", "    return 2 * x  #" + "x" * 80, "characters; 88 fit"),
        ("[end:module]", "[end:modules]", "'module' is not opened and closed once"),
        ("Source: none. ", "", "the docstring lacks 'Source:'"),
        ("def scale", "def scaled", "scaled is not in __init__.py"),
        ('    """Twice."""\n', "", "scale has no docstring"),
    ],
)  # fmt: skip
def test_a_wrong_technique_is_refused(
    old: str, new: str, says: str, tmp_path: Path
) -> None:
    assert old in SMALL
    assert any(says in fault for fault in faults(tmp_path, SMALL.replace(old, new, 1)))


def test_a_technique_is_not_made_of_what_it_forbids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(checks.FORBIDDEN, "attention/scale", ["nn.Hardsigmoid"])
    wrong = SMALL.replace("return 2 * x", "return nn.Hardsigmoid()(x)")
    assert any("uses nn.Hardsigmoid" in fault for fault in faults(tmp_path, wrong))


def test_words_may_name_what_is_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(checks.FORBIDDEN, "attention/scale", ["nn.Hardsigmoid"])
    assert faults(tmp_path, SMALL.replace("Twice.", "As nn.Hardsigmoid does.")) == []
