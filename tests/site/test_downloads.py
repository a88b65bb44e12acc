"""What a reader takes away from a page is what the page shows: the program as a file, and the references."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from cnn_site import downloads, pages
from cnn_site.directives import Page, copy_block, render
from cnn_site.runner import unlike

TECHNIQUES = [t for t in pages.techniques() if t.facts]
each_technique = pytest.mark.parametrize("t", TECHNIQUES, ids=lambda t: t.slug)
ADDRESS = "https://site.example/1.2.3/a/b/"


def filled(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


@each_technique
def test_a_script_is_the_block_below_where_it_is_from(t: pages.Technique) -> None:
    block = copy_block(t)
    head, _, rest = downloads.script(t, block, ADDRESS).partition("\n\n")
    assert rest == block.code
    assert ADDRESS in head and "MIT" in head
    assert all(line.startswith("# ") for line in head.split("\n"))


OWN = "### Put it into your own network"


@each_technique
def test_a_notebook_is_valid_and_holds_the_blocks_in_cells(t: pages.Technique) -> None:
    block = copy_block(t)
    book = nbformat.reads(downloads.notebook(t, block, ADDRESS), as_version=4)
    nbformat.validate(book)
    ids = [c.id for c in book.cells]
    at = ids.index("own-network") if "own-network" in ids else len(ids)
    about, *code = book.cells[:at]
    assert about.cell_type == "markdown"
    for told in (t.title, ADDRESS, "MIT licence", "Needs torch"):
        assert told in about.source
    assert filled("\n".join(c.source for c in code)) == filled(block.code)
    assert len(code) >= 3, "imports, module and use are cells of their own"
    page = t.path.read_text(encoding="utf-8")
    assert (OWN in page) == (at < len(ids))
    for text, *own in [book.cells[at:]] if at < len(ids) else []:
        assert f"{ADDRESS}#put-it-into-your-own-network" in text.source
        assert own and ("torchvision" in about.source or "timm" in own[0].source)
        _, _, section = page.partition(f"\n{OWN}\n")
        for cell in own:
            assert f"```{{.py .continuation}}\n{cell.source}\n```" in section
        loads = any("get_state_dict(" in c.source for c in own)
        assert ("downloaded" in text.source) == loads
        code += own
    for cell in code:
        compile(cell.source, t.slug, "exec")


def test_all_blocks_of_one_s_own_network_go_on_from_the_copied_one() -> None:
    t = pages.technique("attention/simam")
    first, second = downloads.own_network(t, copy_block(t))
    assert "conv2" in first.code and "lambda_=1e6" in second.code
    t = pages.technique("foundations/lenet-5")
    assert downloads.own_network(t, copy_block(t)) == []


# Instead of a download, as in the tests of pages.
PUBLISHED = """
import torchvision.models._api
from cnn_site.runner import published_weights
torchvision.models._api.load_state_dict_from_url = published_weights
"""


def executed(t: pages.Technique) -> str:
    """What the notebook prints, run from top to bottom."""
    book = nbformat.reads(downloads.notebook(t, copy_block(t), ADDRESS), as_version=4)
    if any("get_state_dict(" in c.source for c in book.cells):
        book.cells.insert(0, nbformat.v4.new_code_cell(PUBLISHED))
    NotebookClient(book, timeout=120, kernel_name="python3").execute()
    outputs = [o for c in book.cells if c.cell_type == "code" for o in c.outputs]
    return "".join(o.text for o in outputs if o.output_type == "stream")


def shown(t: pages.Technique) -> str:
    block = copy_block(t)
    blocks = [block, *downloads.own_network(t, block)]
    return "".join(b.output or "" for b in blocks)


def test_a_notebook_prints_what_the_page_shows() -> None:
    t = pages.technique("attention/squeeze-and-excitation")
    assert "untrained gates" in shown(t)
    assert unlike(executed(t), shown(t)) == ""


# Cells are the blocks (above), which every run of the tests runs: a kernel of its own is started for a few.
A_FEW = [t for t in TECHNIQUES if copy_block(t).output][::12]


@pytest.mark.slow
@pytest.mark.parametrize("t", A_FEW, ids=lambda t: t.slug)
def test_notebooks_print_what_their_pages_show(t: pages.Technique) -> None:
    assert unlike(executed(t), shown(t)) == ""


class Build:
    """What MkDocs' `!relative` knows of a build."""

    def __init__(self, site_dir: Path, use_directory_urls: bool = True) -> None:
        self.config = self
        self.site_dir, self.use_directory_urls = str(site_dir), use_directory_urls


@pytest.mark.parametrize(
    ("directories", "beside"),
    [(True, ""), (False, "squeeze-and-excitation/")],
    ids=["published", "opened from a folder"],
)
def test_the_files_stand_where_the_page_says(
    directories: bool, beside: str, tmp_path: Path
) -> None:
    slug = "attention/squeeze-and-excitation"
    page = Page(ADDRESS, "", slug, docs=Build(tmp_path, directories))
    here = tmp_path / slug if directories else (tmp_path / slug).parent
    told = render(page, "needs", [], None) + render(page, "cite", [], None)
    for name in (
        "squeeze_and_excitation.py",
        "squeeze_and_excitation.ipynb",
        "squeeze-and-excitation.bib",
        "squeeze-and-excitation.ris",
        "squeeze-and-excitation.csl.json",
    ):
        assert f'href="{beside}{name}"' in told
        assert (here / beside / name).stat().st_size > 100
    assert "colab" not in told, "a development version stands at no address"


def test_a_program_that_a_command_starts_is_offered_as_a_script_alone(
    tmp_path: Path,
) -> None:
    slug, repository = "optimization/data-parallel", "https://github.com/o/n"
    page = Page(ADDRESS, "1.2.3", slug, repository=repository, docs=Build(tmp_path))
    told = render(page, "needs", [], None)
    assert 'href="data_parallel.py"' in told
    assert "ipynb" not in told and "notebook" not in told and "colab" not in told


def test_a_program_that_a_command_starts_took_the_time_of_that_command() -> None:
    slug = "optimization/data-parallel"
    run = pages.technique(slug).record["runs"]["cpu"]
    started = run["seconds"][1]  # below the file
    assert started > 1 > run["seconds"][0]
    shown = render(Page(ADDRESS, "", slug), "ran", [], {})
    assert f"{started:.2f} s" in shown or f"{started:.1f} s" in shown


def test_nothing_is_offered_where_no_site_is_built() -> None:
    page = Page(ADDRESS, "", "attention/squeeze-and-excitation")
    assert "download" not in render(page, "needs", [], None)
    assert "RIS" not in render(page, "cite", [], None)


@pytest.mark.parametrize(
    ("release", "repository", "offered"),
    [
        ("1.2.3", "https://github.com/o/n", True),
        ("1.2.3", "https://git.example/o/n", False),
        ("1.2.3", "", False),
        ("", "https://github.com/o/n", False),
    ],
)
def test_colab_opens_the_notebook_of_the_release(
    release: str, repository: str, offered: bool, tmp_path: Path
) -> None:
    slug = "attention/squeeze-and-excitation"
    page = Page(ADDRESS, release, slug, repository=repository, docs=Build(tmp_path))
    to = f"github/o/n/blob/gh-pages/1.2.3/{slug}/squeeze_and_excitation.ipynb"
    assert (to in render(page, "needs", [], None)) == offered
    assert (tmp_path / to.partition("1.2.3/")[2]).exists()
