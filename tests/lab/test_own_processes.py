"""A network and a data set of one's own, as the page has them, in two processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cnn_site import ROOT

PAGE = ROOT / "docs/lab/own-network.md"
FLOAT64 = """
import torch, cnn_lab.cli
torch.set_default_dtype(torch.float64)
cnn_lab.cli.main()
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# The last batch of an epoch (960 images) has one: fewer than there are processes.
GIVEN = [
    *("--data", "mydata:parity", "--epochs", "2", "--learning-rate", "0.003"),
    *("--batch-size", "137", "--validate", "0.2", "--save-every", "2"),
]
NORMED, PLAIN = "mynet:small", "plain:small"


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's own files, and the network without batch statistics."""
    folder, page = tmp_path_factory.mktemp("yard"), PAGE.read_text(encoding="utf-8")
    for name in ("mynet", "mydata"):
        found = re.search(rf'title="{name}\.py"\}}\n(.*?)\n```', page, re.DOTALL)
        assert found is not None, name
        (folder / f"{name}.py").write_text(found[1] + "\n")
    normed = (folder / "mynet.py").read_text()
    plain = normed.replace("nn.BatchNorm2d(", "nn.GroupNorm(1, ")
    assert plain.count("GroupNorm") == 2
    (folder / "plain.py").write_text(plain)
    (folder / "float64.py").write_text(FLOAT64)
    return folder


def ended(folder: Path, *given: str) -> str:
    done = subprocess.run(
        [sys.executable, *given],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return found


def the_same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether losses differ by rounding alone, and nothing else does."""
    told = ("accuracy", "validation_accuracy", "epoch", "images", "validation_images")
    rows = zip(found["history"], expected["history"], strict=True)
    return all(found[name] == expected[name] for name in told) and all(
        abs(a["loss"] - b["loss"]) < 1e-8
        and a["validation_accuracy"] == b["validation_accuracy"]
        for a, b in rows
    )


@pytest.mark.slow
@pytest.mark.parametrize(("network", "workers"), [(PLAIN, "1"), (NORMED, "0")])
def test_two_processes_find_what_one_finds_unless_batches_are_normed(
    network: str, workers: str, yard: Path
) -> None:
    asked = ["train", network, *GIVEN, "--workers", workers]
    one, two = (f"{network[:5]}-{n}" for n in ("one", "two"))
    ended(yard, "float64.py", *asked, "--out", one)
    told = ended(yard, *TORCHRUN, "float64.py", *asked, "--out", two)
    assert len(re.findall("of 597 test images", told)) == 1  # told by one of them
    found, expected = result(yard / two), result(yard / one)
    assert the_same(found, expected) == (network == PLAIN), (found, expected)
    # What is told of the network is true of the one that is saved.
    own = ["--network", network, "--data", "mydata:parity"]
    measures = json.loads(ended(yard, "float64.py", "evaluate", two, *own, "--json=-"))
    assert measures["accuracy"] == found["accuracy"] and measures["images"] == 597
