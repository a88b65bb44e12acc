"""Ids of tables, figures and numbers come from what is shown, not from where it stands."""

import re

import markdown
import pytest

from cnn_site.anchors import Ids


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (("table", "numbers", "cost"), "table-numbers-cost"),
        (
            ("table", "numbers", "lab/transfer#garments"),
            "table-numbers-lab-transfer-garments",
        ),
        (("n", "cost.se_resnet50.more_params"), "n-cost.se_resnet50.more_params"),
        (("table", ""), "table"),
    ],
)
def test_an_id_is_made_of_words(words: tuple[str, ...], made: str) -> None:
    ids = Ids()
    assert [ids.new(*words), ids.new(*words)] == [made, f"{made}-2"]
    assert Ids().new(*words) == made, "another page begins anew"


def rendered(text: str) -> str:
    return markdown.markdown(text, extensions=["tables", "cnn_site.markdown"])


HEAD = "[[technique attention/squeeze-and-excitation]]\n\n"
NUMBER = "It adds [[=cost.se_resnet50.more_params*100:.1f]] % here.\n\n"
FIGURE = "![What](../figures/attention/squeeze-and-excitation.svg)\n\n"
COLUMN = '- {head: "Parameters, M", computed: params, per: 1e6}\n\n'
TABLE = "| Letter | Is |\n|:--|:--|\n| N | images |\n\n"


def test_ids_stay_when_the_page_around_them_is_edited() -> None:
    once = rendered(HEAD + NUMBER + FIGURE + TABLE)
    later = rendered(HEAD + "More.\n\n" + TABLE + FIGURE + "More.\n\n" + NUMBER)
    for name in (
        "n-cost.se_resnet50.more_params",
        "fig-squeeze-and-excitation",
        "table-letter-is",
    ):
        for page in (once, later):
            assert page.count(f'id="{name}"') == 1
            assert page.count(f'href="#{name}"') == 1


def test_a_row_has_the_address_of_its_table_and_its_name() -> None:
    row = '<tr><th scope="row">ResNet-50, wide</th><td>1</td></tr>'
    page = rendered(f'{HEAD}<table id="t"><tbody>{row}{row}</tbody></table>')
    assert 'id="t.resnet-50-wide"' not in page, "raw HTML stays as it is written"
    page = rendered(HEAD + "[[numbers cost]]\nfirst: Network\ncolumns:\n" + COLUMN)
    assert page.count('<tr id="table-numbers-cost.') == page.count('<th scope="row">')
    assert 'id="table-numbers-cost.resnet-50"' in page


def test_a_number_leads_to_the_record_and_names_its_path() -> None:
    there = rendered(HEAD + NUMBER)
    link = re.search(r'<span class="kind computed"[^>]*><a ([^>]*)>9\.9</a>', there)
    assert link and "/evidence/attention/squeeze-and-excitation.json" in link[1]
    assert "computed: cost.se_resnet50.more_params, in the record" in link[1]
    other = rendered(HEAD + "[[=modern/resnet#cost.resnet50.params]]")
    assert "/evidence/modern/resnet.json" in other
