"""Nothing moves while a page loads, even when its fonts and scripts come after the first paint; nor is it styled twice."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from test_browser import KINDS

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from conftest import Visit

pytestmark = pytest.mark.browser
New = Callable[..., "Visit"]
MOST = 0.02  # of the score of Web Vitals, where 0.1 still counts as good
LATE = 0.3  # s, after which a font or script comes

WATCH = """() => {
  window.shifts = [];
  const says = s => `${s.node?.nodeName}.${s.node?.className ?? ""} from ${s.previousRect.top} to ${s.currentRect.top}`;
  new PerformanceObserver(list => {
    for (const e of list.getEntries()) shifts.push([e.value, e.sources.map(says)]);
  }).observe({ type: "layout-shift", buffered: true });
}"""


def late(route: "Route") -> None:
    time.sleep(LATE)
    route.continue_()


def shifts(visit: New, path: str) -> list[tuple[float, list[str]]]:
    visitor = visit(390)
    visitor.page.route("**/*.{woff2,js}", late)
    visitor.page.add_init_script(f"({WATCH})()")
    page: Page = visitor.go(path)
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(300)  # ms
    return page.evaluate("shifts")


@pytest.mark.parametrize("path", KINDS, ids=lambda p: p or "home")
def test_nothing_moves_while_a_page_loads(path: str, visit: New) -> None:
    seen = shifts(visit, path)
    assert sum(value for value, _ in seen) < MOST, seen


def test_the_chosen_scheme_is_there_before_the_scripts(visit: New) -> None:
    visitor = visit(390, "dark")
    visitor.page.route("**/*.js", lambda route: route.abort())
    page = visitor.go("conventions/")
    scheme = "document.body.dataset.mdColorScheme"
    assert page.evaluate(scheme) == "slate"
    page.locator("[data-palette] label:visible").click()
    assert page.evaluate(scheme) == "default"
    page.reload()
    assert page.evaluate(scheme) == "default"
    page.locator("[data-palette] input:checked").press("Enter")
    assert page.evaluate(scheme) == "slate"
    assert page.locator("[data-palette] label:visible").count() == 1
