"""A technique's program as files: the block that is copied and run, as a script and as a notebook.

Made while a site is built, from the block that the page shows; neither stands in the repository.
"""

import ast
import json
from typing import Any

from . import pages
from .fences import CodeBlock, imported, parsed
from .pages import Technique

LICENCE = "MIT licence"


def script(t: Technique, block: CodeBlock, address: str) -> str:
    """The block below a comment that says where it is from."""
    return f"# {t.title}, from CNN Techniques: {address}\n# {LICENCE}.\n\n{block.code}"


def notebook(t: Technique, block: CodeBlock, address: str) -> str:
    """The block as a notebook of format 4.5, without outputs: what it is and from where, then its code in cells."""
    introduction = [
        f"# {t.title}",
        t.facts["description"] if t.facts else "",
        f"From [CNN Techniques]({address}), {LICENCE}. Needs {', '.join(packages(t, block))}.",
    ]
    code: dict[str, Any] = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
    }
    all_cells: list[dict[str, Any]] = [
        {"cell_type": "markdown", "id": "about", "metadata": {}}
        | {"source": _lines("\n\n".join(introduction))},
        *(
            code | {"id": f"code-{n}", "source": _lines(text)}
            for n, text in enumerate(cells(block), 1)
        ),
    ]
    whole = {
        "cells": all_cells,
        "metadata": {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def packages(t: Technique, block: CodeBlock) -> list[str]:
    """What must be installed to run the block, torch first."""
    vision = ["torchvision"] * ("torchvision" in imported(block.code))
    return ["torch", *vision, *pages.needs(t.path)]


def cells(block: CodeBlock) -> list[str]:
    """The code in parts: the imports, each included file, what the page itself has. Joined by lines they are the block."""
    lines = block.code.rstrip("\n").split("\n")
    imports = [
        n.end_lineno or 0
        for n in parsed(block.code).body
        if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    head = max(imports, default=0)
    starts, last = [0], None
    for n in range(head, len(lines)):
        origin = block.origins[n][0]
        # blank lines of the page between two files begin nothing
        if origin != last and lines[n].strip():
            starts += [n] if n else []
            last = origin
    parts = [
        "\n".join(lines[a:b]).strip("\n")
        for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)
    ]
    return [part for part in parts if part]


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
