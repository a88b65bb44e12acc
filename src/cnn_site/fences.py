"""The fences of a page as the reader sees them: the site's own Markdown preprocessors find and expand them."""

import ast
import functools
import hashlib
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import markdown
import yaml
from mkdocs.utils import meta
from pymdownx.snippets import SnippetPreprocessor
from pymdownx.superfences import SuperFencesBlockPreprocessor

from . import ROOT

PYTHON = {"py", "python", "python3"}
MODULES = ROOT / "src" / "cnn_techniques"
WANTED = (
    "pymdownx.snippets",
    "pymdownx.superfences",
    "pymdownx.highlight",
    "attr_list",
)


@dataclass(frozen=True)
class CodeBlock:
    """A fence of a page.

    `code` is the text as displayed; `origins` says for each of its lines the file it was written in (None: the page)
    and the line there; `line` is that of the fence's head in the page.
    """

    language: str
    classes: tuple[str, ...]
    title: str
    code: str
    origins: tuple[tuple[str | None, int], ...]
    line: int
    output: str | None = None  # of the `.output` fence that follows

    @property
    def is_python(self) -> bool:
        return self.language in PYTHON

    @property
    def is_excerpt(self) -> bool:
        return "excerpt" in self.classes

    @property
    def is_command(self) -> bool:
        """Lines for a terminal that the tests run."""
        return self.language == "console" and "run" in self.classes

    @property
    def is_file(self) -> bool:
        """A program that is written to a file of its title, which a later command starts."""
        return self.is_python and "file" in self.classes

    @property
    def runs(self) -> bool:
        python = self.is_python and not self.is_excerpt
        return (python and "notest" not in self.classes) or self.is_command

    @property
    def hash(self) -> str:
        """Of the code and of the output shown below it."""
        return hashlib.sha256(f"{self.code}\0{self.output or ''}".encode()).hexdigest()[
            :12
        ]

    def included(self, own: Path) -> list[tuple[int, int, Path]]:
        """(first line, line after the last, file) of other techniques' modules, from 0; their imports left out.

        Args:
            own: the file of the page's own technique.
        """
        imports = [
            n
            for n in parsed(self.code).body
            if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        head = max((n.end_lineno or 0 for n in imports), default=0)
        parts: list[tuple[int, int, Path]] = []
        for n, (name, _) in enumerate(self.origins):
            path = Path(name or "")
            if n < head or path == own or MODULES not in path.parents:
                continue
            if parts and parts[-1][1:] == (n, path):
                parts[-1] = (parts[-1][0], n + 1, path)
            else:
                parts.append((n, n + 1, path))
        return parts

    def contains(self, excerpt: str) -> bool:
        """Whether the excerpt's dedented lines stand in this block, contiguous and otherwise unchanged."""
        wanted = textwrap.dedent(excerpt).strip("\n").split("\n")
        lines = self.code.split("\n")
        windows = (
            lines[i : i + len(wanted)] for i in range(len(lines) - len(wanted) + 1)
        )
        return any(textwrap.dedent("\n".join(w)).split("\n") == wanted for w in windows)


class _Line(str):
    """A line that knows where it was written."""

    origin: tuple[str | None, int]

    def __new__(cls, text: str, origin: tuple[str | None, int]) -> "_Line":
        self = super().__new__(cls, text)
        self.origin = origin
        return self

    def __radd__(self, indent: str) -> "_Line":  # snippets indents what it includes
        return _Line(str(indent) + str(self), self.origin)


class _Snippets(SnippetPreprocessor):  # type: ignore[misc]
    def read_lines(self, path: str) -> list[str]:
        return [
            _Line(text, (path, n)) for n, text in enumerate(super().read_lines(path), 1)
        ]

    def dedent(self, lines: list[str]) -> list[str]:
        return [
            _Line(t, old.origin) if isinstance(old, _Line) else t
            for t, old in zip(super().dedent(lines), lines, strict=True)
        ]


class _Fences(SuperFencesBlockPreprocessor):  # type: ignore[misc]
    complete: list[tuple[str, tuple[str, ...], str, str, int, int]]

    def process_nested_block(self, ws: str, content: str, start: int, end: int) -> None:
        # superfences calls this once for each complete fence
        title = self.options.get("title", "")
        self.complete.append(
            (
                self.lang or "",
                tuple(self.classes),
                title,
                self.rebuild_block(self.code) + "\n",
                start,
                end,
            )
        )
        self.clear()


class _Yaml(yaml.SafeLoader):
    """Reads mkdocs.yml without MkDocs: what its tags stand for is not needed to find fences."""


_Yaml.add_multi_constructor("", lambda loader, suffix, node: None)


class PageParser:
    """Finds the fences of Markdown text, includes expanded, in tabs, admonitions and lists too."""

    def __init__(self, config_file: Path = ROOT / "mkdocs.yml") -> None:
        listed = yaml.load(config_file.read_text(encoding="utf-8"), _Yaml)[
            "markdown_extensions"
        ]
        configs: dict[str, Any] = {}
        for entry in listed:
            configs |= entry if isinstance(entry, dict) else {entry: {}}
        configs = {name: configs[name] or {} for name in WANTED if name in configs}
        snippets = configs[
            "pymdownx.snippets"
        ]  # paths from the root, wherever it is run
        snippets["base_path"] = [str(ROOT / p) for p in snippets["base_path"]]
        md = markdown.Markdown(extensions=list(configs), extension_configs=configs)
        site = md.preprocessors["fenced_code_block"]
        self.fences = _Fences(md)
        self.fences.config, self.fences.extension = site.config, site.extension
        md.preprocessors.register(self.fences, "fenced_code_block", 25)
        extension = next(
            e for e in md.registeredExtensions if type(e).__name__ == "SnippetExtension"
        )
        self.snippets = _Snippets(extension.getConfigs(), md)
        self.normalize = md.preprocessors["normalize_whitespace"]

    def blocks(self, text: str) -> list[CodeBlock]:
        body, _ = meta.get_data(text)  # as MkDocs does: without the front matter
        first = text.count("\n") - body.count("\n") + 1
        lines = self.snippets.run(
            [_Line(t, (None, n)) for n, t in enumerate(body.split("\n"), first)]
        )
        origins = [getattr(line, "origin", (None, 0)) for line in lines]
        self.fences.complete, self.fences.stack = [], []
        self.fences.clear()
        self.fences.run(self.normalize.run([str(line) for line in lines]))
        blocks: list[CodeBlock] = []
        for language, classes, title, code, start, end in self.fences.complete:
            if "output" in classes and blocks:
                blocks[-1] = CodeBlock(**{**vars(blocks[-1]), "output": code})
                continue
            origin = tuple(origins[start + 1 : end - 1])
            blocks.append(
                CodeBlock(language, classes, title, code, origin, origins[start][1])
            )
        return blocks


@functools.cache
def parser() -> PageParser:
    return PageParser()


INCLUDE = re.compile(r'--8<-- "([^":]+)')


def page_blocks(path: Path) -> list[CodeBlock]:
    """The blocks of a page; read again only when it, or a file it includes, changed."""
    text = path.read_text(encoding="utf-8")
    included = [f"{ROOT}/{name}" for name in INCLUDE.findall(text)]
    changed = [os.stat(f).st_mtime_ns for f in included if os.path.exists(f)]
    return list(_read_blocks(text, tuple(changed)))


@functools.lru_cache(maxsize=4096)  # more than the pages of any site: all are asked for
def _read_blocks(text: str, changed: tuple[int, ...]) -> list[CodeBlock]:
    return parser().blocks(text)


def runnable(blocks: list[CodeBlock]) -> Iterator[CodeBlock]:
    return (b for b in blocks if b.runs)


@functools.lru_cache(maxsize=8)  # one block is asked of several times in a row
def parsed(code: str) -> ast.Module:
    """The syntax tree of a block, which nobody may change."""
    return ast.parse(code)


@functools.lru_cache(maxsize=8)
def imported(code: str) -> frozenset[str]:
    """The packages that a block imports, those of Python left out."""
    packages: set[str] = set()
    for node in ast.walk(parsed(code)):
        if isinstance(node, ast.Import):
            packages |= {a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.partition(".")[0])
    return frozenset(packages - sys.stdlib_module_names)


HEAD = re.compile(r"^\s*(`{3,}|~{3,})\s*$")


def unlabelled(text: str) -> list[int]:
    """Lines of fences that open without a language: with the closing fence counted off."""
    lines, inside = [], None
    for n, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if inside is None and stripped.startswith(("```", "~~~")):
            inside = re.match(r"[`~]+", stripped)[0]  # type: ignore[index]
            lines += [n] if HEAD.match(line) else []
        elif inside and stripped.startswith(inside) and not stripped.strip(inside[0]):
            inside = None
    return lines
