"""Terms show their meaning where they first stand in a section, and only there."""

import re

import markdown
import pytest
from lxml import html

from cnn_site import ROOT, glossary, pages

CONVENTIONS = ROOT / "docs/conventions.md"
TERMS = glossary.terms(CONVENTIONS)
HEAD = "[[technique attention/squeeze-and-excitation]]\n\n"


def shown(text: str, head: str = HEAD) -> list[str]:
    """The words of a page that are terms."""
    extensions = ["tables", "toc", "fenced_code", "attr_list", "cnn_site.markdown"]
    page = markdown.markdown(head + text, extensions=extensions)
    root = html.fromstring(f"<div>{page}</div>")
    assert len(root.cssselect("a a")) == 0
    return [a.text_content() for a in root.cssselect("a.term")]


def test_the_glossary_is_read_in_its_order() -> None:
    text = CONVENTIONS.read_text(encoding="utf-8")
    assert len(TERMS) == text.count("{ #term-") > 20
    ids = [t.id for t in TERMS]
    assert ids == sorted(set(ids))
    for term in TERMS:
        assert term.says.endswith(".") and "`" not in term.says and "[" not in term.says


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("A gate, and a gate again.", ["gate"]),
        ("Two *gates* for a gate.", ["gates"]),
        ("A gate.\n\n## Next\n\nA gate, a **stem**.", ["gate", "gate", "stem"]),
        ("Stems of gate-like things, agate and the gatekeeper.", ["Stems"]),
        ("## A gate\n\nNothing else.", []),
        ("`gate` and [a gate](https://gate.example)", []),
        ("```py\ngate = 1  # a gate\n```", []),
        ("| gate |\n|--|\n| gate |", []),
        ("A map of the MAP and the Map.", []),
        ("The mAP of a map.", ["mAP"]),
        ("Feature maps of macs and MACs.", ["Feature maps", "MACs"]),
        ("- a gate\n- a gate and a skip connection", ["gate", "skip connection"]),
        ("Stochastic depth, that is drop path.", ["Stochastic depth"]),
    ],
)
def test_a_term_is_marked_where_it_first_stands_in_a_section(
    text: str, terms: list[str]
) -> None:
    assert shown(text) == terms


def test_the_text_itself_is_not_changed() -> None:
    text = "A gate *and a stem, gate* and **one** head; heads of a gate."
    plain = markdown.markdown(text)
    page = markdown.markdown(HEAD + text, extensions=["cnn_site.markdown"])
    last = html.fromstring(f"<div>{page}</div>").cssselect("p")[-1]
    assert last.text_content() == html.fromstring(plain).text_content()
    assert len(last.cssselect("a.term")) == 3


def test_a_term_says_its_meaning_and_leads_to_its_entry() -> None:
    page = markdown.markdown(HEAD + "A gate.", extensions=["cnn_site.markdown"])
    gate = next(t for t in TERMS if t.names == ("gate",))
    assert f'href="/conventions.md#{gate.id}"' in page
    assert f'aria-description="{gate.says}"' in page


def test_only_pages_of_techniques_have_terms() -> None:
    assert shown("A gate.", head="") == []


@pytest.mark.parametrize("term", TERMS, ids=lambda t: t.id)
def test_every_term_of_the_glossary_stands_on_a_page(term: glossary.Term) -> None:
    names = "|".join(map(re.escape, term.names))
    named = re.compile(rf"\b({names})s?\b", re.I)
    assert any(
        named.search(t.path.read_text(encoding="utf-8"))
        for t in pages.techniques()
        if t.facts
    ), f"{term.names[0]} stands on no page; drop it"
