"""A built site that is there already, and whether it was made of the files that are here now.

    python -m cnn_site.built FOLDER    marks a build that was just made

A build takes a dozen seconds or more, and the tests and the browser look at one: whoever built it marks it, and who is
handed it ($SITE_DIR) checks the mark. A build that a strict MkDocs passed may still have faults that only the HTML shows, in
notebooks above all; such a build gets no mark.
"""

import hashlib
import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from . import ROOT, pages

MARK = ".sources"  # in the built folder; MkDocs never writes a dotfile there
READ = ("CHANGELOG.md", "docs", "mkdocs.yml", "snippets", "src")
LEFT_OUT = re.compile(r"/(\.|__pycache__/)")


class OtherSources(ValueError):
    """A built site that was not made of the files that are here now."""


class Faults(ValueError):
    """A built site with links that lead nowhere, or with TeX where a reader sees it raw."""


COMMENTS = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1>", re.S)
LINK = re.compile(r"<(?:a|img|link|source)\b[^>]*?\s(?:href|src)=[\"']?([^\"'\s>]+)")
ID = re.compile(r"<[^>]+?\s(?:id|name)=[\"']?([^\"'\s>]+)")
MENU = re.compile(r"<title>.*?</title>|<nav\b.*?</nav>", re.S)
TEX = re.compile(r"\\[a-zA-Z(\[]|\$\S")


def faults(folder: Path) -> Iterator[str]:
    """Links of the pages in `folder` to what is not there, and TeX in their menus and titles; drafts may have both."""
    drafts = {
        folder / path.relative_to(pages.DOCS).with_suffix("") / "index.html"
        for path in pages.drafts()
    }
    texts = {
        p: COMMENTS.sub("", p.read_text(encoding="utf-8"))
        for p in sorted(folder.rglob("*.html"))
    }
    ids = {p: set(map(html.unescape, ID.findall(text))) for p, text in texts.items()}
    for page in sorted(texts.keys() - drafts):
        text = texts[page]
        name = page.relative_to(folder)
        for link in sorted(set(map(html.unescape, LINK.findall(text)))):
            url = urlsplit(link)
            if url.scheme or url.netloc or url.query:
                continue
            base = folder if url.path.startswith("/") else page.parent
            if page == folder / "404.html":  # its links name the site's own path
                continue
            path = (base / unquote(url.path).lstrip("/")).resolve()
            target = path / "index.html" if path.is_dir() else path
            target = page if not url.path else target
            if not target.exists():
                yield f"{name}: the link {link} leads nowhere"
            elif (place := unquote(url.fragment)) and place not in ids.get(
                target, {place}
            ):
                yield f"{name}: the link {link} names no place of that page"
        for menu in MENU.findall(text):
            words = html.unescape(re.sub(r"<[^>]+>", " ", menu))
            if raw := TEX.search(words):
                near = " ".join(
                    words[max(0, raw.start() - 20) : raw.end() + 20].split()
                )
                yield f"{name}: a menu or title shows TeX: {near}; write the heading without a formula"


def sources(root: Path = ROOT) -> str:
    """A hash of the names and bytes of all files that a build reads, below `root`."""
    whole = hashlib.sha256()
    for name in READ:
        for path in sorted([root / name, *(root / name).rglob("*")]):
            inside = path.relative_to(root)
            if path.is_file() and not LEFT_OUT.search(f"/{inside}"):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                whole.update(f"{inside}\0{digest}\n".encode())
    return whole.hexdigest()[:12]


def mark(folder: Path, root: Path = ROOT) -> None:
    """Notes in a built folder what it was made of; call it right after the build.

    Raises: Faults if a page links to what is not there, or shows TeX in a menu.
    """
    if messages := list(dict.fromkeys(faults(folder))):
        raise Faults(f"{folder}: {len(messages)} faults:\n" + "\n".join(messages))
    (folder / MARK).write_text(sources(root) + "\n", encoding="utf-8")


def check(folder: Path, root: Path = ROOT) -> None:
    """Raises: OtherSources if the folder is not a marked build of the files below `root`."""
    path = folder / MARK
    made_of = path.read_text(encoding="utf-8").strip() if path.exists() else "unmarked"
    if made_of != (now := sources(root)):
        raise OtherSources(
            f"{folder}: a build of other sources ({made_of}; those here are {now}); "
            f"build it again: python -m mkdocs build --strict -d {folder} && python -m cnn_site.built {folder}"
        )


if __name__ == "__main__":
    try:
        mark(Path(sys.argv[1]))
    except Faults as error:
        sys.exit(str(error))
