"""CHANGELOG.md as a list of changes, and those that concern readers as an Atom feed.

A line of it that concerns a page begins with the page's slug: `` - `attention/cbam`: ... ``.
"""

import hashlib
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from . import ROOT, pages
from .pages import until_changed

ATOM = "http://www.w3.org/2005/Atom"
ET.register_namespace("", ATOM)
HEAD = re.compile(r"## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?\s*")
ITEM = re.compile(r"- (?:`([a-z0-9-]+/[a-z0-9-]+)`[:,]? ?)?(.*)")


@dataclass(frozen=True)
class Change:
    """An item of the changelog."""

    release: str  # 0.1.0, or Unreleased
    date: str  # of the release, YYYY-MM-DD; empty before it
    heading: str  # Added, Changed, Fixed, Corrections, ...
    slug: str  # the technique it begins with, or empty
    text: str  # Markdown, without the slug


@until_changed
def read(path: Path) -> list[Change]:
    """The items of a changelog, in its order."""
    items: list[Change] = []
    release, date, heading = "", "", ""
    for line in path.read_text(encoding="utf-8").split("\n"):
        if head := HEAD.fullmatch(line):
            release, date = head[1], head[2] or ""
        elif line.startswith("### "):
            heading = line[4:].strip()
        elif release and (item := ITEM.fullmatch(line)):
            items.append(Change(release, date, heading, item[1] or "", item[2]))
        elif items and line.startswith("  ") and line.strip():  # an item goes on
            last = items.pop()
            items.append(
                Change(**{**vars(last), "text": f"{last.text} {line.strip()}"})
            )
    return items


def changes() -> list[Change]:
    return read(ROOT / "CHANGELOG.md")


def corrections(slug: str) -> list[Change]:
    """What was corrected on a page."""
    return [c for c in changes() if c.slug == slug and c.heading == "Corrections"]


def anchor(release: str) -> str:
    """The id of a release on the page of changes."""
    return f"release-{release.lower()}"


def plain(text: str) -> str:
    """Markdown of one line as text."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


def feed(site_url: str, release: str) -> str:
    """New pages and corrections as Atom (RFC 4287), the newest first.

    Args:
        site_url: address of the site, without a release.
        release: which one is being built; empty: a development version, whose feed has what is not released yet.
    """
    site = site_url.rstrip("/") + "/"
    here = site + (f"{release}/" if release else "")
    entries = _entries(site, here, bool(release))
    root = ET.Element(f"{{{ATOM}}}feed", {"xml:lang": "en"})
    _add(root, "id", site + "feed.xml")  # the same in every release
    _add(root, "title", "CNN Techniques: new pages and corrections")
    updated = max((e.findtext(f"{{{ATOM}}}updated", "") for e in entries), default="")
    _add(root, "updated", updated or "1970-01-01T00:00:00Z")
    _add(_add(root, "author"), "name", "Deyaa Khateeb and contributors")
    _add(root, "link", rel="self", type="application/atom+xml", href=here + "feed.xml")
    _add(root, "link", rel="alternate", type="text/html", href=here + "changelog/")
    root.extend(entries)
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _entries(site: str, here: str, released: bool) -> list[ET.Element]:
    """
    Args:
        site: what an entry is named by, the same in every release.
        here: below which its page is read.
        released: whether to leave out what is not.
    """
    entries: dict[str, tuple[str, ET.Element]] = {}
    for change in changes():
        new = change.heading == "Added"
        if not change.slug or not (new or change.heading == "Corrections"):
            continue
        t = pages.technique(change.slug)
        verified = t.record.get("runs", {}).get("cpu", {}).get("date", "")
        date = change.date or verified
        if not t.facts or not date or (released and not change.date):
            continue
        summary = t.facts["description"] if new else plain(change.text)
        word = "New" if new else "Corrected"
        # A page is new once; the wording of a correction names it.
        mark = "" if new else f"#{hashlib.sha256(summary.encode()).hexdigest()[:12]}"
        entry = ET.Element(f"{{{ATOM}}}entry")
        _add(entry, "id", f"{site}{t.slug}/{mark}")
        _add(entry, "title", f"{word}: {t.short}")
        _add(entry, "updated", f"{date}T00:00:00Z")
        place = "" if new else "#corrections"
        _add(entry, "link", rel="alternate", href=f"{here}{t.slug}/{place}")
        _add(entry, "summary", summary)
        entries[f"{t.slug}{mark}"] = (date, entry)
    return [e for _, e in sorted(entries.values(), key=lambda de: de[0], reverse=True)]


def _add(
    parent: ET.Element, name: str, text: str = "", **attributes: str
) -> ET.Element:
    el = ET.SubElement(parent, f"{{{ATOM}}}{name}", attributes)
    el.text = text or None
    return el
