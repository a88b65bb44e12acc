"""The page that compares networks: filter, two side by side, a head that stays, plots that can be read and asked."""

from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from conftest import Visit

pytestmark = pytest.mark.browser
New = Callable[..., "Visit"]
TABLE = ".pick .sorts"
WIDTHS = (390, 768, 1024, 1280, 1920)


def names(page: "Page") -> list[str]:
    return page.eval_on_selector_all(
        f"{TABLE} tbody tr:not([hidden]) th", "all => all.map(e => e.textContent)"
    )


def values(page: "Page", column: int) -> list[str]:
    return page.eval_on_selector_all(
        f"{TABLE} tbody tr:not([hidden])",
        f"all => all.map(r => r.cells[{column}].dataset.v)",
    )


def test_the_table_is_filtered_by_budget_and_name_and_the_address_keeps_it(
    visit: New,
) -> None:
    there = visit()
    page = there.go("networks/")
    everything = names(page)
    assert len(everything) > 100
    page.fill("[name=params]", "10")
    small = values(page, 1)
    assert 0 < len(small) < len(everything)
    assert max(map(float, small)) <= 10e6
    page.fill("[name=macs]", "0.5")
    assert max(map(float, values(page, 2))) <= 0.5e9
    page.fill("[name=q]", "mobilenet v3")
    assert sorted(names(page)) == [
        "MobileNet v3, Large",
        "MobileNet v3, Large 0.75",
        "MobileNet v3, Small",
    ]
    few = names(page)
    assert page.text_content(".pick-count span") == str(len(few))
    address = page.url
    assert "params=10" in address
    again = visit().go("networks/" + address.partition("networks/")[2])
    assert names(again) == few
    again.click(".pick-count [data-clear]")
    assert names(again) == everything
    assert "#" not in again.url


def test_a_budget_of_milliseconds_leaves_out_what_was_not_measured(visit: New) -> None:
    page = visit().go("networks/#ms=20")
    times = values(page, 4)
    assert times
    assert all(v and float(v) <= 0.02 for v in times)
    page.fill("[name=ms]", "0.001")
    assert names(page) == []
    assert page.is_visible(".pick-none")
    page.click(".pick-none [data-clear]")
    assert len(names(page)) > 100


def test_two_networks_are_set_side_by_side_by_keyboard_and_address(visit: New) -> None:
    page = visit().go("networks/")
    assert not page.is_visible(".pick-pair")
    text = "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
    for side, key in (("a", "ArrowDown"), ("b", "End")):
        page.focus(f"[name={side}]")
        page.keyboard.press(key)
    options = page.locator("[name=a] option").all_text_contents()
    table = page.locator(".pick-pair tr").evaluate_all(text)
    assert table[0][1:3] == [options[1], options[-1]]
    page.select_option("[name=a]", label="ResNet-50")
    page.select_option("[name=b]", label="EfficientNet-B0")
    table = page.locator(".pick-pair tr").evaluate_all(text)
    assert table[0][1:3] == ["ResNet-50", "EfficientNet-B0"]
    rows = {row[0]: row[1:] for row in table[1:]}
    assert rows["Parameters, M"] == ["25.56", "5.29", "× 0.207"]
    assert rows["Top-1 (V1), %"] == ["76.1", "77.7", "+1.6"]
    assert rows["CPU, ms"][0] == "–"
    assert rows["CPU, ms"][2] == ""
    again = visit().go("networks/" + page.url.partition("networks/")[2])
    assert again.locator(".pick-pair tr").evaluate_all(text) == table
    again.select_option("[name=b]", "")
    assert not again.is_visible(".pick-pair")


def test_without_the_script_the_table_is_complete_and_nothing_dead_is_shown(
    visit: New,
) -> None:
    there = visit()
    there.page.route("**/*.js", lambda route: route.abort())
    page = there.page
    page.add_init_script("")
    page.goto(there.address + "networks/", wait_until="load")
    page.evaluate("document.documentElement.classList.remove('js')")
    assert len(names(page)) > 100
    assert not page.is_visible(".pick-by")
    assert not page.is_visible(".pick-two")
    assert page.locator(".scatter .pt title").count() > 100


def test_an_anchor_leaves_the_filter_as_it_is(visit: New) -> None:
    page = visit().go("networks/#params=10")
    few = names(page)
    with page.expect_request(
        "**/networks/"
    ):  # the theme loads a page anew at its first anchor
        page.evaluate("location.hash = '#all-variants'")
    page.wait_for_timeout(500)
    assert names(page) == few
    page.locator(".pick [name=q]").fill("resnet")
    fewer = names(page)
    page.evaluate("location.hash = '#all-variants'")
    page.wait_for_timeout(500)
    assert names(page) == fewer != few


@pytest.mark.parametrize("width", WIDTHS)
def test_the_head_of_the_table_stays_in_sight_below_the_sites_header(
    width: int, visit: New
) -> None:
    page = visit(width=width).go("networks/")
    rows = page.locator(f"{TABLE} tbody tr")
    rows.nth(70).evaluate("e => e.scrollIntoView({block: 'center'})")
    page.wait_for_timeout(100)
    head = page.locator(f"{TABLE} thead tr").last.bounding_box()
    bar = page.locator(".md-header").bounding_box()
    row = rows.nth(70).bounding_box()
    assert head
    assert bar
    assert row
    assert bar["y"] + bar["height"] <= head["y"] + 1
    assert head["y"] + head["height"] <= row["y"] + 1 < 900
    seen = page.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('thead') !== null",
        [head["x"] + 20, head["y"] + head["height"] - 8],
    )
    assert seen, "the head lies under something"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


BOXES = """svgs => svgs.map(svg => ({
  texts: [...svg.querySelectorAll("text")].map(t => {
    const r = t.getBoundingClientRect();
    return {text: t.textContent, size: parseFloat(getComputedStyle(t).fontSize) * svg.getScreenCTM().a,
            x0: r.left, y0: r.top + r.height * .15, x1: r.right, y1: r.bottom - r.height * .15};
  }),
  dots: [...svg.querySelectorAll(".pt")].map(d => {
    const r = d.getBoundingClientRect();
    return {x: r.left + r.width / 2, y: r.top + r.height / 2};
  }),
}))"""


def overlaps(plot: dict[str, Any]) -> list[str]:
    found = [
        f"{a['text']} on {b['text']}"
        for a, b in combinations(plot["texts"], 2)
        if min(a["x1"], b["x1"]) > max(a["x0"], b["x0"])
        and min(a["y1"], b["y1"]) > max(a["y0"], b["y0"])
    ]
    return found + [
        f"{t['text']} on a dot"
        for t in plot["texts"]
        for d in plot["dots"]
        if t["x0"] < d["x"] < t["x1"] and t["y0"] < d["y"] < t["y1"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_names_in_the_plots_are_apart_and_legible(
    width: int, scheme: str, visit: New
) -> None:
    page = visit(width=width, scheme=scheme).go("networks/")
    plots = page.locator("svg.scatter").evaluate_all(BOXES)
    assert len(plots) == 6
    for plot in plots:
        assert overlaps(plot) == []
        assert min(t["size"] for t in plot["texts"]) >= 11 - 0.05
        assert max(t["x1"] for t in plot["texts"]) <= width
    page.locator("svg.scatter .l").first.evaluate(
        "e => e.parentNode.append(e.cloneNode(true))"
    )
    planted = page.locator("svg.scatter").evaluate_all(BOXES)
    assert overlaps(planted[0])


def test_a_dot_tells_its_values_to_the_pointer_and_shows_in_the_plot_beside(
    visit: New,
) -> None:
    page = visit().go("networks/")
    dot = page.locator("svg.scatter .pt[data-k=resnet50]").first
    dot.scroll_into_view_if_needed()
    box = dot.bounding_box()
    assert box
    page.mouse.move(box["x"] + 8, box["y"] + 10)  # near is enough
    tip = page.locator(".plot-tip")
    assert (tip.text_content() or "").startswith("ResNet-50: 76.1 %, 25.56 M")
    assert page.locator(".pt.on").count() == 2
    page.keyboard.press("Home")
    page.mouse.move(5, 300)
    assert tip.count() == 0


def test_dots_are_reached_by_the_keyboard(visit: New) -> None:
    page = visit(scheme="dark").go("networks/")
    dots = page.locator("svg.scatter").first.locator(".pt")
    dots.locator("xpath=self::*[@tabindex='0']").focus()
    told = []
    for key in ("ArrowRight", "ArrowRight", "End", "ArrowLeft", "ArrowUp", "Home"):
        page.keyboard.press(key)
        told.append(page.locator(".plot-tip").text_content() or "")
    sizes = [float(t.split(" %, ")[1].split(" M")[0]) for t in told]
    assert sizes[0] <= sizes[1] <= sizes[3] <= sizes[2]
    assert "SqueezeNet" in told[0]
    assert page.locator(".pt[tabindex='0']").count() == 6  # one stop in each plot
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") in told
    page.keyboard.press("Escape")
    assert page.locator(".plot-tip").count() == 0
