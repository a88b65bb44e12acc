"""What reference managers and search engines read in the head of a technique's page."""

import json
from pathlib import Path

import pytest
from lxml import html

from cnn_site import pages

TECHNIQUES = [t for t in pages.techniques() if t.path.exists()]


@pytest.mark.parametrize("t", TECHNIQUES, ids=lambda t: t.slug)
def test_the_head_of_a_page_can_be_cited(t: pages.Technique, built_site: Path) -> None:
    root = html.parse(str(built_site / t.slug / "index.html")).getroot()
    meta: dict[str, list[str]] = {}
    for tag in root.xpath("//meta[starts-with(@name, 'citation_')]"):
        meta.setdefault(tag.get("name"), []).append(tag.get("content"))
    facts = t.facts or {}
    assert meta["citation_title"] == [facts["title"]]
    assert meta["citation_author"] == ["Khateeb, Deyaa"]
    assert meta["citation_public_url"][0].endswith(f"/{t.slug}/")
    assert meta["citation_keywords"] == facts["tags"]
    assert len(meta["citation_publication_date"][0].split("/")) == 3
    (text,) = root.xpath("//script[@type='application/ld+json']/text()")
    data = json.loads(text)
    assert data["headline"] == facts["title"]
    assert data["description"] == facts["description"]
    assert data["url"] == meta["citation_public_url"][0]
    released = "citation_volume" in meta
    assert data["creativeWorkStatus"] == ("Published" if released else "Draft")


def test_only_techniques_are_offered_for_citing(built_site: Path) -> None:
    for name in ("index.html", "catalogue/index.html", "attention/index.html"):
        text = (built_site / name).read_text(encoding="utf-8")
        assert "citation_title" not in text, name
