"""Makes the empty rooms of a technique: `python -m cnn_site.new attention cbam`.

The technique must be a row of docs/catalogue.csv. Files that exist are left alone; what is missing is written, the page
joins the navigation in `mkdocs.yml` and the API reference. The tests then say what is still to be filled in.
"""

import argparse
import re
import sys
from pathlib import Path

from . import CATEGORIES, ROOT, snake
from .pages import SiteError, Technique, technique, techniques

SOURCE = '''"""{title}: one sentence of the idea.

Source: authors, "title", venue year, arXiv:id, section.
Legend: N images, C channels, H x W pixels.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
class {name}(nn.Module):
    """What it does.

    Args:
        channels: C, number of input channels.

    Shape: (N, C, H, W) -> (N, C, H, W), for any H and W.
    Raises: ValueError for a width below 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"widths must be at least 1, got {{channels=}}")

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


# --8<-- [end:module]
'''

SNIPPET = """import torch

from cnn_techniques.{category} import {name}

# --8<-- [start:usage]
torch.manual_seed(0)
layer = {name}(64)
images = torch.randn(2, 64, 32, 32)
print(f"{{layer(images).mean():.3f}}")
# --8<-- [end:usage]
"""

FIGURE = """from cnn_site.figures import Figure, conv, data, stack

figure = Figure(
    "{slug}",
    "{title}",
    "One or two sentences that replace the picture.",
    stack(data("x, C × H × W"), conv("Conv 3×3, C"), data("y, C × H × W")),
)


def module():  # what the figure is held against
    from cnn_techniques.{category} import {name}

    return {name}(64)
"""

PROOF = '''"""Why {title} is right."""

import torch

from cnn_site.equivalence import compare
from cnn_techniques.{category} import {name}

DEVICE_CASES = {{"{name}": lambda: ({name}(64), (torch.randn(2, 64, 9, 7),))}}


def test_equals_the_reference(evidence) -> None:
    images = torch.randn(2, 64, 9, 7)
    comparison = compare({name}(64), reference, images)  # noqa: F821
    evidence.equivalent("block", comparison, reference="torchvision.ops.{name}", settings="defaults")
'''

PAGE = """---
title: {title}
description: One checkable sentence.
year: {year}
papers: []
tags: [{category}]
builds_on: []
---

# {title}

The idea in one sentence.
{{ .lead }}

[[technique {slug}]]

![What to look at.](../figures/{slug}.svg)

## What it solves

## Equation and code

<div class="eqcode" markdown>
<div markdown>
<div class="eq" markdown>
**name of the step**

$$y = x$$

</div>

```{{.py .excerpt}}
the lines that do it
```

</div>
</div>

## Copy and run

Needs only `torch`. Paste into a file or a notebook cell.

<div class="run" markdown>

```{{.py title="{file}.py"}}
--8<-- "src/cnn_techniques/{module}.py:imports"

--8<-- "src/cnn_techniques/{module}.py:module"
--8<-- "snippets/{module}.py:usage"
```

```{{.text .output}}
```

[[ran]]

</div>

## Numbers

[[numbers cost]]
columns:
- {{head: "Parameters, M", computed: params, per: 1e6, digits: 2}}

## Held against

[[equivalence block]]

## Use it, skip it

<div class="when" markdown>
<div markdown>

### Use it when

</div>
<div markdown>

### Skip it when

</div>
</div>

### Differences from the paper

## What goes wrong

<div class="wrong" markdown>

### What people get wrong

</div>

## Exercises

<div class="exercises" markdown>

</div>

## See also

## Corrections

[[corrections]]

## Cite

[[cite]]
"""


def rooms(t: Technique) -> dict[Path, str]:
    """The files of a technique and what an empty one holds."""
    category, slug = t.slug.split("/")
    module, file = snake(t.slug), snake(slug)
    values = {
        "title": t.short,
        "slug": t.slug,
        "category": category,
        "module": module,
        "file": file,
        "year": t.year or "",
        "name": re.sub(
            r"[^A-Za-z0-9]",
            "",
            "".join(p[:1].upper() + p[1:] for p in re.split(r"[\s-]", t.short)),
        ),
    }
    return {
        ROOT / f"src/cnn_techniques/{module}.py": SOURCE.format(**values),
        ROOT / f"snippets/{module}.py": SNIPPET.format(**values),
        ROOT / f"snippets/{category}/figures/{file}.py": FIGURE.format(**values),
        ROOT / f"tests/{category}/test_{file}.py": PROOF.format(**values),
        ROOT / f"docs/{t.slug}.md": PAGE.format(**values),
    }


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


def make(slug: str) -> list[Path]:
    """Writes what is missing and returns it."""
    t, made = technique(slug), []
    for path, text in rooms(t).items():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            made.append(path)
    config, api = ROOT / "mkdocs.yml", ROOT / f"docs/api/{t.category}.md"
    entry = f"\n## {t.short}\n\nPage: [{t.short}](../{t.slug}.md)\n\n::: cnn_techniques.{snake(t.slug).replace('/', '.')}\n"
    for path, text in (
        (config, listed(config.read_text(encoding="utf-8"), t)),
        (api, api.read_text(encoding="utf-8")),
    ):
        if path == api and f"(../{t.slug}.md)" not in text:
            text = text.rstrip("\n") + "\n" + entry
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            made.append(path)
    return made


def main() -> int:
    arguments = argparse.ArgumentParser(
        prog="python -m cnn_site.new", description="Make the rooms of a technique."
    )
    arguments.add_argument("category", choices=CATEGORIES)
    arguments.add_argument("slug", help="as in docs/catalogue.csv, e.g. cbam")
    given = arguments.parse_args()
    try:
        made = make(f"{given.category}/{given.slug}")
    except SiteError as error:
        print(error, file=sys.stderr)
        return 2
    for path in made:
        print(path.relative_to(ROOT))
    print("next: fill in the rooms, then pytest -k", snake(given.slug), "tests docs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
