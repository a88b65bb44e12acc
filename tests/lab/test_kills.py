"""A run that is killed or stopped ends, once it goes on, as if nothing had happened."""

import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_lab import checkpoint
from cnn_lab.recipe import Recipe, Settings
from cnn_lab.saved import BEST, CONFIG, LAST, PHOTOS, RESULT
from cnn_lab.show import Silent
from cnn_lab.stop import Refused, Stopped
from cnn_lab.train import train

FILES = (LAST, BEST, PHOTOS)  # the rest tells of times
TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
DROPS = "VisionTransformer(4, 1, 2, 8, 16, image_size=8, dropout=0.2)"
BEFORE = (
    "before the file",
    "half of the file written",
    "before the file's fsync",
    "before the rename",
)
AFTER = ("after the rename", "before the folder's fsync")
ALL = {
    "everything with a state": [
        *("train", DROPS, "--size", "8", "--epochs", "3", "--batch-size", "128"),
        *("--augment", "basic-augmentation,randaugment", "--mixup", "0.2"),
        *("--weight-ema", "0.9", "--schedule", "one-cycle", "--save-every", "3"),
    ],
    "momentum and a warm-up": [
        *("train", TINY, "--size", "8", "--epochs", "3", "--batch-size", "100"),
        *("--optimizer", "sgd-momentum", "--learning-rate", "0.1", "--cutmix", "1"),
        *("--schedule", "cosine-annealing", "--warmup", "1", "--weight-ema", "0.5"),
        *("--save-every", "4"),
    ],
    "photos, with workers": [
        *("train", TINY, "--data", "folder:photos", "--size", "16", "--epochs", "4"),
        *("--augment", "basic-augmentation,trivialaugment", "--batch-size", "5"),
        *("--workers", "2", "--save-every", "3", "--optimizer", "radam"),
        *("--validate", "0.2"),
    ],
}
CHOOSES = [
    *("train", TINY, "--size", "8", "--epochs", "40", "--batch-size", "120"),
    *("--learning-rate", "0.03", "--schedule", "constant", "--save-every", "4"),
    *("--validate", "0.1", "--patience", "3", "--weight-ema", "0.5", "--mixup", "0.2"),
]


def photos(folder: Path, classes: int = 3, each: int = 8, side: int = 24) -> Path:
    draw = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class-{label}").mkdir(parents=True)
        for n in range(each):
            pixels = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class-{label}" / f"{n}.png")
    return folder


def carried_out(network: str, folder: Path, workers: int = 0, **options: Any) -> bytes:
    """The checkpoint that a run ends with."""
    train(Recipe(network, **options), folder, Settings(workers=workers, save_every=3))
    return (folder / LAST).read_bytes()


# --- the same bytes ------------------------------------------------------------------


class StopsAfter(Silent):
    """What Ctrl-C does, after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, step: object) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


STATEFUL: dict[str, Any] = {
    "size": 8,
    "epochs": 2,
    "batch_size": 300,
    "mixup": 0.2,
    "augment": "basic-augmentation,cutout",
    "weight_ema": 0.9,
}


@pytest.mark.parametrize(
    ("network", "steps"), [(TINY, 1), (TINY, 4), (DROPS, 3), (DROPS, 6)]
)
def test_a_run_stopped_after_any_step_ends_with_the_same_bytes(
    network: str, steps: int, tmp_path: Path
) -> None:
    recipe = Recipe(network, **STATEFUL)  # 4 steps an epoch
    whole = carried_out(network, tmp_path / "whole", **STATEFUL)
    with pytest.raises(Stopped, match=rf"after {steps} steps.*--resume") as stopped:
        train(recipe, tmp_path / "run", show=StopsAfter(steps))
    assert stopped.value.number == signal.SIGINT
    assert checkpoint.load(tmp_path / "run" / LAST)["done"] == steps
    assert not (tmp_path / "run" / RESULT).exists()
    result = train(recipe, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / LAST).read_bytes() == whole
    assert result["curve"] == train(recipe, tmp_path / "whole", resume=True)["curve"]


def test_a_signal_in_the_last_step_lets_the_run_end(tmp_path: Path) -> None:
    train(Recipe(TINY, **STATEFUL), tmp_path / "run", show=StopsAfter(8))
    assert (tmp_path / "run" / RESULT).exists()


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    first, again = (carried_out(TINY, tmp_path / n, **STATEFUL) for n in "ab")
    other = carried_out(TINY, tmp_path / "other", seed=1, **STATEFUL)
    assert first == again
    weights = [checkpoint.load(tmp_path / n / LAST)["model"] for n in ("a", "other")]
    assert not weights[0]["fc.weight"].equal(weights[1]["fc.weight"])
    assert other != first


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3:UserWarning")
def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "data": f"folder:{photos(tmp_path / 'photos')}",
        "size": 16,
        "epochs": 2,
        "batch_size": 5,
        "augment": "basic-augmentation,trivialaugment,cutout",
    }
    found = {
        n: carried_out(TINY, tmp_path / f"run-{n}", workers=n, **options)
        for n in (0, 1, 3)
    }
    assert found[0] == found[1] == found[3]


HOLD = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    carried_out(TINY, tmp_path, **STATEFUL)
    (tmp_path / RESULT).unlink()
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(Refused, match=f"another process is at work in {tmp_path}"):
            train(Recipe(TINY, **STATEFUL), tmp_path, resume=True)
    train(Recipe(TINY, **STATEFUL), tmp_path, resume=True)


# --- SIGKILL -------------------------------------------------------------------------


def begun_or_resumed(folder: Path, asked: list[str]) -> list[str]:
    if (folder / "run" / CONFIG).exists():
        return ["train", "--resume", "run"]
    return [*asked, "--out", "run"]


def killed(forks: Any, folder: Path, asked: list[str], *kill: Any) -> bool:
    """Whether the run in `run`, new or gone on with, was killed before its end."""
    command = begun_or_resumed(folder, asked)
    if kill[0] == "time":
        pids = forks.begin(folder, command)
        time.sleep(kill[1])
        os.kill(pids[0], signal.SIGKILL)
    else:
        forks.begin(folder, command, kill=kill)
    codes = forks.ended()
    assert codes in ([0], [-signal.SIGKILL]), forks.told("err")
    return codes != [0]


def ends_alike(
    forks: Any, folder: Path, asked: list[str], whole: Path, why: str
) -> None:
    """Let a run end, and see that nothing is different, missing or left behind."""
    forks.done(folder, begun_or_resumed(folder, asked))
    ended = folder / "run"
    assert {p.name for p in ended.iterdir()} == {p.name for p in whole.iterdir()}
    for name in FILES:
        if (whole / name).exists():
            assert (ended / name).read_bytes() == (whole / name).read_bytes(), why
    ours, theirs = (json.loads((p / RESULT).read_text()) for p in (ended, whole))
    for name in ("accuracy", "history"):
        assert ours[name] == theirs[name], why


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    forks: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6)))
    draw, survived, inside, runs = random.Random(seed), 0, 0, 0
    pictures = photos(tmp_path / "photos")
    for kind, timed, places in (
        ("everything with a state", 3, [*BEFORE, *AFTER]),
        ("momentum and a warm-up", 2, list(BEFORE[:3])),
        ("photos, with workers", 2, [BEFORE[3], *AFTER]),
    ):
        forks.begin(tmp_path, [*ALL[kind], "--out", kind])
        begun = time.monotonic()
        assert forks.ended() == [0], forks.told("err")
        seconds = time.monotonic() - begun
        wanted = ["time"] * timed + places
        draw.shuffle(wanted)
        while wanted:
            runs += 1
            folder = tmp_path / f"run-{runs}"
            folder.mkdir()
            (folder / "photos").symlink_to(pictures)
            for place in wanted[-4:][::-1]:
                kill = (LAST, place, draw.randint(1, 5))
                if place == "time":
                    kill = (place, draw.uniform(0, seconds))
                if not killed(forks, folder, ALL[kind], *kill):
                    break  # it had ended: that one is drawn again
                wanted.pop()
                survived += 1
                inside += place != "time"
            ends_alike(
                forks, folder, ALL[kind], tmp_path / kind, f"{kind}, KILL_SEED={seed}"
            )
    with capsys.disabled():
        print(
            f"\n{survived} kills survived, {inside} of them in the writing of "
            f"a checkpoint; KILL_SEED={seed}"
        )
    assert survived == 19 and inside == 12


# Where a run is killed, in which writing of `best` since it was started (or went on), and
# which version of it is then there; 0 is none.
IN_BEST = [
    ("half of the file written", 1, 0),
    ("before the rename", 1, 0),
    ("after the rename", 1, 1),
    (BEFORE[0], 2, 1),
    *((place, 1, 1) for place in BEFORE[1:]),
    ("before the folder's fsync", 1, 2),
    ("half of the file written", 2, 2),
]


@pytest.mark.slow
def test_a_kill_in_the_writing_of_the_best_leaves_the_one_before(
    forks: Any, tmp_path: Path
) -> None:
    whole, kept = tmp_path / "whole", tmp_path / "versions"
    forks.done(tmp_path, [*CHOOSES, "--out", "whole"], keep=[BEST, str(kept)])
    versions = [b"", *(p.read_bytes() for p in sorted(kept.iterdir()))]
    made = json.loads((whole / RESULT).read_text())["history"]
    # It got better, not always, and was ended for that.
    assert 4 <= len(versions) <= len(made) < 40, (len(versions), len(made))
    for place, number, version in IN_BEST:
        why = f"{place}, writing {number}, version {version}"
        assert killed(forks, tmp_path, CHOOSES, BEST, place, number), why
        path = tmp_path / "run" / BEST
        assert (path.read_bytes() if path.exists() else b"") == versions[version], why
        if version:
            checkpoint.load(path)  # which checks its sums
        assert not (tmp_path / "run" / RESULT).exists()
    ends_alike(forks, tmp_path, CHOOSES, whole, "killed in the writing of the best")


@pytest.mark.slow
def test_the_command_itself_survives_kills(
    forks: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6)))
    draw, asked = random.Random(seed), ALL["everything with a state"]
    forks.done(tmp_path, [*asked, "--out", "whole"])
    whole = (tmp_path / "whole" / LAST).read_bytes()
    seconds = json.loads((tmp_path / "whole" / RESULT).read_text())["seconds"]
    count, runs = 0, 0
    while count < 2:
        runs += 1
        folder = tmp_path / f"run-{runs}"
        folder.mkdir()
        for _ in range(2):
            with started(folder, *begun_or_resumed(folder, asked)) as process:
                _wait_until_it_trains(folder / "run", process)
                time.sleep(draw.uniform(0, seconds / 4))
                process.kill()
            count += process.returncode == -signal.SIGKILL
        with started(folder, *begun_or_resumed(folder, asked)) as process:
            _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert (folder / "run" / LAST).read_bytes() == whole
    with capsys.disabled():
        print(f"\n{count} kills of the command survived; KILL_SEED={seed}")


# --- the real command ----------------------------------------------------------------


def started(folder: Path, *arguments: str, **how: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cnn_lab", *arguments],
        cwd=folder,
        stdout=how.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_interruptible,
        **how,
    )


def _interruptible() -> None:
    """A shell's background ignores SIGINT, and so would all that is started there."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _wait_until_it_trains(folder: Path, process: "subprocess.Popen[str]") -> None:
    """A run takes the lock of its folder when it is ready to begin."""
    begun, lock = time.time(), folder / ".lock"
    while not lock.exists() or lock.stat().st_mtime < begun:
        assert process.poll() is None, process.communicate()
        assert time.time() < begun + 120, "waited in vain"
        time.sleep(0.01)


LONG = [TINY, "--size", "16", "--epochs", "500", "--out", "run"]
STOPPED = re.compile(
    r"cnn-lab: stopped after \d+ steps, all of which are saved; "
    r"go on with: cnn-lab train --resume run\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "more"),
    [
        (signal.SIGINT, 130, ["--workers", "0"]),
        (signal.SIGINT, 130, ["--workers", "2"]),
        (signal.SIGTERM, 143, ["--workers", "2"]),
        (signal.SIGHUP, 129, ["--workers", "0"]),
    ],
)
def test_a_signal_saves_and_says_how_to_go_on(
    number: int, code: int, more: list[str], tmp_path: Path
) -> None:
    """It goes to the whole group, as from a terminal or a batch system."""
    with started(tmp_path, "train", *LONG, *more, start_new_session=True) as process:
        _wait_until_it_trains(tmp_path / "run", process)
        time.sleep(0.5)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert STOPPED.fullmatch(errors), errors
    done = checkpoint.load(tmp_path / "run" / LAST)["done"]
    assert f"after {done} steps" in errors
    assert not (tmp_path / "run" / RESULT).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_while_processes_that_load_images_start_is_for_the_one_that_trains(
    number: int, code: int, tmp_path: Path
) -> None:
    """They start for every test of an epoch; here that takes them two seconds."""
    (tmp_path / "starts.py").write_text(
        "import time, cnn_lab.cli, cnn_lab.fit\n"
        "quiet = cnn_lab.fit._quiet\n"
        "def slowly(worker):\n"
        "    open(f'started-{worker}', 'w').close()\n"
        "    time.sleep(2)\n"
        "    quiet(worker)\n"
        "cnn_lab.fit._quiet = slowly\n"
        "cnn_lab.cli.main()\n"
    )
    command = [sys.executable, "starts.py", "train", *LONG, "--workers", "2"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_interruptible,
        start_new_session=True,
    ) as process:
        while not (tmp_path / "started-1").exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert STOPPED.fullmatch(errors), errors


@pytest.mark.slow
def test_a_second_signal_ends_a_run_at_once(tmp_path: Path) -> None:
    """Here its steps are never over: the loss waits for an hour."""
    (tmp_path / "slow.py").write_text(
        "import sys, time, cnn_lab.train, cnn_lab.cli\n"
        "def make_loss(recipe):\n"
        "    return lambda *given: time.sleep(3600)\n"
        "cnn_lab.tasks.make_loss = make_loss\n"
        "cnn_lab.cli.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "slow.py", "train", *LONG],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_interruptible,
    ) as process:
        _wait_until_it_trains(tmp_path / "run", process)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_terminal_shows_a_bar_and_is_left_as_it_was(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    before = termios.tcgetattr(its)
    with started(tmp_path, "train", *LONG, stdout=its, start_new_session=True) as run:
        shown = b""
        while shown.count(b"epoch 2/500") < 3:  # the bar is drawn again and again
            shown += os.read(ours, 4096)
        run.send_signal(signal.SIGINT)
        while select.select([ours], [], [], 3)[0] or run.poll() is None:
            shown += os.read(ours, 4096) if select.select([ours], [], [], 0)[0] else b""
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 130 and STOPPED.fullmatch(errors)
    for part in ("loss", "accuracy", "images/s", "━", "/9500"):
        assert part.encode() in shown, part
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")  # the cursor is back
    assert termios.tcgetattr(its) == before
    os.close(its)
    os.close(ours)
