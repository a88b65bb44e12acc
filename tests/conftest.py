"""The same draws in every run, and the built site once a session for the tests that look at what a reader gets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from cnn_site import ROOT, built


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """A test sees the same images alone, in the suite, today and tomorrow."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float32)  # a page's block may have set another


@pytest.fixture(scope="session")
def built_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a strict build: the one that $SITE_DIR names, or one that the processes of this run share."""
    if given := os.environ.get("SITE_DIR"):
        built.check(Path(given))
        return Path(given)
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "site"
    with FileLock(shared / "site.lock"):
        if not (folder / built.MARK).exists():
            build(folder)
            built.mark(folder)
    return folder


def build(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-d",
        str(folder),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, f"{' '.join(command[1:])}:\n{run.stdout}{run.stderr}"
