"""The rooms that `cnn_site.new` makes run as they are, for every kind; what is left to do is a short list."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_site import ROOT, checks, new, pages
from cnn_site.fences import CodeBlock

# Rows that the catalogue does not have: techniques that nobody has written.
PLANNED = {kind: f"compression/planned-{kind}" for kind in new.KINDS}


def planned(kind: str) -> pages.Technique:
    title = f"Planned {kind}"
    return pages.Technique(
        PLANNED[kind], "compression", title, None, "", "", False, None
    )


def test_every_kind_has_its_rooms() -> None:
    assert set(new.KINDS) == set(new.COMPARISON)
    assert {new.kind_of(t) for t in pages.techniques()} <= set(new.KINDS)
    assert new.kind_of(pages.technique("training/cosine-annealing")) == "schedule"


def section(text: str, name: str) -> str:
    lines = text.split("\n")
    start = lines.index(f"# --8<-- [start:{name}]")
    return "\n".join(lines[start + 1 : lines.index(f"# --8<-- [end:{name}]")]) + "\n"


@pytest.mark.parametrize("kind", new.KINDS)
def test_what_is_made_follows_the_house_rules_and_shows_the_technique(
    kind: str, tmp_path: Path
) -> None:
    t = planned(kind)
    rooms = {path.relative_to(ROOT): text for path, text in new.rooms(t, kind).items()}
    for path, text in rooms.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    source = tmp_path / checks.source(t).relative_to(ROOT)
    use = tmp_path / checks.use(t).relative_to(ROOT)
    package = source.parent / "__init__.py"
    package.write_text(new.exported('"""Some."""\n', source), encoding="utf-8")
    rules = (checks.floor_1, checks.length, checks.wide, checks.sections, checks.documented)  # fmt: skip
    assert [f for rule in rules for f in rule(source)] == []
    assert checks.wide(use) == checks.sections(use) == []
    assert checks.device_cases(tmp_path / checks.proof_file(t).relative_to(ROOT)) == []
    code = section(source.read_text("utf-8"), "imports")
    code += section(source.read_text("utf-8"), "module")
    shown = section(use.read_text("utf-8"), "usage")
    halves = [
        CodeBlock("py", (), "", text, tuple((None, n) for n, _ in enumerate(text.split("\n"))), 1)
        for text in (code, shown)
    ]  # fmt: skip
    names = re.findall(r"(?m)^(?:class|def) (\w+)", code)
    assert names
    with_effect = checks.printed_without_effect(*halves, [], use)
    assert with_effect
    assert with_effect != checks.printed_without_effect(*halves, names, use)


def test_the_short_form_has_the_parts_that_a_page_needs() -> None:
    t = planned("schedule")
    parts = {
        kind: re.findall(r"(?m)^## ([^{\n]*?)(?: \{.*)?$", new.rooms(t, kind)[t.path])
        for kind in ("network", "schedule")
    }
    assert parts["network"] == checks.SECTIONS
    left_out = {"Use it, skip it", "Exercises"}
    assert parts["schedule"] == [s for s in checks.SECTIONS if s not in left_out]


def test_a_line_joins_a_package_in_its_place_and_once(tmp_path: Path) -> None:
    module = tmp_path / "middle.py"
    module.write_text(
        "def of():\n    pass\n\n\nclass Middle:\n    pass\n\n\ndef _own():\n    pass\n"
    )
    first, last = "from .first import A as A\n", "from .nought import Z as Z\n"
    before = f'"""Some."""\n\n{first}{last}'
    between = "from .middle import Middle as Middle\nfrom .middle import of as of\n"
    after = new.exported(before, module)
    assert after == f'"""Some."""\n\n{first}{between}{last}'
    assert new.exported(after, module) == after


def test_lists_get_a_page_once() -> None:
    t = pages.technique("attention/squeeze-and-excitation")
    config = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert new.listed(config, t) == config
    entry = f"          - {t.slug}.md\n"
    assert new.listed(config.replace(entry, ""), t) == config
    api = (ROOT / "docs/api/attention.md").read_text("utf-8")
    assert new.described(api, t) == api
    module = "::: cnn_techniques.compression.planned_schedule\n"
    assert module in new.described(api, planned("schedule"))


def test_a_technique_that_nobody_knows_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert new.main(["attention/cbm"]) == 2
    assert "unknown technique 'attention/cbm'; did you mean" in capsys.readouterr().err


# --- the whole way, in a copy ----------------------------------------------------

COPIED = ("docs", "src", "snippets", "tests", "mkdocs.yml", "pyproject.toml", "conftest.py", "README.md", "CHANGELOG.md")  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Path:
    copy = tmp_path / "site"
    copy.mkdir()
    leave_out = shutil.ignore_patterns("__pycache__", ".cache")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=leave_out)
        else:
            shutil.copy(ROOT / name, copy / name)
    with (copy / "docs/catalogue.csv").open("a", encoding="utf-8") as rows:
        for kind, slug in PLANNED.items():
            rows.write(f"{slug.replace('/', ',')},Planned {kind},,no,,\n")
    return copy


def run(site: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    own = {"PYTHONPATH": str(site / "src"), "NO_MKDOCS_2_WARNING": "1", **more}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=site,
        env={**{k: v for k, v in os.environ.items() if k != "SITE_DIR"}, **own},
        capture_output=True,
        text=True,
    )


def pytested(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(site, "pytest", "-q", "-p", "no:cacheprovider", *arguments)


@pytest.mark.slow
def test_what_is_left_to_do_is_a_short_list_for_every_kind(site: Path) -> None:
    made = []
    for kind, slug in PLANNED.items():
        category, name = slug.replace("-", "_").split("/")
        rooms = run(site, "cnn_site.new", slug, "--kind", kind)
        assert rooms.returncode == 0, rooms.stderr
        made += [f"tests/{category}/test_{name}.py", f"docs/{slug}.md"]
    done = pytested(site, "--update-evidence", *made)
    assert done.returncode == 0, done.stdout
    left = run(site, "cnn_site.check", *PLANNED.values()).stdout
    lists = re.split(r"(?m)^1\. ", left)[1:]
    for slug, text in zip(PLANNED.values(), lists, strict=True):
        faults = [
            re.sub(r".*\[ \] \S+: ", "", line)[:22]
            for line in text.split("\n")
            if "[ ]" in line and "TODO" not in line
        ]
        assert faults == [
            "names no paper: papers",
            "lacks a line under Add",
            "is a draft; drop the l",
        ], f"{slug}:\n{text}"


@pytest.mark.slow
def test_a_draft_breaks_nothing_else_and_a_finished_page_joins_the_site(
    site: Path,
) -> None:
    slug = PLANNED["schedule"]
    category, name = slug.split("/")
    module = name.replace("-", "_")
    page, proof = f"docs/{slug}.md", f"tests/{category}/test_{module}.py"
    made = run(site, "cnn_site.new", slug, "--kind", "schedule")
    assert made.returncode == 0
    text = (site / page).read_text("utf-8")
    # Unfinished in every way: a dead link, a missing section, an unknown directive, code that fails.
    wrong = text.replace(f"[{category}](index.md)", "[nothing](nowhere.md#there)")
    wrong = wrong.replace(f"{module}.py:step", f"{module}.py:no_such_step")
    wrong = wrong.replace("[[ran]]", "[[run]]").replace("print(2.0", "print(2 / 0")
    (site / page).write_text(wrong, encoding="utf-8")
    (site / proof).write_text("import nothing_there\n", encoding="utf-8")
    built = run(site, "mkdocs", "build", "--strict", "-q", "-d", str(site / "out"))
    assert built.returncode == 0, built.stderr
    shown = (site / f"out/{slug}/index.html").read_text("utf-8")
    assert "could not be located" in shown and "# missing: " in shown
    released = run(site, "mkdocs", "build", "-q", "-d", str(site / "out"), SITE_RELEASE="1.0")  # fmt: skip
    assert released.returncode != 0
    assert f"{page}, line 10: draft: true in the release 1.0; finish" in released.stderr
    listed = pytested(site, "--collect-only", f"docs/{category}", f"tests/{category}", f"src/cnn_techniques/{category}")  # fmt: skip
    assert listed.returncode == 0, listed.stdout
    assert not re.search(name.replace("-", "."), listed.stdout), listed.stdout
    others = ("pages", "sources", "exports", "devices")
    wanted = "room or navigation or fence or excerpt or exported or device"
    done = pytested(site, *(f"tests/site/test_{o}.py" for o in others), "-k", wanted)
    assert done.returncode in (0, 1)
    assert not re.search(name.replace("-", "."), done.stdout), done.stdout
    assert pytested(site, page).returncode in (1, 2)  # named, it is run
    (site / page).write_text(re.sub(r"draft: .*\n", "", text), encoding="utf-8")
    assert run(site, "cnn_site.new", slug).returncode == 0
    assert f"- {slug}.md\n" in (site / "mkdocs.yml").read_text("utf-8")
    assert f"(../{slug}.md)" in (site / f"docs/api/{category}.md").read_text("utf-8")
    again = pytested(site, "tests/site/test_pages.py", "-k", f"{name} and templates")
    assert again.returncode == 1 and "TODO" in again.stdout
