"""What a page gets wrong is told with file, line and cure: the checks of one technique, on a page with one fault."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import markdown
import pytest

from cnn_site import ROOT, check, checks, pages
from cnn_site.pages import SiteError, Technique

SLUG = "attention/squeeze-and-excitation"
PAGE = ROOT / "docs" / f"{SLUG}.md"

Plant = Callable[[str, str], Technique]


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """The technique with another page."""

    def plant(old: str, new: str) -> Technique:
        text = PAGE.read_text(encoding="utf-8")
        assert old in text, f"{PAGE} does not hold {old!r} any more"
        path = tmp_path / f"{SLUG}.md"
        path.parent.mkdir()
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        shutil.copy(ROOT / "docs/references.bib", tmp_path)
        monkeypatch.setattr(pages, "DOCS", tmp_path)
        return pages.technique(SLUG, drafts=True)

    return plant


FAULTS = {
    "a section of another name": (
        checks.parts,
        "## See also",
        "## Read on",
        r"\.md:\d+: section 'Read on' is not one of",
    ),
    "neither what goes wrong nor exercises": (
        checks.parts,
        "## What goes wrong",
        "### What goes wrong",
        "",
    ),
    "no needs": (checks.directives, "[[needs]]", "Needs torch.", r"lacks \[\[needs"),
    "a package that the block does not import": (
        checks.wrong_needs,
        "level: introductory",
        "level: introductory\nneeds: [onnxscript]",
        r"\.md:9: needs onnxscript, which the copied block does not import; drop it",
    ),
    "no level": (
        checks.findable,
        "level: introductory\n",
        "",
        r"\.md:1: front matter lacks level; one of introductory",
    ),
    "the title as another name": (
        checks.findable,
        "aliases: [",
        "aliases: [squeeze-and-excitation, ",
        r"\.md:7: 'squeeze-and-excitation' is the title",
    ),
    "something left of a template": (
        checks.marks,
        "## What it solves\n",
        "## What it solves\n\nTODO write\n",
        r"\.md:\d+: TODO write",
    ),
    "no paper": (
        checks.known,
        "papers: [hu2018squeeze]",
        "papers: []",
        r"\.md:1: names no paper",
    ),
    "an unknown paper": (
        checks.known,
        "[hu2018squeeze]",
        "[hu2018squeez]",
        r"\.md:5: unknown paper key 'hu2018squeez'; did you mean 'hu2018squeeze'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_page_is_told(fault: str, planted: Plant) -> None:
    rule, old, new, says = FAULTS[fault]
    t = planted(old, new)
    if fault.startswith("neither"):  # both have to go
        text = t.path.read_text(encoding="utf-8").replace("## Exercises", "### More")
        t.path.write_text(text, encoding="utf-8")
        says = r"\.md:1: has neither 'What goes wrong' nor 'Exercises'; write one"
    found = "\n".join(rule(t))
    assert re.search(says, found), found


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ("needs: [onnxscrpt]", "unknown package 'onnxscrpt'; did you mean 'onnxscript'"),
        ("needs: [no-such-thing]", "unknown package 'no-such-thing'; add it to an extra"),
        ("needs: onnxscript", "needs is 'onnxscript', expected list"),
        ("levl: advanced", "unknown front matter field 'levl'; did you mean 'level'"),
    ],
)  # fmt: skip
def test_front_matter_that_nobody_knows_is_refused(
    new: str, says: str, planted: Plant
) -> None:
    with pytest.raises(SiteError, match=rf"\.md, line 9: .*{says}"):
        planted("level: introductory", f"level: introductory\n{new}")


def test_a_level_that_nobody_knows_is_refused(planted: Plant) -> None:
    with pytest.raises(SiteError, match="line 8: level is 'easy', expected one of"):
        planted("level: introductory", "level: easy")


def test_a_page_in_the_short_form_is_right(planted: Plant) -> None:
    t = planted("## Exercises", "## Exercises")
    text = t.path.read_text(encoding="utf-8")
    for left_out in ("Numbers", "Use it, skip it", "Exercises"):
        start = text.index(f"## {left_out}\n")
        text = text[:start] + text[text.index("\n## ", start) + 1 :]
    t.path.write_text(text, encoding="utf-8")
    assert checks.parts(t) == checks.directives(t) == []


def test_a_file_that_no_command_starts_is_told(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    block = '```{.py .file title="program.py"}\nprint(1)\n```\n'
    page.write_text(block, encoding="utf-8")
    assert "a .file no command starts" in checks.fences(page)[0]
    started = "\n```{.console .run .continuation}\n$ python program.py\n```\n"
    page.write_text(block + started, encoding="utf-8")
    assert checks.fences(page) == []


# --- drafts ----------------------------------------------------------------------


def test_a_draft_stands_in_no_list_and_no_release(
    planted: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = planted("level: introductory", "level: introductory\ndraft: true # soon")
    assert t.facts and t.facts["draft"]
    assert pages.technique(SLUG).facts is None
    assert pages.drafts() == [t.path]
    assert t.path not in pages.written()
    pages.refuse_drafts("")
    monkeypatch.setattr(pages, "ROOT", pages.DOCS.parent)
    told = (
        r"squeeze-and-excitation\.md, line 9: draft: true in the release 1\.0; finish"
    )
    with pytest.raises(SiteError, match=told):
        pages.refuse_drafts("1.0")
    configs = {"cnn_site.markdown": {"release": "1.0"}}
    with pytest.raises(SiteError, match=told):
        markdown.Markdown(extensions=["cnn_site.markdown"], extension_configs=configs)


def test_the_word_draft_further_down_makes_no_draft(planted: Plant) -> None:
    t = planted("## See also", "draft: true\n\n---\n\n## See also")
    assert pages.technique(SLUG).facts == t.facts is not None


# --- the command -----------------------------------------------------------------


def test_a_finished_technique_has_nothing_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check.main([SLUG]) == 0, capsys.readouterr().out
    assert f"{SLUG}: nothing to do" in capsys.readouterr().out


def test_what_is_to_do_is_told_step_by_step(
    planted: Plant, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted("## See also", "## Read on\n\nTODO links")
    monkeypatch.setattr(check, "lists", lambda t: [])
    monkeypatch.setitem(check.STEPS, "Lists", [])
    assert check.main([SLUG]) == 1
    said = capsys.readouterr().out
    assert (
        said.index("1. Rooms: done")
        < said.index("6. Page\n")
        < said.index("TODO links")
    )
    assert "section 'Read on' is not one of" in said


def test_a_slug_that_nobody_knows_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check.main(["attention/cbm"]) == 2
    assert "unknown technique 'attention/cbm'; did you mean" in capsys.readouterr().err


def test_a_technique_without_a_page_is_told_how_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    (fault,) = check.to_do(SLUG)["Rooms"]
    assert fault.endswith(f"is missing; python -m cnn_site.new {SLUG}")


def test_a_written_page_that_see_also_names_is_linked(planted: Plant) -> None:
    t = planted("[CBAM](cbam.md) adds", "CBAM adds")
    assert checks.see_also(t) == [], "a page that is not written is text"
    shutil.copy(ROOT / "docs/attention/cbam.md", t.path.parent)
    (found,) = checks.see_also(t)
    assert re.search(r"\.md:\d+: See also names CBAM: \[CBAM\]\(cbam\.md\)", found)
