"""The catalogue for machines says what the pages say."""

from pathlib import Path

import pytest

from cnn_site.exports import FILES


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_the_committed_file_is_what_the_pages_give(
    path: Path, request: pytest.FixtureRequest
) -> None:
    made = FILES[path]()
    if request.config.getoption("--update-evidence"):
        path.write_text(made, encoding="utf-8")
    behind = f"docs/{path.name} is behind the pages: python -m cnn_site.exports"
    assert path.read_text(encoding="utf-8") == made, behind
