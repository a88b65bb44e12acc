"""One table over many techniques shows what their records say, and nothing else."""

import re

import pytest

from cnn_site import pages
from cnn_site.directives import Page, render
from cnn_site.directives.numbers import hardware
from cnn_site.pages import SiteError

HERE = Page("https://example.org/", "")
COLUMN = {"head": "Parameters", "computed": "params"}


def shown(table: str, **settings: object) -> list[list[str]]:
    html = render(HERE, "across", [table], {"of": ["modern"], **settings})
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", html)
    return [re.sub(r"<[^>]+>", "|", row).strip("|").split("|") for row in rows]


def test_every_variant_is_one_row_in_the_order_of_the_catalogue() -> None:
    names = [row[0] for row in shown("cost", columns=[COLUMN])]
    wanted = {}
    for t in pages.in_category("modern"):
        table = t.record.get("computed", {}).get("cost", {}) if t.facts else {}
        for key, row in table.items():
            wanted.setdefault(key, row["name"])  # a second time: beside another's
    assert names == list(wanted.values())
    assert names.count("ResNet-50") == 1


def test_a_cell_is_the_records_and_can_be_sorted_by_its_value() -> None:
    html = render(HERE, "across", ["cost"], {"of": ["modern"], "columns": [COLUMN]})
    params = pages.technique("modern/resnet").record["computed"]["cost"]["resnet50"]
    assert f'data-v="{params["params"]}">{params["params"]:,}<' in html


def test_what_was_never_published_is_a_dash_and_sorts_last() -> None:
    column = {"head": "Top-1", "published": "top1_v2", "digits": 1}
    html = render(HERE, "across", ["cost"], {"of": ["modern"], "columns": [column]})
    row = next(r for r in html.split("<tr>") if ">ResNet-18<" in r)
    assert 'data-v="">–<' in row


def test_the_last_row_is_the_geometric_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = {"modern/resnet": 0.5, "modern/densenet": 2.0, "modern/vgg": None}

    def record(t: pages.Technique) -> dict:
        result = {"ratio": ratios.get(t.slug)}
        where = {"processor": "x", "torch": "2", "date": "2026-01-01", "threads": 1}
        measured = {"speed": {"result": result, "environment": where}}
        return {"measured": measured if result["ratio"] else {}}

    monkeypatch.setattr(pages.Technique, "record", property(record))
    column = {"head": "Speed", "measured": "ratio", "digits": 2, "mean": "geometric"}
    found = shown("speed", rows="pages", columns=[column])
    assert [row[-1] for row in found][-1] == "1.00"
    assert found[-1][0] == "Geometric mean"


def test_a_table_that_no_page_has_is_refused() -> None:
    with pytest.raises(SiteError, match="'nothing'"):
        shown("nothing", columns=[COLUMN])


def test_the_notes_name_what_the_rows_were_measured_on_once() -> None:
    column = {"head": "Accuracy", "measured": "learns.accuracy"}
    html = render(
        HERE,
        "across",
        ["learns"],
        {"of": ["foundations", "modern"], "columns": [column]},
    )
    entries = [t.record.get("measured", {}).get("learns") for t in pages.techniques()]
    for told in {hardware(e["environment"]) for e in entries if e}:
        assert html.count(told) == 1


def test_chosen_rows_stand_in_the_order_asked_for_and_an_unknown_one_is_refused() -> (
    None
):
    only = ["modern/resnet resnet152", "modern/resnet resnet18"]
    rows = shown("cost", only=only, columns=[COLUMN])
    assert [row[0] for row in rows] == ["ResNet-152", "ResNet-18"]
    rest = shown("cost", without=only, columns=[COLUMN])
    assert not {"ResNet-18", "ResNet-152"} & {row[0] for row in rest}
    for setting in ("only", "without"):
        with pytest.raises(SiteError, match="resnet19"):
            shown("cost", **{setting: ["modern/resnet resnet19"]}, columns=[COLUMN])


def test_the_first_published_quantity_that_a_row_has_is_shown_with_its_conditions() -> (
    None
):
    quantities = ["top1_v2", "top1_v1"]
    columns = [
        {"head": "Top-1", "published": quantities},
        {"head": "Of", "published": quantities, "show": "conditions"},
    ]
    only = ["modern/resnet resnet18", "modern/resnet resnet50"]
    first, second = shown("cost", only=only, columns=columns)
    assert first[-1].endswith("weights IMAGENET1K_V1")
    assert second[-1].endswith("weights IMAGENET1K_V2")
