"""What each `[[directive]]` of a page shows, as HTML from the templates in `templates`.

A directive is a function that gets the page, the words after its name and the YAML below it. Links are written as
`/path/from/docs.md`; MkDocs checks them and makes them relative.
"""

from collections.abc import Callable
from typing import Any

from cnn_site.pages import SiteError

from .across import across
from .approximations import approximation
from .base import ABOUT as ABOUT
from .base import Page as Page
from .base import log as log
from .bench import bench
from .comparisons import differences, equivalence
from .curves import curves
from .intervals import intervals
from .numbers import inline_number as inline_number
from .numbers import numbers, recorded
from .numbers import place as place
from .overview import (
    about,
    cards,
    catalogue,
    category,
    counts,
    environments,
    latest,
    ledger,
    options,
    order,
    prerequisites,
    processors,
    references,
    skips,
    specimen,
)
from .repository import changelog, clone
from .stamps import copy_block as copy_block
from .stamps import stamp as stamp
from .technique import cite, corrections, needs, ran, technique
from .widgets import widget

DIRECTIVES: dict[str, Callable[[Page, list[str], Any], str]] = {
    f.__name__: f
    for f in (
        technique, ran, numbers, recorded, across, bench, equivalence, approximation, corrections, cite, catalogue, cards, about, specimen, category, latest, counts, ledger,
        differences, environments, processors, skips, references, order, prerequisites,
        needs, clone, changelog, intervals, curves, widget, options,
    )
}  # fmt: skip


def render(page: Page, name: str, arguments: list[str], settings: Any) -> str:
    if name not in DIRECTIVES:
        raise SiteError(
            f"unknown directive [[{name}]]; known are {', '.join(DIRECTIVES)}"
        )
    return DIRECTIVES[name](page, arguments, settings)
