"""Every page has its rooms, parts, fences and record: nothing is half there. Messages name file, line and cure."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cnn_site import CATEGORIES, ROOT, pages, snake
from cnn_site.directives import copy_block, stamp
from cnn_site.evidence import proof, stale_measurements
from cnn_site.fences import Block, page_blocks, runnable, unlabelled
from cnn_site.runner import run_block, unlike

SECTIONS = [
    "What it solves",
    "Equation and code",
    "Copy and run",
    "Numbers",
    "Held against",
    "Use it, skip it",
    "What goes wrong",
    "Exercises",
    "See also",
    "Corrections",
    "Cite",
]
ALWAYS = {
    "What it solves",
    "Copy and run",
    "Held against",
    "See also",
    "Corrections",
    "Cite",
}
TECHNIQUES = [t for t in pages.techniques() if t.path.exists()]
SLUGS = [t.slug for t in TECHNIQUES]
MARKDOWN = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
each_technique = pytest.mark.parametrize("t", TECHNIQUES, ids=SLUGS)
each_page = pytest.mark.parametrize(
    "page", MARKDOWN, ids=lambda p: str(p.relative_to(ROOT))
)


def told(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {what}"


def refuse(faults: list[str]) -> None:
    assert not faults, "\n" + "\n".join(faults)


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")


# --- rooms -----------------------------------------------------------------------


@each_technique
def test_a_technique_has_all_its_rooms(t: pages.Technique) -> None:
    name = snake(t.slug)
    rooms = [
        f"src/cnn_techniques/{name}.py",
        f"snippets/{name}.py",
        proof(t.slug),
        f"docs/evidence/{t.slug}.json",
    ]
    refuse(
        [
            f"{room}: is missing; docs/{t.slug}.md has a page"
            for room in rooms
            if not (ROOT / room).exists()
        ]
    )


def test_no_room_stands_without_a_page() -> None:
    faults = []
    for folder in ("src/cnn_techniques", "snippets"):
        for path in sorted((ROOT / folder).glob("*/*.py")):
            slug = f"{path.parent.name}/{path.stem.replace('_', '-')}"
            if path.name != "__init__.py" and slug not in SLUGS:
                faults.append(f"{path.relative_to(ROOT)}: docs/{slug}.md is missing")
    known = {t.slug for t in pages.techniques()}
    for path in sorted((ROOT / "docs").glob("*/*.md")):
        slug = f"{path.parent.name}/{path.stem}"
        if (
            path.parent.name in CATEGORIES
            and path.stem != "index"
            and slug not in known
        ):
            faults.append(f"docs/{slug}.md: not in docs/catalogue.csv")
    refuse(faults)


def navigation() -> list[str]:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("", lambda loader, suffix, node: None)
    found: list[str] = []

    def walk(item: Any) -> None:
        if isinstance(item, str):
            found.append(item)
        else:
            for child in item.values() if isinstance(item, dict) else item:
                walk(child)

    walk(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])
    return found


def test_the_navigation_lists_the_pages_in_the_order_of_the_catalogue() -> None:
    listed = [
        p.removesuffix(".md")
        for p in navigation()
        if p.split("/")[0] in CATEGORIES and not p.endswith("index.md")
    ]
    assert listed == SLUGS


@each_technique
def test_the_api_reference_shows_the_module_and_links_the_page(
    t: pages.Technique,
) -> None:
    api = ROOT / "docs/api" / f"{t.category}.md"
    text = api.read_text(encoding="utf-8")
    module = f"::: cnn_techniques.{snake(t.slug).replace('/', '.')}"
    faults = [
        told(api, 1, f"lacks {want!r}")
        for want in (module, f"(../{t.slug}.md)")
        if want not in text
    ]
    refuse(faults)


# --- parts -----------------------------------------------------------------------


def headings(path: Path) -> list[tuple[int, str]]:
    inside, found = False, []
    for n, line in enumerate(lines_of(path), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif line.startswith("## ") and not inside:
            found.append((n, line[3:].strip()))
    return found


@each_technique
def test_the_parts_of_a_page_stand_in_the_same_order_with_the_same_names(
    t: pages.Technique,
) -> None:
    found = headings(t.path)
    faults = [
        told(t.path, n, f"section {title!r} is not one of {SECTIONS}")
        for n, title in found
        if title not in SECTIONS
    ]
    titles = [title for _, title in found]
    faults += [
        told(t.path, 1, f"section {title!r} is missing")
        for title in SECTIONS
        if title in ALWAYS - set(titles)
    ]
    if not faults and titles != [s for s in SECTIONS if s in titles]:
        faults.append(told(t.path, 1, f"sections stand in the order {titles}"))
    refuse(faults)


@each_technique
def test_a_page_names_itself_and_shows_its_record(t: pages.Technique) -> None:
    text = t.path.read_text(encoding="utf-8")
    wanted = [
        f"[[technique {t.slug}]]",
        "[[ran]]",
        "[[corrections]]",
        "[[cite]]",
        f"](../figures/{t.slug}",
    ]
    refuse([told(t.path, 1, f"lacks {want}") for want in wanted if want not in text])


@each_technique
def test_papers_and_prerequisites_are_known(t: pages.Technique) -> None:
    for key in t.keys:
        pages.paper(key)
    for slug in t.builds_on:
        pages.technique(slug)


# --- fences ----------------------------------------------------------------------


@each_page
def test_every_fence_has_a_language_and_python_is_run_or_has_a_reason(
    page: Path,
) -> None:
    lines = lines_of(page)
    faults = [
        told(page, n, "a fence without a language")
        for n in unlabelled("\n".join(lines))
    ]
    for block in page_blocks(page):
        above = lines[block.line - 2].strip() if block.line > 1 else ""
        reason = above.startswith("<!--") and above.endswith("-->")
        if block.language == "pycon":
            faults.append(
                told(
                    page, block.line, "pycon is not run; write py and an .output fence"
                )
            )
        if "notest" in block.classes and page.parent.name in CATEGORIES:
            faults.append(told(page, block.line, ".notest on the page of a technique"))
        if (
            "notest" in block.classes
            or (block.language in ("console", "sh") and not block.is_command)
        ) and not reason:
            faults.append(
                told(
                    page,
                    block.line,
                    "not run; say why in an HTML comment on the line above",
                )
            )
    inside = False
    for n, line in enumerate(lines, 1):
        inside = (inside or "<!--" in line) and "-->" not in line
        if inside and line.strip().startswith("```"):
            faults.append(
                told(page, n, "a fence in an HTML comment is run and not shown")
            )
    refuse(faults)


@each_page
def test_an_excerpt_stands_unchanged_in_a_block_that_is_run(page: Path) -> None:
    blocks = page_blocks(page)
    refuse(
        [
            told(
                page,
                b.line,
                f"this excerpt is in no block of the page that is run:\n{b.code}",
            )
            for b in blocks
            if b.is_excerpt and not any(r.contains(b.code) for r in runnable(blocks))
        ]
    )


@each_technique
def test_the_copy_and_run_block_is_made_of_includes_only(t: pages.Technique) -> None:
    block = copy_block(t)
    typed = [(n, name) for name, n in block.origins if name is None]
    lines = lines_of(t.path)
    refuse(
        [
            told(t.path, n, f"typed into the block: {lines[n - 1]!r}")
            for n, _ in typed
            if lines[n - 1].strip() and not lines[n - 1].strip().startswith("--8<--")
        ]
    )
    assert block.output, told(t.path, block.line, "no .output fence follows the block")


@each_technique
def test_no_name_is_defined_twice_in_a_composed_block(t: pages.Technique) -> None:
    block = copy_block(t)
    seen: set[str] = set()
    faults = []
    for node in ast.parse(block.code).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.asname or a.name for a in node.names]
        else:
            names = (
                [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            )
        for name in names:
            if name in seen:
                where, n = block.origins[node.lineno - 1]
                at = (
                    f"{Path(where).relative_to(ROOT)}:{n}"
                    if where
                    else f"docs/{t.slug}.md:{n}"
                )
                faults.append(
                    f"{at}: {name!r} is defined twice in the block of docs/{t.slug}.md"
                )
            seen.add(name)
    refuse(faults)


@each_technique
def test_a_composed_block_imports_nothing_it_does_not_use(t: pages.Technique) -> None:
    tree = ast.parse(copy_block(t).code)
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {(a.asname or a.name).split(".")[0] for n in imports for a in n.names}
    assert names <= used, (
        f"docs/{t.slug}.md: the block imports {names - used} for nothing"
    )


@each_technique
def test_lines_fit_the_page(t: pages.Technique) -> None:
    refuse(
        [
            told(
                t.path,
                b.line,
                f"a line of {len(line)} characters scrolls; 88 fit: {line}",
            )
            for b in page_blocks(t.path)
            if b.is_python
            for line in b.code.split("\n")
            if len(line) > 88
        ]
    )


# --- records ---------------------------------------------------------------------


@each_technique
def test_the_blocks_of_the_record_are_those_of_the_page(t: pages.Technique) -> None:
    now = stamp(t)
    assert now.state == "ok", told(
        t.path,
        1,
        f"{now.ran} of {now.blocks} blocks are as they ran; run: pytest --update-evidence docs/{t.slug}.md",
    )


@each_technique
def test_measured_results_were_made_by_the_code_there_is(t: pages.Technique) -> None:
    refuse(stale_measurements(t.slug))


@pytest.mark.parametrize(
    "part", sorted(p.stem for p in (ROOT / "docs/evidence/lab").glob("*.json"))
)
def test_measured_results_of_the_lab_were_made_by_the_code_there_is(part: str) -> None:
    refuse(stale_measurements(f"lab/{part}"))


# --- proof that a shown value depends on the technique -------------------------------


def zeros(value: Any) -> Any:
    """The same structure with nothing in it."""
    import dataclasses

    import torch

    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value)
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | float):
        return type(value)(0)
    if isinstance(value, dict):
        return {k: zeros(v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(zeros(v) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(zeros(v) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        of = {f.name: zeros(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **of)
    return value


def emptied(thing: Any) -> Any:
    """A class or function whose result is zeros; an optimizer that takes no step."""
    import functools
    import inspect

    import torch

    if inspect.isclass(thing):
        if issubclass(thing, torch.optim.Optimizer):
            thing.step = lambda self, closure=None: None
        elif issubclass(thing, torch.nn.Module) and "forward" in vars(thing):
            thing.forward = emptied(thing.forward)
        elif "__call__" in vars(thing):
            thing.__call__ = emptied(thing.__call__)
        return thing

    @functools.wraps(thing)
    def call(*args: Any, **kwargs: Any) -> Any:
        return zeros(thing(*args, **kwargs))

    return call


@each_technique
def test_zeros_in_place_of_the_result_change_what_is_printed(
    t: pages.Technique, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    block = copy_block(t)
    own = ROOT / "src/cnn_techniques" / f"{snake(t.slug)}.py"
    tree = ast.parse(own.read_text(encoding="utf-8"))
    public = {
        n.name
        for n in tree.body
        if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")
    }
    lines = block.code.split("\n")
    sources = [n for n, (f, _) in enumerate(block.origins) if f and "/src/" in f]
    usage = max(sources) + 1
    definitions = Block(
        "py", (), "", "\n".join(lines[:usage]) + "\n", block.origins[:usage], block.line
    )
    example = Block(
        "py", (), "", "\n".join(lines[usage:]), block.origins[usage:], block.line
    )
    for name in [n for n in sys.modules if n.split(".")[0].startswith("cnn_")]:
        monkeypatch.delitem(sys.modules, name)
    space: dict[str, Any] = {}
    run_block(definitions, t.path, space)
    for name in public:
        space[name] = emptied(space[name])
    try:
        printed = run_block(example, t.path, space)
    except Exception:  # zeros the example cannot work with are seen as well
        return
    assert unlike(printed, block.output or ""), told(
        t.path, block.line, "prints the same when the result is zeros"
    )


# --- words -----------------------------------------------------------------------

UNWANTED = re.compile(
    r"\b(simply|obviously|of course|state-of-the-art|cutting-edge|we|our|us)\b",
    re.IGNORECASE,
)


@each_page
def test_prose_is_free_of_praise_and_of_we(page: Path) -> None:
    faults, inside = [], False
    for n, line in enumerate(lines_of(page), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside and (m := UNWANTED.search(line)):
            faults.append(told(page, n, f"{m[0]!r} in: {line.strip()}"))
    refuse(faults)
