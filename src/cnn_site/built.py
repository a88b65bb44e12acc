"""A built site that is there already, and whether it was made of the files that are here now.

    python -m cnn_site.built FOLDER    marks a build that was just made

A build takes a dozen seconds or more, and the tests and the browser look at one: whoever built it marks it, and who is
handed it ($SITE_DIR) checks the mark.
"""

import hashlib
import re
import sys
from pathlib import Path

from . import ROOT

MARK = ".sources"  # in the built folder; MkDocs never writes a dotfile there
READ = ("CHANGELOG.md", "docs", "mkdocs.yml", "snippets", "src")
LEFT_OUT = re.compile(r"/(\.|__pycache__/)")


class OtherSources(ValueError):
    """A built site that was not made of the files that are here now."""


def sources(root: Path = ROOT) -> str:
    """A hash of the names and bytes of all files that a build reads, below `root`."""
    whole = hashlib.sha256()
    for name in READ:
        for path in sorted([root / name, *(root / name).rglob("*")]):
            inside = path.relative_to(root)
            if path.is_file() and not LEFT_OUT.search(f"/{inside}"):
                one = hashlib.sha256(path.read_bytes()).hexdigest()
                whole.update(f"{inside}\0{one}\n".encode())
    return whole.hexdigest()[:12]


def mark(folder: Path, root: Path = ROOT) -> None:
    """Notes in a built folder what it was made of; call it right after the build."""
    (folder / MARK).write_text(sources(root) + "\n", encoding="utf-8")


def check(folder: Path, root: Path = ROOT) -> None:
    """Raises: OtherSources if the folder is not a marked build of the files below `root`."""
    path = folder / MARK
    made_of = path.read_text(encoding="utf-8").strip() if path.exists() else "unmarked"
    if made_of != (now := sources(root)):
        raise OtherSources(
            f"{folder}: a build of other sources ({made_of}; those here are {now}); "
            f"build it again: python -m mkdocs build --strict -d {folder} && python -m cnn_site.built {folder}"
        )


if __name__ == "__main__":
    mark(Path(sys.argv[1]))
