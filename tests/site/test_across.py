"""One table over many techniques shows what their records say, and nothing else."""

import re
from html import unescape

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


def test_a_time_stands_at_the_variant_that_was_timed_on_images_of_that_shape() -> None:
    column = {"head": "ms", "measured": "speed.arms.forward.seconds", "per": 0.001}
    html = {}
    for shape in ([2, 3, 128, 128], [2, 3, 224, 224]):
        columns = [{**column, "shape": shape, "digits": 1}]
        html[shape[-1]] = shown("cost", columns=columns)
    record = pages.technique("modern/resnet").record["measured"]["speed"]["result"]
    seconds = record["arms"]["forward"]["seconds"]
    times = {row[0]: row[-1] for row in html[128]}
    assert times["ResNet-18"] == f"{1000 * seconds:.1f}"
    assert times["ResNet-34"] == times["ViT-B/32"] == "–"
    times = {row[0]: row[-1] for row in html[224]}
    assert times["ResNet-18"] == "–"
    assert times["ViT-B/32"] != "–"


def test_the_notes_of_times_name_the_machine() -> None:
    column = {"head": "ms", "measured": "speed.memory.ours", "shape": [2, 3, 128, 128]}
    html = render(HERE, "across", ["cost"], {"of": ["modern"], "columns": [column]})
    entry = pages.technique("modern/resnet").record["measured"]["speed"]
    assert html.count(hardware(entry["environment"])) == 1


def test_an_interval_that_leaves_the_scale_is_replaced_by_the_runs() -> None:
    column = {"head": "%", "measured": "learns.accuracy", "per": 0.01, "digits": 1}
    only = ["modern/squeezenet squeezenet1_1", "modern/resnet resnet18"]
    free = shown("learns", only=only, columns=[column])
    kept = shown("learns", only=only, columns=[{**column, "limits": [0, 1]}])
    assert free[1] == kept[1]
    assert free[0][-1].startswith("± ")
    assert kept[0][-1] == "(9.9, 49.9, 61.3)"


def test_a_recipe_is_told_for_weights_and_only_for_them() -> None:
    only = ["modern/efficientnet efficientnet_b0"]
    column = {"head": "Recipe", "recipe": "top1_v1"}
    rows = shown("cost", only=only, columns=[column])
    assert unescape(rows[0][-1]) == "timm's"
    rows = {row[0]: row[-1] for row in shown("cost", columns=[column])}
    assert rows["ResNet-50"] == "simple"
    assert rows["EfficientNet-Lite0"] == "–"


def test_a_table_with_a_budget_can_be_filtered_and_two_rows_chosen() -> None:
    plain = {"of": ["modern"], "columns": [COLUMN]}
    assert "<select" not in render(HERE, "across", ["cost"], plain)
    columns = [{"head": "Pixels", "computed": "pixels"}, {**COLUMN, "most": "params"}]
    html = render(HERE, "across", ["cost"], {"of": ["modern"], "columns": columns})
    assert 'name="params" data-col="2"' in html
    rows = re.findall(r'<tr data-k="(.*?)"', html)
    assert len(set(rows)) == len(rows)
    assert re.findall(r'<option value="(.+?)">', html).count(rows[0]) == 2
