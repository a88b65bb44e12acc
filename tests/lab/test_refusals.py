"""What cannot be done is one line, an exit code that is not 0, and harms no file."""

import dataclasses
import gc
import gzip
import hashlib
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import cnn_lab.cli
from cnn_lab import checkpoint
from cnn_lab.checkpoint import NotACheckpoint
from cnn_lab.fit import BadData
from cnn_lab.photos import InputFormat, read
from cnn_lab.recipe import Recipe, Settings
from cnn_lab.saved import CONFIG, LAST, RESULT
from cnn_lab.scores import accuracies
from cnn_lab.show import Silent
from cnn_lab.sources import open_data
from cnn_lab.stop import Refused, Stopped
from cnn_lab.train import train

TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
DIGITS = Recipe(TINY, size=8, epochs=2, batch_size=300)  # 4 steps an epoch


def photos(
    folder: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 4
) -> Path:
    draw = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for n in range(each):
            pixels = draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{n}.jpg")
    return folder


class StopsAtOnce(Silent):
    def step(self, step: object) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, data and files, most of them bad; no test may change it."""
    yard = tmp_path_factory.mktemp("yard")
    train(DIGITS, yard / "ended")
    with pytest.raises(Stopped):
        train(DIGITS, yard / "half", show=StopsAtOnce())
    whole = (yard / "half" / LAST).read_bytes()

    def run(name: str, content: bytes) -> None:
        (yard / name).mkdir()
        shutil.copy(yard / "half" / CONFIG, yard / name)
        (yard / name / LAST).write_bytes(content)

    run("truncated", whole[: len(whole) // 2])
    run("emptied", b"")
    run("text", b"not a checkpoint\n" * 100)
    torch.save({"model": torch.zeros(3)}, yard / "pickle.pt")
    run("pickled", (yard / "pickle.pt").read_bytes())
    run("evil", pickle.dumps(Evil()))
    save_file({"weight": torch.zeros(3)}, yard / "foreign.safetensors")
    run("foreign", (yard / "foreign.safetensors").read_bytes())
    state = checkpoint.load(yard / "half" / LAST)
    for name, change in {
        "other-network": {"recipe": {**state["recipe"], "network": "LeNet5"}},
        "other-tensors": {"model": {"weight": torch.zeros(3)}},
        "other-optimizer": {"optimizer": {"state": {}, "param_groups": []}},
        "other-classes": {"classes": ["a", "b"]},
        "other-images": {"images": 7},
        "no-schedule": {"schedule": None},
    }.items():
        run(name, b"")
        checkpoint.save(yard / name / LAST, {**state, **change})
    run("a-folder", b"")
    (yard / "a-folder" / LAST).unlink()
    (yard / "a-folder" / LAST).mkdir()

    photos(yard / "photos")
    photos(yard / "corrupt")
    (yard / "corrupt" / "dog" / "1.jpg").write_bytes(b"no image")
    photos(yard / "cut")
    picture = yard / "cut" / "cat" / "2.jpg"
    picture.write_bytes(picture.read_bytes()[:-100])
    photos(yard / "cut-test" / "train")
    photos(yard / "cut-test" / "val")
    picture = yard / "cut-test" / "val" / "dog" / "3.jpg"
    picture.write_bytes(picture.read_bytes()[:300])
    photos(yard / "empty-class")
    (yard / "empty-class" / "eel").mkdir()
    photos(yard / "one-image")
    photos(yard / "one-image" / "..", ("one-image/eel",), 1)
    photos(yard / "missing" / "train", ("cat", "dog", "eel"))
    photos(yard / "missing" / "val")
    (yard / "no-classes").mkdir()
    (yard / "no-images" / "cat").mkdir(parents=True)
    (yard / "loose").mkdir()
    shutil.copy(yard / "photos" / "cat" / "1.jpg", yard / "loose")

    for name, content in {
        "no.json": "epochs: 3",
        "list.json": "[1, 2]",
        "text.json": '"epochs"',
        "unknown.json": '{"network": "LeNet5", "epoch": 3}',
        "type.json": '{"network": "LeNet5", "epochs": "many"}',
        "half.json": '{"network": "LeNet5", "epochs": 2.5}',
        "nothing.json": '{"network": "LeNet5", "epochs": null}',
        "several.json": '{"network": "LeNet5", "epochs": [3, 4]}',
        "range.json": '{"network": "LeNet5", "mixup": -1}',
        "choice.json": '{"network": "LeNet5", "optimizer": "lino"}',
        "number.json": '{"network": 5}',
        "augment.json": '{"network": "LeNet5", "augment": ["cutout"]}',
        "flag.json": '{"network": "LeNet5", "channels_last": "perhaps"}',
        "bytes.json": "\udcff",
        "file": "in the way",
    }.items():
        (yard / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    _data_sets(yard / "damaged")
    return yard


class Evil:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.abort, ())


def _data_sets(root: Path) -> None:
    """Files with the right names and wrong contents."""
    kinds = {"images": 16, "labels": 8}
    for folder in ("MNIST", "FashionMNIST"):
        raw = root / folder / "raw"
        raw.mkdir(parents=True)
        for part in ("train", "t10k"):
            for kind, head in kinds.items():
                name = raw / f"{part}-{kind}-idx{3 if head == 16 else 1}-ubyte"
                name.write_bytes(struct.pack(">4i", 2051, 9, 28, 28)[:head] + b"x")
        with gzip.open(f"{raw}/train-images-idx3-ubyte.gz", "wb") as file:
            file.write(b"x")
    for folder in ("cifar-10-batches-py", "cifar-100-python"):
        (root / folder).mkdir()
        for name in ("data_batch_1", "test_batch", "train", "test", "meta"):
            (root / folder / name).write_bytes(pickle.dumps(Evil()))


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "a folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refusal(
    yard: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Any]:
    """Calls the command in the yard, and gives the exit code and its one line."""
    monkeypatch.chdir(yard)
    monkeypatch.setenv("CNN_LAB_ROOT", "nowhere")
    before = contents(yard)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cnn-lab", *arguments])
        with pytest.raises(SystemExit) as ended:
            cnn_lab.cli.main()
        told = capsys.readouterr().err
        assert told.startswith("cnn-lab: ") and told.endswith("\n"), told
        assert told.count("\n") == 1 and "Traceback" not in told, told
        assert ended.value.code in (1, 2)
        return ended.value.code, told.removeprefix("cnn-lab: ").rstrip()

    yield call
    assert contents(yard) == before


T = ["train", TINY, "--size", "8", "--epochs", "1"]
E = ["train", TINY, "--epochs", "1", "--size", "16"]
SHORT = ["train", "LeNet5"]

USAGE = {
    # No such command, option or argument
    ("trainn",): "trainn",
    ("train",): "network",
    ("transfer",): "PHOTOS",
    ("evaluate",): "CHECKPOINT",
    ("export",): "CHECKPOINT",
    ("train", "LeNet5", "more"): "more",
    (*SHORT, "--epoch", "3"): "--epoch",
    (*SHORT, "--epochs"): "--epochs",
    # Every option that takes a value, with one that it does not take
    (*SHORT, "--size", "0"): "--size",
    (*SHORT, "--size", "large"): "--size",
    (*SHORT, "--epochs", "0"): "--epochs",
    (*SHORT, "--epochs", "2.5"): "--epochs",
    (*SHORT, "--batch-size", "0"): "--batch-size",
    (*SHORT, "--optimizer", "lino"): "sgd-momentum",
    (*SHORT, "--learning-rate", "-1"): "--learning-rate",
    (*SHORT, "--learning-rate", "fast"): "--learning-rate",
    (*SHORT, "--weight-decay", "-1"): "--weight-decay",
    (*SHORT, "--schedule", "linear"): "cosine-annealing",
    (*SHORT, "--warmup", "-1"): "--warmup",
    (*SHORT, "--mixup", "-0.1"): "--mixup",
    (*SHORT, "--cutmix", "-0.1"): "--cutmix",
    (*SHORT, "--label-smoothing", "2"): "--label-smoothing",
    (*SHORT, "--weight-ema", "1"): "--weight-ema",
    (*SHORT, "--mixed-precision", "fp8"): "bf16",
    (*SHORT, "--clip", "-1"): "--clip",
    (*SHORT, "--accumulate", "0"): "--accumulate",
    (*SHORT, "--validate", "0.95"): "--validate",
    (*SHORT, "--patience", "-1"): "--patience",
    (*SHORT, "--seed", "-1"): "--seed",
    (*SHORT, "--strategy", "some"): "last-n",
    (*SHORT, "--last", "0"): "--last",
    (*SHORT, "--decay", "2"): "--decay",
    (*SHORT, "--workers", "-1"): "--workers",
    (*SHORT, "--save-every", "-1"): "--save-every",
    (*SHORT, "--channels-last=yes"): "channels-last",
    ("export", "ended/last.safetensors", "--to", "tflite"): "tflite",
    ("compare", "LeNet5", "--seeds", "1"): "--seeds",
    (*SHORT, "--learning-rate", "nan"): "--learning-rate",
    (*SHORT, "--label-smoothing", "nan"): "--label-smoothing",
    (*SHORT, "--weight-ema", "nan"): "--weight-ema",
    # Configurations
    ("train", "--config", "absent.json"): "absent.json",
    ("train", "--config", "no.json"): "no.json",
    ("train", "--config", "list.json"): "list.json",
    ("train", "--config", "text.json"): "text.json",
    ("train", "--config", "bytes.json"): "bytes.json",
    ("train", "--config", "unknown.json"): "epoch",
    ("train", "--config", "type.json"): "--epochs",
    ("train", "--config", "half.json"): "--epochs",
    ("train", "--config", "several.json"): "epochs",
    ("train", "--config", "range.json"): "--mixup",
    ("train", "--config", "choice.json"): "lino",
    ("train", "--config", "flag.json"): "--channels-last",
    ("train", "--resume", "absent"): "absent",
    ("train", "--resume", "photos"): "photos",
}

IMPOSSIBLE = {
    # Values that do not go together, or mean nothing
    (*SHORT, "--augment", "cutout,blur"): "'blur'",
    (*SHORT, "--mixup", "1", "--cutmix", "1"): "mixup",
    (*SHORT, "--warmup", "1"): "warm-up",
    (*SHORT, "--patience", "2"): "validate 0.1",
    (*SHORT, "--warmup", "9", "--schedule", "constant"): "warmup",
    (*SHORT, "--mixup", "inf"): "inf",
    (*SHORT, "--seed", "99999999999999999999"): "99999999999999999999",
    (*SHORT, "--mixed-precision", "fp16"): "GPU",
    (*SHORT, "--track", "notebook"): "tensorboard",
    # Networks
    ("train", "resnet19"): "did you mean resnet1",
    ("train", "LeNet5("): "is not a network",
    ("train", "LeNet5(depth=3)"): "depth",
    ("train", "ResNet"): "is not a network",
    ("train", "3"): "is not a network",
    ("train", ""): "is not a network",
    ("train", "__import__('os').abort()"): "os",
    ("train", "LeNet5", "--size", "8"): "8, 8",
    ("train", "alexnet", "--size", "32"): "32, 32",
    ("train", TINY, "--size", "1", "--batch-size", "1199"): "(1, 3, 1, 1)",
    # Data
    (*SHORT, "--data", "imagenet"): "fashion-mnist",
    (*SHORT, "--data", "folder:absent"): "absent",
    (*SHORT, "--data", "folder:file"): "file",
    (*SHORT, "--data", "folder:"): "folder",
    (*E, "--data", "folder:empty-class"): "eel",
    (*E, "--data", "folder:one-image"): "eel",
    (*E, "--data", "folder:missing"): "eel",
    (*E, "--data", "folder:no-classes"): "no-classes",
    (*E, "--data", "folder:no-images"): "no-images",
    (*E, "--data", "folder:loose"): "loose",
    **{
        (*SHORT, "--data", name, "--root", root): f"{name} is not in {root}"
        for name in ("mnist", "fashion-mnist", "cifar10", "cifar100")
        for root in ("nowhere", "damaged")
    },
    # Where the run is to be kept
    (*T, "--out", "ended"): "--resume ended",
    (*T, "--out", "half"): "--resume half",
    (*T, "--out", "file"): "file",
    (*T, "--out", "file/run"): "file",
    (*T, "--out", "/proc/run"): "/proc/run",
    ("train", "--resume", "half", "--out", "other"): "other",
    # What it is to go on from
    ("train", "--resume", "half", "--epochs", "3"): "epochs",
    ("train", "--resume", "half", "--mixup", "0.2"): "mixup",
    ("train", "--resume", "ended", "--seed", "1"): "seed",
    ("train", "LeNet5", "--resume", "half"): "network",
    ("train", "--resume", "truncated"): "truncated/last.safetensors is damaged",
    ("train", "--resume", "emptied"): "emptied/last.safetensors is damaged",
    ("train", "--resume", "text"): "text/last.safetensors is damaged",
    ("train", "--resume", "pickled"): "pickled/last.safetensors is damaged",
    ("train", "--resume", "evil"): "evil/last.safetensors is damaged",
    ("train", "--resume", "foreign"): "not written by this version of cnn-lab",
    ("train", "--resume", "a-folder"): "a folder, not a checkpoint",
    ("train", "--resume", "other-network"): "network 'LeNet5'",
    ("train", "--resume", "other-tensors"): "is of another network",
    ("train", "--resume", "other-optimizer"): "is of another network",
    ("train", "--resume", "other-classes"): "classes",
    ("train", "--resume", "other-images"): "images 7, now 1200",
    ("train", "--resume", "no-schedule"): "is of another network",
    # Weights to start from
    (*SHORT, "--weights", "absent.safetensors"): "absent.safetensors",
    (*SHORT, "--weights", "pickle.pt"): "pickle.pt",
    (*SHORT, "--weights", "foreign.safetensors"): "foreign.safetensors",
    (*SHORT, "--weights", "imagenet"): "no published weights",
    # The other commands
    ("evaluate", "absent.safetensors"): "absent.safetensors",
    ("evaluate", "foreign.safetensors"): "foreign.safetensors",
    ("evaluate", "pickle.pt"): "pickle.pt",
    ("evaluate", "photos"): "photos is a folder",
    ("evaluate", "half/last.safetensors", "--data", "imagenet"): "imagenet",
    ("evaluate", "half/last.safetensors", "--json", "file/x.json"): "file",
    ("export", "absent.safetensors"): "absent.safetensors",
    ("export", "pickle.pt"): "pickle.pt",
    ("transfer", "absent", "--size", "32"): "absent",
    ("compare", "LeNet5", "--with", "mixup=-1"): "mixup",
    ("compare", "LeNet5", "--with", "mixture=1"): "mixture",
}


def _named(arguments: Any) -> str | None:
    return " ".join(arguments) if isinstance(arguments, tuple) else None


@pytest.mark.parametrize(("arguments", "named"), USAGE.items(), ids=_named)
def test_what_is_asked_for_wrongly_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], named: str, refusal: Any
) -> None:
    code, told = refusal(*arguments)
    assert code == 2
    assert named in told


@pytest.mark.parametrize(("arguments", "named"), IMPOSSIBLE.items(), ids=_named)
def test_what_cannot_be_done_is_one_line(
    arguments: tuple[str, ...], named: str, refusal: Any
) -> None:
    _, told = refusal(*arguments)
    assert named in told


BEGUN = {  # these find out after the run has begun
    ("--data", "folder:corrupt", "--workers", "0"): "corrupt/dog/1.jpg is not an image",
    ("--data", "folder:corrupt", "--workers", "1"): "corrupt/dog/1.jpg is not an image",
    ("--data", "folder:cut", "--workers", "0"): "cut/cat/2.jpg is not an image",
    ("--data", "folder:cut", "--workers", "2"): "cut/cat/2.jpg is not an image",
    ("--data", "folder:cut-test", "--workers", "0"): "val/dog/3.jpg is not an image",
    ("--learning-rate", "1e30"): "lower the learning rate",
    ("--learning-rate", "1e30", "--optimizer", "sgd-momentum"): "epoch 1, step",
}


@pytest.mark.parametrize(("arguments", "named"), BEGUN.items(), ids=_named)
def test_what_fails_on_the_way_is_one_line(
    arguments: tuple[str, ...], named: str, refusal: Any, tmp_path: Path
) -> None:
    code, told = refusal(*E, *arguments, "--out", str(tmp_path / "run"))
    assert code == 1
    assert named in told


# --- files ---------------------------------------------------------------------------


def test_a_checkpoint_cut_at_any_length_is_refused(yard: Path, tmp_path: Path) -> None:
    whole = (yard / "half" / LAST).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    draw = np.random.default_rng(0)
    lengths = {*range(16), header - 1, header, header + 1, len(whole) - 1}
    lengths |= {int(n) for n in draw.integers(0, len(whole), 100)}
    cut = tmp_path / LAST
    for length in sorted(lengths):
        cut.write_bytes(whole[:length])
        with pytest.raises(NotACheckpoint, match=f"{cut} is damaged"):
            checkpoint.load(cut)
    cut.write_bytes(whole + b"x")
    with pytest.raises(NotACheckpoint, match=f"{cut} is damaged"):
        checkpoint.load(cut)


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "webp", "tiff"])
def test_a_damaged_image_is_bad_data_whatever_is_wrong(
    kind: str, tmp_path: Path
) -> None:
    folder, draw = tmp_path / "photos", np.random.default_rng(0)
    for part in ("train", "val"):
        photos(folder / part, each=1)
    (folder / "train" / "cat" / "0.jpg").unlink()
    picture = folder / "train" / "cat" / f"0.{kind}"
    Image.fromarray(draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(picture)
    whole, refused = picture.read_bytes(), 0
    look = InputFormat(3, 16)
    source = open_data(f"folder:{folder}", look).train  # the cat is its first
    for _ in range(100):
        damaged = bytearray(whole[: int(draw.integers(len(whole)))])
        if damaged and draw.random() < 0.5:
            damaged += whole[len(damaged) :]
            damaged[draw.integers(min(len(damaged), 200))] ^= int(draw.integers(1, 256))
        picture.write_bytes(damaged)
        try:
            source.take(torch.tensor([0]), torch.empty(1, 0))
        except BadData as error:
            refused += str(picture) in str(error)
    assert refused > 25


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """As on a disk that is full: the system refuses to write more."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_from_it(
    yard: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(yard / "half", "run")
    before = contents(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cnn-lab", "train", "--resume", "run"])
    with pytest.raises(SystemExit) as ended, no_file_longer_than(10_000):
        cnn_lab.cli.main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told == "cnn-lab: run/last.safetensors cannot be written: File too large\n"
    assert contents(tmp_path) == before
    train(DIGITS, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / LAST).read_bytes() == (
        yard / "ended" / LAST
    ).read_bytes()


def test_a_file_system_without_room_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12k", "none", str(small)]
    if (
        shutil.which("mount") is None
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("a file system can be mounted by root alone")
    try:
        arguments = [*T, "--out", str(small / "run")]
        monkeypatch.setattr(sys, "argv", ["cnn-lab", *arguments])
        with pytest.raises(SystemExit) as ended:
            cnn_lab.cli.main()
        assert ended.value.code == 1
        path = small / "run" / LAST
        told = capsys.readouterr().err
        assert told == f"cnn-lab: {path} cannot be written: No space left on device\n"
        assert sorted(p.name for p in (small / "run").iterdir()) == [".lock", CONFIG]
    finally:
        subprocess.run(["umount", str(small)], check=True)


# torch's loader tells of it once more when it is thrown away.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_process_that_loads_images_and_is_killed_is_one_line(
    tmp_path: Path,
) -> None:
    folder = photos(tmp_path / "photos", each=10)
    recipe = Recipe(TINY, data=f"folder:{folder}", size=16, epochs=50, batch_size=2)

    class Kills(Silent):
        def step(self, step: object) -> None:
            for child in torch.multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)

    with pytest.raises(
        Refused, match=r"another process has ended \(.*go on with: cnn-lab"
    ):
        train(recipe, tmp_path / "run", Settings(workers=1), show=Kills())
    gc.collect()


def test_a_lack_of_memory_says_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*given: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr("cnn_lab.train.train_steps", too_much)
    with pytest.raises((Refused, TypeError), match="lower --batch-size or --size"):
        train(DIGITS, tmp_path / "run")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError("Unable to allocate 2 GiB for an array"),
    ],
    ids=["GPU", "CPU", "Python"],
)
@pytest.mark.parametrize("validate", [0.0, 0.2])
def test_a_lack_of_memory_while_testing_loses_nothing(
    error: Exception, validate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(DIGITS, validate=validate)
    steps = train(recipe, tmp_path / "whole")["steps"]
    run, tested = tmp_path / "run", []

    def too_much(*given: Any, **options: Any) -> dict[str, float]:
        if len(tested) == (2 if validate else 1):  # the test part, or the second epoch
            raise error
        tested.append(given)
        return accuracies(*given, **options)

    with monkeypatch.context() as patched:
        patched.setattr("cnn_lab.tasks.accuracies", too_much)
        told = (
            "no memory is left .*: what was learnt is saved; .* cnn-lab train --resume"
        )
        with pytest.raises(Refused, match=told):
            train(recipe, run)
    assert checkpoint.load(run / LAST)["done"] == steps
    assert train(recipe, run, resume=True)["steps"] == 0  # nothing is learnt again
    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert (run / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("no more")])
def test_a_lack_of_memory_while_evaluating_is_one_line(
    error: Exception,
    yard: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def too_much(*given: Any, **options: Any) -> None:
        raise error

    before = contents(yard)
    monkeypatch.setattr("cnn_lab.evaluate.scores", too_much)
    monkeypatch.setattr(sys, "argv", ["cnn-lab", "evaluate", str(yard / "ended")])
    with pytest.raises(SystemExit) as ended:
        cnn_lab.cli.main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told == f"cnn-lab: no memory is left ({error}): free some, and try again\n"
    assert contents(yard) == before


def test_another_error_is_not_taken_for_a_lack_of_memory(
    yard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any, **options: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("cnn_lab.evaluate.scores", fails)
    monkeypatch.setattr(sys, "argv", ["cnn-lab", "evaluate", str(yard / "ended")])
    with pytest.raises(RuntimeError, match="shapes differ"):
        cnn_lab.cli.main()


def test_a_photo_for_which_there_is_no_memory_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*given: Any, **options: Any) -> None:
        raise MemoryError

    photo = next(photos(tmp_path / "photos").rglob("*.jpg"))
    monkeypatch.setattr(Image.Image, "convert", too_much)
    monkeypatch.setattr("cnn_lab.photos.T.pil_to_tensor", too_much)
    with pytest.raises(MemoryError):
        read(str(photo))


def test_an_ended_run_is_not_made_again(yard: Path) -> None:
    before = contents(yard)
    told = json.loads((yard / "ended" / RESULT).read_text())
    assert train(DIGITS, yard / "ended", resume=True) == told
    assert contents(yard) == before
