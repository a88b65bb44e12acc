"""A build that is handed on is looked at only if it was made of the files that are here."""

import shutil
from pathlib import Path

import pytest

from cnn_site import built


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "docs/.cache").mkdir(parents=True)
    (tmp_path / "docs/index.md").write_text("# Home\n", encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def site(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    built.mark(folder, sources)
    return folder


def test_a_marked_build_of_the_same_files_is_taken(site: Path, sources: Path) -> None:
    built.check(site, sources)
    (sources / "docs/.cache/x").write_text("x", encoding="utf-8")
    built.check(site, sources)


@pytest.mark.parametrize("change", ["edited", "added", "renamed", "removed"])
def test_a_stale_build_is_refused(change: str, site: Path, sources: Path) -> None:
    page = sources / "docs/index.md"
    match change:
        case "edited":
            page.write_text("# Hame\n", encoding="utf-8")
        case "added":
            shutil.copy(page, sources / "docs/new.md")
        case "renamed":
            page.rename(sources / "docs/home.md")
        case "removed":
            page.unlink()
    with pytest.raises(built.OtherSources, match=r"cnn_site\.built"):
        built.check(site, sources)


def test_a_build_that_nobody_marked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(built.OtherSources, match="unmarked"):
        built.check(tmp_path)


FAULTS = {
    '<a href="../foundations/lenet-5.md">x</a>': "lenet-5.md leads nowhere",
    '<img src="photo.png">': "photo.png leads nowhere",
    '<a href="./#lost">x</a>': "#lost names no place",
    r'<nav><a href="#x">no \(T^2\)</a></nav>': r"shows TeX: no \\\(T\^2",
    r"<title>The factor $\alpha$</title>": r"shows TeX: The factor \$\\alpha",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_build_with_a_fault_that_a_strict_build_passes_gets_no_mark(
    fault: str, site: Path, sources: Path
) -> None:
    page = site / "index.html"
    page.write_text('<h1 id="x">x</h1><a href="./#x">x</a>', encoding="utf-8")
    built.mark(site, sources)
    page.write_text(f'<h1 id="x">x</h1>{fault}', encoding="utf-8")
    with pytest.raises(built.Faults, match=FAULTS[fault]):
        built.mark(site, sources)
