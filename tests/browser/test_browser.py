"""What a reader's browser does with the built site: requests, copying, accessibility, small screens, the catalogue."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnn_site import ROOT, pages
from cnn_site.runner import unlike

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from conftest import Visit

pytestmark = pytest.mark.browser
New = Callable[..., "Visit"]
DOCS = ROOT / "docs"


def page_address(source: Path) -> str:
    path = source.relative_to(DOCS).with_suffix("")
    folder = path.parent if path.name == "index" else path
    return "" if folder == Path() else folder.as_posix() + "/"


TECHNIQUES = [t for t in pages.techniques() if t.facts]
ONE_A_CATEGORY = list({t.category: t for t in reversed(TECHNIQUES)}.values())
SOURCES = sorted(
    p for p in pages.written() if "tutorials" not in p.relative_to(DOCS).parts
)
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))
ALL = [page_address(p) for p in [*SOURCES, *TUTORIALS]] + ["no/such-page/"]


def kinds() -> Iterator[str]:
    """One page of each kind: by folder, and every page at the top."""
    seen = set()
    for source in [*SOURCES, *TUTORIALS]:
        relative = source.relative_to(DOCS)
        if relative.parent == Path():
            kind = str(relative)
        elif relative.parts[0] in ("api", "tutorials", "lab"):
            kind = relative.parts[0]
        else:
            kind = "category" if relative.name == "index.md" else "technique"
            if kind == "technique" and relative.stem not in (
                "squeeze-and-excitation",
                "retinanet",
            ):
                continue
            kind += relative.stem
        if kind not in seen:
            seen.add(kind)
            yield page_address(source)
    yield "no/such-page/"


KINDS = list(kinds())


@pytest.mark.parametrize("path", ALL, ids=lambda p: p or "home")
def test_no_request_leaves_the_host_and_nothing_is_wider_than_a_phone(
    path: str, visit: New
) -> None:
    there = visit(width=390)
    page = there.go(path)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(100)
    assert there.asked, "nothing was loaded"
    assert not there.elsewhere, f"asked of other hosts: {there.elsewhere}"
    assert not there.errors, f"errors in scripts: {there.errors}"
    width = page.evaluate("document.documentElement.scrollWidth")
    wide = page.evaluate(
        """() => [...document.querySelectorAll("article *")].filter(e =>
          e.getBoundingClientRect().right > 391 && !e.closest(
            "pre, .scroll, svg, .md-typeset__scrollwrap, math, .chips, .jp-OutputArea")).map(
          e => `${e.tagName}.${e.className}: ${e.textContent.slice(0, 50)}`).slice(0, 5)"""
    )
    assert width <= 390, f"{width} px wide: {wide}"


def test_a_request_that_leaves_the_host_would_be_seen(visit: New) -> None:
    there = visit()
    page = there.go("")
    page.evaluate("fetch('https://example.org/x.js').catch(() => 0)")
    page.wait_for_timeout(100)
    assert there.elsewhere == ["https://example.org/x.js"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", KINDS, ids=lambda p: p or "home")
def test_axe_finds_nothing_serious(path: str, scheme: str, visit: New) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    there = visit(scheme=scheme)
    page = there.go(path)
    page.wait_for_timeout(500)  # the site's script makes long programs reachable
    assert not there.elsewhere, f"asked of other hosts: {there.elsewhere}"
    found = axe.Axe().run(page).response["violations"]
    serious = [
        f"{v['id']} ({v['impact']}): {v['help']}: {[n['html'][:160] for n in v['nodes'][:3]]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert not serious, "\n".join(serious)


def test_axe_finds_a_planted_fault(visit: New) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visit().go("")
    page.evaluate(
        "document.querySelector('article').insertAdjacentHTML('beforeend', '<button></button>')"
    )
    found = {v["id"] for v in axe.Axe().run(page).response["violations"]}
    assert "button-name" in found


def copied(page: "Page", block: "Locator") -> str:
    """What the clipboard holds after a click on a block's copy button."""
    page.evaluate("navigator.clipboard.writeText('')")
    block.locator(".md-code__button").click(timeout=10_000)
    page.wait_for_function(
        "navigator.clipboard.readText().then(t => t.length > 0)", timeout=5000
    )
    return str(page.evaluate("navigator.clipboard.readText()"))


@pytest.mark.parametrize("t", ONE_A_CATEGORY, ids=lambda t: t.slug)
def test_what_the_copy_button_copies_prints_what_the_page_shows(
    t: pages.Technique, visit: New, tmp_path: Path
) -> None:
    page = visit().go(t.slug + "/")
    code = copied(page, page.locator(".run .highlight:not(.output)").first)
    shown = page.locator(".run .highlight.output code").first.text_content() or ""
    file = tmp_path / "copied.py"
    file.write_text(code, encoding="utf-8")
    modules = {
        (n.module or "").split(".")[0]
        if isinstance(n, ast.ImportFrom)
        else n.names[0].name.split(".")[0]
        for n in ast.walk(ast.parse(code))
        if isinstance(n, ast.Import | ast.ImportFrom)
    }
    foreign = modules - set(sys.stdlib_module_names) - {"torch", "torchvision"}
    assert not foreign, f"needs more than torch and torchvision: {foreign}"
    hide = "import sys; sys.modules |= dict.fromkeys(['cnn_techniques', 'cnn_lab', 'cnn_site'])"
    run = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            f"{hide}; exec(compile(open({str(file)!r}).read(), 'copied.py', 'exec'), {{'__name__': '__main__'}})",
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert unlike(run.stdout, shown) == ""


def test_a_copied_command_has_no_prompt(visit: New) -> None:
    page = visit().go("lab/train/")
    block = page.locator(".language-console.highlight").first
    assert (block.locator("code").text_content() or "").startswith("$ cnn-lab train")
    assert copied(page, block).startswith("cnn-lab train LeNet5 --epochs 4")
    assert "$" not in copied(page, block)


def test_bibtex_of_page_and_paper_is_copied_with_one_click(visit: New) -> None:
    t = next(t for t in TECHNIQUES if t.slug == "attention/squeeze-and-excitation")
    page = visit().go(t.slug + "/")
    blocks = page.locator(".cite .highlight")
    entries = [copied(page, blocks.nth(n)) for n in range(blocks.count())]
    assert re.match(r"@misc\{cnn-techniques-squeeze-and-excitation,", entries[0])
    assert "Deyaa" in entries[0]
    assert any(re.match(r"@\w+\{hu2018squeeze,", e) for e in entries[1:])
    for entry in entries:
        assert entry.count("{") == entry.count("}")


def rows(page: "Page") -> list[str]:
    return page.eval_on_selector_all(
        ".cat-table tbody tr:not([hidden]) th", "all => all.map(e => e.textContent)"
    )


def test_the_catalogue_filters_sorts_and_remembers(visit: New) -> None:
    there = visit()
    page = there.go("catalogue/")
    everything = rows(page)
    assert len(everything) == len(pages.techniques())
    page.fill(".cat [name=q]", "squeeze")
    assert any("Squeeze-and-Excitation" in r for r in rows(page))
    assert len(rows(page)) < 10
    assert (
        page.locator(".cat-count").text_content()
        == f"{len(rows(page))} of {len(everything)} techniques"
    )
    page.fill(".cat [name=q]", "no technique has this name")
    assert rows(page) == []
    page.click(".cat-none button")
    assert rows(page) == everything
    page.click(".chips label:has([value=attention])")
    assert len(rows(page)) == len(pages.in_category("attention"))
    page.click("[data-sort='2']")
    years = page.eval_on_selector_all(
        ".cat-table tbody tr:not([hidden]) .c-year", "all => all.map(e => e.dataset.v)"
    )
    known = [int(y) for y in years if y]
    assert known == sorted(known, reverse=True)
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    assert "category=attention" in page.url
    again = there.go("catalogue/" + page.url.partition("catalogue/")[2])
    again.reload()
    assert len(rows(again)) == len(pages.in_category("attention"))


def test_a_table_of_networks_sorts_by_any_column_and_back(visit: New) -> None:
    page = visit().go("networks/")
    table = page.locator(".sorts").first
    names = "rows => rows.map(r => r.cells[0].textContent)"
    before = table.locator("tbody tr").evaluate_all(names)
    button = table.get_by_role("button", name="Parameters")
    button.click()
    values = "rows => rows.map(r => +r.cells[1].dataset.v)"
    sizes = table.locator("tbody tr").evaluate_all(values)
    assert sizes == sorted(sizes, reverse=True)
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    button.click()
    assert table.locator("tbody tr").evaluate_all(values) == sizes[::-1]
    button.click()
    assert table.locator("tbody tr").evaluate_all(names) == before
    table.get_by_role("button", name="Top-1").last.click()
    last = table.locator("tbody tr").last
    assert last.locator("td").last.text_content() == "–"  # no value: at the end


def test_search_opens_from_the_home_page_and_finds_a_technique(visit: New) -> None:
    page = visit().go("")
    page.click(".ask")
    page.keyboard.type("squeeze and excitation", delay=5)
    first = page.locator(".md-search-result__link").first
    first.wait_for(timeout=15000)
    assert "squeeze-and-excitation" in (first.get_attribute("href") or "")


def test_the_404_page_helps(visit: New) -> None:
    page = visit().go("attention/squeeze-excitation/")
    assert page.locator("[data-guess]").text_content() == "squeeze excitation"
    names = page.locator(".lost a").all_text_contents()
    assert {"Catalogue", "Attention", "Home"} <= set(names)


def test_answers_are_folded_and_hidden_in_print(visit: New) -> None:
    page = visit().go("attention/squeeze-and-excitation/")
    answer = page.locator(".exercises details").first
    assert answer.get_attribute("open") is None
    page.emulate_media(media="print")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert answer.locator("pre").first.evaluate(
        "e => getComputedStyle(e).visibility"
    ) in ("hidden",)
    assert (
        page.locator(".md-header").evaluate("e => getComputedStyle(e).display")
        == "none"
    )


def test_answers_are_printed_on_a_sheet_of_their_own(visit: New) -> None:
    page = visit().go("attention/squeeze-and-excitation/")
    page.emulate_media(media="print")
    sheet = page.locator(".answers")
    assert sheet.count() == 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert sheet.is_visible() and not page.locator(".exercises pre").first.is_visible()
    assert sheet.evaluate("e => getComputedStyle(e).breakBefore") == "page"
    assert sheet.evaluate("e => e === e.parentNode.lastElementChild")
    assert sheet.locator("strong").all_text_contents() == ["1.", "2."]
    for number, output in (("1.", "33312"), ("2.", "0.000 0.4923")):
        assert output in (sheet.text_content() or "").partition(number)[2]
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert sheet.count() == 1
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert sheet.count() == 0


@pytest.mark.parametrize("path", ["modern/resnet/", "detection/retinanet/"])
def test_a_printed_page_ends_in_its_answers(path: str, visit: New) -> None:
    page = visit().go(path)
    page.evaluate(
        "addEventListener('beforeprint', () => document.body.dataset.n = document.querySelectorAll('.answers pre').length)"
    )
    blocks = page.locator(".exercises details pre").count()
    assert page.pdf()[:5] == b"%PDF-"
    assert page.locator("body").get_attribute("data-n") == str(blocks) != "0"
    assert page.locator(".answers").count() == 0


def test_a_term_shows_its_meaning_to_the_keyboard_and_to_a_finger(visit: New) -> None:
    page = visit(390).go("attention/squeeze-and-excitation/")
    term = page.locator("a.term").first
    says = "e => getComputedStyle(e, '::after').content"
    assert term.evaluate(says) == "none"
    before = page.evaluate("document.documentElement.scrollWidth")
    page.keyboard.press("Tab")  # the focus is shown to who uses the keyboard
    term.focus()
    assert (term.get_attribute("aria-description") or "?") in term.evaluate(says)
    assert page.evaluate("document.documentElement.scrollWidth") == before
    term.evaluate("e => e.blur()")
    touch = "e => e.dispatchEvent(new PointerEvent('click', {bubbles: true, cancelable: true, pointerType: 'touch'}))"
    assert term.evaluate(touch) is False, "the first tap goes nowhere"
    assert (term.get_attribute("aria-description") or "?") in term.evaluate(says)
    page.locator("h1").click()
    assert term.evaluate(says) == "none"


def test_the_sign_of_an_address_is_seen_at_the_focus(visit: New) -> None:
    page = visit().go("attention/squeeze-and-excitation/")
    sign = page.locator("figure > a.to").first
    page.mouse.move(0, 0)
    assert sign.evaluate("e => getComputedStyle(e).opacity") == "0"
    page.keyboard.press("Tab")
    sign.focus()
    assert sign.evaluate("e => getComputedStyle(e).opacity") == "1"
    sign.press("Enter")
    assert page.url.endswith("#fig-squeeze-and-excitation")
