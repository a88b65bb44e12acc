"""A technique's program as files: the block that is copied and run, as a script and as a notebook.

Made while a site is built, from the blocks that the page shows; neither stands in the repository. The notebook goes on
with what the page puts into a network of one's own; the script does not, because it is imported there.
"""

import ast
import json
from typing import Any

from . import pages
from .fences import CodeBlock, imported, page_blocks, parsed, runnable
from .pages import Technique

LICENCE = "MIT licence"
OWN = "Put it into your own network"
OWN_ID = "put-it-into-your-own-network"


def script(t: Technique, block: CodeBlock, address: str) -> str:
    """The block below a comment that says where it is from."""
    return f"# {t.title}, from CNN Techniques: {address}\n# {LICENCE}.\n\n{block.code}"


def notebook(t: Technique, block: CodeBlock, address: str) -> str:
    """The block as a notebook of format 4.5, without outputs: what it is and from where, then its code in cells."""
    own = own_network(t, block)
    needed = list(dict.fromkeys(p for b in (block, *own) for p in packages(t, b)))
    introduction = [
        f"# {t.title}",
        t.facts["description"] if t.facts else "",
        f"From [CNN Techniques]({address}), {LICENCE}. Needs {', '.join(needed)}.",
    ]
    all_cells = [
        _text("about", introduction),
        *(_code(f"code-{n}", text) for n, text in enumerate(cells(block), 1)),
    ]
    if own:
        loads = any("get_state_dict(" in b.code for b in own)
        all_cells += [
            _text(
                "own-network",
                [
                    f"## {OWN}",
                    f"What changes at the first step stands on [the page]({address}#{OWN_ID})."
                    + " The weights are downloaded." * loads,
                ],
            ),
            *(_code(f"own-network-{n}", b.code) for n, b in enumerate(own, 1)),
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


def own_network(t: Technique, block: CodeBlock) -> list[CodeBlock]:
    """The blocks under the page's heading `OWN`, where they go on from the copied one."""
    lines = t.path.read_text(encoding="utf-8").split("\n")
    section, going_on, found = "", False, []
    last = 0
    for other in runnable(page_blocks(t.path)):
        for line in lines[last : other.line]:
            if line.startswith(("## ", "### ")):
                section = line.lstrip("# ")
        last = other.line
        going_on = other == block or (going_on and "continuation" in other.classes)
        if going_on and other.is_python and section == OWN:
            found.append(other)
    return found


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


def _text(name: str, paragraphs: list[str]) -> dict[str, Any]:
    source = _lines("\n\n".join(paragraphs))
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


def _code(name: str, text: str) -> dict[str, Any]:
    source = _lines(text.rstrip("\n"))
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": name,
        "metadata": {},
        "outputs": [],
        "source": source,
    }


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
