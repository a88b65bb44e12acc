"""One file, whole or not at all, that gives back what was put in."""

import json
import math
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import lr_scheduler, swa_utils

from cnn_lab import checkpoint
from cnn_lab.checkpoint import NotACheckpoint

STATE: dict[str, Any] = {
    "done": 7,
    "rates": [0.1, 1 / 3, 1e-308, 5e-324],
    "none": None,
    "text": 'naïve "quoted"\n',
    "by number": {0: torch.arange(3), 10: {"nested": [torch.ones(2, 2), 1]}},
    "empty": {"dict": {}, "list": []},
    "kinds": [
        torch.zeros((), dtype=torch.int64),
        torch.tensor([1.5], dtype=torch.bfloat16),
        torch.tensor([math.inf, math.nan, -0.0]),
        torch.tensor([True, False]),
        torch.rand(3, 4, dtype=torch.float64).t(),
        torch.zeros(0, 3),
    ],
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype
            and a.shape == b.shape
            and a.contiguous().view(torch.uint8).equal(b.view(torch.uint8))
            if a.dim()
            else bool(a == b)
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "state.safetensors"
    checkpoint.save(path, STATE)
    assert same(STATE, checkpoint.load(path))


def test_the_same_state_is_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        checkpoint.save(tmp_path / name, STATE)
    checkpoint.save(tmp_path / "c", checkpoint.load(tmp_path / "a"))
    contents = {(tmp_path / name).read_bytes() for name in "abc"}
    assert len(contents) == 1


def test_other_programs_read_its_tensors(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", {"model": nn.Linear(2, 3).state_dict(), "done": 1})
    assert set(load_file(tmp_path / "a")) == {"model.weight", "model.bias"}


def test_the_file_may_be_read_by_whom_other_new_files_may(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", {"done": 1})
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "plain")}
    assert len(modes) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.Adam(p, 0.1),
        lambda p: torch.optim.AdamW(p, 0.1),
        lambda p: torch.optim.RAdam(p, 0.1),
    ],
    ids=["SGD", "Adam", "AdamW", "RAdam"],
)
def test_an_optimizer_goes_on_as_if_it_had_not_stopped(
    make: Callable[[Any], torch.optim.Optimizer], tmp_path: Path
) -> None:
    def parts() -> tuple[Any, ...]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        optimizer = make(model.parameters())
        rising = lr_scheduler.LinearLR(optimizer, 0.25, total_iters=4)
        falling = lr_scheduler.CosineAnnealingLR(optimizer, 6)
        schedule = lr_scheduler.SequentialLR(optimizer, [rising, falling], [4])
        return model, swa_utils.AveragedModel(model), optimizer, schedule

    def steps(model: nn.Module, mean: Any, optimizer: Any, schedule: Any) -> None:
        for n in range(5):
            x = torch.rand(8, 3, generator=torch.Generator().manual_seed(n))
            optimizer.zero_grad()
            model(x).pow(2).mean().backward()
            optimizer.step()
            schedule.step()
            mean.update_parameters(model)

    whole, begun, resumed = parts(), parts(), parts()
    steps(*whole)
    steps(*whole)
    steps(*begun)
    checkpoint.save(tmp_path / "a", {"parts": [p.state_dict() for p in begun]})
    for part, state in zip(
        resumed, checkpoint.load(tmp_path / "a")["parts"], strict=True
    ):
        part.load_state_dict(state)
    steps(*resumed)
    for part, expected in zip(resumed, whole, strict=True):
        assert same(part.state_dict(), expected.state_dict())


class Cut(BaseException):
    """What nobody catches."""


@pytest.mark.parametrize("error", [Cut, KeyboardInterrupt, OSError(28, "No space")])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    call: str, error: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, STATE)
    before = path.read_bytes()

    def fails(*given: Any) -> None:
        assert path.read_bytes() == before
        raise error

    monkeypatch.setattr(os, call, fails)
    kind = error if isinstance(error, type) else OSError
    with pytest.raises(kind) as raised:
        checkpoint.save(path, {"done": 8})
    if kind is OSError:
        assert str(raised.value) == f"{path} cannot be written: No space"
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_content_is_on_the_disk_before_the_name_and_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(file: int) -> None:
        done.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{file}')).name}")
        fsync(file)

    def renamed(part: Path, path: Path) -> None:
        done.append(f"rename {part.name} {path.name}")
        replace(part, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    checkpoint.save(tmp_path / "a", STATE)
    assert done == ["fsync .a.part", "rename .a.part a", f"fsync {tmp_path.name}"]


def test_what_an_earlier_death_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".a.part").write_bytes(b"half" * 100_000)
    checkpoint.save(tmp_path / "a", STATE)
    assert same(STATE, checkpoint.load(tmp_path / "a"))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_wrong_bit_in_the_header_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a"
    checkpoint.save(path, STATE)
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[draw.randrange(header)] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            assert same(STATE, checkpoint.load(path))
        except NotACheckpoint:
            refused += 1
    assert refused > 380


def test_a_wrong_bit_in_a_tensor_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    checkpoint.save(path, STATE)
    whole, draw = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[draw.randrange(header, len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(NotACheckpoint, match="a tensor's bytes have changed"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({}, "was not written by this version"),
        ({"cnn-lab checkpoint 2": "{}"}, "'cnn-lab checkpoint 2'"),
        ({checkpoint.KIND: "{"}, "is damaged"),
        ({checkpoint.KIND: "{}"}, "is damaged"),
        ({checkpoint.KIND: "5"}, "is damaged"),
        ({checkpoint.KIND: '{"dict": [["x", {"tensor": "y"}]]}'}, "is damaged"),
        ({checkpoint.KIND: "[" * 100_000}, "is damaged"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    header: dict[str, str], told: str, tmp_path: Path
) -> None:
    text = json.dumps({"__metadata__": header}).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(NotACheckpoint, match=told) as refused:
        checkpoint.load(tmp_path / "a")
    assert str(tmp_path / "a") in str(refused.value)
