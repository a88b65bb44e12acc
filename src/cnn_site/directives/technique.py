"""What stands at the head and at the foot of a technique's page."""

import ast
import math
import re
from pathlib import Path
from typing import Any

from pybtex.database import Entry, Person

from cnn_lab.options import OF_TRANSFER, OPTIONS
from cnn_site import changes, citations, downloads, pages, reading, snake
from cnn_site.fences import MODULES, imported
from cnn_site.pages import SiteError

from .base import Page, code, fill, log
from .numbers import inline_number
from .stamps import copy_block, stamp


def technique(page: Page, arguments: list[str], settings: Any) -> str:
    page.slug = arguments[0]
    t, now = page.technique, stamp(page.technique)
    if not t.facts:
        raise SiteError(f"docs/{t.slug}.md is missing")
    if now.state != "ok" and not t.facts.get("draft"):
        log.warning(
            f"docs/{t.slug}.md: the blocks shown are not those of its record; run: pytest --update-evidence docs/{t.slug}.md"
        )
    if not t.keys and not t.facts.get("draft"):
        raise SiteError(
            f"docs/{t.slug}.md: papers (or sources) is empty; the first one is what the page is about"
        )
    key = t.keys[0] if t.keys else ""
    return fill(
        "technique",
        t=t,
        stamp=now,
        paper=pages.short_cite(key) if key else "",
        paper_url=pages.paper_url(pages.paper(key)) if key else "",
        module=""  # a draft is not in the API reference yet
        if pages.is_draft(t.path)
        else f"cnn_techniques.{snake(t.slug).replace('/', '.')}",
        public=public_names(MODULES / f"{snake(t.slug)}.py"),
        source=page.source(f"src/cnn_techniques/{snake(t.slug)}.py"),
        minutes=reading.minutes(t, copy_block(t)),
        builds_on=[pages.technique(s) for s in t.builds_on],
        through=reading.through(t),
        used_by=reading.used_by(t),
        option=OPTIONS.get(t.slug, ""),
        transfer=t.slug in OF_TRANSFER,
        cost=re.sub(
            r"\[\[=([^\]]+)\]\]",
            lambda m: inline_number(page, m[1])[0],
            t.facts.get("cost", ""),
        ),
    )


def public_names(path: Path) -> list[str]:
    """The classes and functions of a module, which a reader may search for."""
    if not path.exists():
        return []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and not node.name.startswith("_")
    ]


def needs(page: Page, arguments: list[str], settings: Any) -> str:
    """What must be installed to run the copied block."""
    t = page.technique
    if wrong := wrong_needs(t):
        raise SiteError("; ".join(wrong))
    block = copy_block(t)
    packages = downloads.packages(t, block)
    return fill("needs", packages=packages, files=_files(page), cell=not block.is_file)


def _files(page: Page) -> list[tuple[str, str, str]]:
    """(address, text, name of the file) of the copied block as a script, a notebook and, of a release, in Colab.

    A program that a command starts is no notebook.
    """
    t, block = page.technique, copy_block(page.technique)
    name = block.title.removesuffix(".py")
    files = []
    kinds = [(".py", downloads.script), (".ipynb", downloads.notebook)]
    for suffix, make in kinds[:1] if block.is_file else kinds:
        path = f"{t.slug}/{name}{suffix}"
        address = page.publish(path, make(t, block, page.address))
        files += [(address, name + suffix, name + suffix)] if address else []
    host, _, repository = page.repository.partition("github.com/")
    if len(files) > 1 and repository and host == "https://" and page.release:
        # where .ci/publish puts the site of a release
        notebook = f"blob/gh-pages/{page.release}/{t.slug}/{name}.ipynb"
        colab = f"https://colab.research.google.com/github/{repository}/{notebook}"
        files.append((colab, "open in Colab", ""))
    return files


def wrong_needs(t: pages.Technique) -> list[str]:
    """Where the front matter's `needs` are not what the copied block imports besides torch and torchvision."""
    block, declared = copy_block(t), set(pages.needs(t.path))
    used = {pages.package(name) for name in imported(block.code)}
    used |= {p for p, call in pages.BEHIND.items() if call in block.code}
    used -= {"torch", "torchvision"}
    line = pages.line_of(t.path, "needs")
    return [
        f"docs/{t.slug}.md:{line}: needs {p}, which the copied block does not import; drop it"
        for p in sorted(declared - used)
    ] + [
        f"docs/{t.slug}.md:{block.line}: the copied block imports {p}; write in the front matter: needs: [{p}]"
        for p in sorted(used - declared)
    ]


def ran(page: Page, arguments: list[str], settings: Any) -> str:
    """Date, seconds and hash of the copy-and-run block."""
    t = page.technique
    block = copy_block(t)
    run = t.record.get("runs", {}).get("cpu", {"blocks": [], "seconds": []})
    seconds = math.nan
    if block.hash in run["blocks"]:
        # A program that a command starts takes the time of the command below it.
        seconds = run["seconds"][run["blocks"].index(block.hash) + block.is_file]
    return fill("ran", t=t, stamp=stamp(t), hash=block.hash, seconds=seconds)


def corrections(page: Page, arguments: list[str], settings: Any) -> str:
    return fill(
        "corrections",
        found=changes.corrections(page.slug),
        anchor=changes.anchor,
        plain=changes.plain,
    )


def cite(page: Page, arguments: list[str], settings: Any) -> str:
    t = page.technique
    date = stamp(t).date
    note = (
        f"CNN Techniques, release {page.release}, verified {date}"
        if page.release
        else "CNN Techniques, development version, not for citing"
    )
    authors = ["Khateeb, Deyaa", "{CNN Techniques contributors}"]
    fields = {
        "title": t.title,
        "author": " and ".join(authors),
        "year": date[:4],
        "note": note,
        "url": page.address,
    }
    body = ",\n".join(f"  {k:<7} = {{{v}}}" for k, v in fields.items())
    own_key = f"cnn-techniques-{t.slug.split('/')[1]}"
    page_entry = f"@misc{{{own_key},\n{body}\n}}"
    whole = "\n\n".join([page_entry, *map(pages.bibtex, t.keys)]) + "\n"
    del fields["author"]  # people stand apart from the fields
    people = [Person(name) for name in authors]
    entries = {own_key: Entry("misc", fields, {"author": people})}
    entries |= {key: pages.paper(key) for key in t.keys}
    name = f"{t.slug}/{t.slug.split('/')[1]}"
    files = [
        (label, page.publish(name + suffix, text))
        for label, suffix, text in (
            ("BibTeX", ".bib", whole),
            ("RIS", ".ris", citations.ris(entries)),
            ("CSL-JSON", ".csl.json", citations.csl_json(entries)),
        )
    ]
    return fill(
        "cite",
        release=page.release,
        address=page.address,
        files=[(label, to, to.rpartition("/")[2]) for label, to in files if to],
        page_bibtex=code("this page", page_entry),
        papers=[code(pages.short_cite(k), pages.bibtex(k)) for k in t.keys],
    )
