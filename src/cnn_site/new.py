"""Makes the rooms of a technique: `python -m cnn_site.new attention/cbam [--kind block]`.

The technique must be a row of docs/catalogue.csv. Files that exist are left alone; what is missing is written from the
templates in `scaffold`, which run and pass their tests as they are, and the category's `__init__.py` gets its line. The
page is a draft until its line `draft: true` goes; run again then, this puts it into the navigation and the API reference.
What is still to do says `python -m cnn_site.check attention/cbam`.
"""

import argparse
import ast
import json
import re
import sys
from pathlib import Path
from string import Template

from . import ROOT, snake
from .figures.__main__ import main as draw
from .pages import SiteError, Technique, is_draft, technique, techniques

SCAFFOLD = Path(__file__).parent / "scaffold"
KINDS = (
    "block",
    "network",
    "detector",
    "optimizer",
    "schedule",
    "transform",
    "loss",
    "metric",
    "compression",
)
# What most techniques of a category are.
USUAL = {
    "foundations": "network",
    "modern": "network",
    "attention": "block",
    "training": "transform",
    "optimization": "optimizer",
    "detection": "detector",
    "segmentation": "network",
    "compression": "compression",
    "evaluation": "metric",
}
LONG = {"network", "detector", "compression"}  # others begin in the short form
DRAWN = {"block", "network", "detector"}  # have a block diagram
NAMED = {"block", "network", "detector", "optimizer", "schedule"}  # are classes
COMPARISON = {
    "block": "block",
    "network": "network",
    "detector": "network",
    "optimizer": "steps",
    "schedule": "rates",
    "transform": "draws",
    "loss": "loss",
    "metric": "metric",
    "compression": "change",
}
LEFT_OUT = {"Use it, skip it", "Exercises"}  # of the short form
COSTS = """[[numbers cost]]
columns:
- {head: "Parameters, M", computed: params, per: 1e6, digits: 2}
- {head: "MACs, G", computed: macs, per: 1e9, digits: 2}"""


def kind_of(t: Technique) -> str:
    """A guess: of the category, unless the reference is a schedule."""
    if re.search(r"LR\b|WarmRestarts", t.held_against):
        return "schedule"
    return USUAL[t.category]


def rooms(t: Technique, kind: str) -> dict[Path, str]:
    """The files of a technique and what they hold at first."""
    category, slug = t.slug.split("/")
    module, file = snake(t.slug), snake(slug)
    values = {
        "title": t.short,
        "yaml": json.dumps(t.short, ensure_ascii=False) if ":" in t.short else t.short,
        "slug": t.slug,
        "category": category,
        "module": module,
        "file": file,
        "file_kebab": slug,
        "function": file,
        "name": _class_name(t.short),
        "year": t.year or "0 # TODO of the first public version",
        "reference": t.held_against,
        "comparison": COMPARISON[kind],
        "numbers": COSTS if kind in {"block", *LONG - {"compression"}} else "TODO",
        "figure": f"![TODO what to look at.](../figures/{t.slug}.svg)\n\n"
        if kind in DRAWN
        else "",
    }

    def filled(name: str) -> str:
        text = (SCAFFOLD / name).read_text(encoding="utf-8")
        return Template(text).substitute(values)

    folder = {"detector": "network"}.get(kind, kind)
    made = {
        ROOT / f"src/cnn_techniques/{module}.py": filled(f"{folder}/source.txt"),
        ROOT / f"snippets/{module}.py": filled(f"{folder}/use.txt"),
        ROOT / f"tests/{category}/test_{file}.py": filled(f"{folder}/proof.txt"),
        ROOT / f"docs/{t.slug}.md": _page(filled("page.txt"), kind in LONG),
    }
    if kind in DRAWN:
        made[ROOT / f"snippets/{category}/figures/{file}.py"] = filled("figure.txt")
    return made


def _class_name(title: str) -> str:
    words = re.split(r"[\s-]", title)
    return re.sub(r"[^A-Za-z0-9]", "", "".join(w[:1].upper() + w[1:] for w in words))


def _page(text: str, long: bool) -> str:
    head, *parts = re.split(r"(?m)^(?=## )", text)
    kept = [p for p in parts if long or p.split("\n")[0][3:] not in LEFT_OUT]
    return head + "".join(kept)


def exported(text: str, module: Path) -> str:
    """A category's `__init__.py` with the public names of a module, which stand in the order of the modules."""
    names = [
        node.name
        for node in ast.parse(module.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_"
    ]
    new = []
    for name in sorted(names, key=lambda n: (n[0].islower(), n)):  # classes first
        line = f"from .{module.stem} import {name} as {name}"
        if (
            f"import {name} as {name}" not in text
            and f"    {name} as {name}," not in text
        ):
            long = line.replace(" import ", " import (\n    ") + ",\n)"
            new.append(line if len(line) <= 88 else long)
    lines = text.rstrip("\n").split("\n")
    imports = [n for n in ast.parse(text).body if isinstance(n, ast.ImportFrom)]
    later = [n.lineno - 1 for n in imports if (n.module or "") > module.stem]
    at = min(later, default=len(lines))
    return "\n".join([*lines[:at], *[""] * (not imports), *new, *lines[at:]]) + "\n"


def listed(text: str, t: Technique) -> str:
    """`mkdocs.yml` with the page in its category, in the order of the catalogue."""
    entry = f"          - {t.slug}.md\n"
    if entry in text:
        return text
    order = [
        f"          - {u.slug}.md\n" for u in techniques() if u.category == t.category
    ]
    after = f"          - {t.category}/index.md\n"
    for before in order[: order.index(entry)]:
        after = before if before in text else after
    if after not in text:
        raise SiteError(f"mkdocs.yml has no line {after.strip()!r} in its nav")
    return text.replace(after, after + entry, 1)


def described(text: str, t: Technique) -> str:
    """The category's API page with the module."""
    if f"(../{t.slug}.md)" in text:
        return text
    module = f"cnn_techniques.{snake(t.slug).replace('/', '.')}"
    entry = f"\n## {t.short}\n\nPage: [{t.short}](../{t.slug}.md)\n\n::: {module}\n"
    return text.rstrip("\n") + "\n" + entry


def make(slug: str, kind: str | None = None) -> list[Path]:
    """Writes what is missing and returns it."""
    t, made = technique(slug, drafts=True), []
    for path, text in rooms(t, kind or kind_of(t)).items():
        drawing = path.parent.name == "figures"
        if path.exists() or (drawing and t.path.exists() and t.path not in made):
            continue  # a page of old may have no figure
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        made.append(path)
    module = ROOT / f"src/cnn_techniques/{snake(t.slug)}.py"
    package, config = module.parent / "__init__.py", ROOT / "mkdocs.yml"
    api = ROOT / f"docs/api/{t.category}.md"
    changed = {package: exported(package.read_text(encoding="utf-8"), module)}
    if not is_draft(t.path):
        changed[config] = listed(config.read_text(encoding="utf-8"), t)
        changed[api] = described(api.read_text(encoding="utf-8"), t)
    for path, text in changed.items():
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            made.append(path)
    if any(path.parent.name == "figures" for path in made):
        draw([slug.split("/")[1]])
    return made


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cnn_site.new", description="Make the rooms of a technique."
    )
    parser.add_argument("slug", help="as in docs/catalogue.csv, e.g. attention/cbam")
    parser.add_argument(
        "--kind", choices=KINDS, help="what it is; else what its category is for"
    )
    options = parser.parse_args(arguments)
    try:
        made = make(options.slug, options.kind)
    except SiteError as error:
        print(error, file=sys.stderr)
        return 2
    for path in made:
        print(path.relative_to(ROOT))
    print(f"next: python -m cnn_site.check {options.slug}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
