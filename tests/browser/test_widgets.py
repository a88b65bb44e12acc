"""Figures with options draw torch's rates and torch's Beta, by keyboard alone; in print and without scripts they are still."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch.optim import SGD, lr_scheduler

from cnn_lab.data import digits
from cnn_site.directives import widgets as made
from cnn_techniques.training import mixup_batch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from conftest import Visit

pytestmark = pytest.mark.browser
New = Callable[..., "Visit"]
SCHEDULE, MIXUP = "training/cosine-annealing/", "training/mixup/"
# The script says of every field whether its value can be used.
READY = "document.querySelector('.widget [aria-invalid]')"


def opened(visit: New, path: str, **how: object) -> "Page":
    page = visit(**how).go(path)
    page.wait_for_function(READY, timeout=30_000)
    return page


def drawn(page: "Page") -> list[tuple[float, float]]:
    path = page.locator(".widget .curve").get_attribute("d") or ""
    pairs = (point.split() for point in path.removeprefix("M").split("L"))
    return [(float(x), -float(y)) for x, y in pairs]


def of_torch(line: str, lr: float, steps: int) -> list[float]:
    """The rates that the line on the page gives."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = eval(line, {**vars(lr_scheduler), "optimizer": optimizer})
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < steps:
            schedule.step()
    return rates


def says(page: "Page") -> str:
    return page.locator(".widget output").text_content() or ""


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")  # SequentialLR's
def test_the_drawn_rates_are_those_of_the_line_below_them(visit: New) -> None:
    page = opened(visit, SCHEDULE)
    sets: list[dict[str, float]] = [
        {},
        {"eta_min": 0.001, "T_max": 40, "T_0": 7, "T_mult": 3, "gamma": 0.5, "warmup": 1},
        {"lr": 0.0003, "steps": 97, "step_size": 9, "pct_start": 0.25, "warmup": 96, "div_factor": 4},
        {"lr": 5, "steps": 1000, "T_max": 1000, "T_mult": 1, "gamma": 0.97, "final_div_factor": 7},
    ]  # fmt: skip
    o = {name: option.value for name, option in made.OPTIONS.items()}
    tried = 0
    for changed in sets:
        o |= changed
        for kind, schedule in made.SCHEDULES.items():
            page.select_option(".widget [name=kind]", kind)
            for name in {"lr", "steps", *schedule.options}:
                page.fill(f".widget [name={name}]", f"{o[name]:g}")
            line = page.locator(".widget figcaption code").text_content() or ""
            steps, rates = zip(*drawn(page), strict=True)
            assert steps == tuple(range(int(o["steps"])))
            expected = of_torch(line, o["lr"], len(steps))
            assert rates == pytest.approx(expected, rel=1e-9, abs=1e-12 * o["lr"]), line
            assert rates == pytest.approx(made.rates(kind, o), rel=1e-12, abs=1e-18)
            tried += 1
    assert tried == 20


def test_a_schedule_is_set_by_keyboard_alone(visit: New) -> None:
    page = opened(visit, SCHEDULE)
    page.locator(".widget [name=t]").focus()
    keys = page.keyboard
    before = says(page)
    assert before == "Step 75: rate 0.099"
    keys.press("ArrowRight")
    assert says(page).startswith("Step 76: rate")
    keys.press("Home")
    assert says(page) == "Step 0: rate 0.1"
    keys.press("Tab")  # the choice of the schedule
    keys.type("Step")
    fields = ".widget .knobs > label:visible"
    assert page.locator(f"{fields} > span").all_text_contents() == ["Schedule", "lr", "steps", "step_size", "gamma",
    ]  # fmt: skip
    for _ in range(3):
        keys.press("Tab")
    assert page.evaluate("document.activeElement.name") == "step_size"
    keys.press("ArrowDown")
    assert drawn(page)[48:50] == [(48, 0.1), (49, pytest.approx(0.01))]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    keys.press("Control+A")
    keys.type("0")
    assert says(page).startswith("step_size: ")
    invalid = page.locator(".widget [aria-invalid=true]")
    assert invalid.get_attribute("name") == "step_size"
    keys.type(".5")
    assert says(page).startswith("step_size: ")
    keys.press("Control+A")
    keys.type("30")
    assert invalid.count() == 0
    assert says(page) == "Step 0: rate 0.1"
    assert page.locator(".widget figcaption code").text_content() == (
        "StepLR(optimizer, step_size=30, gamma=0.1)"
    )


def test_the_step_stays_within_a_shorter_training(visit: New) -> None:
    page = opened(visit, SCHEDULE)
    page.locator(".widget [name=t]").press("End")
    assert says(page).startswith("Step 149: ")
    page.fill(".widget [name=steps]", "60")
    assert says(page).startswith("Step 59: ")
    assert page.locator(".widget [name=t]").get_attribute("max") == "59"


def test_the_share_blends_the_digits_as_the_technique_does(visit: New) -> None:
    image = pytest.importorskip("PIL.Image")
    images, names = digits("train")
    pair = images[[int((names == digit).nonzero()[0]) for digit in (0, 1)]]
    for scheme, presses in (("light", 0), ("dark", 45), ("dark", 75)):
        page = opened(visit, MIXUP, scheme=scheme)
        slider = page.locator(".widget [name=share]")
        for _ in range(presses):
            slider.press("ArrowLeft")
        share = round(0.75 - presses / 100, 2)
        assert says(page).startswith(f"λ = {share:g}: {share:g} of the 0")
        box = page.locator(".widget image.over")
        box.scroll_into_view_if_needed()
        shot = image.open(io.BytesIO(box.screenshot())).convert("L")
        x, y = mixup_batch(
            pair, torch.eye(2), torch.tensor(share), torch.tensor([1, 0])
        )
        expected = 255 * (1 - x[0, 0])
        cell = shot.width / 8
        for row in range(8):
            for column in range(8):
                at = int((column + 0.5) * cell), int((row + 0.5) * cell)
                assert shot.getpixel(at) == pytest.approx(
                    float(expected[row, column]), abs=2
                )
        labels = [
            page.locator(f".widget text.{name}").last.text_content() for name in "ab"
        ]
        assert [float(label or "nan") for label in labels] == pytest.approx(
            y[0].tolist()
        )


def test_the_density_is_that_of_torch(visit: New) -> None:
    page = opened(visit, MIXUP)
    slider = page.locator(".widget [name=alpha]")
    slider.press("Home")
    for alpha in made.ALPHAS:
        assert slider.get_attribute("aria-valuetext") == f"{alpha:g}"
        a = torch.tensor(alpha, dtype=torch.float64)
        at, values = zip(*drawn(page), strict=True)
        expected = (
            torch.distributions.Beta(a, a)
            .log_prob(torch.tensor(at, dtype=torch.float64))
            .exp()
        )
        assert len(at) == 119
        assert values == pytest.approx(expected.tolist(), rel=1e-9)
        told = page.locator(".widget .told").text_content() or ""
        assert told == (
            f"α = {alpha:g}: the density at this λ is {made.short(made.density(alpha, 0.75))}; "
            f"on average the larger of the two shares is {made.short(made.larger_share(alpha))}."
        )
        slider.press("ArrowRight")
    page.locator(".widget [name=share]").press("End")
    assert (
        says(page) == "λ = 1: 1 of the 0 and 0 of the 1, in the image and in the label"
    )
    slider.press("Home")
    assert "the density at this λ is ∞" in (
        page.locator(".widget .told").text_content() or ""
    )


# What of a figure a reader sees, numbers rounded as far as the still ones are.
SEEN = """() => {
  const w = document.querySelector(".widget");
  const texts = [...w.querySelectorAll("svg text, output, figcaption")].map(e => e.textContent.trim());
  const marks = [...w.querySelectorAll("circle, .front, rect, .area, .over")].map(e => ["cx", "cy", "d", "width", "viewBox", "opacity"]
    .map(name => (e.getAttribute(name) || "").replace(/[\\d.]+/g, x => +(+x).toFixed(1))).join());
  return [texts, marks];
}"""


@pytest.mark.parametrize("path", [SCHEDULE, MIXUP])
def test_without_scripts_the_figure_stands_alone(
    path: str, visit: New, chromium: "Browser", address: str
) -> None:
    context = chromium.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(address + path)
        assert page.locator(".widget svg.fig").is_visible()
        assert page.locator(".widget figcaption").is_visible()
        assert page.locator(".widget .knobs").count() == 2
        assert page.locator(".widget .knobs:visible").count() == 0
        still = page.evaluate(SEEN), drawn(page)
    finally:
        context.close()
    page = opened(visit, path)
    redrawn = page.evaluate(SEEN), drawn(page)
    assert redrawn[0] == still[0], "the first drawing changes nothing"
    for a, b in zip(redrawn[1], still[1], strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("path", [SCHEDULE, MIXUP])
def test_print_shows_the_still_figure_whatever_was_set(path: str, visit: New) -> None:
    page = opened(visit, path)
    before = page.evaluate(SEEN)
    for field in page.locator(".widget input:visible").all():
        field.press("ArrowUp")
        field.press("ArrowUp")
    if path == SCHEDULE:
        page.select_option(".widget [name=kind]", "cycle")
    changed = page.evaluate(SEEN)
    assert changed != before
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(SEEN) == before
    assert page.locator(".widget .knobs:visible").count() == 0
    assert page.locator(".widget svg.fig").is_visible()
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(SEEN) == changed
    assert page.locator(".widget .knobs:visible").count() == 2


def test_the_options_work_after_the_theme_has_put_the_page_in(
    visit: New, built_site: Path
) -> None:
    there = visit()
    known = (built_site / "sitemap.xml").read_text(encoding="utf-8")
    own = re.sub(r"<loc>https?://[^/]+/", f"<loc>{there.address}", known)
    there.page.route(
        "**/sitemap.xml", lambda route: route.fulfill(body=own, content_type="text/xml")
    )  # else the theme loads every page anew
    page = there.go("training/")
    assert not [url for url in there.asked if url.endswith("/widgets.js")]
    for path, field in ((SCHEDULE, "t"), (MIXUP, "share"), (SCHEDULE, "t")):
        page.wait_for_load_state("networkidle")
        page.evaluate("window.same = true")
        page.locator(f"a[href$='{path.split('/')[1]}/']:visible").first.click()
        page.wait_for_url(f"**/{path}")
        slider = page.locator(f".widget [name={field}][aria-invalid]")
        slider.wait_for(timeout=30_000)
        assert page.evaluate("window.same"), "loaded anew"
        slider.press("Home")
        assert re.match(r"Step 0: |λ = 0: ", says(page))
    asked = [url for url in there.asked if url.endswith("/widgets.js")]
    assert len(asked) == 1
    assert not there.errors
    assert not there.elsewhere


@pytest.mark.parametrize("path", [SCHEDULE, MIXUP])
def test_every_option_has_a_name_and_the_figure_a_text(path: str, visit: New) -> None:
    page = opened(visit, path)
    for field in page.locator(".widget :is(input, select)").all():
        assert field.evaluate("f => f.labels.length") == 1
    svg = page.locator(".widget svg.fig")
    assert svg.get_attribute("role") == "img"
    assert svg.get_attribute("aria-label")
    assert says(page)
