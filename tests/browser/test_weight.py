"""What a first visit of a technique's page loads, compressed as a server would."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

from cnn_site import pages

if TYPE_CHECKING:
    from conftest import Visit

pytestmark = pytest.mark.browser
MOST = 300_000  # bytes, at any number of pages: nothing that grows with the site is asked for
PACKED = {".woff2", ".png"}  # no server compresses these again


def weight(file: Path) -> int:
    data = file.read_bytes()
    return len(data if file.suffix in PACKED else gzip.compress(data, 9))


def test_a_first_visit_of_the_longest_technique_is_light(
    visit: Callable[..., "Visit"], built_site: Path
) -> None:
    addresses = [f"{t.slug}/" for t in pages.techniques() if t.facts]
    longest = max(addresses, key=lambda a: weight(built_site / a / "index.html"))
    visitor = visit()
    visitor.go(longest).wait_for_load_state("networkidle")
    paths = {unquote(urlsplit(url).path).lstrip("/") for url in visitor.asked}
    files = [built_site / (p if Path(p).suffix else f"{p}index.html") for p in paths]
    loaded = {file.name: weight(file) for file in files if file.is_file()}
    assert {"index.html", "site.css", "search.js"} <= loaded.keys()
    told = sorted(loaded.items(), key=lambda item: -item[1])
    assert sum(loaded.values()) <= MOST, f"{longest}: {sum(loaded.values())}: {told}"
