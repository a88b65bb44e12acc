"""The one place that turns TeX into MathML, at build time; equations on their own line are numbered and get an id."""

import html
import re
import xml.etree.ElementTree as ET

from markdown.treeprocessors import Treeprocessor
from math_core import LatexToMathML

_CONVERT = LatexToMathML()


class MathTree(Treeprocessor):
    """Works on what pymdownx.arithmatex (generic) marks."""

    def run(self, root: ET.Element) -> None:
        number = 0
        for el in root.iter():
            if "arithmatex" not in el.get("class", "").split() or not el.text:
                continue
            tex, display = html.unescape(el.text[2:-2]).strip(), el.tag == "div"
            try:
                mathml = _CONVERT.convert_with_local_state(tex, displaystyle=display)
            except Exception as error:
                raise ValueError(f"TeX that cannot be set: {tex!r}: {error}") from error
            if display:
                number += 1
                el.set("id", f"eq-{number}")
                mathml += f'<a class="eqno" href="#eq-{number}" title="Link to this equation">({number})</a>'
            el.text = self.md.htmlStash.store(mathml)
        _join(root)


def _join(root: ET.Element) -> None:
    """Brackets and punctuation go into the formula they touch, which the style sheet keeps on one line with them."""
    for parent in root.iter():
        before = None
        for el in parent:
            if el.tag == "span" and "arithmatex" in el.get("class", "").split():
                text = (parent.text if before is None else before.tail) or ""
                rest = text.rstrip("([")
                if rest != text:
                    el.text = text[len(rest) :] + (el.text or "")
                    if before is None:
                        parent.text = rest
                    else:
                        before.tail = rest
                if marks := re.match(r"[,.;:!?)\]]+", el.tail or ""):
                    el.text = (el.text or "") + marks[0]
                    el.tail = (el.tail or "")[marks.end() :]
            before = el
