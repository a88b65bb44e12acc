"""What is of the repository: how to clone it, and its changelog."""

import itertools
import re
from typing import Any

import markdown
from markupsafe import Markup

from cnn_site import ROOT, changes, pages

from .base import Page, console, fill


def clone(page: Page, arguments: list[str], settings: Any) -> str:
    """How to get the command `cnn-lab`; a released page clones that release."""
    version = f" --branch {page.tag}" if page.release else ""
    lines = console(
        [
            f"$ git clone{version} {page.repository}",
            f"$ cd {page.repository.rpartition('/')[2]}",
            '$ python -m pip install -e ".[lab]"',
        ]
    )
    return fill("clone", repository=page.repository, lines=lines)


def changelog(page: Page, arguments: list[str], settings: Any) -> str:
    """CHANGELOG.md as a page, and its new pages and corrections as a feed beside it."""
    written = {t.slug: t for t in pages.techniques() if t.facts}
    releases = []
    for (release, date), of_release in itertools.groupby(
        changes.changes(), lambda c: (c.release, c.date)
    ):
        headings: dict[str, list[Any]] = {}
        for c in of_release:
            text = (
                c.text if c.slug in written or not c.slug else f"`{c.slug}`: {c.text}"
            )
            item = (written.get(c.slug), _inline(page, text))
            headings.setdefault(c.heading, []).append(item)
        releases.append((release, date, headings))
    feed = changes.feed(page.site_url, page.release)
    return fill(
        "changelog",
        releases=releases,
        anchor=changes.anchor,
        feed=page.publish("feed.xml", feed, page="changelog"),
    )


def _inline(page: Page, text: str) -> Markup:
    """An item as HTML; its links, relative to the root of the repository, lead to pages or to files of the repository."""

    def rewritten(link: re.Match[str]) -> str:
        name, to = link[1], link[2]
        if "://" in to:
            return link[0]
        if to.startswith("docs/") and (ROOT / to.partition("#")[0]).exists():
            return f"[{name}]({to.removeprefix('docs')})"
        to = page.source(to)
        return f"[{name}]({to})" if to else name

    shown = markdown.markdown(re.sub(r"\[([^\]]*)\]\(([^)]+)\)", rewritten, text))
    return Markup(shown.removeprefix("<p>").removesuffix("</p>"))
