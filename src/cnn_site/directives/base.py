"""What all directives share: the page being rendered, and its templates."""

import html
import logging
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pygments
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from cnn_site import CATEGORIES, glyphs, pages
from cnn_site.anchors import Ids
from cnn_site.pages import SiteError, Technique

# A warning here fails a strict build.
log = logging.getLogger("mkdocs.plugins.cnn_site")
ABOUT = {
    "foundations": "The networks everything else is measured against.",
    "modern": "Residual, dense, mobile and re-parameterised backbones.",
    "attention": "Blocks that weigh channels and places by what they see.",
    "training": "Augmentation, transfer, schedules, regularisation.",
    "optimization": "Optimizers, normalisation, precision, parallelism.",
    "detection": "Boxes: one-stage, two-stage, set prediction.",
    "segmentation": "Masks: per pixel and per instance.",
    "compression": "Distil, prune, quantise, fold, export.",
    "evaluation": "Metrics, calibration, explanation, cost.",
}
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _dates(text: str) -> Markup:
    """Escaped text whose dates are marked, so that none is broken at its hyphens."""
    marked = re.sub(r"\b\d{4}-\d\d-\d\d\b", r"<time>\g<0></time>", str(escape(text)))
    return Markup(marked)


TEMPLATES.filters["dates"] = _dates
TEMPLATES.globals |= {"glyph": glyphs.svg, "about": ABOUT, "categories": CATEGORIES}


@dataclass
class Page:
    """The page being rendered; `slug` is set by its `[[technique ...]]`."""

    site_url: str
    release: str
    slug: str = ""
    repository: str = ""  # its address, as GitHub shapes those below it; empty: unknown
    ids: Ids = field(default_factory=Ids)
    docs: Any = None  # MkDocs' `!relative $docs_dir`: knows the build, if there is one

    @property
    def technique(self) -> Technique:
        if not self.slug:
            raise SiteError(
                "this page has not said which technique it is about: begin with [[technique category/slug]]"
            )
        return pages.technique(self.slug, drafts=True)

    @property
    def address(self) -> str:
        """The address to cite: of the release."""
        return f"{self.site_url.rstrip('/')}/{self.release or '<release>'}/{self.slug}/"

    @property
    def tag(self) -> str:
        """Of the repository: what this build was made of."""
        return f"v{self.release}" if self.release else "main"

    def publish(self, path: str, text: str, page: str = "") -> str:
        """Writes a file into the site that is being built.

        Args:
            path: from the root of the site.
            text: what it holds.
            page: which page links it, `category/slug`; the one being rendered unless told.

        Returns:
            the address from that page; empty where no site is being built.
        """
        config = getattr(self.docs, "config", None)
        if config is None:
            return ""
        file = Path(config.site_dir) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="")
        page = page or self.slug
        here = page if config.use_directory_urls else posixpath.dirname(page)
        return posixpath.relpath(path, here or ".")

    def source(self, path: str) -> str:
        """Where a file of the repository is read as this build had it; empty where the repository is unknown."""
        return self.repository and f"{self.repository}/blob/{self.tag}/{path}"


def fill(template: str, **values: Any) -> str:
    return TEMPLATES.get_template(f"{template}.html").render(**values)


def code(title: str, text: str) -> str:
    return f'<div data-search-exclude="1" class="language-bibtex highlight"><span class="filename">{html.escape(title)}</span><pre><code>{highlighted(text, "bibtex")}</code></pre></div>'


def terminal(command: str, output: str) -> str:
    """A command and what it printed, as the fences of a page show them."""
    lines = ["$"]
    for part in re.split(r" (?=--[a-z])", command):  # an option is not torn apart
        if len(lines[-1]) + len(part) > 76 and lines[-1] != "$":
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {part}"
    shown = f'<div class="language-text output highlight"><pre><code>{html.escape(output)}</code></pre></div>'
    return console(lines) + shown


def console(lines: list[str]) -> str:
    shown = highlighted("\n".join(lines), "console")
    return (
        f'<div class="language-console highlight"><pre><code>{shown}</code></pre></div>'
    )


def highlighted(text: str, language: str) -> str:
    return str(
        pygments.highlight(
            text, get_lexer_by_name(language), HtmlFormatter(nowrap=True)
        )
    )
