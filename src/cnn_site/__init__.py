"""The machine behind the site: Markdown extension, page runner, evidence, figures, theme overrides."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CATEGORIES = (
    "foundations",
    "modern",
    "attention",
    "training",
    "optimization",
    "detection",
    "segmentation",
    "compression",
    "evaluation",
)
BESIDE = ("lab", "guides")  # folders of pages that are no techniques and have records


def snake(slug: str) -> str:
    """`attention/squeeze-and-excitation` as Python writes it."""
    return slug.replace("-", "_")
