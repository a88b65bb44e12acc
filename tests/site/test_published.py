"""Published numbers: each has its conditions and its place, and those of torchvision are torchvision's."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torchvision

from cnn_site import CATEGORIES, ROOT

FILE = "docs/evidence/published.csv"
COLUMNS = [
    "id",
    "technique",
    "row",
    "quantity",
    "value",
    "unit",
    "conditions",
    "source",
    "version",
    "place",
]
MAY_BE_EMPTY = {"unit"}
# Which text of the source: "the paper" is often several, and a README changes.
VERSION = re.compile(
    r"arXiv v\d+|arXiv, latest of \d{4}|proceedings|journal|\w[\w-]* \d+\.[\w.]+|commit [0-9a-f]{7,40}"
    r"|read \d{4}-\d\d-\d\d"  # a web page
)
PLACE = re.compile(
    r"((Section|Sections|Table|Figure|Figures|Appendix|Abstract|Equation|File|Page|Issue)\b.*|\w+_Weights\.\w+, metadata \w+)"
)


def rows_of(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise ValueError(
                f"{FILE}:1: columns {reader.fieldnames}, expected {COLUMNS}"
            )
        for row in reader:
            yield f"{FILE}:{reader.line_num}", row


def problems(root: Path) -> list[str]:
    with (root / "docs/catalogue.csv").open(newline="", encoding="utf-8") as file:
        slugs = {f"{row['category']}/{row['slug']}" for row in csv.DictReader(file)}
    slugs |= {f"guides/{page.stem}" for page in (root / "docs/guides").glob("*.md")}
    found, ids, cells = [], set(), set()
    for place, row in rows_of(root / FILE):
        found += [
            f"{place}: {column} is empty"
            for column in COLUMNS
            if not row[column] and column not in MAY_BE_EMPTY
        ]
        if row["technique"] not in slugs:
            found.append(
                f"{place}: {row['technique']!r} is not in docs/catalogue.csv and no guide"
            )
        if row["place"] and not PLACE.fullmatch(row["place"]):
            found.append(
                f"{place}: {row['place']!r} is not a place in a source; expected Table 2, Section 4.1, ..."
            )
        if row["version"] and not VERSION.fullmatch(row["version"]):
            found.append(
                f"{place}: {row['version']!r} is not a version; expected arXiv v2, proceedings, journal, "
                "torchvision 0.29.1, commit 1a2b3c4 or, of a web page, read 2026-11-29"
            )
        if ".md" in row["place"] and not row["version"].startswith("commit "):
            found.append(
                f"{place}: a README changes: give its commit as version, got {row['version']!r}"
            )
        if not re.fullmatch(r"-?\d+(\.\d+)?", row["value"]):
            found.append(
                f"{place}: {row['value']!r} is not a plain number as the source prints it"
            )
        if row["id"] in ids:
            found.append(f"{place}: the id {row['id']!r} stands twice")
        cell = (row["technique"], row["row"], row["quantity"])
        if cell in cells:
            found.append(
                f"{place}: row {row['row']!r} has two values of {row['quantity']!r}"
            )
        ids.add(row["id"])
        cells.add(cell)
    return found


def test_every_published_number_has_its_conditions_its_source_and_its_place() -> None:
    found = problems(ROOT)
    assert not found, "\n".join(found)


def test_the_catalogue_names_every_technique_once_under_a_known_category() -> None:
    with (ROOT / "docs/catalogue.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["slug"] for row in rows}) == len(rows) == 110
    assert [row["category"] for row in rows] == sorted(
        (row["category"] for row in rows), key=CATEGORIES.index
    ), "categories stand in the order of cnn_site.CATEGORIES"
    for row in rows:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row["slug"]), row
        assert all(
            row[name] for name in ("title", "held_against", "shown_to_work_by")
        ), row
        assert row["asked_for"] in ("yes", "no"), row
        assert row["year"] == "" or 1960 <= int(row["year"]) <= 2026, row


TORCHVISION = [
    (place, row)
    for place, row in rows_of(ROOT / FILE)
    if row["source"].startswith("torchvision")
]


def test_torchvisions_numbers_are_there() -> None:
    assert len(TORCHVISION) >= 18


@pytest.mark.parametrize(
    ("place", "row"), TORCHVISION, ids=[row["id"] for _, row in TORCHVISION]
)
def test_a_number_of_torchvision_is_the_one_in_its_metadata(
    place: str, row: dict[str, str]
) -> None:
    enum, member = re.match(r"(\w+)\.(\w+),", row["place"]).groups()
    models = torchvision.models
    homes = (models, models.detection, models.segmentation)
    module = next(home for home in homes if hasattr(home, enum))
    weights = getattr(module, enum)[member]
    quantity = re.sub(r"_(swag_\w+_)?v\d", "", row["quantity"])
    if row["place"].endswith("_ops"):
        assert quantity == "gmacs", f"{place}: _ops are GMACs, not {quantity}"
        told = weights.meta["_ops"]
    else:
        (metrics,) = weights.meta["_metrics"].values()
        told = metrics[{"top1": "acc@1", "top5": "acc@5"}.get(quantity, quantity)]
        assert member in row["conditions"], f"{place}: no {member} in the conditions"
    assert float(row["value"]) == told, f"{place}: torchvision says {told}"
    if quantity in ("top1", "top5"):
        preset = weights.transforms()
        for size in (*preset.crop_size, *preset.resize_size):
            assert f"{size} px" in row["conditions"], f"{place}: no {size} px there"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "docs/evidence").mkdir(parents=True)
    (tmp_path / "docs/catalogue.csv").write_text("category,slug\nmodern,resnet\n")
    return tmp_path


SOUND = [
    "a",
    "modern/resnet",
    "resnet50",
    "top1",
    "76.1",
    "%",
    "one crop",
    "key",
    "proceedings",
    "Table 3",
]


def plant(site: Path, *rows: list[str]) -> list[str]:
    with (site / FILE).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    return problems(site)


def test_a_sound_row_passes(site: Path) -> None:
    assert plant(site, SOUND) == []


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("place", "", "place is empty"),
        ("place", "somewhere", "is not a place in a source"),
        ("conditions", "", "conditions is empty"),
        ("version", "", "version is empty"),
        ("version", "the paper", "is not a version"),
        ("place", "Section Models of README.md", "a README changes"),
        ("value", "about 76", "is not a plain number"),
        ("technique", "modern/resnot", "is not in docs/catalogue.csv and no guide"),
    ],
)
def test_a_faulty_row_is_refused_with_its_line(
    site: Path, column: str, value: str, says: str
) -> None:
    row = list(SOUND)
    row[COLUMNS.index(column)] = value
    (problem,) = plant(site, row)
    assert problem.startswith(f"{FILE}:2: ")
    assert says in problem


def test_two_values_of_one_quantity_are_refused(site: Path) -> None:
    assert plant(site, SOUND, ["b", *SOUND[1:]]) == [
        f"{FILE}:3: row 'resnet50' has two values of 'top1'"
    ]


def test_a_missing_column_is_refused(site: Path) -> None:
    (site / FILE).write_text("id,value\na,1\n")
    with pytest.raises(ValueError, match="expected"):
        problems(site)
