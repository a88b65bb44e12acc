"""What a reader's browser does with the built site: requests, copying, accessibility, small screens, the catalogue."""

import ast
import io
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnn_site import BESIDE, CATEGORIES, ROOT, pages
from cnn_site.directives import copy_block
from cnn_site.runner import unlike

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

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
        elif relative.parts[0] in ("api", "tutorials", *BESIDE):
            kind = relative.parts[0]
        else:
            kind = "category" if relative.name == "index.md" else "technique"
            if kind == "technique" and relative.stem not in (
                "squeeze-and-excitation",
                "retinanet",
                "cosine-annealing",
                "mixup",
            ):
                continue
            kind += relative.stem
        if kind not in seen:
            seen.add(kind)
            yield page_address(source)
    yield "no/such-page/"


KINDS = list(kinds())
# The least that must do, 1440 px at a zoom of 200 %, the least with tabs in the header, a desktop, the largest; every
# page is tried at 390 besides.
WIDTHS = (320, 720, 1220, 1440, 2560)
SCHEMES = ("light", "dark")

# What is cut off at the right, or breaks where it must not; what scrolls by itself is left out.
MISFITS = """() => {
  const width = innerWidth, found = [];
  const over = document.documentElement.scrollWidth - width;
  if (over > 0) found.push(`the page is ${over} px wider than the window`);
  const scrolls = "pre, .scroll, svg, .md-typeset__scrollwrap, math, div.arithmatex, .chips, .jp-OutputArea, .arcs li";
  const says = e => `${e.tagName}.${e.className}: ${e.textContent.trim().replace(/\\s+/g, " ").slice(0, 50)}`;
  for (const e of document.querySelectorAll("article *, .md-header__inner > *, .md-footer *"))
    if (e.getBoundingClientRect().right > width + 1 && !e.closest(scrolls))
      found.push(`ends at ${Math.round(e.getBoundingClientRect().right)}: ${says(e)}`);
  for (const e of document.querySelectorAll("article time, article span.arithmatex, article .eqno"))
    if (new Set([...e.getClientRects()].map(r => Math.round(r.top))).size > 1) found.push(`broken: ${says(e)}`);
  for (const e of document.querySelectorAll("article .eqno")) {
    const own = e.getBoundingClientRect(), math = e.previousElementSibling.getBoundingClientRect();
    if (own.width && own.top > math.bottom) found.push(`below its equation: ${says(e)}`);
  }
  const search = document.querySelector("#__search");
  search.checked = true;
  for (const e of document.querySelectorAll(".md-search__inner, .md-search__output, .md-search__options button")) {
    const { left, right } = e.getBoundingClientRect();
    if (left < 0 || right > width) found.push(`search panel from ${left} to ${right}: .${e.className}`);
  }
  search.checked = false;
  return found.slice(0, 8);
}"""


def at(page: "Page", width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})


def show(page: "Page", scheme: str) -> None:
    """Switches the scheme as the button in the header does, without loading the page again."""
    name = {"light": "default", "dark": "slate"}[scheme]
    page.evaluate(
        f"document.querySelector('[data-palette] [data-md-color-scheme={name}]').click()"
    )
    page.wait_for_function(
        f"document.body.dataset.mdColorScheme === '{name}'", timeout=5000
    )


@pytest.mark.parametrize("path", KINDS, ids=lambda p: p or "home")
def test_every_kind_of_page_fits_every_window(path: str, visit: New) -> None:
    page = visit().go(path)
    found = []
    for width in WIDTHS:
        at(page, width)
        found += [f"{width} px: {m}" for m in page.evaluate(MISFITS)]
    show(page, "dark")
    found += [f"{width} px, dark: {m}" for m in page.evaluate(MISFITS)]
    assert not found, "\n".join(found)


def test_a_page_that_does_not_fit_would_be_seen(visit: New) -> None:
    page = visit(width=390).go("attention/squeeze-and-excitation/")
    assert page.evaluate(MISFITS) == []
    page.evaluate(
        """() => {
          document.querySelector("article").insertAdjacentHTML("beforeend",
            "<p style='width:500px'>wide</p><p><span class='arithmatex' style='white-space:normal'>" + "x ".repeat(99)
            + "</span></p>");
          document.head.insertAdjacentHTML("beforeend", "<style>.md-search__inner{left:9px!important}</style>");
        }"""
    )
    found = "\n".join(page.evaluate(MISFITS))
    for part in ("wider than the window", "ends at", "broken", "search panel"):
        assert part in found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_message_after_copying_can_be_read(scheme: str, visit: New) -> None:
    page = visit(scheme=scheme).go("attention/squeeze-and-excitation/")
    copied(page, page.locator(".run .highlight:not(.output)").first)
    contrast = page.evaluate(
        """() => {
          const inner = document.querySelector(".md-dialog__inner");
          const light = colour => {
            const c = document.createElement("canvas").getContext("2d");
            c.fillStyle = colour; c.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...c.getImageData(0, 0, 1, 1).data].map(
              v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b + .05;
          };
          const box = getComputedStyle(inner.closest(".md-dialog")).backgroundColor;
          const [a, b] = [light(getComputedStyle(inner).color), light(box)];
          return Math.max(a, b) / Math.min(a, b);
        }"""
    )
    assert contrast > 4.5


def test_a_dot_of_the_graph_stands_beside_its_row(visit: New) -> None:
    page = visit().go("reading-orders/")
    for width in WIDTHS:
        at(page, width)
        off = page.evaluate(
            """() => {
              const middle = e => { const r = e.getBoundingClientRect(); return r.top + r.height / 2; };
              const rows = [...document.querySelectorAll(".arcs li")], dots = document.querySelectorAll(".arcs circle");
              return rows.length == dots.length && Math.max(...rows.map((row, n) => Math.abs(middle(row) - middle(dots[n]))));
            }"""
        )
        assert off is not False
        assert off < 2, f"{width} px: a dot is {off} px away from its row"


@pytest.mark.parametrize("name", ["attention/squeeze-and-excitation", "modern/resnet"])
def test_an_equation_has_its_lines_beside_it_where_there_is_room(
    name: str, visit: New
) -> None:
    page = visit().go(f"{name}/")
    beside = """() => [...document.querySelectorAll(".eqcode > div")].map(row => {
      const [eq, code] = [...row.children].map(e => e.getBoundingClientRect());
      return code.left >= eq.right - 1 && code.top < eq.bottom;
    })"""
    assert set(page.evaluate(beside)) == {True}
    at(page, 390)
    assert set(page.evaluate(beside)) == {False}


@pytest.mark.parametrize(
    "name", ["modern/resnext", "evaluation/model-cost", "training/step-decay"]
)
def test_lines_stand_below_their_equation_only_where_both_are_too_wide(
    name: str, visit: New
) -> None:
    page = visit().go(f"{name}/")
    # A formula needs its number and the gap to the lines too, and its name 7rem.
    spare = """() => [...document.querySelectorAll(".eqcode > div")].map(row => {
      const wide = e => { const r = document.createRange(); r.selectNodeContents(e); return r.getBoundingClientRect().width; };
      const [eq, code] = row.children, sizes = e => e.getBoundingClientRect();
      if (sizes(code).left >= sizes(eq).right - 1) return null;
      const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
      const formula = Math.max(7 * rem, ...[...eq.querySelectorAll(".arithmatex:is(div)")].map(wide));
      return sizes(row).width - formula - wide(code.querySelector("pre > code")) - 1.6 * rem;
    }).filter(left => left !== null)"""
    for width in (1024, 1280, 1920):
        at(page, width)
        found = page.evaluate(spare)
        assert not found or max(found) < 1, f"{width} px: {max(found)} px to spare"


def test_a_long_program_is_open_and_folds_what_it_borrows(visit: New) -> None:
    page = visit().go("detection/retinanet/")
    code, lines = page.locator(".run pre > code").first, page.locator(".run .ln")
    block = copy_block(pages.technique("detection/retinanet")).code
    count = block.count("\n")
    assert lines.count() == count
    folded = page.locator(".folded .ln").first
    assert not folded.is_visible()
    assert lines.last.is_visible()
    assert code.evaluate("e => e.scrollHeight - e.clientHeight") <= 0
    assert (code.text_content() or "") == block
    page.evaluate("id => { location.hash = id }", folded.get_attribute("id"))
    folded.wait_for(state="visible", timeout=5000)
    assert folded.evaluate("e => Math.abs(e.getBoundingClientRect().top)") < 900
    page.evaluate("location.hash = ''")
    page.locator(".all").first.click()
    assert page.locator(".run .ln:visible").count() == count
    assert page.locator(".run .fold:visible").count() == 0


def test_a_line_of_a_program_has_an_address(visit: New) -> None:
    page = visit().go("attention/squeeze-and-excitation/")
    page.locator("#L12").click()
    assert page.url.endswith("/attention/squeeze-and-excitation/#L12")
    # The theme may put the page in anew after the click: asked until it is there.
    number = "getComputedStyle(document.querySelector('#L12'), '::before').content"
    page.wait_for_function(f"""{number} === '"12"'""")
    assert page.locator("#L12").evaluate("e => e.innerText") == ""


def test_figures_of_the_lab_follow_the_dark_scheme(visit: New) -> None:
    there = visit(scheme="dark")
    page = there.go("lab/evaluate-and-export/")
    image = pytest.importorskip("PIL.Image")
    shot = page.locator("article img").first.screenshot()
    ground = image.open(io.BytesIO(shot)).convert("L").getpixel((3, 3))
    assert ground < 60, f"the ground of the figure has the brightness {ground} of 255"
    page = there.go("lab/compare/")
    assert page.locator("figure svg.fig").count() == 1
    assert page.locator("article img").count() == 0


def shows(pdf: bytes) -> list[int]:
    """How many runs of letters each page of Chromium's PDF shows."""
    objects = dict(re.findall(rb"\n(\d+) 0 obj\n(.*?)endobj", pdf, re.S))
    found = []
    for body in objects.values():
        if re.search(rb"/Type\s*/Page\b", body):
            content = objects[re.search(rb"/Contents (\d+) 0 R", body)[1]]  # type: ignore[index]
            head = re.search(rb"/Length (\d+).*?stream\r?\n", content, re.S)
            assert head
            stream = content[head.end() :][: int(head[1])]  # may end in \r or \n itself
            found.append(len(re.findall(rb"T[jJ]\b", zlib.decompress(stream))))
    return found


def test_no_printed_page_is_blank(visit: New) -> None:
    page = visit().go("attention/squeeze-and-excitation/")
    sheets = shows(page.pdf(prefer_css_page_size=True))
    assert len(sheets) > 3
    assert min(sheets) > 50, sheets
    page.evaluate("document.querySelector('article').style.paddingBottom = '1200px'")
    assert min(shows(page.pdf(prefer_css_page_size=True))) < 50, "a blank one is seen"


@pytest.mark.parametrize("path", ALL, ids=lambda p: p or "home")
def test_no_request_leaves_the_host_and_everything_fits_a_phone(
    path: str, visit: New
) -> None:
    there = visit(width=390)
    page = there.go(path)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(100)
    assert there.asked, "nothing was loaded"
    assert not there.elsewhere, f"asked of other hosts: {there.elsewhere}"
    assert not there.errors, f"errors in scripts: {there.errors}"
    assert not (found := page.evaluate(MISFITS)), "\n".join(found)


def test_a_request_that_leaves_the_host_would_be_seen(visit: New) -> None:
    there = visit()
    page = there.go("")
    page.evaluate("fetch('https://example.org/x.js').catch(() => 0)")
    page.wait_for_timeout(100)
    assert there.elsewhere == ["https://example.org/x.js"]


@pytest.mark.parametrize("path", KINDS, ids=lambda p: p or "home")
def test_axe_finds_nothing_serious(path: str, visit: New) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    there = visit()
    page = there.go(path)
    page.wait_for_timeout(300)  # the theme makes what scrolls reachable by keyboard
    assert not there.elsewhere, f"asked of other hosts: {there.elsewhere}"
    serious = []
    for scheme in SCHEMES:
        show(page, scheme)
        serious += [
            f"{scheme}: {v['id']} ({v['impact']}): {v['help']}: {[n['html'][:160] for n in v['nodes'][:3]]}"
            for v in axe.Axe().run(page).response["violations"]
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
    block.locator(".md-code__button").click(timeout=30_000)
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
    with again.expect_request(
        "**/catalogue/"
    ):  # the theme loads a page anew at its first anchor
        again.evaluate("location.hash = '#catalogue'")
    again.wait_for_timeout(500)
    assert len(rows(again)) == len(pages.in_category("attention")), (
        "an anchor is no filter"
    )


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


def test_the_404_page_searches_for_the_last_word_of_the_address(visit: New) -> None:
    page = visit().go("attention/squeeze-excitation/")
    page.click("[data-guess]")
    page.wait_for_url("**/?q=squeeze%20excitation")
    page.wait_for_function("document.querySelector('#__search').checked", timeout=15000)
    query = page.locator("[data-md-component=search-query]")
    assert query.input_value() == "squeeze excitation"


def test_cards_say_how_many_techniques_there_are(visit: New) -> None:
    there = visit()
    page = there.go("")
    for category in CATEGORIES:
        n = len(pages.in_category(category))
        card = page.locator(f".card:has(h3 a[href$='/{category}/']) .n")
        assert card.text_content() == f"{n} techniques"


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
    page.locator(
        "h1"
    ).click()  # which scrolls the term out of sight: then it may have no ::after at all, and "" for it
    assert term.evaluate(says) in {"none", ""}


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


# Nothing moves while a page loads, even when its fonts and scripts come after the first paint.
MOST_SHIFT = 0.02  # of the score of Web Vitals, where 0.1 still counts as good

SHIFTS = """() => {
  window.shifts = [];
  const says = s => `${s.node?.nodeName}.${s.node?.className ?? ""} from ${s.previousRect.top} to ${s.currentRect.top}`;
  new PerformanceObserver(list => {
    for (const e of list.getEntries()) shifts.push([e.value, e.sources.map(says)]);
  }).observe({ type: "layout-shift", buffered: true });
}"""


def shifts(visit: New, path: str) -> list[tuple[float, list[str]]]:
    """What moved, when fonts and scripts are held back until something is painted."""
    visitor = visit(390)
    page, painted = visitor.page, "first-contentful-paint"
    held: list[Route] = []
    page.add_init_script(f"({SHIFTS})()")
    page.route("**/*.{woff2,js}", lambda route: held.append(route))
    page.goto(visitor.address + path, wait_until="commit")
    page.wait_for_function(f"performance.getEntriesByName('{painted}').length")
    page.wait_for_timeout(200)  # ms: longer than a browser waits for a font
    page.unroute("**/*.{woff2,js}")
    for route in held:
        route.continue_()
    assert {r.request.resource_type for r in held} == {"font", "script"}
    page.wait_for_load_state("load")
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(300)
    return page.evaluate("shifts")


@pytest.mark.parametrize("path", KINDS, ids=lambda p: p or "home")
def test_nothing_moves_while_a_page_loads(path: str, visit: New) -> None:
    seen = shifts(visit, path)
    assert sum(value for value, _ in seen) < MOST_SHIFT, seen


def test_the_chosen_scheme_is_there_before_the_scripts(visit: New) -> None:
    visitor = visit(390, "dark")
    visitor.page.route("**/*.js", lambda route: route.abort())
    page = visitor.go("conventions/")
    scheme = "document.body.dataset.mdColorScheme"
    assert page.evaluate(scheme) == "slate"
    page.locator("[data-palette] label:visible").click()
    assert page.evaluate(scheme) == "default"
    page.reload()
    assert page.evaluate(scheme) == "default"
    page.locator("[data-palette] input:checked").press("Enter")
    assert page.evaluate(scheme) == "slate"
    assert page.locator("[data-palette] label:visible").count() == 1
