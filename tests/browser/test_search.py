"""What the search answers: questions of readers and of issue trackers, asked of the site's own worker."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mkdocs.utils.meta import get_data

from cnn_site import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from conftest import Visit

pytestmark = pytest.mark.browser
New = Callable[..., "Visit"]
# `from`: an issue (owner/name#number), a reader's report, or what else the question tries.
LIST = Path(__file__).parent / "search_questions.csv"
QUESTIONS = list(csv.DictReader(LIST.read_text(encoding="utf-8").splitlines()))
# The worker is the one that the page names; it gets the index as the page's script would give it (0: index, 2: query).
ASK = """async questions => {
  const config = JSON.parse(document.querySelector("#__config").textContent);
  const index = await (await fetch(new URL("search/search_index.json", new URL(config.base, location)))).json();
  const worker = new Worker(new URL(config.search, location));
  const ask = message => new Promise((answer, fail) => {
    worker.onmessage = event => answer(event.data);
    worker.onerror = event => fail(new Error(event.message));
    worker.postMessage(message);
  });
  await ask({ type: 0, data: { ...index, options: { suggest: false } } });
  const answers = [];
  for (const question of questions)
    answers.push((await ask({ type: 2, data: question })).data.items.map(([item]) => item.location.split("#")[0]));
  return answers;
}"""


def results(page: "Page", question: str) -> list[str]:
    """Types a question into the search of the page; the addresses of what is shown."""
    page.keyboard.press("/")
    page.keyboard.type(question)
    page.locator(".md-search-result__item").first.wait_for(timeout=15_000)
    links = page.locator(".md-search-result__item > a:first-child")
    return [a.get_attribute("href") or "" for a in links.all()]


def test_half_of_the_questions_are_other_peoples() -> None:
    others = [q for q in QUESTIONS if q["from"] == "reader" or "#" in q["from"]]
    assert len(QUESTIONS) >= 80
    assert len(others) * 2 >= len(QUESTIONS)
    missing = [q for q in QUESTIONS if not (ROOT / f"docs/{q['page']}.md").exists()]
    assert not missing, f"no such page: {missing}"


def test_every_question_finds_its_page_among_the_first_three(visit: New) -> None:
    answers = (
        visit().go("conventions/").evaluate(ASK, [q["question"] for q in QUESTIONS])
    )
    missed = [
        f"{q['question']!r}: docs/{q['page']}.md is not among {found[:3]}"
        for q, found in zip(QUESTIONS, answers, strict=True)
        if f"{q['page']}/" not in found[:3]
    ]
    told = f"{len(QUESTIONS) - len(missed)} of {len(QUESTIONS)} found; add the reader's word to the page's aliases:"
    assert not missed, "\n".join([told, *missed])


def test_the_index_is_fetched_when_the_search_is_opened(visit: New) -> None:
    visitor = visit()
    page = visitor.go("modern/resnet/")
    page.wait_for_load_state("networkidle")
    late = ("search_index.json", "pages.js", "/workers/")
    assert not [url for url in visitor.asked if any(part in url for part in late)]
    results(page, "mixup")
    assert [part for part in late if any(part in url for url in visitor.asked)] == [
        *late
    ]
    assert not visitor.errors


def test_a_result_is_title_sentence_and_hit(visit: New) -> None:
    page = visit().go("")
    slug = "training/feature-extraction"
    assert f"/{slug}/" in results(page, "how to freeze layers")[0]
    first = page.locator(".md-search-result__item").first
    _, facts = get_data((ROOT / f"docs/{slug}.md").read_text(encoding="utf-8"))
    assert first.locator("h1").inner_text().split("\n")[0] == facts["title"]
    assert first.locator("h1 small").inner_text() == facts["description"]
    mark = first.locator("mark").first.inner_text().lower()
    assert mark.startswith(("free", "layer"))
    assert not first.locator("pre, .md-tags").count()


def test_the_search_goes_on_where_a_result_leads(visit: New) -> None:
    visitor = visit()
    page = visitor.go("modern/resnet/")
    results(page, "squeze excitation")
    page.keyboard.press("Enter")
    page.wait_for_url("**/attention/squeeze-and-excitation/**")
    page.locator(".md-content [data-md-highlight]").first.wait_for(timeout=15_000)
    assert "/training/mixup/" in results(page, "mixup")[0]
    assert not visitor.errors
