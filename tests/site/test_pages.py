"""Every page has its rooms, parts, fences and record: nothing is half there. Messages name file, line and cure."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cnn_site import BESIDE, CATEGORIES, ROOT, checks, pages
from cnn_site.evidence import stale_measurements

TECHNIQUES = [t for t in pages.techniques() if t.facts]
SLUGS = [t.slug for t in TECHNIQUES]
MARKDOWN = [*pages.written(), ROOT / "README.md"]
each_technique = pytest.mark.parametrize("t", TECHNIQUES, ids=SLUGS)
each_page = pytest.mark.parametrize(
    "page", MARKDOWN, ids=lambda p: str(p.relative_to(ROOT))
)


def refuse(faults: list[str]) -> None:
    assert not faults, "\n" + "\n".join(faults)


# --- rooms -----------------------------------------------------------------------


@each_technique
def test_a_technique_has_all_its_rooms(t: pages.Technique) -> None:
    refuse(checks.rooms(t))


@each_technique
def test_nothing_is_left_of_the_templates(t: pages.Technique) -> None:
    refuse(checks.marks(t))


def test_no_room_stands_without_a_page() -> None:
    faults = []
    for folder in ("src/cnn_techniques", "snippets"):
        for path in sorted((ROOT / folder).glob("*/*.py")):
            page = ROOT / "docs" / f"{checks.slug_of(path)}.md"
            if path.name != "__init__.py" and not page.exists():
                faults.append(
                    f"{path.relative_to(ROOT)}: {page.relative_to(ROOT)} is missing"
                )
    known = {t.slug for t in pages.techniques()}
    for path in sorted((ROOT / "docs").glob("*/*.md")):
        slug = f"{path.parent.name}/{path.stem}"
        if (
            path.parent.name in CATEGORIES
            and path.stem != "index"
            and slug not in known
        ):
            faults.append(f"docs/{slug}.md: not in docs/catalogue.csv")
    refuse(faults)


def navigation() -> list[str]:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("", lambda loader, suffix, node: None)
    found: list[str] = []

    def walk(item: Any) -> None:
        if isinstance(item, str):
            found.append(item)
        else:
            for child in item.values() if isinstance(item, dict) else item:
                walk(child)

    walk(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])
    return found


def test_the_navigation_lists_the_pages_in_the_order_of_the_catalogue() -> None:
    listed = [
        p.removesuffix(".md")
        for p in navigation()
        if p.split("/")[0] in CATEGORIES and not p.endswith("index.md")
    ]
    assert listed == SLUGS


@each_technique
def test_the_api_reference_shows_the_module_and_links_the_page(
    t: pages.Technique,
) -> None:
    refuse(checks.api(t))


@each_technique
def test_the_changelog_names_the_page(t: pages.Technique) -> None:
    refuse(checks.in_changelog(t))


# --- parts -----------------------------------------------------------------------


@each_technique
def test_the_parts_of_a_page_stand_in_the_same_order_with_the_same_names(
    t: pages.Technique,
) -> None:
    refuse(checks.parts(t))


@each_technique
def test_a_page_names_itself_and_shows_its_record(t: pages.Technique) -> None:
    refuse(checks.directives(t))


@each_technique
def test_papers_and_prerequisites_are_known(t: pages.Technique) -> None:
    refuse(checks.known(t))


@each_technique
def test_a_page_is_found_by_other_names_and_says_how_hard_it_is(
    t: pages.Technique,
) -> None:
    refuse(checks.findable(t))


@each_technique
def test_what_see_also_names_is_linked(t: pages.Technique) -> None:
    refuse(checks.see_also(t))


# --- fences ----------------------------------------------------------------------


@each_page
def test_every_fence_has_a_language_and_python_is_run_or_has_a_reason(
    page: Path,
) -> None:
    refuse(checks.fences(page))


@each_page
def test_an_excerpt_stands_unchanged_in_a_block_that_is_run(page: Path) -> None:
    refuse(checks.excerpts(page))


@each_technique
def test_the_copy_and_run_block_is_made_of_includes_only(t: pages.Technique) -> None:
    refuse(checks.includes_only(t))


@each_technique
def test_no_name_is_defined_twice_in_a_composed_block(t: pages.Technique) -> None:
    refuse(checks.twice(t))


@each_technique
def test_a_composed_block_imports_nothing_it_does_not_use(t: pages.Technique) -> None:
    refuse(checks.unused_imports(t))


@each_technique
def test_a_page_says_what_its_block_needs(t: pages.Technique) -> None:
    refuse(checks.wrong_needs(t))


@each_technique
def test_lines_fit_the_page(t: pages.Technique) -> None:
    refuse(checks.wide_blocks(t))


@each_technique
def test_what_is_printed_changes_when_the_technique_has_no_effect(
    t: pages.Technique, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refuse(checks.depends(t))


# --- records ---------------------------------------------------------------------


@each_technique
def test_the_blocks_of_the_record_are_those_of_the_page(t: pages.Technique) -> None:
    refuse(checks.stamped(t))


@each_technique
def test_measured_results_were_made_by_the_code_there_is(t: pages.Technique) -> None:
    refuse(checks.measured(t))


@pytest.mark.parametrize(
    "slug",
    sorted(
        f"{folder}/{path.stem}"
        for folder in BESIDE
        for path in (ROOT / "docs/evidence" / folder).glob("*.json")
    ),
)
def test_measured_results_of_lab_and_guides_were_made_by_the_code_there_is(
    slug: str,
) -> None:
    refuse(stale_measurements(slug))


# --- words -----------------------------------------------------------------------


@each_page
def test_prose_is_free_of_praise_and_of_we(page: Path) -> None:
    refuse(checks.prose(page))
