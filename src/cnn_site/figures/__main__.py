"""`python -m cnn_site.figures [slug ...]`: draw the figures of these techniques (of all) to docs/figures/."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from .diagrams import Figure

ROOT = Path(__file__).resolve().parents[3]


def sources(root: Path = ROOT) -> list[Path]:
    return sorted((root / "snippets").glob("*/figures/*.py"))


def drawings(source: Path) -> dict[str, Figure | str]:
    """File name without ending -> figure. A source sets `figure`, `svg`, or `figures = {"name": ...}`."""
    source_names: dict[str, Any] = runpy.run_path(str(source))
    slug = source.stem.replace("_", "-")
    out: dict[str, Figure | str] = {}
    for key in ("figure", "svg"):
        if key in source_names:
            out[slug] = source_names[key]
    for name, drawing in source_names.get("figures", {}).items():
        out[f"{slug}-{name}"] = drawing
    if not out:
        raise ValueError(
            f"{source}: expected `figure = ...`, `svg = ...` or `figures = {{...}}`, found none"
        )
    return out


def text(drawing: Figure | str) -> str:
    return drawing.svg() if isinstance(drawing, Figure) else drawing


def target(source: Path, name: str) -> Path:
    root, category = source.parents[3], source.parents[1].name
    return root / "docs" / "figures" / category / f"{name}.svg"


def main(slugs: list[str]) -> int:
    known = {s.stem.replace("_", "-"): s for s in sources()}
    unknown = [s for s in slugs if s not in known]
    if unknown:
        print(
            f"no source snippets/*/figures/ for {', '.join(unknown)}", file=sys.stderr
        )
        return 1
    failed = 0
    for slug in slugs or known:
        try:
            figures = drawings(known[slug])
        except (
            Exception
        ) as error:  # one source that fails keeps no other from being drawn
            print(
                f"{known[slug].relative_to(ROOT)}: {type(error).__name__}: {error}",
                file=sys.stderr,
            )
            failed = 1
            continue
        for name, drawing in figures.items():
            path = target(known[slug], name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(drawing), encoding="utf-8")
            print(path.relative_to(ROOT), f"{path.stat().st_size / 1000:.1f} KB")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
