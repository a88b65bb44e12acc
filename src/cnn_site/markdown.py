"""Markdown extension: what pages show of front matter, records, catalogue and bibliography.

A directive is a paragraph `[[name arguments]]`, with settings in YAML on the lines below it:

    [[technique attention/squeeze-and-excitation]]      facts and stamp; names the page for the directives after it
    [[needs]]                                           above the copy-and-run block: what must be installed
    [[ran]]                                             below the copy-and-run block
    [[numbers cost]]                                    a table of the record; columns as a YAML list
    [[equivalence]]  [[corrections]]  [[cite]]
    [[catalogue]]  [[cards]]  [[category attention]]  ... (every function of `directives` below)

In a sentence `[[=cost.resnet50.params/1e6:.2f]]` is a number of the page's record, marked with its kind.
"""

import html
import logging
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import yaml
from markdown import Extension, Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.inlinepatterns import InlineProcessor
from markdown.postprocessors import Postprocessor
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor
from markdown.util import AtomicString
from pymdownx.snippets import SnippetMissingError

from . import ROOT, directives, pages, snake
from .anchors import Anchors, figure_id, link
from .fences import MODULES
from .glossary import Glossary
from .mathml import MathTree
from .pages import SafeLoader, SiteError

DIRECTIVE = re.compile(r"^\[\[([a-z]+)((?: [^\]\n]+)?)\]\][ ]*(?:\n(.*))?$", re.S)
INLINE = r"\[\[=([^\]\n]+)\]\]"
CODE = re.compile(r"<code[ >].*?</code>", re.S)
PLAIN = re.compile(r'<span class="[nwpo]">([^<]*)</span>')


class Directives(BlockProcessor):
    """Renders a directive as elements of the tree, so that MkDocs checks and rewrites its links as any others."""

    def __init__(self, md: Markdown, page: directives.Page) -> None:
        super().__init__(md.parser)
        self.page = page

    def test(self, parent: ET.Element, block: str) -> bool:
        return bool(DIRECTIVE.match(block.strip()))

    def run(self, parent: ET.Element, blocks: list[str]) -> None:
        match = DIRECTIVE.match(blocks.pop(0).strip())
        assert match is not None
        name, arguments, settings = match[1], match[2].split(), match[3]
        try:
            values = yaml.load(settings, SafeLoader) if settings else None
            page = parsed(directives.render(self.page, name, arguments, values))
        except (SiteError, yaml.YAMLError, SnippetMissingError) as error:
            page = ET.Element("div")
            page.append(fault(self.page, f"[[{name}{match[2]}]]", error))
        for el in page.iter():
            if el.tag in ("table", "figure"):
                el.set("id", self.page.ids.new(el.tag, name, *arguments))
            if el.tag == "raw":  # code and SVG: kept from the processors that follow
                el.text = self.parser.md.htmlStash.store(el.text or "")
                el.tag = "div"
            elif el.text:
                el.text = AtomicString(el.text)
            if el.tail:
                el.tail = AtomicString(el.tail)
        for el in page:
            parent.append(el)


def fault(page: directives.Page, source: str, error: Exception) -> ET.Element:
    """Says file, line and cure in the log, where a strict build fails, and on the page that is being written."""
    path = find(page, source)
    draft = page.slug and pages.is_draft(ROOT / "docs" / f"{page.slug}.md")
    directives.log.log(
        logging.INFO if draft else logging.WARNING, f"{path}: {source}: {error}"
    )
    el = ET.Element("strong", {"class": "fault"})
    el.text = AtomicString(f"{path}: {error}")
    return el


def find(page: directives.Page, source: str) -> str:
    """`docs/page.md:line` of what stands on the page being rendered, which Markdown does not name."""
    docs = ROOT / "docs"
    page_path = docs / f"{page.slug}.md"
    for path in [page_path] if page_path.exists() else sorted(docs.rglob("*.md")):
        for n, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if source in line:
                return f"{path.relative_to(ROOT)}:{n}"
    return f"docs/{page.slug}.md" if page.slug else "docs"


def parsed(text: str) -> ET.Element:
    try:
        return ET.fromstring(f"<div>{text}</div>")
    except ET.ParseError as error:
        raise SiteError(
            f"template output is not well-formed: {error}\n{text[:2000]}"
        ) from error


class InlineNumber(InlineProcessor):
    """`[[=path:format]]`: a number of the record with the sign of its kind."""

    def __init__(self, md: Markdown, page: directives.Page) -> None:
        super().__init__(INLINE, md)
        self.page = page

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[ET.Element, int, int]:  # type: ignore[override]
        try:
            shown, kind = directives.inline_number(self.page, m[1])
        except (SiteError, ValueError, TypeError) as error:
            return fault(self.page, m[0], error), m.start(0), m.end(0)
        slug, path = directives.place(self.page, m[1])
        el = ET.Element("span", {"class": f"kind {kind}"})
        el.set("id", self.page.ids.new("n", path))
        file = "published.csv" if kind == "published" else f"{slug}.json"
        record = ET.SubElement(el, "a", {"href": f"/evidence/{file}"})
        record.set("title", f"{kind}: {path}, in the record")
        record.text = AtomicString(shown)
        el.append(link(el.get("id", ""), "number"))
        return el, m.start(0), m.end(0)


class Figures(Treeprocessor):
    """`![caption](../figures/CATEGORY/NAME.svg)` alone in a paragraph becomes a figure with the SVG inline."""

    def __init__(self, md: Markdown, page: directives.Page) -> None:
        super().__init__(md)
        self.page = page

    def run(self, root: ET.Element) -> None:
        for p in root.iter("p"):
            src = (
                p[0].get("src", "")
                if len(p) == 1 and p[0].tag == "img" and not (p.text or "").strip()
                else ""
            )
            if "figures/" not in src or not src.endswith(".svg"):
                continue
            path = ROOT / "docs" / "figures" / src.rsplit("figures/", 1)[1]
            if not path.exists():
                error = SiteError(
                    "the file is missing; draw it: python -m cnn_site.figures"
                )
                p.clear()
                p.append(fault(self.page, src.rsplit("/", 1)[1], error))
                continue
            svg = path.read_text(encoding="utf-8").replace(
                "<svg ", "<svg data-search-exclude ", 1
            )
            caption, p.tag, p.text = (
                p[0].get("alt", ""),
                "figure",
                self.md.htmlStash.store(svg),
            )
            p.remove(p[0])
            p.set("id", figure_id(self.page.ids, src))
            ET.SubElement(p, "figcaption").text = AtomicString(caption)


class PlainSpans(Postprocessor):
    """Names, blanks, punctuation and operators of highlighted code without a span each: all in the ink of the code.

    Three in four spans of a page are theirs, and the search plugin, the browser and whoever copies HTML takes in each.
    """

    def run(self, text: str) -> str:
        return CODE.sub(lambda code: PLAIN.sub(r"\1", code[0]), text)


class Unsearched(Postprocessor):
    """What the search plugin leaves out: blocks of code, equations, and the sections that every page has alike.

    On the block's own tag: the plugin's parser tells elements by tag alone, so a `div` inside would end the exclusion.
    A formula that reads as text (`r = 16`) stays.
    """

    BLOCK = re.compile(r'<div class="(?:[^"]* )?(?:highlight|arithmatex)[ "]')
    MATH = re.compile(r"<math\b.*?</math>", re.S)
    FLAT = re.compile(r"</?(?:math|mi|mn|mo|mrow|mtext|mspace)\b[^>]*>|[^<]+")
    ALIKE = re.compile(r'<h2 id="(?:cite|corrections|see-also)"')
    SIGN = ' data-search-exclude="1"'  # with a value: the plugin takes it out again

    def run(self, text: str) -> str:
        for pattern in (self.BLOCK, self.ALIKE):
            text = pattern.sub(
                lambda m: re.sub(r"^<\w+", rf"\g<0>{self.SIGN}", m[0]), text
            )
        return self.MATH.sub(self.formula, text)

    def formula(self, m: re.Match[str]) -> str:
        flat = not self.FLAT.sub("", m[0])
        return m[0] if flat else m[0].replace("<math", f"<math{self.SIGN}", 1)


class Program(Postprocessor):
    """The copied block: every line has an address, and the modules of other techniques are folded.

    Checkboxes and the style sheet show what is folded, so that it works without scripts; the block is copied whole.
    What the labels say and the numbers of lines are no text of it, so neither copied nor found by the search.
    """

    LEAST = 8  # lines; fewer are shown

    def __init__(self, md: Markdown, page: directives.Page) -> None:
        super().__init__(md)
        self.page = page

    def run(self, text: str) -> str:
        if not self.page.slug:
            return text
        try:
            t = self.page.technique
            block = directives.copy_block(t)
        except (SiteError, SnippetMissingError):  # the directives of the page tell it
            return text
        own = MODULES / f"{snake(t.slug)}.py"
        head = re.search(
            rf'<span class="filename">{re.escape(block.title)}</span><pre[^>]*>(?:<span></span>)?<code>',
            text,
        )
        if not head:
            return text
        end = text.index("</code></pre>", head.end())
        lines = text[head.end() : end].split("\n")
        folds = [
            (first, last, path)
            for first, last, path in block.included(own)
            if last - first >= self.LEAST and last < len(lines)
        ]
        last_line = lines.pop()  # empty: what follows the last line break
        lines = [_address(n) + line for n, line in enumerate(lines, 1)] + [last_line]
        for first, last, path in reversed(folds):  # two may touch
            lines[first] = _label(path, last - first) + lines[first]
            lines[last] = "</span>" + lines[last]
        start = text[: head.end()]
        if folds:
            at = start.rindex("</span><pre")
            start = start[:at] + _all(len(lines) - 1) + start[at:]
        return start + "\n".join(lines) + text[end:]


def _address(n: int) -> str:
    """The number of a line, which is a link to it; hidden from screen readers, for which it is noise."""
    return f'<a class="ln" id="L{n}" href="#L{n}" data-n="{n}" tabindex="-1" aria-hidden="true"></a>'


def _all(lines: int) -> str:
    says = f"show all {lines} lines"
    return f'<label class="all" data-says="{says}"><input type="checkbox" aria-label="{says.capitalize()}"></label>'


def _label(path: Path, lines: int) -> str:
    """The line that stands for folded code, and the beginning of what it folds."""
    name = pages.technique(f"{path.parent.name}/{path.stem.replace('_', '-')}").short
    says = html.escape(f"{name}: {lines} lines, explained on a page of their own")
    return f'<label class="fold" data-says="{says}"><input type="checkbox" aria-label="Show {says}"></label><span class="folded">'


class DraftIncludes(Preprocessor):
    """A draft may include what is not written yet: a line says so, where another page fails the build."""

    def run(self, lines: list[str]) -> list[str]:
        names = [m[1] for line in lines if (m := re.match(NAMES_ITSELF, line))]
        if not names or not pages.is_draft(ROOT / "docs" / f"{names[0]}.md"):
            return lines
        return [line if _exists(line) else f"# missing: {line}" for line in lines]


NAMES_ITSELF = r"\[\[technique (\S+)\]\]"


def _exists(line: str) -> bool:
    include = re.match(r'\s*--8<-- "([^":]+):?([^"]*)"', line)
    if not include:
        return True
    path, section = ROOT / include[1], include[2]
    return path.exists() and f"[start:{section}]" in path.read_text(encoding="utf-8")


class DraftLinks(Treeprocessor):
    """A draft's links to pages that do not exist yet are text."""

    def __init__(self, md: Markdown, page: directives.Page) -> None:
        super().__init__(md)
        self.page = page

    def run(self, root: ET.Element) -> None:
        own = ROOT / "docs" / f"{self.page.slug}.md"
        if not self.page.slug or not pages.is_draft(own):
            return
        for a in root.iter("a"):
            href = a.get("href", "").partition("#")[0]
            if href and "://" not in href:
                base = ROOT / "docs" if href.startswith("/") else own.parent
                if not (base / href.lstrip("/")).exists():
                    a.tag, a.attrib = "span", {}


class SiteExtension(Extension):
    def __init__(self, **kwargs: Any) -> None:
        self.config = {
            "site_url": ["", "address of the site, ends in /"],
            "release": ["", "release that this build is; empty: a development version"],
            "repo_url": ["", "address of the repository; empty: pages name none"],
            "docs": ["", "!relative $docs_dir: where the build writes, for downloads"],
        }
        super().__init__(**kwargs)

    def extendMarkdown(self, md: Markdown) -> None:
        page = directives.Page(
            self.getConfig("site_url") or "",
            str(self.getConfig("release") or ""),
            repository=(self.getConfig("repo_url") or "").rstrip("/"),
            docs=self.getConfig("docs"),
        )
        md.parser.blockprocessors.register(Directives(md, page), "cnn-directives", 175)
        md.inlinePatterns.register(InlineNumber(md, page), "cnn-number", 185)
        pages.refuse_drafts(page.release)
        md.preprocessors.register(DraftIncludes(md), "cnn-draft-includes", 33)
        md.treeprocessors.register(DraftLinks(md, page), "cnn-draft-links", 7)
        md.postprocessors.register(Program(md, page), "cnn-program", 20)
        md.treeprocessors.register(Figures(md, page), "cnn-figures", 6)
        md.treeprocessors.register(Glossary(page), "cnn-glossary", 6.5)
        # Before MkDocs' 5, which notes the ids that links may lead to.
        md.treeprocessors.register(Anchors(page.ids), "cnn-anchors", 5.5)
        md.treeprocessors.register(MathTree(md), "cnn-mathml", 5)
        # After raw_html (30), which puts the highlighted code into the text.
        md.postprocessors.register(PlainSpans(md), "cnn-plain-spans", 5)
        md.postprocessors.register(Unsearched(md), "cnn-unsearched", 4)


def makeExtension(**kwargs: Any) -> SiteExtension:
    return SiteExtension(**kwargs)
