"""The bench is what it says, and its baseline is recorded with every handicap."""

import pytest
import torch
from torch import nn

from cnn_lab import bench
from cnn_site import bench as arms_of
from cnn_techniques.modern.resnet import BasicBlock

Json = dict[str, object]


def baseline_arm(handicap: str) -> bench.Arm:
    return bench.Arm("Baseline", handicap=handicap)


def run_the_baseline(handicaps: list[str], seeds: list[int]) -> Json:
    return {"seeds": len(seeds), "arms": arms_of.runs(baseline_arm, handicaps, seeds)}


@pytest.mark.record
def test_record_the_baseline_with_every_handicap(evidence) -> None:
    arguments = {"handicaps": list(bench.HANDICAPS), "seeds": list(bench.SEEDS)}
    result = evidence.measured("baseline", arguments=arguments, run=run_the_baseline)
    plain = result["arms"]["none"]["accuracy"]["mean"]
    assert 0.85 < plain < 0.90  # neither saturated nor untrained
