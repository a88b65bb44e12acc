"""A small site of real pages: what is planted in it is found in two seconds, however many techniques there are."""

import re
import shutil
from pathlib import Path

import pytest

from cnn_site import CATEGORIES, ROOT

SLUG = "attention/squeeze-and-excitation"
PAGES = (
    "index.md",
    "catalogue.md",
    "changelog.md",
    "conventions.md",
    "references.md",
    "tags.md",
    "verification.md",
    *(f"{category}/index.md" for category in CATEGORIES),
    f"{SLUG}.md",
    "api/attention.md",
    "tutorials/train-lenet-5.py",
)
FILES = (
    "docs/assets",
    "docs/catalogue.csv",
    "docs/catalogue.json",
    "docs/references.bib",
    "docs/evidence/published.csv",
    "docs/evidence/processors.json",
    f"docs/evidence/{SLUG}.json",
    f"docs/figures/{SLUG}.svg",
    "src",
    "snippets",
    "tests",
    "pyproject.toml",
    "conftest.py",
    "README.md",
    "CHANGELOG.md",
)
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+\.(?:md|py))(?:#[^)]*)?\)")


@pytest.fixture
def small_site(tmp_path: Path) -> Path:
    """A copy of the repository with one technique, in which links to pages that are left out are plain text."""
    site = tmp_path / "site"
    for name in FILES:
        copy(name, site)
    for name in PAGES:
        page, folder = ROOT / "docs" / name, (ROOT / "docs" / name).parent
        text = page.read_text(encoding="utf-8")

        def linked(link: re.Match[str], folder: Path = folder) -> str:
            target = (folder / link[2]).resolve()
            inside = target.is_relative_to(ROOT / "docs")
            has_page = inside and str(target.relative_to(ROOT / "docs")) in PAGES
            return link[0] if has_page else link[1]

        if name == "api/attention.md":  # of this module alone
            module = SLUG.replace("/", ".").replace("-", "_")
            text = re.sub(
                rf"^::: (?!cnn_techniques\.{module}$).*\n", "", text, flags=re.M
            )
        path = site / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LINK.sub(linked, text), encoding="utf-8")
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[0]
    nav = "".join(f"  - {name}\n" for name in PAGES)
    (site / "mkdocs.yml").write_text(f"{config}\nnav:\n{nav}", encoding="utf-8")
    return site


def copy(name: str, site: Path) -> None:
    (site / name).parent.mkdir(parents=True, exist_ok=True)
    if (ROOT / name).is_dir():
        leave_out = shutil.ignore_patterns("__pycache__", ".cache")
        shutil.copytree(ROOT / name, site / name, ignore=leave_out)
    else:
        shutil.copy(ROOT / name, site / name)
