"""Each check refuses what it is there for: faults planted in a small copy of the site, through the commands that CI runs."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = "docs/attention/squeeze-and-excitation.md"
RECORD = "docs/evidence/attention/squeeze-and-excitation.json"
SOURCE = "src/cnn_techniques/attention/squeeze_and_excitation.py"
PROOF = "tests/attention/test_squeeze_and_excitation.py"
CHECKS = "tests/site/test_pages.py"
BUILT = "tests/site/test_built.py"
pytestmark = pytest.mark.slow


def run(
    site: Path, *command: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(site / "src"),
        "NO_MKDOCS_2_WARNING": "1",
    }
    for name in ("SITE_DIR", "PYTEST_XDIST_WORKER"):  # of the run that plants
        environment.pop(name, None)
    environment |= variables
    whole = [sys.executable, "-m", *command]
    return subprocess.run(
        whole, cwd=site, env=environment, capture_output=True, text=True
    )


def build(site: Path) -> subprocess.CompletedProcess[str]:
    return run(site, "mkdocs", "build", "--strict", "-d", str(site / "out"))


def replaced(path: str, old: str, new: str) -> Callable[[Path], None]:
    def plant(site: Path) -> None:
        text = (site / path).read_text(encoding="utf-8")
        assert old in text, f"{path} does not hold {old!r} any more: renew this plant"
        (site / path).write_text(text.replace(old, new, 1), encoding="utf-8")

    return plant


def line_of(site: Path, path: str, text: str) -> int:
    lines = (site / path).read_text(encoding="utf-8").split("\n")
    return next(n for n, line in enumerate(lines, 1) if text in line)


K = "squeeze-and-excitation"
WITH_PYTEST = {
    "a wrong result": (
        replaced(SOURCE, "return u * s ", "return u * s.sqrt() "),
        [PAGE],
        rf"{PAGE}, the fence at line \d+",
    ),
    "a wrong result, checked against the reference": (
        replaced(SOURCE, "return u * s ", "return u * s * 1.000001 "),
        [PROOF, "-k", "equals"],
        r"test_squeeze_and_excitation\.py:\d+",
    ),
    "a wrong output": (
        replaced(PAGE, "580 parameters", "581 parameters"),
        [PAGE],
        rf"{PAGE}, the fence at line \d+",
    ),
    "a stale number": (
        replaced(RECORD, '"params": 25557032', '"params": 25557033'),
        [PROOF, "-k", "cost"],
        rf"{RECORD}: computed cost is stale:\n.*resnet50\.params: the record says 25557033",
    ),
    "a stale block": (
        replaced(SOURCE, "# (N, C, H, W)", "# same shape"),
        [CHECKS, "-k", f"record and {K}"],
        rf"{PAGE}:1: \d of \d blocks are as they ran",
    ),
    "a missing section": (
        replaced(PAGE, "## See also", "## Read on"),
        [CHECKS, "-k", f"order and {K}"],
        rf"{PAGE}:\d+: section 'Read on' is not one of",
    ),
    "an unrun fence": (
        replaced(
            PAGE, "```py\nimport torch\n\nx =", "```{.py .notest}\nimport torch\n\nx ="
        ),
        [CHECKS, "-k", f"fence and {K}"],
        rf"{PAGE}:\d+: \.notest on the page of a technique",
    ),
    "a second definition of a name": (
        replaced(
            PAGE,
            f'--8<-- "{SOURCE}:module"',
            f'--8<-- "{SOURCE}:module"\n--8<-- "{SOURCE}:module"',
        ),
        [CHECKS, "-k", f"twice and {K}"],
        rf"{SOURCE}:\d+: 'SqueezeExcitation' is defined twice",
    ),
    "an excerpt that is not in its block": (
        replaced(PAGE, "return u * s  # (N, C, H, W)", "return s * u  # (N, C, H, W)"),
        [CHECKS, "-k", f"excerpt and {K}"],
        rf"{PAGE}:\d+: this excerpt is in no block",
    ),
    "typed code in the copied block": (
        replaced(
            PAGE,
            f'--8<-- "{SOURCE}:module"',
            f'--8<-- "{SOURCE}:module"\nprint("typed")',
        ),
        [CHECKS, "-k", f"includes and {K}"],
        rf"{PAGE}:\d+: typed into the block",
    ),
    "a missing include": (replaced(PAGE, ":module", ":modules"), [PAGE], "modules"),
    "a record of another schema": (
        replaced(RECORD, '"schema": 1', '"schema": 0'),
        [PROOF, "-k", "cost"],
        "schema 0",
    ),
    "an unknown paper key": (
        replaced(PAGE, "[hu2018squeeze]", "[hu2018squeez]"),
        [CHECKS, "-k", f"papers and {K}"],
        "unknown paper key 'hu2018squeez'; did you mean 'hu2018squeeze'",
    ),
}
WITH_BUILD = {
    "a dead link": (
        replaced(PAGE, "[attention](index.md)", "[attention](nowhere.md)"),
        r"nowhere\.md",
    ),
    "an unknown paper key": (
        replaced(PAGE, "[hu2018squeeze]", "[hu2018squeez]"),
        rf"{PAGE}:\d+: .*did you mean 'hu2018squeeze'",
    ),
    "a misspelt front matter field": (
        replaced(PAGE, "year: 2017", "yeer: 2017"),
        rf"{PAGE}, line \d+: .*did you mean 'year'",
    ),
    "a missing front matter field": (
        replaced(PAGE, "year: 2017\n", ""),
        rf"{PAGE}, line 1: front matter lacks year",
    ),
    "blocks that are not those of the record": (
        replaced(SOURCE, "# (N, C, H, W)", "# same shape"),
        rf"{PAGE}.*--update-evidence",
    ),
    "a number that the record does not have": (
        replaced(
            PAGE, "[[=cost.se_resnet50.more_macs", "[[=cost.se_resnet50.less_macs"
        ),
        rf"{PAGE}:\d+: .*has no 'less_macs'",
    ),
    "a missing include": (replaced(PAGE, ":module", ":modules"), "modules"),
}


@pytest.mark.parametrize("fault", WITH_PYTEST)
def test_the_tests_refuse(fault: str, small_site: Path) -> None:
    plant, command, expected = WITH_PYTEST[fault]
    plant(small_site)
    done = run(small_site, "pytest", "-q", "-p", "no:cacheprovider", *command)
    # 1: a test failed; 2: the page could not even be read
    assert done.returncode in (1, 2), f"exit code {done.returncode}\n{done.stdout}"
    assert re.search(expected, done.stdout), done.stdout


@pytest.mark.parametrize("fault", WITH_BUILD)
def test_a_strict_build_refuses(fault: str, small_site: Path) -> None:
    plant, expected = WITH_BUILD[fault]
    plant(small_site)
    done = build(small_site)
    assert done.returncode != 0, done.stdout + done.stderr
    assert re.search(expected, done.stdout + done.stderr), done.stdout + done.stderr


def test_the_copy_without_a_fault_passes_the_same_commands(small_site: Path) -> None:
    done = build(small_site)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(small_site, "pytest", "-q", "-p", "no:cacheprovider", PAGE, PROOF)
    assert done.returncode == 0, done.stdout


def test_a_build_of_other_files_is_not_looked_at(small_site: Path) -> None:
    out = small_site / "out"
    assert build(small_site).returncode == 0
    assert run(small_site, "cnn_site.built", str(out)).returncode == 0
    look = ("pytest", "-q", "-p", "no:cacheprovider", BUILT, "-k", "api_page and atten")
    done = run(small_site, *look, SITE_DIR=str(out))
    assert done.returncode == 0, done.stdout
    replaced(PAGE, "## See also", "## Read on")(small_site)
    done = run(small_site, *look, SITE_DIR=str(out))
    assert done.returncode == 1, done.stdout
    assert "a build of other sources" in done.stdout
