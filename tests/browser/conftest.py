"""Serves the built site on this machine and opens it in headless Chromium; without Chromium these tests are skipped."""

import functools
import http.server
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOW = (
    "NO CHROMIUM: the browser checks did not run. Install it (Debian: apt-get install chromium; "
    "elsewhere: python -m playwright install chromium) or set $CHROMIUM to its path."
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


class Handler(http.server.SimpleHTTPRequestHandler):
    """The files of the site; what is not there gets the site's own 404 page."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        page = Path(self.directory) / "404.html"
        if code != 404 or not page.exists():
            super().send_error(code, message, explain)
            return
        body = page.read_bytes()
        self.send_response(404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a page that was closed while it loaded


@pytest.fixture(scope="session")
def address(built_site: Path) -> Iterator[str]:
    with Server(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(built_site))
    ) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def executable() -> str | None:
    """$CHROMIUM, an installed Chromium or Chrome, or None for Playwright's own."""
    given = os.environ.get("CHROMIUM")
    return (
        given
        or next(filter(None, (shutil.which(name) for name in NAMES)), None)
        or None
    )


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    playwright = pytest.importorskip("playwright.sync_api", reason=HOW)
    with playwright.sync_playwright() as p:
        try:
            browser = p.chromium.launch(executable_path=executable(), args=FLAGS)
        except playwright.Error:
            warnings.warn(pytest.PytestWarning(HOW), stacklevel=1)
            pytest.skip(HOW)
        yield browser
        browser.close()


class Visit:
    """A page in the browser, with every address that it asked for and every error of its scripts."""

    def __init__(self, page: "Page", address: str) -> None:
        self.page, self.address = page, address
        self.asked: list[str] = []
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.route("**/*", self.only_here)

    def only_here(self, route: "Route") -> None:
        url = route.request.url
        self.asked.append(url)
        here = urlsplit(url).netloc == urlsplit(self.address).netloc
        if here or urlsplit(url).scheme in {"data", "blob"}:
            route.continue_()
        else:
            route.abort()

    def go(self, path: str) -> "Page":
        self.page.goto(self.address + path, wait_until="load")
        return self.page

    @property
    def elsewhere(self) -> list[str]:
        """What was asked of another host."""
        own = urlsplit(self.address).netloc
        parts = [
            (u, urlsplit(u)) for u in self.asked if not u.startswith(("data:", "blob:"))
        ]
        return [u for u, p in parts if p.netloc != own]


@pytest.fixture
def visit(chromium: "Browser", address: str) -> Iterator[Callable[..., Visit]]:
    """`visit(width, scheme)`: a fresh visitor, without cookies or cache."""
    contexts = []

    def fresh(width: int = 1440, scheme: str = "light") -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_navigation_timeout(90_000)  # ms; beside other work
        contexts.append(context)
        return Visit(context.new_page(), address)

    yield fresh
    for context in contexts:
        context.close()
