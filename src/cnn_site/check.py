"""What is still to do for one technique: `python -m cnn_site.check attention/cbam`.

The checks are those of the tests (checks.py), in the order of the steps in .github/CONTRIBUTING.md. What they cannot see
without computing is whether the proof passes: the last lines say how to run it.
"""

import argparse
import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from . import ROOT, checks, exports, pages
from .evidence import proof
from .pages import SiteError, Technique

Check = Callable[[Technique], list[str]]


def rules_for(
    room: Callable[[Technique], Path], *rules: Callable[[Path], list[str]]
) -> Check:
    """The rules for a file, and what its template left; a file that is missing is told by `rooms`."""

    def check(t: Technique) -> list[str]:
        path = room(t)
        if not path.exists():
            return []
        left = [m for m in checks.marks(t) if m.startswith(f"{checks.place(path)}:")]
        return left + [fault for rule in rules for fault in rule(path)]

    return check


def draft(t: Technique) -> list[str]:
    cure = f"drop the line when nothing else is left, then: python -m cnn_site.new {t.slug}"
    line = pages.line_of(t.path, "draft")
    return [checks.at(t.path, line, f"is a draft; {cure}")] * pages.is_draft(t.path)


def lists(t: Technique) -> list[str]:
    """What is made from the front matter of pages that are no drafts."""
    if pages.is_draft(t.path):
        return []
    stale = [
        f"{path.relative_to(ROOT)}:1: is behind the pages; python -m cnn_site.exports"
        for path, make in exports.FILES.items()
        if path.read_text(encoding="utf-8") != make()
    ]
    return [*checks.listed(t), *checks.api(t), *stale]


# As numbered in .github/CONTRIBUTING.md.
STEPS: dict[str, list[Check]] = {
    "Rooms": [lambda t: [f for f in checks.rooms(t) if "docs/evidence" not in f]],
    "Code": [
        rules_for(
            checks.source,
            checks.floor_1,
            checks.forbidden,
            checks.length,
            checks.wide,
            checks.sections,
            checks.documented,
        )
    ],
    "Use": [rules_for(checks.use, checks.wide, checks.sections)],
    "Proof": [rules_for(checks.proof_file, checks.device_cases)],
    "Figure": [rules_for(checks.figure), checks.drawn],
    "Page": [
        rules_for(lambda t: t.path, checks.fences, checks.excerpts, checks.prose),
        checks.parts,
        checks.directives,
        checks.findable,
        checks.see_also,
        checks.includes_only,
        checks.twice,
        checks.unused_imports,
        checks.wrong_needs,
        checks.wide_blocks,
        checks.depends,
    ],
    "Sources": [checks.known],
    "Record": [
        lambda t: [f for f in checks.rooms(t) if "docs/evidence" in f],
        checks.stamped,
        checks.measured,
    ],
    "Lists": [checks.in_changelog, draft, lists],
}


def to_do(slug: str) -> dict[str, list[str]]:
    """Faults by step; SiteError for a slug that the catalogue has not."""
    page = pages.technique_path(slug)
    if not page.exists():
        return {
            "Rooms": [f"docs/{slug}.md:1: is missing; python -m cnn_site.new {slug}"]
        }
    t = pages.technique(slug, drafts=True)
    return {step: list(_faults(rules, t)) for step, rules in STEPS.items()}


def _faults(rules: list[Check], t: Technique) -> Iterator[str]:
    seen = set()
    for rule in rules:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                faults = rule(t)
        except Exception as error:  # a room that cannot be read keeps no other check
            place = f"docs/{t.slug}.md:1"
            if isinstance(error, SyntaxError) and error.filename:
                place = f"{error.filename}:{error.lineno}"
            faults = [f"{place}: {type(error).__name__}: {error}"]
        for fault in faults:
            if fault not in seen:
                seen.add(fault)
                yield fault


def main(given: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(
        prog="python -m cnn_site.check",
        description="What is still to do for a technique.",
    )
    arguments.add_argument(
        "slug", nargs="+", help="as in docs/catalogue.csv, e.g. attention/cbam"
    )
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    codes = [report(slug.strip("/")) for slug in arguments.parse_args(given).slug]
    return max(codes)


def report(slug: str) -> int:
    """Print the list; 1 if something is on it, 2 for a technique that nobody knows."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:  # blocks may write files
        os.chdir(folder)
        try:
            steps = to_do(slug)
        except SiteError as error:
            print(error, file=sys.stderr)
            return 2
        finally:
            os.chdir(here)
    count = sum(map(len, steps.values()))
    for n, (step, faults) in enumerate(steps.items(), 1):
        print(f"{n}. {step}{': done' if not faults else ''}")
        for fault in faults:
            print("   [ ]", re.sub(r"\n(?=.)", "\n       ", fault.rstrip()))
    print(f"\n{slug}: {count} things to do" if count else f"\n{slug}: nothing to do")
    print(f"run what is computed: python -m pytest {proof(slug)} docs/{slug}.md")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
