"""Every table, figure and number of a page has an address of its own, and shows it at the pointer and the focus.

Ids come from what is shown (the directive, the file of the figure, the heads of the table, the path of the number), so that
they stay when the page is edited; what is shown twice gets a number behind its id.
"""

import re
import xml.etree.ElementTree as ET
from pathlib import PurePosixPath

from markdown.extensions.toc import slugify
from markdown.treeprocessors import Treeprocessor


class Ids:
    """The ids that were given on one page."""

    def __init__(self) -> None:
        self.count: dict[str, int] = {}

    def new(self, *words: str) -> str:
        """An id made of words that this page has not given yet: `table-cost`, then `table-cost-2`."""
        name = "-".join(filter(None, (re.sub(r"[^\w.]+", "-", w) for w in words)))
        name = name.strip("-").lower()
        self.count[name] = n = self.count.get(name, 0) + 1
        return name if n == 1 else f"{name}-{n}"


def link(to: str, kind: str) -> ET.Element:
    """The sign that leads to an id; it has no text, so that nothing is added to what is copied and searched."""
    attributes = {"href": f"#{to}", "aria-label": f"Link to this {kind}"}
    return ET.Element("a", {"class": "to", **attributes})


class Anchors(Treeprocessor):
    """Gives tables and figures their link, those that no directive made their id, and rows theirs: `table-cost.resnet-50`."""

    def __init__(self, ids: Ids) -> None:
        super().__init__()
        self.ids = ids

    def run(self, root: ET.Element) -> None:
        parents = {child: parent for parent in root.iter() for child in parent}
        for el in list(root.iter("figure")):
            if "id" in el.attrib:
                el.insert(0, link(el.get("id", ""), "figure"))
                # the drawing, which was the figure's text, stands behind the link
                el[0].tail, el.text = el.text, None
        for el in list(root.iter("table")):
            if "id" not in el.attrib:
                heads = " ".join("".join(th.itertext()) for th in el.iter("th"))
                el.set("id", self.ids.new("table", slugify(heads, "-")[:40]))
            for row in el.iter("tr"):
                name = row.find("th[@scope='row']")
                if name is not None and "id" not in row.attrib:
                    words = slugify("".join(name.itertext()), "-")
                    row.set("id", self.ids.new(f"{el.get('id')}.{words}"))
            stands = el
            parent = parents[el]
            if "scroll" in parent.get("class", "").split():
                stands, parent = parent, parents[parent]
            parent.insert(list(parent).index(stands), link(el.get("id", ""), "table"))


def figure_id(ids: Ids, src: str) -> str:
    """Of the file that a figure shows."""
    return ids.new("fig", PurePosixPath(src).stem)
