"""The guide to tools: what was released last is asked of the package index, and what changed since is told."""

import io
import json
from typing import Any

import pytest

from cnn_site import tools
from cnn_site.evidence import load


@pytest.mark.record
def test_record_the_last_release_of_every_tool(evidence) -> None:
    packages = {key: list(row) for key, row in tools.PACKAGES.items()}
    evidence.measured("releases", arguments={"packages": packages}, run=tools.releases)


def asked(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> list[str]:
    """An index with these versions; returns the addresses that were asked for."""
    seen = []

    def answer(address: str, timeout: float) -> Any:
        seen.append(address)
        package = address.split("/")[-2]
        said = {
            "info": {"version": versions[package]},
            "urls": [{"upload_time": "2026-02-03T10:00:00"}],
        }
        return io.BytesIO(json.dumps(said).encode())

    monkeypatch.setattr("urllib.request.urlopen", answer)
    return seen


def test_every_row_has_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = load("guides/tools")["measured"]["releases"]["result"]["arms"]
    assert list(rows) == list(tools.PACKAGES)
    assert all(row["version"] and len(row["day"]) == 10 for row in rows.values())


def test_the_command_says_what_was_released_since(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = load("guides/tools")["measured"]["releases"]["result"]["arms"]
    versions = {row["package"]: row["version"] for row in rows.values()}
    asked(monkeypatch, versions)
    assert tools.main() == 0
    assert "0 of" in capsys.readouterr().out
    asked(monkeypatch, {**versions, "torch": "99.0"})
    assert tools.main() == 1
    said = capsys.readouterr().out
    assert "99.0 since 2026-02-03" in said and "1 of" in said


def test_the_index_is_that_of_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = asked(monkeypatch, {"torch": "1"})
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple/")
    assert tools.release("torch") == {"version": "1", "day": "2026-02-03"}
    assert seen == ["https://index.example/pypi/torch/json"]
