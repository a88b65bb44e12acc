"""What the built pages show is what was run: a second net under the page runner, on the HTML itself."""

import functools
import json
import re
import runpy
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lxml import html

from cnn_lab.options import OF_TRANSFER, OPTIONS
from cnn_site import ROOT, pages, snake
from cnn_site.directives import copy_block
from cnn_site.directives.numbers import resolve
from cnn_site.fences import MODULES, PYTHON, page_blocks

TECHNIQUES = [t for t in pages.techniques() if t.facts]
MARKDOWN = pages.written()
ANCHORS = (
    "what-it-solves",
    "copy-and-run",
    "held-against",
    "see-also",
    "corrections",
    "cite",
)
CODE = ("pre", "code", "script", "style", "math")
HOSTS = re.compile(
    r"<(?:script|link|img|iframe|source)[^>]+(?:src|href)=[\"'](?:https?:)?//([^/\"']+)",
    re.I,
)


def built(folder: Path, page: Path) -> Path:
    relative = page.relative_to(ROOT / "docs").with_suffix("")
    return (
        folder
        / (relative.parent if relative.name == "index" else relative)
        / "index.html"
    )


SIGN = "self::mi or self::mo or self::mn or self::mtext"


@dataclass(frozen=True)
class Seen:
    """What the tests ask of a built page; its tree, megabytes of it, is parsed once and not kept."""

    blocks: Counter[str]  # of Python, as shown
    text: str  # of the article, without code and equations
    unhighlighted: int  # `pre` elements outside a highlighted block
    ids: list[str]
    displays: int  # equations on lines of their own
    signs: set[str]  # characters in formulas
    torn: list[str]  # punctuation that may leave the formula before it
    meta: dict[str, str]
    linked: list[dict[str, Any]]  # JSON-LD
    cite: str
    folded: list[str]  # titles of `details` that hold no source code
    hosts: list[str]  # that the page takes a resource from
    addressed: list[str]  # tables, figures and numbers with an id and a link to it
    lost: list[str]  # those without
    records: list[tuple[str, str]]  # (address, path in the record) of numbers


@functools.cache
def seen(path: Path) -> Seen:
    source = path.read_text(encoding="utf-8")
    own = re.sub(r"<link[^>]+rel=[\"']?(?:canonical|prev|next|edit)[^>]*>", "", source)
    root = html.fromstring(source)
    article = root.cssselect("article")[0]
    linked = root.cssselect('head script[type="application/ld+json"]')
    cite = root.cssselect(".cite")
    folded = article.cssselect("details:not(.mkdocstrings-source)")
    things = article.cssselect("table, figure, span.kind")
    links = {
        a.get("href").removeprefix("#")
        for a in article.cssselect("a.to[aria-label]")
        if not a.text_content()
    }
    outside = "not(ancestor::div[contains(@class, 'highlight')])"
    code = "|".join(f"ancestor::{tag}" for tag in CODE)
    return Seen(
        blocks=shown(article),
        text="".join(article.xpath(f".//text()[not({code})]")),
        unhighlighted=len(article.xpath(f".//pre[{outside}]")),
        ids=article.xpath(".//@id"),
        displays=len(article.xpath(".//math[@display='block']")),
        signs={c for m in article.xpath(f".//math//*[{SIGN}]/text()") for c in m},
        torn=[
            e.tail[:9]
            for e in article.cssselect("span.arithmatex")
            if re.match(r"[,.;:!?)\]]", e.tail or "")
        ],
        meta={m.get("name"): m.get("content") for m in root.cssselect("meta[name]")},
        linked=[json.loads(s.text) for s in linked],
        cite=cite[0].text_content() if cite else "",
        folded=[d.text_content().strip()[:60] for d in folded],
        hosts=HOSTS.findall(own),
        addressed=[e.get("id") for e in things if e.get("id") in links],
        lost=[
            html.tostring(e, encoding="unicode")[:120]
            for e in things
            if e.get("id") not in links
        ],
        records=[
            (a.get("href"), re.split(": |, ", a.get("title"))[1])
            for a in article.cssselect(".kind[id] > a[title]")
        ],
    )


def shown(article: html.HtmlElement) -> Counter[str]:
    """The Python blocks of an article."""
    found: Counter[str] = Counter()
    for block in article.cssselect("div.highlight"):
        language = {c.removeprefix("language-") for c in block.get("class").split()}
        pre = block.cssselect("pre > code")
        source = block.xpath(
            "ancestor::details[contains(@class, 'mkdocstrings-source')]"
        )
        in_api = block.xpath("ancestor::div[contains(@class, 'doc')]")
        if language & PYTHON and pre and not source and not in_api:
            found[pre[0].text_content().rstrip("\n")] += 1
    return found


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_built_page_shows_the_blocks_that_are_run_and_no_others(
    page: Path, built_site: Path
) -> None:
    known = Counter(b.code.rstrip("\n") for b in page_blocks(page) if b.is_python)
    there = seen(built(built_site, page)).blocks
    extra, lost = list((there - known).elements()), list((known - there).elements())
    assert not extra, (
        f"{page.relative_to(ROOT)}: shown, but never run:\n" + "\n---\n".join(extra)
    )
    assert not lost, (
        f"{page.relative_to(ROOT)}: run, but shown otherwise:\n" + "\n---\n".join(lost)
    )


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_built_page_has_no_leftovers_of_markdown(
    page: Path, built_site: Path
) -> None:
    there = seen(built(built_site, page))
    for leftover in ("```", "--8<--", "[[", "]]", "{ .", "{.", "$$", "\\("):
        assert leftover not in there.text, (
            f"{page.relative_to(ROOT)}: shows {leftover!r}"
        )
    assert not there.unhighlighted, (
        f"{page.relative_to(ROOT)}: has indented code; use a fence"
    )


@pytest.mark.parametrize("t", TECHNIQUES, ids=lambda t: t.slug)
def test_sections_and_equations_keep_their_addresses(
    t: pages.Technique, built_site: Path
) -> None:
    there = seen(built(built_site, t.path))
    ids = there.ids
    missing = [a for a in ANCHORS if a not in ids]
    assert not missing, f"docs/{t.slug}.md: the built page lacks the anchors {missing}"
    equations = [i for i in ids if i and re.fullmatch(r"eq-\d+", i)]
    assert equations == [f"eq-{n}" for n in range(1, len(equations) + 1)]
    assert not there.torn, f"docs/{t.slug}.md: torn from a formula: {there.torn}"
    assert there.displays == len(equations), (
        f"docs/{t.slug}.md: a display equation without a number"
    )
    assert len(ids) == len(set(ids)), (
        f"docs/{t.slug}.md: ids stand twice: {[i for i in ids if ids.count(i) > 1]}"
    )


@pytest.mark.parametrize("t", TECHNIQUES, ids=lambda t: t.slug)
def test_tables_figures_and_numbers_have_an_address(
    t: pages.Technique, built_site: Path
) -> None:
    there = seen(built(built_site, t.path))
    assert not there.lost, f"docs/{t.slug}.md: no id, or no link to it: {there.lost}"
    assert len(there.addressed) == len(set(there.addressed))
    assert f"fig-{t.slug.split('/')[1]}" in there.addressed or not re.search(
        rf"\]\(\.\./figures/{t.slug}\.svg\)", t.path.read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("t", TECHNIQUES, ids=lambda t: t.slug)
def test_a_number_in_the_text_leads_to_its_record(
    t: pages.Technique, built_site: Path
) -> None:
    page = built(built_site, t.path)
    for address, path in seen(page).records:
        file = (page.parent / address).resolve()
        names = path.split(".")
        if file.suffix == ".csv":
            assert f",{names[1]},{names[2]}," in file.read_text(encoding="utf-8")
            continue
        record = json.loads(file.read_text(encoding="utf-8"))
        result = record.get("measured", {}).get(names[0], {})
        tables = (
            record.get("computed", {}),
            {
                names[0]: {
                    **result.get("result", {}),
                    "arguments": result.get("arguments"),
                }
            },
        )
        table = tables[0] if names[0] in tables[0] else tables[1]
        assert resolve(table, names) is not None, f"{address}: {path}"


@pytest.mark.parametrize("t", TECHNIQUES, ids=lambda t: t.slug)
def test_a_page_can_be_cited(t: pages.Technique, built_site: Path) -> None:
    there = seen(built(built_site, t.path))
    meta, cite = there.meta, there.cite
    assert meta["citation_title"] == t.title
    assert (
        meta["citation_author"]
        and meta["citation_publication_date"]
        and meta["citation_public_url"]
    )
    assert [d["headline"] for d in there.linked] == [t.title]
    assert f"cnn-techniques-{t.slug.split('/')[1]}" in cite
    assert "not for citing" in cite, "a build without a release says so"
    for key in t.keys:
        assert key in cite


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_page_names_another_host_as_a_resource(page: Path, built_site: Path) -> None:
    assert seen(built(built_site, page)).hosts == []


def test_a_page_says_which_option_of_the_lab_it_is_and_the_lab_names_the_page(
    built_site: Path,
) -> None:
    lab = html.parse(built_site / "lab/train/index.html").getroot()
    named = {a.get("href", "").strip("./") for a in lab.cssselect("table a")}
    for t in [t for t in TECHNIQUES if t.category in ("training", "optimization")]:
        root = html.parse(built(built_site, t.path)).getroot()
        facts = root.cssselect("dl.facts")[0]
        told = [dd for dd in facts.cssselect("dd") if "cnn-lab" in dd.text_content()]
        words = [" ".join(dd.text_content().split()) for dd in told]
        if t.slug not in OPTIONS:
            assert not told, t.slug
            continue
        kind, anchor = ("train", "options")
        if t.slug in OF_TRANSFER:  # on random weights these would freeze noise
            kind, anchor = ("transfer", "strategies")
        assert words == [f"cnn-lab {kind} {OPTIONS[t.slug]}"]
        assert told[0].cssselect("a")[0].get("href") == f"../../lab/{kind}/#{anchor}"
        assert t.slug in named


def test_the_site_has_its_files_for_machines(built_site: Path) -> None:
    for name in (
        "catalogue.json",
        "llms.txt",
        "sitemap.xml",
        "404.html",
        "references.bib",
    ):
        assert (built_site / name).exists(), f"{name} is missing"
    for t in TECHNIQUES:
        assert (built_site / f"evidence/{t.slug}.json").exists()


@pytest.mark.parametrize("t", TECHNIQUES, ids=lambda t: t.slug)
def test_files_to_take_away_are_there(t: pages.Technique, built_site: Path) -> None:
    page = built(built_site, t.path)
    root = html.parse(str(page)).getroot()
    files = [a.get("href") for a in root.cssselect(".files a[download]")]
    # a program that a command starts is no notebook
    notebook = [] if copy_block(t).is_file else ["ipynb"]
    endings = [name.partition(".")[2] for name in files]
    assert endings == ["py", *notebook, "bib", "ris", "csl.json"]
    for name in files:
        assert (page.parent / name).stat().st_size > 100, name


def test_the_search_index_leaves_the_api_out(built_site: Path) -> None:
    index = json.loads(
        (built_site / "search/search_index.json").read_text(encoding="utf-8")
    )
    assert not [
        d["location"] for d in index["docs"] if d["location"].startswith("api/")
    ]


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs/api").glob("*.md")), ids=lambda p: p.stem
)
def test_an_api_page_folds_nothing_but_source_code(
    page: Path, built_site: Path
) -> None:
    """`Word: text` above an indented line is a section to griffe, which folds it."""
    titles = seen(built(built_site, page)).folded
    assert not titles, (
        f"{page.relative_to(ROOT)}: folded: {titles}; do not indent the line after it"
    )


FOLDING = [t for t in TECHNIQUES if set(t.builds_on) & {u.slug for u in TECHNIQUES}]


@pytest.mark.parametrize("t", FOLDING, ids=lambda t: t.slug)
def test_included_modules_are_folded_and_the_technique_itself_is_not(
    t: pages.Technique, built_site: Path
) -> None:
    """Folded lines are of other techniques' files, and every such module of eight lines or more is folded."""
    block = copy_block(t)
    own = MODULES / f"{snake(t.slug)}.py"
    root = html.parse(str(built(built_site, t.path))).getroot()
    lines = block.code.split("\n")
    expected = [
        "\n".join(lines[first:last]).strip("\n")
        for first, last, _ in block.included(own)
        if last - first >= 8
    ]
    assert [
        e.text_content().strip("\n") for e in root.cssselect("pre .folded")
    ] == expected
    for label in root.cssselect("label.fold"):
        assert label.getnext().get("class") == "folded"
        assert not label.text_content(), "what the label says would be copied"
        assert label.cssselect("input[type=checkbox][aria-label]")


@functools.cache
def math_font() -> set[str]:
    """The characters that the site's math font was cut to."""
    found: set[str] = runpy.run_path(str(ROOT / ".ci" / "math_font.py"))["KEPT"]
    return found


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_math_font_has_what_the_formulas_need(page: Path, built_site: Path) -> None:
    lacking = seen(built(built_site, page)).signs - math_font() - set(" \n")
    assert not lacking, f"{sorted(lacking)}: add to .ci/math_font.py and cut again"
