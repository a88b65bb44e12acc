"""Terms of the glossary in docs/conventions.md, with their meaning where they first stand in a section of a technique's page.

A term is a link to its entry, so that the keyboard and a finger reach it; the style sheet shows what it says.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown.treeprocessors import Treeprocessor
from markdown.util import AtomicString

from . import directives, pages
from .pages import until_changed

# | **shortcut, skip connection**{ #term-shortcut } | What it is. |
ENTRY = re.compile(r"\| \*\*([^*|]+)\*\*\{ #(term-[\w-]+) \} \| ([^|]+) \|")
LEFT_OUT = {"a", "code", "pre", "figure", "table", "summary", "dl", "math"}
LEFT_OUT |= {f"h{n}" for n in range(1, 7)}
CLASSES = {"lead", "arithmatex", "eq", "kind"}


@dataclass(frozen=True)
class Term:
    names: tuple[str, ...]
    id: str
    says: str


@until_changed
def terms(path: Path) -> list[Term]:
    """The entries of a glossary, as they stand."""
    entries = ENTRY.findall(path.read_text(encoding="utf-8"))
    return [Term(tuple(n.split(", ")), i, says.strip()) for n, i, says in entries]


@until_changed
def _words(path: Path) -> tuple[re.Pattern[str], dict[str, Term]]:
    """What matches any name, singular or plural, and whose name it is. Abbreviations keep their capitals."""
    named = {name: term for term in terms(path) for name in term.names}
    any_of = "|".join(
        re.escape(n) if n != n.lower() else f"[{n[0].upper()}{n[0]}]{re.escape(n[1:])}"
        for n in sorted(named, key=len, reverse=True)
    )
    return re.compile(rf"(?<![\w-])({any_of})s?(?![\w-])"), named


class Glossary(Treeprocessor):
    def __init__(self, page: directives.Page) -> None:
        super().__init__()
        self.page = page

    def run(self, root: ET.Element) -> None:
        path = pages.DOCS / "conventions.md"
        if not self.page.slug or not path.exists():
            return
        self.pattern, self.named = _words(path)
        self.explained: set[str] = set()
        self._walk(root)

    def _walk(self, el: ET.Element) -> None:
        if el.tag == "h2":
            self.explained.clear()
        if el.tag in LEFT_OUT or CLASSES & set(el.get("class", "").split()):
            return
        before = el.text
        children = list(el)
        place = 0
        if before and not isinstance(before, AtomicString):
            el.text, links = self._linked(before)
            for link in links:
                el.insert(place, link)
                place += 1
        for child in children:
            self._walk(child)
            place += 1
            if child.tail and not isinstance(child.tail, AtomicString):
                child.tail, links = self._linked(child.tail)
                for link in links:
                    el.insert(place, link)
                    place += 1

    def _linked(self, text: str) -> tuple[str, list[ET.Element]]:
        """The text before the first new term, and the terms with what follows each."""
        first, at = text, 0
        links: list[ET.Element] = []
        for match, term in self._new(text):
            if links:
                links[-1].tail = text[at : match.start()]
            else:
                first = text[: match.start()]
            link = ET.Element(
                "a", {"class": "term", "href": f"/conventions.md#{term.id}"}
            )
            link.set("aria-description", term.says)  # the style sheet shows it
            link.text = AtomicString(match[0])
            links.append(link)
            at = match.end()
        if links:
            links[-1].tail = text[at:]
        return first, links

    def _new(self, text: str) -> Iterator[tuple[re.Match[str], Term]]:
        for match in self.pattern.finditer(text):
            name = match[1] if match[1] in self.named else match[1].lower()
            term = self.named[name]
            if term.id not in self.explained:
                self.explained.add(term.id)
                yield match, term
