"""How long a page takes to read, by the rule that docs/conventions.md states, and what stands around it."""

import re

from . import arcs, pages, snake
from .fences import MODULES, CodeBlock
from .pages import Technique

WORDS, LINES = 200, 20  # a minute
FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2\s*$", re.M | re.S)
DIRECTIVE = re.compile(r"^\[\[[a-z].*?(?:\n\s*\n|\Z)", re.M | re.S)
EXERCISES = re.compile(r"^## Exercises\n.*?(?=^## )", re.M | re.S)


def minutes(t: Technique, block: CodeBlock) -> int:
    """Of the text's words, and of the copied block's lines that no other page explains; exercises are not counted."""
    text = t.path.read_text(encoding="utf-8").split("\n---\n", 1)[1]
    for left_out in (EXERCISES, FENCE, DIRECTIVE):
        text = left_out.sub("", text)
    words = len(re.findall(r"[A-Za-z]\S*", text))
    lines = block.code.split("\n")
    for first, last, _ in reversed(block.included(MODULES / f"{snake(t.slug)}.py")):
        del lines[first:last]
    filled = sum(bool(line.strip()) for line in lines)
    return max(1, round(words / WORDS + filled / LINES))


def used_by(t: Technique) -> list[Technique]:
    """The written pages that build on this one."""
    return [u for u in pages.techniques() if t.slug in u.builds_on]


def through(t: Technique) -> list[Technique]:
    """What the techniques that this one builds on build on, each after those that it needs itself."""
    needed: dict[str, list[str]] = {}
    waiting = list(t.builds_on)
    while waiting:
        slug = waiting.pop()
        if slug not in needed:
            needed[slug] = pages.technique(slug).builds_on
            waiting += needed[slug]
    order = arcs.sequence(dict(sorted(needed.items())))
    return [pages.technique(s) for s in order if s not in t.builds_on]
