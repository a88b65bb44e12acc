"""Approximated: how far a changed network is from its original, layer by layer."""

from typing import Any

from cnn_site.pages import SiteError

from .base import Page, fill


def approximation(page: Page, arguments: list[str], settings: Any) -> str:
    """Noise of the output and of each layer: `[[approximation int8]]`, or several names side by side."""
    t = page.technique
    rows = t.record.get("approximation", {})
    names = ", ".join(rows) or "none; run: pytest --update-evidence tests/... of it"
    if not arguments:
        raise SiteError(f"[[approximation NAME]] needs a name; there is {names}")
    for name in arguments:
        if name not in rows:
            raise SiteError(
                f"docs/evidence/{t.slug}.json has no approximation {name!r}; there is {names}"
            )
    chosen = {name: rows[name] for name in arguments}
    layers = {layer: None for row in chosen.values() for layer in row["layers"]}
    return fill(
        "approximation", t=t, rows=chosen, layers=list(layers), decibels=decibels
    )


def decibels(row: dict[str, Any], layer: str) -> str:
    if layer not in row["layers"]:
        return "–"
    value = row["layers"][layer]
    return "equal" if value is None else f"{value:.1f}"
