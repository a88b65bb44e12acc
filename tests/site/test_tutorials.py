"""Every tutorial runs from top to bottom, as a script."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("*.py"))


def test_there_are_tutorials() -> None:
    assert TUTORIALS


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(
    tutorial: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    runpy.run_path(str(tutorial), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_a_published_tutorial_shows_what_it_printed(small_site: Path) -> None:
    environment = {
        **os.environ,
        "EXECUTE_TUTORIALS": "true",
        "NO_MKDOCS_2_WARNING": "1",
        "PYTHONPATH": str(small_site / "src"),
    }
    out = small_site / "out"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(out)]
    done = subprocess.run(
        command, cwd=small_site, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for tutorial in TUTORIALS:
        page = out / "tutorials" / tutorial.stem / "index.html"
        shown = page.read_text(encoding="utf-8")
        assert "jp-OutputArea-output" in shown
        assert "outputs are left out" not in shown
