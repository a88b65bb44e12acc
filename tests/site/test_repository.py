"""One setting tells the repository's address: with it pages lead there, without it none dangles."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from lxml import html

from cnn_site import ROOT
from cnn_site.directives import Page, render

ADDRESS = "https://github.com/someone/techniques"
PAGE = "attention/squeeze-and-excitation"


def build(site: Path, **settings: str) -> Path:
    out = site / "out"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(out)]
    environment = {
        **{k: v for k, v in os.environ.items() if k != "REPO_URL"},
        "NO_MKDOCS_2_WARNING": "1",
        "PYTHONPATH": str(site / "src"),
        **settings,
    }
    done = subprocess.run(
        command, cwd=site, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def links(page: Path) -> dict[str, str]:
    """Addresses by text, those of the repository."""
    root = html.parse(str(page)).getroot()
    found = {a.text_content().strip(): a.get("href", "") for a in root.iter("a")}
    return {text: to for text, to in found.items() if to.startswith(ADDRESS)}


@pytest.mark.parametrize("release", ["", "1.2.3"])
def test_a_page_leads_to_the_repository_whose_address_is_set(
    release: str, small_site: Path
) -> None:
    out = build(small_site, REPO_URL=ADDRESS, SITE_RELEASE=release)
    there = links(out / PAGE / "index.html")
    tag = f"v{release}" if release else "main"
    name = "Source of this page" + (f" at release {release}" if release else "")
    assert there[name] == f"{ADDRESS}/blob/{tag}/docs/{PAGE}.md"
    assert there["Edit this page"] == f"{ADDRESS}/edit/main/docs/{PAGE}.md"
    module = PAGE.replace("-", "_")
    assert there["source"] == f"{ADDRESS}/blob/{tag}/src/cnn_techniques/{module}.py"
    for to in there.values():
        path = urlsplit(to).path.partition(f"/{tag if '/blob/' in to else 'main'}/")[2]
        assert not path or (ROOT / path).is_file(), f"{to}: no such file here"
    page = (out / PAGE / "index.html").read_text(encoding="utf-8")
    assert 'data-md-component="source"' not in page, "asks another host for stars"
    told = urlsplit(there["Report a wrong number"])  # in a form that is filled in
    assert told.path == "/someone/techniques/issues/new"
    asked = {key: value[0] for key, value in parse_qs(told.query).items()}
    form = ROOT / ".github/ISSUE_TEMPLATE" / asked.pop("template")
    fields = {f.get("id") for f in yaml.safe_load(form.read_text())["body"]}
    assert asked.pop("title") == f"Wrong number: {PAGE}"
    version = f"{release}/" if release else ""
    assert asked == {"page": f"https://cnn-techniques.example/{version}{PAGE}/"}
    assert set(asked) <= fields


def test_no_page_leads_to_a_repository_that_is_not_told(small_site: Path) -> None:
    out = build(small_site)
    feed = (out / "feed.xml").read_text(encoding="utf-8")
    for to in re.findall(r'href="https://cnn-techniques.example/([^"#]*)', feed):
        assert (out / to / "index.html" if to.endswith("/") else out / to).exists()
    assert 'href="../feed.xml"' in (out / "changelog/index.html").read_text()
    for page in out.rglob("*.html"):
        told = page.read_text(encoding="utf-8")
        for word in ("Source of this page", "Edit this page", "Report a wrong"):
            assert word not in told, page
        for part in ("/blob/main/", "/edit/main/", "issues/new", "md-source"):
            assert part not in told, page


def test_the_install_text_has_the_line_that_clones() -> None:
    page = Page("", "1.2.3", repository=ADDRESS)
    told = html.fromstring(render(page, "clone", [], None)).text_content()
    # the block is escaped once for the template, and kept from Markdown
    told = html.fromstring(f"<div>{told}</div>").text_content()
    assert f"git clone --branch v1.2.3 {ADDRESS}\n$ cd techniques\n" in told
    bare = render(Page("", "1.2.3"), "clone", [], None)
    assert "git clone" not in bare and "a clone of the repository" in bare
