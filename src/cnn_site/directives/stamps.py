"""The verified stamp: whether every block of a page ran as it is shown now."""

from dataclasses import dataclass

from cnn_site.fences import CodeBlock, page_blocks, runnable
from cnn_site.pages import SiteError, Technique


@dataclass(frozen=True)
class Stamp:
    """Whether every block of a page ran as it is shown now."""

    state: str  # ok, stale, none
    blocks: int
    ran: int = 0
    date: str = ""
    torch: str = ""
    processor: str = ""
    gpu: str = ""

    @property
    def word(self) -> str:
        return {"ok": "verified", "stale": "stale", "none": "not yet verified"}[
            self.state
        ]


def stamp(t: Technique) -> Stamp:
    blocks = list(runnable(page_blocks(t.path))) if t.facts else []
    runs = t.record.get("runs", {})
    if "cpu" not in runs:
        return Stamp("none", len(blocks))
    run, hashes = runs["cpu"], [b.hash for b in blocks]
    ran = sum(h in run["blocks"] for h in hashes)
    gpu = next(
        (
            r.get("device", name)
            for name, r in runs.items()
            if name != "cpu" and r["blocks"] == hashes
        ),
        "",
    )
    return Stamp(
        "ok" if run["blocks"] == hashes else "stale",
        len(blocks),
        ran,
        run["date"],
        run["torch"],
        run.get("processor", ""),
        gpu,
    )


def copy_block(t: Technique) -> CodeBlock:
    """The titled block under Copy and run."""
    name = t.slug.split("/")[1].replace("-", "_") + ".py"
    for block in page_blocks(t.path):
        if block.title == name:
            return block
    raise SiteError(f'docs/{t.slug}.md has no fence {{.py title="{name}"}}')
