"""A record is written by the check, says when it is stale, and is left alone when nothing changed."""

from pathlib import Path
from textwrap import dedent

import pytest

from cnn_site.equivalence import Comparison
from cnn_site.evidence import (
    Evidence,
    StaleRecord,
    differences,
    load,
    measured_hash,
    save,
    stale_measurements,
)

SLUG = "attention/made-up"
ROWS = {"a": {"name": "A", "params": 10, "share": 0.25}}
COMPARISON = Comparison(
    10, 2, 1e-16, 2e-16, None, "float64", [2, 3, 5, 7], ["evaluation", "training"]
)


@pytest.fixture
def update(tmp_path: Path) -> Evidence:
    return Evidence(SLUG, update=True, folder=tmp_path)


@pytest.fixture
def check(tmp_path: Path) -> Evidence:
    return Evidence(SLUG, update=False, folder=tmp_path)


def test_what_was_written_is_held(update: Evidence, check: Evidence) -> None:
    update.computed("cost", ROWS)
    check.computed("cost", ROWS)


def test_a_number_without_a_record_is_refused(check: Evidence) -> None:
    with pytest.raises(StaleRecord, match="there is none yet"):
        check.computed("cost", ROWS)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"a": {"name": "A", "params": 11, "share": 0.25}},
            r"a\.params: the record says 10, now it is 11",
        ),
        ({"a": {"name": "B", "params": 10, "share": 0.25}}, r"a\.name"),
        ({"a": {"name": "A", "params": 10, "share": 0.2501}}, r"a\.share"),
        ({"a": {"name": "A", "params": 10}}, r"a\.share is in the record only"),
        ({**ROWS, "b": {}}, "b is not in the record"),
    ],
)
def test_a_stale_number_is_named(
    update: Evidence, check: Evidence, changed: dict, told: str
) -> None:
    update.computed("cost", ROWS)
    with pytest.raises(StaleRecord, match=told):
        check.computed("cost", changed)


def test_a_float_may_differ_in_its_last_digits() -> None:
    assert not list(differences({"x": 0.1 + 0.2}, {"x": 0.3}))


def test_true_is_not_one() -> None:
    assert list(differences({"x": 1.0}, {"x": True}))


def test_writing_twice_leaves_the_file_as_it_is(
    update: Evidence, tmp_path: Path
) -> None:
    path = tmp_path / f"{SLUG}.json"
    told = {"date": "2026-01-01", "torch": "2.11.0", "python": "3.11", "device": "cpu"}
    later = {**told, "date": "2026-02-02", "torch": "2.14.0"}
    blocks = [{"title": "x.py", "hash": "0123456789ab"}]
    update.computed("cost", ROWS)
    update.equivalent("block", COMPARISON, reference="torch.nn.Identity")
    update.ran("cpu", blocks, [0.1], told)
    first = path.read_bytes()
    update.computed("cost", ROWS)
    other = Comparison(
        10, 2, 3e-16, 0.0, None, "float64", [2, 3, 5, 7], ["evaluation", "training"]
    )
    update.equivalent("block", other, reference="torch.nn.Identity")
    update.ran("cpu", blocks, [0.2], later)
    assert path.read_bytes() == first


def test_a_comparison_is_stale_when_what_was_compared_changed(
    update: Evidence, check: Evidence
) -> None:
    update.equivalent("block", COMPARISON, reference="torch.nn.Identity")
    with pytest.raises(StaleRecord, match="settings"):
        check.equivalent(
            "block", COMPARISON, reference="torch.nn.Identity", settings="eps=1e-3"
        )


def test_a_record_of_another_schema_is_refused_with_its_cure(tmp_path: Path) -> None:
    save({"schema": 0, "technique": SLUG}, tmp_path)
    with pytest.raises(
        ValueError,
        match=r"made-up\.json: schema 0.*pytest --update-evidence tests/attention/test_made_up",
    ):
        load(SLUG, tmp_path)


def test_what_json_cannot_hold_is_refused(update: Evidence) -> None:
    with pytest.raises(TypeError, match="cannot stand in a record"):
        update.computed("cost", {"a": {"x": object()}})


def test_measured_results_are_made_on_purpose(check: Evidence) -> None:
    with pytest.raises(StaleRecord, match="-m record"):
        check.measured("training", arguments={}, run=lambda: {})


# --- the hash of measured results ---------------------------------------------------

PROOF = '''
from cnn_techniques.attention import Gate


def helper():
    return 1


def other():
    return 2


def measure(seeds):
    """How it is measured."""
    if seeds < 1:
        raise ValueError(f"no seeds: {seeds}")
    return Gate(helper())  # a comment
'''
MODULE = '''"""Idea."""


class Gate:
    """A gate."""

    value = 1
'''


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    files = {
        "tests/attention/test_gate.py": PROOF,
        "src/cnn_techniques/attention/__init__.py": "from .gate import Gate as Gate\n",
        "src/cnn_techniques/attention/gate.py": MODULE,
        "src/cnn_lab/record.py": "VERSION = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(dedent(text), encoding="utf-8")
    return tmp_path


def hashed(repository: Path, **arguments: int) -> str:
    return measured_hash(
        "tests/attention/test_gate.py::measure", arguments or {"seeds": 5}, repository
    )


@pytest.mark.parametrize(
    ("file", "old", "new", "stale"),
    [
        ("tests/attention/test_gate.py", "# a comment", "# another", False),
        ("tests/attention/test_gate.py", "no seeds:", "need one seed:", False),
        ("tests/attention/test_gate.py", "Gate(helper())", "Gate(2)", True),
        ("tests/attention/test_gate.py", "How it is measured.", "Other words.", False),
        ("tests/attention/test_gate.py", "return 2", "return 3", False),
        ("tests/attention/test_gate.py", "return 1", "return 7", True),
        ("src/cnn_techniques/attention/gate.py", "A gate.", "Another word.", False),
        ("src/cnn_techniques/attention/gate.py", "value = 1", "value = 2", True),
        ("src/cnn_lab/record.py", "VERSION = 1", "VERSION = 2", True),
    ],
)
def test_code_makes_a_result_stale_and_words_do_not(
    repository: Path, file: str, old: str, new: str, stale: bool
) -> None:
    before = hashed(repository)
    path = repository / file
    path.write_text(
        path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8"
    )
    assert (hashed(repository) != before) is stale


def test_arguments_make_a_result_stale(repository: Path) -> None:
    assert hashed(repository, seeds=5) != hashed(repository, seeds=6)


def test_a_stale_result_names_the_command_that_makes_it_again(
    repository: Path, tmp_path: Path
) -> None:
    made_by = "tests/attention/test_gate.py::measure"
    entry = {"made_by": made_by, "hash": "000000000000", "arguments": {}}
    save({"schema": 1, "technique": SLUG, "measured": {"training": entry}}, tmp_path)
    (told,) = stale_measurements(SLUG, tmp_path, repository)
    assert "pytest --update-evidence -m record tests/attention/test_gate.py" in told
