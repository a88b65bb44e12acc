"""Files of weights as other programs write them: unwrapped, renamed, refused; never run."""

import argparse
import pickle
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cnn_lab import networks, transfer, weights
from cnn_lab.checkpoint import NotACheckpoint
from cnn_lab.recipe import Recipe

TINY = "ResNet(BasicBlock, (1, 1), width=4, small_images=True)"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(3)
    return networks.build(TINY, 4)


def started(path: Path) -> tuple[nn.Module, str]:
    """A network with the weights of a file, and what was told of it."""
    found = transfer.initial_weights(Recipe(TINY, weights=str(path)))
    fresh = networks.build(TINY, 4)
    found.load_into(fresh, list("abcd"))
    return fresh, found.note


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    return all(a.equal(b) for a, b in pairs)


def before(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


WAYS: dict[str, tuple[Any, str]] = {
    "plain": (lambda m: m.state_dict(), ""),
    "data parallel": (
        lambda m: nn.DataParallel(m).state_dict(),
        "module. taken off the names",
    ),
    "compiled": (
        lambda m: torch.compile(m).state_dict(),
        "_orig_mod. taken off the names",
    ),
    "both": (
        lambda m: before("module.", torch.compile(m).state_dict()),
        "module. taken off the names; _orig_mod. taken off the names",
    ),
    "Lightning": (
        lambda m: {"epoch": 3, "state_dict": before("model.", m.state_dict())},
        "taken from state_dict; model. taken off the names",
    ),
    "with an optimizer": (
        lambda m: {
            "model_state_dict": m.state_dict(),
            "optimizer_state_dict": torch.optim.AdamW(m.parameters()).state_dict(),
        },
        "taken from model_state_dict",
    ),
    "wrapped twice": (
        lambda m: {"model": {"state_dict": m.state_dict()}},
        "taken from model; taken from state_dict",
    ),
    "torchvision's mean": (
        lambda m: {
            "model": before("module.", networks.build(TINY, 4).state_dict()),
            "model_ema": AveragedModel(m, use_buffers=True).state_dict(),
        },
        "taken from model_ema, not model; left out n_averaged; "
        "module. taken off the names",
    ),
    "a number beside": (
        lambda m: {**m.state_dict(), "epoch": 3},
        "left out epoch",
    ),
}


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ".PTH", ".pth.tar"])
def test_every_ending_of_torch_save_is_read(
    ending: str, model: nn.Module, tmp_path: Path
) -> None:
    torch.save(model.state_dict(), tmp_path / f"weights{ending}")
    found, told = started(tmp_path / f"weights{ending}")
    assert same(found, model) and told == ""


# What torch.compile of torch 2.11 imports is deprecated by torch itself.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_wrappings_and_prefixes_are_known_and_told(
    way: str, model: nn.Module, tmp_path: Path
) -> None:
    make, expected = WAYS[way]
    torch.save(make(model), tmp_path / "theirs.pth")
    found, told = started(tmp_path / "theirs.pth")
    assert same(found, model)
    assert told == expected


def test_prefixes_in_safetensors_are_taken_off_too(
    model: nn.Module, tmp_path: Path
) -> None:
    save_file(before("model.", model.state_dict()), tmp_path / "theirs.safetensors")
    found, told = started(tmp_path / "theirs.safetensors")
    assert same(found, model) and told == "model. taken off the names"


def test_a_prefix_of_the_networks_own_stays(tmp_path: Path) -> None:
    state = {"model.a": torch.ones(1), "model.b": torch.zeros(1)}
    torch.save(state, tmp_path / "w.pth")
    assert weights.read(tmp_path / "w.pth", state)[0].keys() == state.keys()


def test_names_that_fit_nothing_are_refused_with_the_first_few(
    model: nn.Module, tmp_path: Path
) -> None:
    torch.save(before("backbone.", model.state_dict()), tmp_path / "other.pth")
    with pytest.raises(ValueError) as refused:
        started(tmp_path / "other.pth")
    told = str(refused.value)
    count = len(model.state_dict()) - 3
    assert "conv1.weight of shape (4, 3, 3, 3) is needed, got none" in told
    assert f"backbone.bn1.bias and {count} more instead" in told.replace(
        "backbone.bn1.weight, ", ""
    )
    more = {f"gate{n}": torch.ones(1) for n in range(5)}
    torch.save({**model.state_dict(), **more}, tmp_path / "more.pth")
    with pytest.raises(ValueError, match="has no gate0, gate1, gate2 and 2 more"):
        started(tmp_path / "more.pth")


class Ran:
    """Makes a file when it is unpickled: what a stranger's file could do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_file_that_would_run_code_is_refused_without_running_it(
    tmp_path: Path,
) -> None:
    torch.save({"w": Ran(tmp_path / "ran")}, tmp_path / "bad.pth")
    with pytest.raises(NotACheckpoint, match=r"holds more than tensors \("):
        started(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "bad.pth", weights_only=False)  # it would have
    assert (tmp_path / "ran").exists()


OBJECTS: dict[str, Any] = {
    "a namespace of options": lambda m: {
        "model": m.state_dict(), "args": argparse.Namespace(lr=1)
    },
    "a number of numpy": lambda m: {
        "state_dict": m.state_dict(), "best": np.float64(0.5)
    },
    "the whole network": lambda m: m,
    "the whole network, wrapped": lambda m: {"model": m, "epoch": 2},
}  # fmt: skip


@pytest.mark.parametrize("way", OBJECTS)
def test_the_command_that_is_told_converts_a_file_that_one_trusts(
    way: str, model: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "it's theirs.pth"
    torch.save(OBJECTS[way](model), path)
    with pytest.raises(NotACheckpoint) as refused:
        started(path)
    told = str(refused.value)
    assert "\n" not in told and "\x1b" not in told
    command = shlex.split(told[told.index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True)
    found, _ = started(tmp_path / "it's theirs.tensors.pth")
    assert same(found, model)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is damaged, or no file of"),
        (b"", "is damaged, or no file of torch.save"),
        (None, "there is no file"),
        ([1, 2], "holds a list, expected tensors by name"),
        ({"epoch": 1, "lr": 2}, "has no tensor; it has epoch, lr"),
        ({}, "has no tensor; it has nothing"),
    ],
)
def test_what_holds_no_weights_is_told_in_one_line(
    content: Any, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(NotACheckpoint) as refused:
        started(path)
    assert told in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_damaged(
    share: float, model: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    torch.save(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(NotACheckpoint, match=r"is damaged, or no file of torch\.save"):
        started(path)


def test_a_plain_pickle_is_no_file_of_torch_save(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(pickle.dumps({"a": [1, 2]}))
    with pytest.raises(NotACheckpoint, match=r"is damaged, or no file of torch\.save"):
        started(tmp_path / "w.bin")
