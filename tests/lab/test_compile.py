"""What torch.compile costs before the first step, and what it is worth afterwards."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cnn_site.evidence import Evidence

DRIVER = """
import json, sys, time
from pathlib import Path
import torch
from cnn_lab.recipe import Recipe
from cnn_lab.show import Silent
from cnn_lab.train import train

class Clock(Silent):
    def begin(self, *told):
        self.wall, self.steps = time.perf_counter(), []
    def step(self, step):
        if not self.steps:
            self.first = time.perf_counter() - self.wall
        self.steps.append((step.epoch, step.step, time.process_time()))
    def epoch(self, row):
        if row["epoch"] == 1:
            self.first_epoch = time.perf_counter() - self.wall

torch.set_num_threads(1)
clock, options = Clock(), json.loads(sys.argv[1])
result = train(Recipe(**options), Path("run"), show=clock)
pairs = zip(clock.steps, clock.steps[1:])
later = [b[2] - a[2] for a, b in pairs if a[0] == b[0] > 1]
print(json.dumps({"first_step": clock.first, "first_epoch": clock.first_epoch,
                  "later": later, "loss": result["loss"]}))
"""


def both_ways(networks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Seconds to the first step, and CPU milliseconds of a step from epoch 2 on.

    Each in a process and with a cache of compiled code of its own, on one thread.
    """
    return {
        key: {
            "name": given["name"],
            **{
                way: _timed({**given["recipe"], "compile": way == "compiled"})
                for way in ("plain", "compiled")
            },
        }
        for key, given in networks.items()
    }


def _timed(recipe: dict[str, Any]) -> dict[str, float]:
    with TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps(recipe)],
            cwd=folder,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "cache"),
            },
            capture_output=True,
            text=True,
        )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.strip().split("\n")[-1])
    later = found.pop("later")
    return {**found, "steps": len(later), "step": 1000 * statistics.median(later)}


@pytest.mark.record
def test_record_what_compiling_is_worth(evidence: Evidence) -> None:
    result = evidence.measured(
        "compile",
        arguments={
            "networks": {
                "resnet": {
                    "name": "ResNet, one block per stage, 8 channels, 16 pixels",
                    "recipe": {
                        "network": "ResNet(BasicBlock, (1, 1), width=8, "
                        "small_images=True)",
                        "size": 16,
                        "epochs": 4,
                    },
                },
            }
        },
        run=both_ways,
    )
    for row in result.values():
        assert row["compiled"]["loss"] == pytest.approx(row["plain"]["loss"], rel=0.05)
        assert row["compiled"]["first_step"] > row["plain"]["first_step"]
