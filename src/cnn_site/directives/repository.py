"""What leads back to the repository, on a site whose configuration tells its address."""

from typing import Any

from .base import Page, console, fill


def clone(page: Page, arguments: list[str], settings: Any) -> str:
    """How to get the command `cnn-lab`; a released page clones that release."""
    version = f" --branch {page.tag}" if page.release else ""
    lines = console(
        [
            f"$ git clone{version} {page.repository}",
            f"$ cd {page.repository.rpartition('/')[2]}",
            '$ python -m pip install -e ".[lab]"',
        ]
    )
    return fill("clone", repository=page.repository, lines=lines)
