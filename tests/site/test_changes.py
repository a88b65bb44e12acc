"""The changelog as a page and as a feed: what it says, where it leads, and that readers of feeds can read it."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from cnn_site import changes, pages
from cnn_site.directives import Page, render

SITE = "https://site.example"
ATOM = {"a": changes.ATOM}
LOG = """# Changelog

Words before, with `- a line` that is no item.

- nor this one

## [Unreleased]

### Added

- `modern/resnet`: one more variant.

### Corrections

- `attention/cbam`: said 0.1 & `<b>`; is
  0.2 M; the paper counts no biases.

## [0.2.0] - 2027-03-04

### Added

- `attention/cbam`: CBAM. See [the catalogue](docs/catalogue.md), [the gate](.ci/run) and [nothing](docs/none.md).
- The bench.

### Corrections

- `modern/resnet`: said a; is b; why c.

## [0.1.0] - 2027-01-02

### Added

- `modern/resnet`: ResNet.
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "CHANGELOG.md").write_text(LOG, encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/catalogue.md").touch()
    monkeypatch.setattr(changes, "ROOT", tmp_path)
    monkeypatch.setattr("cnn_site.directives.repository.ROOT", tmp_path)


def entries(release: str) -> list[dict[str, str]]:
    root = ET.fromstring(changes.feed(SITE, release))
    return [
        {
            **{e.tag.partition("}")[2]: e.text or "" for e in entry},
            "to": entry.find("a:link", ATOM).get("href"),
        }
        for entry in root.findall("a:entry", ATOM)
    ]


@pytest.mark.usefixtures("log")
def test_items_are_read_with_their_release_and_continuation() -> None:
    found = changes.changes()
    assert len(found) == 6
    assert found[1] == changes.Change(
        "Unreleased",
        "",
        "Corrections",
        "attention/cbam",
        "said 0.1 & `<b>`; is 0.2 M; the paper counts no biases.",
    )
    assert [c.date for c in found[2:]] == ["2027-03-04"] * 3 + ["2027-01-02"]


@pytest.mark.usefixtures("log")
def test_a_page_shows_its_corrections_with_their_release() -> None:
    told = render(Page(SITE, "", "modern/resnet"), "corrections", [], None)
    assert '<a href="/changelog.md#release-0.2.0">0.2.0</a>' in told
    assert "2027-03-04: said a; is b; why c." in told
    assert "None since" in render(Page(SITE, "", "modern/vgg"), "corrections", [], None)


@pytest.mark.usefixtures("log")
def test_the_page_of_changes_leads_to_pages_and_to_the_repository() -> None:
    told = render(Page(SITE, "0.2.0"), "changelog", [], None)
    for part in (
        '<h2 id="release-0.2.0">0.2.0, 2027-03-04</h2>',
        '<a href="/modern/resnet.md">ResNet</a>: said a; is b; why c.',
        '<a href="/catalogue.md">the catalogue</a>, the gate and nothing.',
        "said 0.1 &amp; <code>&lt;b&gt;</code>; is 0.2 M",
    ):
        assert part in told
    page = Page(SITE, "0.2.0", repository="https://github.com/o/n")
    led = '<a href="https://github.com/o/n/blob/v0.2.0/.ci/run">the gate</a>'
    assert led in render(page, "changelog", [], None)


@pytest.mark.usefixtures("log")
def test_a_feed_has_new_pages_and_corrections_the_newest_first() -> None:
    there = entries("0.2.0")
    assert [(e["title"], e["updated"][:10]) for e in there] == [
        ("New: CBAM", "2027-03-04"),
        ("Corrected: ResNet", "2027-03-04"),
        ("New: ResNet", "2027-01-02"),
    ]
    assert there[1]["to"] == f"{SITE}/0.2.0/modern/resnet/#corrections"
    assert there[1]["summary"] == "said a; is b; why c."


@pytest.mark.usefixtures("log")
def test_entries_keep_their_names_and_a_development_version_has_more() -> None:
    now, then = entries("0.3.0"), entries("0.2.0")
    assert [e["id"] for e in now] == [e["id"] for e in then]
    assert [e["to"] for e in now] != [e["to"] for e in then]
    more = {e["id"]: e for e in entries("")}
    assert set(more) > {e["id"] for e in then}
    (new,) = set(more) - {e["id"] for e in then}
    assert more[new]["summary"].startswith("said 0.1 & <b>; is 0.2 M")


@pytest.mark.parametrize("release", ["", "0.1.0"])
def test_the_feed_is_valid_atom(release: str) -> None:
    """What RFC 4287 requires of a feed and its entries (sections 4.1.1 and 4.1.2)."""
    root = ET.fromstring(changes.feed(SITE, release))
    assert root.tag == f"{{{changes.ATOM}}}feed"
    assert root.findtext("a:author/a:name", "", ATOM)
    entries = root.findall("a:entry", ATOM)
    for el in (root, *entries):
        for name in ("id", "title", "updated"):
            assert len(el.findall(f"a:{name}", ATOM)) == 1
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", el.findtext("a:updated", "", ATOM)
        )
        assert el.findtext("a:id", "", ATOM).startswith(SITE + "/")
        kinds = [link.get("rel") for link in el.findall("a:link", ATOM)]
        assert kinds.count("alternate") == 1
        for link in el.findall("a:link", ATOM):
            assert (link.get("href") or "").startswith(SITE + "/")
    ids = [e.findtext("a:id", "", ATOM) for e in entries]
    assert len(ids) == len(set(ids))


def test_every_written_page_is_in_the_feed_of_a_development_version() -> None:
    titles = {e["title"] for e in entries("")}
    for t in pages.techniques():
        assert (f"New: {t.short}" in titles) == bool(t.facts)


@pytest.mark.usefixtures("log")
def test_the_feed_stands_in_the_site(tmp_path: Path) -> None:
    class Build:
        config: "Build"
        site_dir, use_directory_urls = str(tmp_path / "site"), True

    docs = Build()
    docs.config = docs
    told = render(Page(SITE, "0.2.0", docs=docs), "changelog", [], None)
    assert 'href="../feed.xml"' in told
    file = tmp_path / "site/feed.xml"
    assert file.read_text(encoding="utf-8") == changes.feed(SITE, "0.2.0")
