"""A record is written by the check, says when it is stale, and is left alone when nothing changed."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_lab.fingerprint import fingerprint
from cnn_site import ROOT, pages
from cnn_site.directives import Page, render
from cnn_site.directives.comparisons import _equivalence_row
from cnn_site.equivalence import Comparison
from cnn_site.evidence import (
    Evidence,
    StaleRecord,
    differences,
    drop_orphans,
    load,
    may_name,
    save,
    stale_measurements,
)

SLUG = "attention/made-up"
ROWS = {"a": {"name": "A", "params": 10, "share": 0.25}}
COMPARISON = Comparison(
    parameters=10,
    tensors=2,
    output=1e-16,
    gradient=2e-16,
    buffers=None,
    dtype="float64",
    shape=[2, 3, 5, 7],
    modes=["evaluation", "training"],
    bounds={"output": 1e-10, "gradient": 1e-8},
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
    other = dataclasses.replace(COMPARISON, output=3e-16, gradient=0.0)
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


def test_a_comparison_held_to_another_bound_is_stale(
    update: Evidence, check: Evidence
) -> None:
    update.equivalent("block", COMPARISON, reference="torch.nn.Identity")
    looser = dataclasses.replace(COMPARISON, bounds={"output": 1e-6, "gradient": 1e-8})
    with pytest.raises(StaleRecord, match=r"bounds\.output: the record says 1e-10"):
        check.equivalent("block", looser, reference="torch.nn.Identity")


def test_texts_are_written_as_they_are(update: Evidence, check: Evidence) -> None:
    rows = {"a": {"name": 'crop [ 1, 2 ] of "x", {}', "shape": [1, 2], "of": [[1], []]}}
    update.computed("cost", rows)
    assert load(SLUG, check.folder)["computed"]["cost"] == rows
    check.computed("cost", rows)


def test_lists_of_plain_values_stand_on_one_line(tmp_path: Path) -> None:
    save({"technique": SLUG, "a": [1, "é"], "b": [{"c": []}, [2]], "d": {}}, tmp_path)
    assert (tmp_path / f"{SLUG}.json").read_text("utf-8") == (
        f'{{\n "technique": "{SLUG}",\n "a": [1, "é"],\n "b": [\n  {{\n   "c": []\n  }},'
        '\n  [2]\n ],\n "d": {}\n}\n'
    )


def test_a_record_is_read_again_when_it_was_written(
    update: Evidence, check: Evidence
) -> None:
    for params in (10, 11, 12):
        rows = {"a": {"params": params}}
        update.computed("cost", rows)
        check.computed("cost", rows)


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


# --- measured results ---------------------------------------------------------------


def measure(pixels: int) -> dict[str, int]:
    return {"area": pixels**2}


def test_a_measured_result_is_written_with_the_fingerprint_of_its_code(
    update: Evidence,
) -> None:
    assert update.measured("area", arguments={"pixels": 3}, run=measure) == {"area": 9}
    entry = load(SLUG, update.folder)["measured"]["area"]
    assert entry["made_by"] == "tests/site/test_evidence.py::measure"
    assert entry["hash"] == fingerprint(entry["made_by"], {"pixels": 3})
    assert entry["environment"]["processor"]
    assert stale_measurements(SLUG, update.folder) == []


def test_what_a_closure_measures_was_made_by_the_test_that_asks(tmp_path: Path) -> None:
    pixels = 3
    here = "tests/site/test_evidence.py::test_what_is_stale_names_its_cure"
    asked = Evidence(SLUG, update=True, folder=tmp_path, test=here)
    asked.measured("area", arguments={}, run=lambda: measure(pixels))
    assert load(SLUG, tmp_path)["measured"]["area"]["made_by"] == here


@pytest.mark.parametrize(
    ("made_by", "told"),
    [
        ("tests/site/test_evidence.py::measure", "now it is [0-9a-f]{12}"),
        ("tests/site/test_evidence.py::gone", "not to be had .*defines no gone"),
        ("tests/site/test_lost.py::measure", "not to be had .*test_lost"),
    ],
)
def test_what_is_stale_names_its_cure(tmp_path: Path, made_by: str, told: str) -> None:
    entry = {"made_by": made_by, "hash": "000000000000", "arguments": {}}
    save({"schema": 1, "technique": SLUG, "measured": {"training": entry}}, tmp_path)
    (line,) = stale_measurements(SLUG, tmp_path)
    cure = f"pytest --update-evidence -m record {made_by.split('::')[0]}"
    assert cure in line
    assert re.search(told, line)


# --- what no test names -------------------------------------------------------------


def one_key(evidence: Evidence) -> None:
    evidence.computed("cost", {})


def other_keys(evidence: Evidence, name: str, depth: int) -> None:
    evidence.equivalent(name, COMPARISON, reference="torch")
    evidence.equivalent(f"block {depth}", COMPARISON, reference="torch")
    evidence.equivalent("wide{}".format(depth), COMPARISON, reference="torch")  # noqa: UP032
    evidence.measured("speed", arguments={}, run=measure)


def computed_keys(evidence: Evidence, name: str, depth: int) -> None:
    evidence.equivalent(f"{name}", COMPARISON, reference="torch")
    evidence.equivalent(f"{name} {depth}", COMPARISON, reference="torch")


def named(test: str, *texts: str) -> set[tuple[str, str]]:
    return set(may_name(f"tests/site/test_evidence.py::{test}", texts))


def test_the_keys_of_a_test_are_read_from_its_code_and_parameters() -> None:
    assert named("one_key") == {("computed", "cost")}
    keys = {key for section, key in named("other_keys", "a.b") if section != "measured"}
    assert {r"a\.b", r"block\ .*", "wide.*"} <= keys
    assert "torch" not in keys  # stands beside a key
    assert ("measured", "speed") in named("other_keys")


def test_what_no_test_names_is_refused_and_deleted_on_purpose(
    update: Evidence, tmp_path: Path
) -> None:
    for name in ("torch", "block 2", "wide 3", "old"):
        update.equivalent(name, COMPARISON, reference="torch")
    update.computed("cost", ROWS)
    update.computed("share", ROWS)
    names = named("one_key") | named("other_keys")
    with pytest.raises(StaleRecord, match=r"record only: computed share; equivalence torch; equivalence old: .*--update-evidence tests/attention/test_made_up"):  # fmt: skip
        drop_orphans(SLUG, names, folder=tmp_path)
    drop_orphans(SLUG, names, update=True, folder=tmp_path)
    drop_orphans(SLUG, names, folder=tmp_path)
    record = load(SLUG, tmp_path)
    assert list(record["equivalence"]) == ["block 2", "wide 3"]
    assert list(record["computed"]) == ["cost"]


def test_a_key_that_is_computed_from_variables_alone_is_refused_with_its_cure(
    update: Evidence, tmp_path: Path
) -> None:
    update.equivalent("wide 3", COMPARISON, reference="torch")
    names = named("computed_keys")
    with pytest.raises(StaleRecord, match=r"equivalence wide 3: .* spelled out: f\"then_\{name\}\", not f\"\{name\}\""):  # fmt: skip
        drop_orphans(SLUG, names, folder=tmp_path)
    drop_orphans(SLUG, names | named("other_keys"), folder=tmp_path)


PLANTED = """
import pytest

from cnn_site.equivalence import Comparison

FOUND = Comparison(1, 1, 0.0, None, None, "float64", [2], [], bounds={"output": 1e-10})


def test_torch(evidence):
    evidence.equivalent("torch", FOUND, reference="torch")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["large", "huge"])
def test_slow(evidence, name):
    evidence.equivalent(name, FOUND, reference="torch")


@pytest.mark.record
def test_record(evidence):
    evidence.measured("training", arguments={}, run=train)


def train():
    return {"loss": 1.0}
"""


def run_pytest(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_renamed_comparison_is_refused_by_the_fast_suite_and_deleted_by_its_cure(
    tmp_path: Path,
) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    file = "tests/attention/test_planted.py"
    proof, folder = tmp_path / file, tmp_path / "docs/evidence"
    proof.parent.mkdir(parents=True)
    proof.write_text(PLANTED)

    def keys() -> set[str]:
        record = load("attention/planted", folder)
        return {*record["equivalence"], *record["measured"]}

    run = run_pytest(tmp_path, "--update-evidence", "-m", "", file)
    assert run.returncode == 0, run.stdout
    assert keys() == {"torch", "large", "huge", "training"}
    assert run_pytest(tmp_path, file).returncode == 0
    proof.write_text(
        PLANTED.replace('"torch", FOUND', '"new", FOUND').replace(', "huge"', "")
    )
    run = run_pytest(tmp_path, "--update-evidence", "-k", "test_torch", file)
    assert run.returncode == 0, run.stdout
    assert keys() == {"torch", "new", "large", "huge", "training"}
    assert run_pytest(tmp_path, f"{file}::test_torch").returncode == 0
    run = run_pytest(tmp_path, file)
    assert run.returncode == 1
    assert "record only: equivalence torch; equivalence huge: no test of" in run.stdout
    assert f"pytest --update-evidence {file}" in run.stdout
    run = run_pytest(tmp_path, "--update-evidence", file)
    assert run.returncode == 0, run.stdout
    assert keys() == {"new", "large", "training"}


def test_several_processes_may_not_write_records() -> None:
    pytest.importorskip("xdist")
    run = run_pytest(
        ROOT, "--update-evidence", "-n", "2", "tests/site/test_evidence.py"
    )
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "two processes would write one record; leave out -n" in run.stderr


# --- what pages show ----------------------------------------------------------------


def test_the_drawn_tolerance_is_that_of_the_record() -> None:
    def edges(**bounds: float) -> list[str]:
        facts = {**vars(COMPARISON), "torch": "2", "bounds": bounds}
        row = _equivalence_row("block", facts)
        assert all(what in row["what"] for what in bounds)
        return re.findall(r'class="ok" d="M\d+ \d+H(\d+)', row["strip"])

    (output, gradient) = edges(output=1e-10, gradient=1e-8)
    assert int(output) < int(gradient)
    assert int(edges(output=1e-6)[0]) > int(gradient)


def test_a_run_that_diverged_is_shown_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {"low": {"name": "Low", "accuracy": {"mean": 0.9, "low": 0.8, "high": 1.0, "n": 5}},
            "high": {"name": "High", "diverged": True}}  # fmt: skip
    where = {"processor": "x", "torch": "2", "date": "2026-01-01", "threads": 1}
    entry = {"arguments": {}, "environment": where, "result": {"arms": arms}}

    def shown() -> str:
        record = {"measured": {"digits": entry}}
        monkeypatch.setattr(pages.Technique, "record", record)
        column = {"head": "Accuracy", "measured": "digits.accuracy", "digits": 1}
        page = Page("https://example.org/", "", "optimization/adamw")
        return render(page, "numbers", ["digits"], {"columns": [column]})

    assert re.search(r'<th scope="row">High</th><td>diverged</td>', shown())
    assert "last epoch" not in shown()
    entry["arguments"] = {"epochs": 3}
    assert "Mean over 5 seeds ± half of the 95 % interval, last epoch." in shown()
