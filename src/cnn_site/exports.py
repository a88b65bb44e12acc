"""The catalogue for machines: `python -m cnn_site.exports` writes docs/catalogue.json and docs/llms.txt.

Both are committed, so that a build writes nothing into docs; a test says when they are behind the pages.
Addresses in them are relative to the site's root.
"""

import json
from typing import Any

from mkdocs.utils import meta

from . import CATEGORIES, pages
from .directives import ABOUT
from .pages import DOCS, Technique

LAB = (
    *("train", "transfer", "detect", "evaluate-and-export", "compare"),
    "many-processes",
)


def entry(t: Technique) -> dict[str, Any]:
    row: dict[str, Any] = {
        "slug": t.slug,
        "category": t.category,
        "title": t.title,
        "year": t.year,
    }
    if not t.facts:
        return {**row, "state": "planned"}
    papers = [pages.paper(k) for k in t.keys]
    return {
        **row,
        "state": "written",
        "description": t.facts["description"],
        "page": f"{t.slug}/",
        "record": f"evidence/{t.slug}.json",
        "module": f"cnn_techniques.{t.slug.replace('-', '_').replace('/', '.')}",
        "papers": [
            {"key": k, "url": pages.paper_url(p)}
            for k, p in zip(t.keys, papers, strict=True)
        ],
        "builds_on": t.builds_on,
        "tags": t.facts["tags"],
        "aliases": t.aliases,
        "level": t.facts.get("level", ""),
        "held_against": sorted(
            {r["reference"] for r in t.record.get("equivalence", {}).values()}
        ),
    }


def catalogue_json() -> str:
    rows = [entry(t) for t in pages.techniques()]
    return (
        json.dumps({"schema": 1, "techniques": rows}, indent=1, ensure_ascii=False)
        + "\n"
    )


def llms_txt() -> str:
    """The pages there are, one line each, as llmstxt.org proposes."""
    lines = [
        "# CNN Techniques",
        "",
        "> Convolutional-network techniques, a page each: equation, PyTorch code that runs as shown, numbers with their",
        "> source, and a comparison with an independent implementation or the equation written a second way.",
        "",
        "Addresses are relative to the site's root. `catalogue.json` lists all techniques, `evidence/` holds the records.",
    ]
    for category in CATEGORIES:
        written = [t for t in pages.in_category(category) if t.facts]
        if written:
            lines += ["", f"## {category.capitalize()}", "", ABOUT[category], ""]
            lines += [
                f"- [{t.short}]({t.slug}/): {t.facts['description']}"
                for t in written
                if t.facts
            ]
    guides = [f"guides/{path.stem}" for path in sorted((DOCS / "guides").glob("*.md"))]
    for title, about, names in (
        ("Lab", "The command `cnn-lab`.", [f"lab/{name}" for name in LAB]),
        ("Guides", "Several techniques at one task.", guides),
    ):
        lines += ["", f"## {title}", "", about, ""]
        for name in names:
            text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
            facts = meta.get_data(text)[1]
            lines.append(f"- [{facts['title']}]({name}/): {facts['description']}")
    return "\n".join(lines) + "\n"


FILES = {DOCS / "catalogue.json": catalogue_json, DOCS / "llms.txt": llms_txt}


def main() -> None:
    for path, make in FILES.items():
        path.write_text(make(), encoding="utf-8")
        print(path.relative_to(DOCS.parent))


if __name__ == "__main__":
    main()
